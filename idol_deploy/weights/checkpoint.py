"""Reads and writes checkpoints: published IDOL files, and safetensors in the same layout.

Reading never runs code from the file, converts half precision to float32, and is strict: every tensor must be
there, fit and be finite. A file of another network is named by the presets that it does fit.
"""

import importlib.metadata
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from idol_deploy.config import PRESETS, IdolConfig
from idol_deploy.model.idol import Idol
from idol_deploy.weights.half import is_stored_half, with_half_weights
from idol_deploy.weights.imagenet import imagenet_backbone, imagenet_network
from idol_deploy.weights.layout import (
    BACKBONE,
    EMBEDDING,
    KeyTable,
    alias_of,
    canonical_name,
    fitting_presets,
    is_position_index,
    key_table,
    position_indices,
    published_names,
    published_state,
    weights_hash,
)
from idol_deploy.weights.tensor_file import FORMAT, FORMAT_VERSION, listing, read_tensors
from idol_runtime.errors import CheckpointError, OutputError
from idol_runtime.files import file_digest

__all__ = [
    "CheckpointInfo",
    "inspect_checkpoint",
    "load_checkpoint",
    "published_names",
    "save_checkpoint",
    "start_from",
    "weights_hash",
]

_Path: TypeAlias = "str | os.PathLike[str]"

_CLASS_HEADS = "detr.detr.class_embed."


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint file holds.

    Attributes:
        kind: `torch` or `safetensors`.
        presets: presets whose network the weights fit; several, where only class names differ.
        imagenet: the network whose ImageNet weights these are, which training can begin from.
        classes: number of classes, None when it has no class head.
        tensors: number of weights, each counted once.
        parameters: number of values in them.
        size: of the file, in bytes.
        sha256: of the file.
        weights: `weights_hash` of the weights, the same in either kind of file.
        metadata: what the file says of itself; empty for torch files.
    """

    kind: str
    presets: tuple[str, ...]
    imagenet: str | None
    classes: int | None
    tensors: int
    parameters: int
    size: int
    sha256: str
    weights: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def load_checkpoint(path: _Path, config: IdolConfig) -> Idol:
    """The network of `config` with the weights of a file, in evaluation mode, float32, on the CPU.

    Args:
        path: a published checkpoint (`{"model": ...}` or the bare dictionary), or safetensors in that layout.
        config: the network that the file must fit.

    Raises:
        CheckpointError: no such file; not a checkpoint; truncated; holds pickled code; keys missing, unknown
            or of the wrong shape; shared tensors that differ; values that are not finite.
    """
    path = Path(path)
    return _filled(_merge_aliases(read_tensors(path).state, path), config, path).eval()


def start_from(path: _Path, config: IdolConfig) -> tuple[Idol, tuple[str, ...]]:
    """A network to train, with what a file has of its weights; the rest is drawn from torch's generator.

    Class heads of another number of classes are not taken, and a file may hold the backbone alone, also as ImageNet's
    weights are distributed (`idol_deploy.weights.imagenet`). Besides, the file must fit, as for `load_checkpoint`. With
    `train.fresh_embedding`, its embedding head is not taken either.

    Returns:
        The network in training mode, and the published keys that are not from the file.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    path = Path(path)
    stored = read_tensors(path).state
    of_imagenet = imagenet_network(stored) is not None
    state = imagenet_backbone(stored, config, path) if of_imagenet else _merge_aliases(stored, path)
    if config.train.fresh_embedding:
        state = {key: tensor for key, tensor in state.items() if not key.startswith(EMBEDDING)}
    drawn = published_state(Idol(config))
    heads = {key for key in drawn if key.startswith(_CLASS_HEADS) and key in state}
    fresh = {key for key in heads if state[key].shape != drawn[key].shape}
    missing = drawn.keys() - state.keys() - position_indices(config).keys()
    if not any(key.startswith(BACKBONE) for key in missing):
        fresh |= missing
    state.update((key, drawn[key]) for key in fresh)
    return _filled(state, config, path).train(), tuple(key for key in drawn if key in fresh)


def _filled(state: dict[str, Tensor], config: IdolConfig, path: Path) -> Idol:
    """The network with these tensors, once they are found to fit."""
    _check_keys(state, config, path)
    _check_position_indices(state, config, path)
    state.update(position_indices(config))
    with torch.device("meta"):
        model = Idol(config)
    weights = {name: _as_weight(key, state[key], path) for name, key in published_names(model).items()}
    model.load_state_dict(weights, assign=True)
    return model


