"""Backbones that classified ImageNet, under the names that torchvision, detectron2 and others give their tensors.

All of these take RGB of 0 to 255 minus `_MEAN`, divided by `_STD`, as detectron2's conversion of torchvision's weights
does. For a network that normalises otherwise, the first convolution is made to fit.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from idol_deploy.config import IdolConfig
from idol_deploy.model.config import MobileNetConfig, ResNetConfig
from idol_deploy.weights.layout import BACKBONE, KeyTable, key_table
from idol_runtime.config import Preprocessing
from idol_runtime.errors import CheckpointError

__all__ = ["imagenet_backbone", "imagenet_network"]

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_EPS = 1e-5  # of the batch normalisation
# A key that only such a file has, and what it is of.
_MARKS = {
    "features.0.0.weight": "MobileNetV2",
    "layer1.0.conv1.weight": "ResNet",
    "stem.conv1.weight": "ResNet",
}
_NOT_NEEDED = re.compile(r"(stem\.)?fc\.|classifier\.|features\.18\.|.*\.num_batches_tracked$")
# From torchvision's names of a ResNet's tensors to detectron2's, which are ours.
_RESNET = (
    (re.compile(r"^(conv1|bn1)\."), r"stem.\1."),
    (re.compile(r"^layer([1-4])\."), lambda match: f"res{int(match[1]) + 1}."),
    (re.compile(r"\bbn([1-3])\."), r"conv\1.norm."),
    (re.compile(r"\bdownsample\.0\."), "shortcut."),
    (re.compile(r"\bdownsample\.1\."), "shortcut.norm."),
)
# MobileNetV2: where res2 to res5 begin among `features`, and what their blocks are made of.
_STAGES = (2, 4, 7, 14, 18)
_PARTS = ("expand", "depthwise", "project")


def imagenet_network(names: Iterable[str]) -> str | None:
    """Whose tensors have these names: `MobileNetV2`, `ResNet`, or None that is known here."""
    names = set(names)
    return next((network for mark, network in _MARKS.items() if mark in names), None)


def imagenet_backbone(state: Mapping[str, Tensor], config: IdolConfig, path: Path) -> dict[str, Tensor]:
    """The backbone's weights under published keys.

    Args:
        state: tensors of which `imagenet_network` knows the network.
        config: the network that they are for.
        path: where they are from, for messages.

    Raises:
        CheckpointError: another network; a tensor that is missing, unknown or of another shape, the first is named.
    """
    network, wanted = imagenet_network(state), _network_of(config)
    if network != wanted:
        raise CheckpointError(
            f"{path} holds ImageNet weights of a {network}, but the backbone of {config.name} is a {wanted}; choose a "
            "preset with that backbone"
        )
    theirs = [key for key in state if not _NOT_NEEDED.match(key)]
    names = (
        _mobilenet_names(theirs) if network == "MobileNetV2" else {key: _resnet_name(key) for key in theirs}
    )
    table = {
        key[len(BACKBONE) :]: shape for key, shape in key_table(config).items() if key.startswith(BACKBONE)
    }
    weights = _fitting(state, names, table if network == "ResNet" else _unfolded(table), path)
    _adapt(weights, "stem.conv1" if network == "ResNet" else "stem.conv", config.preprocessing)
    if network == "MobileNetV2":
        weights = _folded(weights)
    return {BACKBONE + name: weight.float() for name, weight in weights.items()}


def _network_of(config: IdolConfig) -> str:
    match config.model.backbone:
        case ResNetConfig():
            return "ResNet"
        case MobileNetConfig():
            return "MobileNetV2"
        case _:
            return "Swin transformer"


def _resnet_name(key: str) -> str:
    for pattern, ours in _RESNET:
        key = pattern.sub(ours, key)
    return key


def _mobilenet_names(keys: Iterable[str]) -> dict[str, str]:
    """Our name of each key, or what comes near it.

    Implementations number the modules of a block differently, but all in the order of their use: each convolution, then
    its normalisation.
    """
    modules: dict[int, list[str]] = {}
    for module in sorted({key.rpartition(".")[0] for key in keys}, key=_numbers):
        if re.match(r"features\.\d+\.", module):
            modules.setdefault(int(module.split(".")[1]), []).append(module)
    ours: dict[str, str] = {}
    for number, found in modules.items():
        parts = ("conv",) if number == 0 else _PARTS[-(len(found) // 2) :]
        own = [f"{_place(number)}.{part}{norm}" for part in parts for norm in ("", ".norm")]
        ours |= dict(zip(found, own, strict=False))
    split = (key.rpartition(".") for key in keys)
    return {f"{module}.{entry}": f"{ours.get(module, module)}.{entry}" for module, _, entry in split}


def _numbers(module: str) -> list[int]:
    return [int(part) for part in module.split(".") if part.isdigit()]


def _place(number: int) -> str:
    """Where the module `features.{number}` is with us."""
    for stage, (begin, end) in enumerate(pairwise(_STAGES), start=2):
        if begin <= number < end:
            return f"res{stage}.{number - begin}"
    return "stem" if number == 0 else "stem.block"


def _unfolded(table: KeyTable) -> KeyTable:
    """The same convolutions, each with a normalisation in place of its bias."""
    entries = ("weight", "bias", "running_mean", "running_var")
    whole: dict[str, tuple[int, ...]] = {}
    for name, shape in table.items():
        conv, _, kind = name.rpartition(".")
        whole |= {name: shape} if kind == "weight" else {f"{conv}.norm.{entry}": shape for entry in entries}
    return whole


def _fitting(
    state: Mapping[str, Tensor], names: Mapping[str, str], table: KeyTable, path: Path
) -> dict[str, Tensor]:
    """What the table wants, in float64, once the file is found to have that and nothing else."""
    theirs = {ours: key for key, ours in names.items()}
    for name, shape in table.items():
        if name not in theirs:
            raise CheckpointError(
                f"{path} has nothing for the backbone's {name}; give a file of the same network"
            )
        found = state[theirs[name]]
        if tuple(found.shape) != shape:
            raise CheckpointError(
                f"{path}: {theirs[name]} is {list(found.shape)} instead of {list(shape)}; give a file of "
                "the same network"
            )
    unknown = next((key for key, ours in names.items() if ours not in table), None)
    if unknown is not None:
        raise CheckpointError(
            f"{path}: {unknown} has no place in the backbone; give a file of the same network"
        )
    return {name: state[theirs[name]].double() for name in table}


def _adapt(weights: dict[str, Tensor], first: str, preprocessing: Preprocessing) -> None:
    """Makes the first convolution take frames as this network normalises them.

    Exact but for the outermost pixels where the means differ: the zeros around a frame are its mean.
    """
    std, mean = (
        (torch.tensor(own, dtype=torch.float64), torch.tensor(theirs, dtype=torch.float64))
        for own, theirs in ((preprocessing.std, _STD), (preprocessing.mean, _MEAN))
    )
    weight = weights[f"{first}.weight"]
    shift = (mean[0] - mean[1]) / std[1]
    weights[f"{first}.norm.running_mean"] -= torch.einsum("oihw,i->o", weight, shift)
    weights[f"{first}.weight"] = weight * (std[0] / std[1])[:, None, None]


def _folded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each normalisation as part of the convolution before it."""
    folded = {}
    for name in weights:
        conv, mark, _ = name.partition(".norm.weight")
        if mark:
            norm = {
                key: weights[f"{conv}.norm.{key}"]
                for key in ("weight", "bias", "running_mean", "running_var")
            }
            scale = norm["weight"] * (norm["running_var"] + _EPS).rsqrt()
            folded[f"{conv}.weight"] = weights[f"{conv}.weight"] * scale[:, None, None, None]
            folded[f"{conv}.bias"] = norm["bias"] - norm["running_mean"] * scale
    return folded
