"""Named tensors from a file, never running code from it: torch checkpoints and safetensors."""

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from idol_runtime.errors import CheckpointError

__all__ = ["FORMAT", "FORMAT_VERSION", "TensorFile", "listing", "read_tensors"]

FORMAT = "idol-deploy checkpoint"
FORMAT_VERSION = "1"
_SHOWN = 8
# How files of torch before 1.6 begin: a pickle of a number that torch chose.
_OLD_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9"


@dataclass(frozen=True)
class TensorFile:
    """What a file holds.

    Attributes:
        kind: `torch` or `safetensors`.
        state: the tensors under their names, as stored.
        metadata: what the file says of itself; empty for torch files.
    """

    kind: str
    state: dict[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


def listing(names: Iterable[str]) -> str:
    """The first few names and how many there are."""
    names = list(names)
    more = ", …" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more} ({len(names)} in all)"


def read_tensors(path: Path) -> TensorFile:
    """The tensors of a file: safetensors, or torch's with a dictionary, bare or under "model".

    Raises:
        CheckpointError: no such file, not such a file, truncated, or pickled code.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(9)
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder; give the checkpoint file in it") from None
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"cannot read checkpoint {path}: {reason}; check the path") from error
    if head[8:9] == b"{":
        return _read_safetensors(path)
    return TensorFile("torch", _tensors(_unpickle(path, head), path))


def _read_safetensors(path: Path) -> TensorFile:
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is a broken or truncated safetensors file ({error}); fetch it again"
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
        raise CheckpointError(f"{path} is {kind}; give a published IDOL .pth or a .safetensors file")
    try:
        contents: object = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # torch's unpickler raises whatever a broken file makes it meet
        if "eights only" not in str(error) and "weights_only" not in str(error):
            raise CheckpointError(_broken(path)) from error
        raise CheckpointError(
            f"{path} holds pickled code beside its tensors, which is not run; if you trust its origin, load "
            'it with torch yourself and save {"model": state_dict} alone'
        ) from error
    return contents


def _check_archive(path: Path) -> None:
    """Whether a zip file is a torch checkpoint, by the names of its members."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.rpartition("/")[2] for name in archive.namelist()}
    except Exception as error:  # as does zipfile: UnicodeDecodeError, NotImplementedError, ...
        raise CheckpointError(_broken(path)) from error
    if "data.pkl" not in members or "constants.pkl" in members:
        kind = "a TorchScript program" if "constants.pkl" in members else "a zip file, but no checkpoint"
        raise CheckpointError(f"{path} is {kind}; give a published IDOL .pth or a .safetensors file")


def _broken(path: Path) -> str:
    return f"{path} is broken or truncated ({path.stat().st_size} bytes); fetch it again and compare its size"


def _tensors(contents: object, path: Path) -> dict[str, Tensor]:
    """The dictionary of tensors in a torch file, bare or under "model"."""
    if isinstance(contents, Mapping) and isinstance(contents.get("model"), Mapping):
        contents = contents["model"]
    if not isinstance(contents, Mapping) or not contents:
        raise CheckpointError(
            f"{path} holds no state dictionary ({type(contents).__name__} instead); save the weights as "
            '{"model": model.state_dict()}'
        )
    strangers = [key for key, value in contents.items() if not isinstance(key, str) or not _is_dense(value)]
    if strangers:
        raise CheckpointError(
            f"{path}: {listing(map(str, strangers))} not plain tensors under names; save "
            '{"model": model.state_dict()}'
        )
    return dict(contents)


def _is_dense(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
