"""Reading and writing of checkpoints: published IDOL files, and safetensors in the same layout.

Reading runs no code from the file, converts half precision to float32, and is strict: every tensor must be present, of
the right shape and finite. The error for a file of another network names the presets that it fits.
"""

import importlib.metadata
import json
import os
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
    CLASS_HEADS,
    EMBEDDING,
    KeyTable,
    alias_of,
    canonical_name,
    class_count,
    fits,
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
from idol_runtime.files import replacing

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

_CLASSES_FIX = (
    "pass their names with --classes FILE: names.txt, one name per line in the order of training, or the annotations "
    "of the training"
)


@dataclass(frozen=True)
class CheckpointInfo:
    """The contents of a checkpoint file.

    Attributes:
        kind: `torch` or `safetensors`.
        presets: presets whose network the weights fit; several presets can differ in class names only. If none fits,
            those that fit with another number of classes.
        imagenet: network of the ImageNet weights that the file holds, such as `MobileNetV2`; else None.
        classes: number of classes; None without a class head.
        tensors: number of weight tensors; shared tensors count once.
        parameters: number of values in the weight tensors.
        weights: `weights_hash` of the weights, which does not depend on the kind of file.
        metadata: metadata of a safetensors file; empty for torch files.
    """

    kind: str
    presets: tuple[str, ...]
    imagenet: str | None
    classes: int | None
    tensors: int
    parameters: int
    weights: str
    metadata: Mapping[str, str] = field(default_factory=dict)


def load_checkpoint(path: _Path, config: IdolConfig) -> Idol:
    """Load a network in evaluation mode, in float32, on the CPU.

    Args:
        path: path of a published checkpoint (`{"model": ...}` or the bare dictionary), or of safetensors in its layout.
        config: configuration of the network that the file must fit.

    Raises:
        CheckpointError: the file does not exist, is not a checkpoint, is truncated or holds pickled code; keys are
            missing, unknown or of the wrong shape; shared tensors differ; or values are not finite.
    """
    path = Path(path)
    return _filled(_merge_aliases(read_tensors(path).state, path), config, path).eval()


def start_from(path: _Path, config: IdolConfig) -> tuple[Idol, tuple[str, ...]]:
    """Build a network to train from the weights of a file.

    The file must fit as for `load_checkpoint`, with three exceptions. Class heads of another number of classes are not
    read; with `train.fresh_embedding`, neither is the embedding head. A file may hold a backbone only, also in the
    layout of ImageNet weights (`idol_deploy.weights.imagenet`). The remaining weights come from torch's generator.

    Returns:
        The network in training mode, and the published keys with random weights.

    Raises:
        CheckpointError: the file cannot be read or does not fit; see `load_checkpoint`.
    """
    path = Path(path)
    stored = read_tensors(path).state
    is_imagenet = imagenet_network(stored) is not None
    state = imagenet_backbone(stored, config, path) if is_imagenet else _merge_aliases(stored, path)
    if config.train.fresh_embedding:
        state = {key: tensor for key, tensor in state.items() if not key.startswith(EMBEDDING)}
    random = published_state(Idol(config))
    heads = {key for key in random if key.startswith(CLASS_HEADS) and key in state}
    fresh = {key for key in heads if state[key].shape != random[key].shape}
    missing = random.keys() - state.keys() - position_indices(config).keys()
    if not any(key.startswith(BACKBONE) for key in missing):
        fresh |= missing
    state.update((key, random[key]) for key in fresh)
    return _filled(state, config, path).train(), tuple(key for key in random if key in fresh)