def save_checkpoint(
    path: _Path, model: Idol, config: IdolConfig, *, store: Literal["fp32", "fp16"] = "fp32"
) -> None:
    """Writes safetensors in the published key layout, shared tensors once; replaces the file at once or not.

    Args:
        path: where to.
        model: the network.
        config: its configuration.
        store: `fp16` rounds matrices and kernels (`idol_deploy.weights.half`) and halves the file.

    Raises:
        OutputError: the file cannot be written.
        CheckpointError: fp16 cannot hold a weight.
    """
    path = Path(path)
    if store == "fp16":
        model = with_half_weights(model)
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in published_state(model).items()}
    if store == "fp16":
        state = {key: tensor.half() if is_stored_half(tensor) else tensor for key, tensor in state.items()}
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": config.name,
        "classes": json.dumps(config.classes),
        "package_version": importlib.metadata.version("idol-deploy"),
    }
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            save_file(state, temporary, metadata=metadata)
            os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"cannot write {path}: {error}; choose a writable folder with free space"
        ) from error


def inspect_checkpoint(path: _Path) -> CheckpointInfo:
    """Describes a checkpoint without building a network.

    Raises:
        CheckpointError: no such file, not a checkpoint, truncated, or pickled code.
    """
    path = Path(path)
    file = read_tensors(path)
    state = _merge_aliases(file.state, path)
    weights = {key: tensor for key, tensor in state.items() if not is_position_index(key)}
    head = state.get("detr.detr.class_embed.0.weight")
    return CheckpointInfo(
        kind=file.kind,
        presets=fitting_presets(_shapes(state)),
        imagenet=imagenet_network(state),
        classes=None if head is None or head.ndim == 0 else head.shape[0],
        tensors=len(weights),
        parameters=sum(tensor.numel() for tensor in weights.values()),
        size=path.stat().st_size,
        sha256=file_digest(path),
        weights=weights_hash(weights),
        metadata=file.metadata,
    )


def _merge_aliases(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Each shared tensor once, under its canonical key; two copies must agree."""
    merged: dict[str, Tensor] = {}
    for key, tensor in state.items():
        first = merged.setdefault(canonical_name(key), tensor)
        if first is not tensor and not _equal(first, tensor):
            name = canonical_name(key)
            raise CheckpointError(
                f"{path}: {name} and {alias_of(name)} are one shared tensor, but their values differ; the "
                "file was edited or belongs to another network"
            )
    return merged


def _equal(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    # NaN counts as equal here: its own check names it better.
    return bool(torch.isclose(first.double(), second.double(), 0, 0, equal_nan=True).all())


def _shapes(state: Mapping[str, Tensor]) -> KeyTable:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def _check_keys(state: Mapping[str, Tensor], config: IdolConfig, path: Path) -> None:
    wanted, found = key_table(config), _shapes(state)
    missing = [key for key in wanted if key not in found and not is_position_index(key)]
    unknown = [key for key in found if key not in wanted]
    misshapen = [
        f"{key} {list(found[key])} instead of {list(shape)}"
        for key, shape in wanted.items()
        if found.get(key, shape) != shape
    ]
    if not (missing or unknown or misshapen):
        return
    faults = [
        f"{what}: {listing(keys)}"
        for what, keys in (("missing", missing), ("unknown", unknown), ("misshapen", misshapen))
        if keys
    ]
    raise CheckpointError(f"{path} does not fit {config.name}: {_advice(found)}; {'; '.join(faults)}")


def _advice(found: KeyTable) -> str:
    fitting = fitting_presets(found)
    if fitting:
        return f"this file fits preset {' or '.join(fitting)}"
    network = imagenet_network(found)
    if network is not None:
        return f"it holds ImageNet weights of a {network}, from which `idol-deploy train --weights` begins"
    return f"it fits no preset, the nearest is {_nearest(found)}"


def _nearest(found: KeyTable) -> str:
    def distance(name: str) -> int:
        return len(set(key_table(PRESETS[name]()).items()) ^ set(found.items()))

    return min(PRESETS, key=distance)


def _check_position_indices(state: Mapping[str, Tensor], config: IdolConfig, path: Path) -> None:
    for key, index in position_indices(config).items():
        if key in state and not torch.equal(state[key].long(), index):
            raise CheckpointError(
                f"{path}: {key} is not that of a window of {index.shape[0]} tokens; the file was edited"
            )


def _as_weight(key: str, tensor: Tensor, path: Path) -> Tensor:
    """A copy that does not depend on the file: float32, or the integers of a position index."""
    if is_position_index(key):
        return tensor
    if not tensor.is_floating_point():
        raise CheckpointError(f"{path}: {key} holds {tensor.dtype}, not floating-point weights")
    weight = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not bool(weight.isfinite().all()):
        bad = int((~weight.isfinite()).sum())
        raise CheckpointError(
            f"{path}: {key} has {bad} values that are not finite; its training diverged, or the "
            "file is damaged"
        )
    return weight
