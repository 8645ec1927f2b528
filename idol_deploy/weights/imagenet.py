"""ImageNet weights of a backbone, read from the files of torchvision, detectron2 and others.

All of these networks take RGB values of 0 to 255 minus `_MEAN`, divided by `_STD`, like detectron2's conversion of
torchvision's weights. The first convolution is adapted to a network that normalises differently.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from idol_deploy.config import IdolConfig
from idol_deploy.model.backbones.base import ImageNetNames, backbone_class
from idol_deploy.model.backbones.config import BACKBONES
from idol_deploy.weights.layout import BACKBONE, KeyTable, key_table
from idol_runtime.config import Preprocessing
from idol_runtime.errors import CheckpointError

__all__ = ["imagenet_backbone", "imagenet_network"]

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_EPS = 1e-5  # in the batch normalisation
_NORM = ("weight", "bias", "running_mean", "running_var")


def _names_of(keys: Iterable[str]) -> ImageNetNames | None:
    keys = set(keys)
    known = (backbone_class(config).imagenet for config in BACKBONES)
    return next((names for names in known if names is not None and names.marks & keys), None)


def imagenet_network(keys: Iterable[str]) -> str | None:
    """Return the network whose ImageNet weights have these keys, such as `MobileNetV2`; None if it is unknown."""
    names = _names_of(keys)
    return None if names is None else names.network


def imagenet_backbone(state: Mapping[str, Tensor], config: IdolConfig, path: Path) -> dict[str, Tensor]:
    """Convert ImageNet weights to the backbone's weights under published keys.

    Args:
        state: tensors of the file; `imagenet_network` recognises their names.
        config: configuration of the network that takes the weights.
        path: path of the file, for messages.

    Raises:
        CheckpointError: the file holds another network, or a tensor is missing, unknown or of another shape.
    """
    names, backbone = _names_of(state), config.model.backbone
    if names is None or names != backbone_class(type(backbone)).imagenet:
        raise CheckpointError(
            f"{path} holds ImageNet weights of a {imagenet_network(state)}, but {config.name} has a {backbone.kind} "
            "backbone; choose a preset with that backbone"
        )
    ignored = re.compile(rf"{names.ignored}|.*\.num_batches_tracked$")
    renamed = names.rename(key for key in state if not ignored.match(key))
    table = {
        key[len(BACKBONE) :]: shape for key, shape in key_table(config).items() if key.startswith(BACKBONE)
    }
    folded = f"{names.first}.norm.weight" not in table
    weights = _fitting(state, renamed, _unfolded(table) if folded else table, path)
    _adapt(weights, names.first, config.preprocessing)
    if folded:
        weights = _fold(weights)
    return {BACKBONE + name: weight.float() for name, weight in weights.items()}


def _unfolded(table: KeyTable) -> KeyTable:
    """Replace the bias of each convolution by a normalisation."""
    unfolded: dict[str, tuple[int, ...]] = {}
    for name, shape in table.items():
        conv, _, kind = name.rpartition(".")
        unfolded |= {name: shape} if kind == "weight" else {f"{conv}.norm.{entry}": shape for entry in _NORM}
    return unfolded


def _fitting(
    state: Mapping[str, Tensor], names: Mapping[str, str], table: KeyTable, path: Path
) -> dict[str, Tensor]:
    """Return the tensors of the table in float64, if the file has exactly these."""
    advice = "give a file of the same network"
    theirs = {ours: key for key, ours in names.items()}
    for name, shape in table.items():
        if name not in theirs:
            raise CheckpointError(f"{path} has no tensor for the backbone's {name}; {advice}")
        stored = list(state[theirs[name]].shape)
        if stored != list(shape):
            raise CheckpointError(f"{path}: {theirs[name]} is {stored} instead of {list(shape)}; {advice}")
    unknown = next((key for key, ours in names.items() if ours not in table), None)
    if unknown is not None:
        raise CheckpointError(f"{path}: {unknown} has no place in the backbone; {advice}")
    return {name: state[theirs[name]].double() for name in table}


def _adapt(weights: dict[str, Tensor], first: str, preprocessing: Preprocessing) -> None:
    """Adapt the first convolution to frames in this network's normalisation.

    This is exact except for the outermost pixels if the means differ: the zeros around a frame are its mean.
    """
    std, mean = (
        (torch.tensor(own, dtype=torch.float64), torch.tensor(theirs, dtype=torch.float64))
        for own, theirs in ((preprocessing.std, _STD), (preprocessing.mean, _MEAN))
    )
    weight = weights[f"{first}.weight"]
    shift = (mean[0] - mean[1]) / std[1]
    weights[f"{first}.norm.running_mean"] -= torch.einsum("oihw,i->o", weight, shift)
    weights[f"{first}.weight"] = weight * (std[0] / std[1])[:, None, None]


def _fold(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold each normalisation into the convolution before it."""
    folded = {}
    for conv in (name.removesuffix(".norm.weight") for name in weights if name.endswith(".norm.weight")):
        norm = {entry: weights[f"{conv}.norm.{entry}"] for entry in _NORM}
        scale = norm["weight"] * (norm["running_var"] + _EPS).rsqrt()
        folded[f"{conv}.weight"] = weights[f"{conv}.weight"] * scale[:, None, None, None]
        folded[f"{conv}.bias"] = norm["bias"] - norm["running_mean"] * scale
    return folded
