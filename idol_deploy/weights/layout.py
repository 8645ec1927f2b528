"""The published checkpoint layout: key names, tensors stored twice, and shapes per configuration.

A published checkpoint stores the decoder's box heads twice, as `transformer.decoder.bbox_embed` and as
`detr.bbox_embed` (docs/idol.md §6); the second name is the canonical key here. Swin's integer
`relative_position_index` buffers follow from the window size, so they do not count as weights.
"""

import functools
import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from idol_deploy.config import PRESETS, IdolConfig
from idol_deploy.model.backbones.config import SwinConfig
from idol_deploy.model.backbones.swin import relative_position_index
from idol_deploy.model.config import ModelConfig
from idol_deploy.model.idol import Idol

__all__ = [
    "BACKBONE",
    "CLASS_HEADS",
    "EMBEDDING",
    "KeyTable",
    "alias_of",
    "canonical_name",
    "class_count",
    "fits",
    "fitting_presets",
    "is_position_index",
    "key_table",
    "position_indices",
    "published_names",
    "published_state",
    "weights_hash",
]

KeyTable = Mapping[str, tuple[int, ...]]

# Prefixes of the published keys of the backbone, of the class heads and of the embedding head.
BACKBONE = "detr.detr.backbone.0.backbone."
CLASS_HEADS = "detr.detr.class_embed."
EMBEDDING = "detr.reid_embed_head."

# (prefix here, published prefix); the first that matches applies.
_PREFIXES = (
    ("backbone.", BACKBONE),
    ("neck.projections.", "detr.detr.input_proj."),
    ("transformer.decoder.bbox_embed.", "detr.detr.bbox_embed."),
    ("transformer.query_embed.", "detr.detr.query_embed."),
    ("transformer.", "detr.detr.transformer."),
    ("heads.class_embed.", "detr.detr.class_embed."),
    ("heads.embedding.", EMBEDDING),
    ("heads.controller.", "detr.controller."),
    ("mask_head.", "detr.mask_head."),
)
_CANONICAL = "detr.detr.bbox_embed."
_ALIAS = "detr.detr.transformer.decoder.bbox_embed."


def _published_name(name: str) -> str:
    for ours, published in _PREFIXES:
        if name.startswith(ours):
            return published + name[len(ours) :]
    raise AssertionError(f"{name} has no published name")


def canonical_name(key: str) -> str:
    """Return the canonical key of a published key, which may be the second name of a shared tensor."""
    return _CANONICAL + key[len(_ALIAS) :] if key.startswith(_ALIAS) else key


def alias_of(key: str) -> str | None:
    """Return the second published name of a canonical key; None if its tensor is stored once."""
    return _ALIAS + key[len(_CANONICAL) :] if key.startswith(_CANONICAL) else None


def is_position_index(key: str) -> bool:
    """Return True if the key names one of Swin's integer buffers."""
    return key.endswith(".relative_position_index")


def published_names(model: nn.Module) -> dict[str, str]:
    """Return state-dict key -> canonical published key for every tensor of an `Idol`."""
    return {name: _published_name(name) for name in model.state_dict()}


def published_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's tensors under their canonical published keys."""
    return {_published_name(name): tensor for name, tensor in model.state_dict().items()}


def key_table(config: IdolConfig) -> KeyTable:
    """Return canonical published key -> shape for a configuration; no weights are allocated."""
    return _key_table(config.model, len(config.classes))


@functools.cache
def _key_table(model: ModelConfig, classes: int) -> KeyTable:
    config = IdolConfig(name="", model=model, classes=tuple(map(str, range(classes))))
    with torch.device("meta"):
        state = published_state(Idol(config))
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


def position_indices(config: IdolConfig) -> dict[str, Tensor]:
    """Return Swin's integer buffers by canonical published key; empty for other backbones."""
    backbone = config.model.backbone
    if not isinstance(backbone, SwinConfig):
        return {}
    index = relative_position_index(backbone.window)
    return {key: index.clone() for key in key_table(config) if is_position_index(key)}


def class_count(shapes: KeyTable) -> int | None:
    """Return the number of classes of a file's class heads; None without one."""
    shape = shapes.get(f"{CLASS_HEADS}0.weight")
    return shape[0] if shape else None


def fits(shapes: KeyTable, table: KeyTable, *, any_classes: bool = False) -> bool:
    """Return True if a file has the keys and shapes of a configuration; position indices are optional.

    Args:
        shapes: canonical keys and shapes of the file.
        table: `key_table` of the configuration.
        any_classes: leave out the number of classes from the comparison (default: False).
    """

    def compared(table: KeyTable) -> dict[str, tuple[int, ...]]:
        return {
            key: shape[1:] if any_classes and key.startswith(CLASS_HEADS) else shape
            for key, shape in table.items()
            if not is_position_index(key)
        }

    heads = {shape[:1] for key, shape in shapes.items() if key.startswith(CLASS_HEADS)}
    return len(heads) == 1 and compared(shapes) == compared(table)


def fitting_presets(shapes: KeyTable, *, any_classes: bool = False) -> tuple[str, ...]:
    """Return the presets that a file `fits`."""
    return tuple(
        name for name, config in PRESETS.items() if fits(shapes, key_table(config), any_classes=any_classes)
    )


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """Compute a SHA-256 of weights that does not depend on the kind of file.

    It covers the sorted canonical keys, each with its shape and its values as little-endian float32. Second names of
    shared tensors and integer buffers are excluded.

    Args:
        state: tensors under published keys.
    """
    weights = {canonical_name(key): tensor for key, tensor in state.items() if not is_position_index(key)}
    digest = hashlib.sha256()
    for key in sorted(weights):
        tensor = weights[key].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{key} float32 {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().astype("<f4", copy=False).data)
    return digest.hexdigest()