def _filled(state: dict[str, Tensor], config: IdolConfig, path: Path) -> Idol:
    """Check that the tensors fit, and build the network with them."""
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
    """Write safetensors in the published key layout, with shared tensors once. The file is replaced atomically.

    Args:
        path: path of the file to write.
        model: network to save.
        config: configuration of the network.
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
        with replacing(path) as temporary:
            save_file(state, temporary, metadata=metadata)
    except SafetensorError as error:
        raise OutputError(f"cannot write {path}: {error}; free some space on the disk") from error


def inspect_checkpoint(path: _Path) -> CheckpointInfo:
    """Describe a checkpoint file.

    Raises:
        CheckpointError: the file does not exist, is not a checkpoint, is truncated, or holds pickled code.
    """
    path = Path(path)
    file = read_tensors(path)
    state = _merge_aliases(file.state, path)
    weights = {key: tensor for key, tensor in state.items() if not is_position_index(key)}
    return CheckpointInfo(
        kind=file.kind,
        presets=fitting_presets(_shapes(state)) or fitting_presets(_shapes(state), any_classes=True),
        imagenet=imagenet_network(state),
        classes=class_count(_shapes(state)),
        tensors=len(weights),
        parameters=sum(tensor.numel() for tensor in weights.values()),
        weights=weights_hash(weights),
        metadata=file.metadata,
    )


def _merge_aliases(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Merge the two copies of each shared tensor under its canonical key; they must be equal."""
    merged: dict[str, Tensor] = {}
    for key, tensor in state.items():
        first = merged.setdefault(canonical_name(key), tensor)
        if first is not tensor and not _equal(first, tensor):
            name = canonical_name(key)
            raise CheckpointError(
                f"{path}: {name} and {alias_of(name)} are one shared tensor, but their values differ; use "
                "the unedited file of this network"
            )
    return merged


def _equal(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    # NaN counts as equal here: its own check reports it later.
    return bool(torch.isclose(first.double(), second.double(), 0, 0, equal_nan=True).all())


def _shapes(state: Mapping[str, Tensor]) -> KeyTable:
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def _check_keys(state: Mapping[str, Tensor], config: IdolConfig, path: Path) -> None:
    expected, stored = key_table(config), _shapes(state)
    faults = {
        "missing": [key for key in expected if key not in stored and not is_position_index(key)],
        "unknown": [key for key in stored if key not in expected],
        "misshapen": [
            f"{key} {list(stored[key])} instead of {list(shape)}"
            for key, shape in expected.items()
            if stored.get(key, shape) != shape
        ],
    }
    texts = [f"{fault}: {listing(keys)}" for fault, keys in faults.items() if keys]
    if not texts:
        return
    classes = class_count(stored)
    if classes and fits(stored, key_table(config), any_classes=True):
        fix = (
            f"this file fits preset {' or '.join(fitting)}; else "
            if (fitting := fitting_presets(stored))
            else ""
        )
        raise CheckpointError(
            f"{path} has {classes} classes, {config.name} has {len(config.classes)}; {fix}{_CLASSES_FIX}"
        )
    raise CheckpointError(f"{path} does not fit {config.name}: {_advice(stored)}; {'; '.join(texts)}")


def _advice(stored: KeyTable) -> str:
    fitting = fitting_presets(stored)
    if fitting:
        return f"this file fits preset {' or '.join(fitting)}"
    similar = fitting_presets(stored, any_classes=True)
    if similar:
        return f"with {class_count(stored)} classes, this file fits preset {similar[0]}; {_CLASSES_FIX}"
    network = imagenet_network(stored)
    if network is not None:
        return f"it holds ImageNet weights of a {network}; use them with `idol-deploy train --weights`"
    nearest = min(PRESETS.values(), key=lambda config: len(key_table(config).items() ^ stored.items()))
    return f"it fits no preset, the nearest is {nearest.name}"


def _check_position_indices(state: Mapping[str, Tensor], config: IdolConfig, path: Path) -> None:
    for key, index in position_indices(config).items():
        if key in state and not torch.equal(state[key].long(), index):
            raise CheckpointError(
                f"{path}: {key} does not belong to a window of {index.shape[0]} tokens; use the unedited file"
            )


def _as_weight(key: str, tensor: Tensor, path: Path) -> Tensor:
    """Copy a tensor out of the file as float32; the integers of a position index stay as they are."""
    if is_position_index(key):
        return tensor
    if not tensor.is_floating_point():
        raise CheckpointError(f"{path}: {key} holds {tensor.dtype}; pass a file of floating-point weights")
    weight = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not bool(weight.isfinite().all()):
        bad = int((~weight.isfinite()).sum())
        raise CheckpointError(
            f"{path}: {key} has {bad} values that are not finite; use an earlier checkpoint of its training, or "
            "download the file again"
        )
    return weight
