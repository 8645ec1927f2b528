"""Readers of named tensors from torch checkpoints and safetensors; no code in a file runs."""

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from idol_runtime.errors import CheckpointError

__all__ = ["FORMAT", "FORMAT_VERSION", "TensorFile", "listing", "read_tensors"]

FORMAT = "idol-deploy checkpoint"
FORMAT_VERSION = "1"
_SHOWN = 8
_MOST_VALUES = 2**30  # of all tensors; Swin-L has 2^28
# Keys of the weights in the files of other trainers, and prefixes that their wrappers of the network add to every name.
_WRAPPERS = ("model", "state_dict", "model_state_dict", "ema_state", "ema_state_dict", "model_ema", "ema")
_PREFIXES = ("module.", "_orig_mod.", "model.")
# First bytes of a torch file from before version 1.6: the pickle of a magic number.
_OLD_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9"


@dataclass(frozen=True)
class TensorFile:
    """The contents of a file.

    Attributes:
        kind: `torch` or `safetensors`.
        state: tensors by name, as stored.
        metadata: metadata of a safetensors file; empty for torch files.
    """

    kind: str
    state: dict[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


def listing(names: Iterable[str]) -> str:
    """Return the first names and their number as text."""
    names = list(names)
    more = ", …" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more} ({len(names)} in all)"


def read_tensors(path: Path) -> TensorFile:
    """Read safetensors, or a torch file with a dictionary of tensors, bare or under one of `_WRAPPERS`.

    The prefix of a wrapper such as DistributedDataParallel is removed from the names.

    Raises:
        CheckpointError: the file does not exist, is of another kind, is truncated, or holds pickled code.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(9)
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder; pass the checkpoint file in it") from None
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"cannot read checkpoint {path}: {reason}; check the path") from error
    safe = head[8:9] == b"{"
    file = _read_safetensors(path) if safe else TensorFile("torch", _tensors(_unpickle(path, head), path))
    values = sum(tensor.numel() for tensor in file.state.values())
    if values > _MOST_VALUES:
        raise CheckpointError(
            f"{path} has {values} values, at most {_MOST_VALUES}; pass a checkpoint of IDOL"
        )
    return replace(file, state=_without_prefix(file.state))


def _read_safetensors(path: Path) -> TensorFile:
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is a broken or truncated safetensors file ({error}); download it again"
        ) from error
    if metadata.get("format") == FORMAT and metadata.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {metadata.get('format_version')}, this version reads "
            f"{FORMAT_VERSION}; upgrade idol-deploy"
        )
    return TensorFile("safetensors", state, metadata)


def _unpickle(path: Path, head: bytes) -> object:
    zipped = head[:4] == b"PK\x03\x04"
    if zipped:
        _check_archive(path)
    elif head != _OLD_TORCH:
        kind = "a plain pickle, which could run code" if head[:1] == b"\x80" else "not a checkpoint"
        raise CheckpointError(f"{path} is {kind}; pass a published IDOL .pth or a .safetensors file")
    try:
        contents: object = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # torch's unpickler can raise any error on a broken file
        if "eights only" not in str(error) and "weights_only" not in str(error):
            raise CheckpointError(_broken(path)) from error
        raise CheckpointError(
            f"{path} holds pickled code besides tensors; if you trust its origin, load it with torch and save "
            'only {"model": state_dict}'
        ) from error
    return contents


def _check_archive(path: Path) -> None:
    """Check by the names of its members that a zip file is a torch checkpoint."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.rpartition("/")[2] for name in archive.namelist()}
    except Exception as error:  # zipfile can raise UnicodeDecodeError, NotImplementedError, ...
        raise CheckpointError(_broken(path)) from error
    if "data.pkl" not in members or "constants.pkl" in members:
        kind = "a TorchScript program" if "constants.pkl" in members else "a zip file, but not a checkpoint"
        raise CheckpointError(f"{path} is {kind}; pass a published IDOL .pth or a .safetensors file")


def _broken(path: Path) -> str:
    return (
        f"{path} is broken or truncated ({path.stat().st_size} bytes); download it again and compare its size"
    )


def _tensors(contents: object, path: Path) -> dict[str, Tensor]:
    """Return the dictionary of tensors in a torch file, bare or in wrappers."""
    while isinstance(contents, Mapping):
        inner = next((contents[key] for key in _WRAPPERS if isinstance(contents.get(key), Mapping)), None)
        if inner is None:
            break
        contents = inner
    if not isinstance(contents, Mapping) or not contents:
        raise CheckpointError(
            f"{path} holds no state dictionary, but a {type(contents).__name__}; save the weights as "
            '{"model": model.state_dict()}'
        )
    invalid = [key for key, value in contents.items() if not isinstance(key, str) or not _is_dense(value)]
    if invalid:
        raise CheckpointError(
            f"{path} holds entries that are not plain named tensors: {listing(map(str, invalid))}; save "
            '{"model": model.state_dict()}'
        )
    return dict(contents)


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes of wrappers from names that all have them, and the counter of an averaged model."""
    names = [name for name in state if name != "n_averaged"]
    for prefix in _PREFIXES:
        if names and all(name.startswith(prefix) for name in names):
            return _without_prefix({name.removeprefix(prefix): state[name] for name in names})
    return state


def _is_dense(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
