"""Typed settings of a training run, and their JSON form. Imports no torch.

settings = override_settings(TrainSettings(preset("ytvis19_r50")), ["train.lr=2e-4", "loss.selection=iou"])
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import msgspec

from idol_deploy.config import IdolConfig, preset
from idol_deploy.data.ytvis import class_names
from idol_deploy.model.backbones.config import BACKBONES, BackboneConfig
from idol_runtime.errors import ConfigError, DataError
from idol_runtime.field_text import read_setting
from idol_runtime.json_text import JSON_ERRORS, json_fault, to_utf8

__all__ = [
    "DataConfig",
    "RunConfig",
    "TrainSettings",
    "network_config",
    "override_settings",
    "settings_from_json",
    "settings_to_json",
]


@dataclass(frozen=True)
class DataConfig:
    """The training set and how it is read.

    Attributes:
        annotations: path of a JSON file in the format of YouTube-VIS, OVIS or, for still images, COCO.
        frames: folder that the file names in the annotations are relative to.
        workers: number of loading processes per training process; 0 loads in the training process itself.
        strict: refuse broken frames and annotations instead of counting them.
        holdout: seed that selects the videos held out of training; None trains on all videos.
        holdout_share: share of the videos that is held out, between 0 and 1.
    """

    annotations: str = ""
    frames: str = ""
    workers: int = 2
    strict: bool = False
    holdout: int | None = None
    holdout_share: float = 0.1

    def __post_init__(self) -> None:
        _at_least(0, "data", workers=self.workers)
        if not 0.0 < self.holdout_share < 1.0:
            raise ConfigError(f"data.holdout_share must lie between 0 and 1, got {self.holdout_share}")


@dataclass(frozen=True)
class RunConfig:
    """Arithmetic and output of a training run.

    Attributes:
        seed: seed of initial weights, order of the data, augmentation and dropout.
        precision: precision of the network's matrix products; losses, weights and their updates are always fp32.
        accumulate: number of batches whose gradients are averaged into one step. Each batch is normalised by itself;
            with `loss.global_normaliser`, all together, which costs another forward pass.
        recompute: recompute the activations of backbone blocks and transformer layers in the backward pass: less
            memory, slower, the same bits.
        compile: compile the transformer's layers with torch.compile.
        operator: use of the compiled deformable attention: `auto` if it is built, `always` or `never`.
        keep_last: number of snapshots to keep.
        evaluate_period: iterations between evaluations on the held-out videos; the weights of the best AP are kept.
            0 never evaluates.
        log_period: iterations between console lines; the log file has every iteration.
        tensorboard: also write TensorBoard files.
    """

    seed: int = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: int = 1
    recompute: bool = False
    compile: bool = False
    operator: Literal["auto", "always", "never"] = "auto"
    keep_last: int = 2
    evaluate_period: int = 0
    log_period: int = 20
    tensorboard: bool = False

    def __post_init__(self) -> None:
        _at_least(1, "run", accumulate=self.accumulate, keep_last=self.keep_last, log_period=self.log_period)
        _at_least(0, "run", seed=self.seed, evaluate_period=self.evaluate_period)
        hints = get_type_hints(type(self))
        for name in ("precision", "operator"):
            choices, value = get_args(hints[name]), getattr(self, name)
            if value not in choices:
                raise ConfigError(f"run.{name} must be one of {', '.join(choices)}, got {value!r}")


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a training run. With the same data and machine, they determine its result.

    Attributes:
        network: network, classes, augmentation, optimiser, schedule and losses.
        data: the training set.
        run: arithmetic and output.
    """

    network: IdolConfig
    data: DataConfig = field(default_factory=DataConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def pairs_per_batch(self, world: int) -> int:
        """Return the number of pairs in each batch of each process.

        Raises:
            ConfigError: the pairs of an iteration cannot be shared equally.
        """
        parts = world * self.run.accumulate
        pairs, rest = divmod(self.network.train.batch_pairs, parts)
        if rest or not pairs:
            raise ConfigError(
                f"{self.network.train.batch_pairs} pairs cannot be shared by {world} processes times "
                f"{self.run.accumulate} accumulated batches; set train.batch_pairs to a multiple of {parts}"
            )
        return pairs


# Section of a setting -> path of the dataclass that holds it.
_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "model": ("network", "model"),
    "backbone": ("network", "model", "backbone"),
    "preprocessing": ("network", "preprocessing"),
    "association": ("network", "association"),
    "video": ("network", "video"),
    "train": ("network", "train"),
    "loss": ("network", "train", "loss"),
    "data": ("data",),
    "run": ("run",),
}


def override_settings(settings: TrainSettings, changes: Sequence[str]) -> TrainSettings:
    """Return the settings with some of them changed.

    Args:
        settings: settings to start from.
        changes: `SECTION.KEY=VALUE` texts, such as `train.lr=2e-4` or `train.steps=8000,11000`.

    Raises:
        ConfigError: a section or key does not exist, or a value is invalid.
    """
    for change in changes:
        path, equals, text = change.partition("=")
        section, _, key = path.partition(".")
        if not equals or section not in _SECTIONS:
            raise ConfigError(
                f"{change!r} is not a setting; write SECTION.KEY=VALUE with a section of {', '.join(_SECTIONS)}"
            )
        settings = _changed(settings, _SECTIONS[section], key, text, change)
    return settings


def _changed(owner: Any, path: Sequence[str], key: str, text: str, change: str) -> Any:
    if path:
        return replace(owner, **{path[0]: _changed(getattr(owner, path[0]), path[1:], key, text, change)})
    return replace(owner, **{key: read_setting(owner, key, text, change)})


def settings_to_json(settings: TrainSettings) -> str:
    """Return the settings as indented JSON; `settings_from_json` is the inverse."""
    return msgspec.json.format(msgspec.json.encode(settings), indent=2).decode() + "\n"


def settings_from_json(text: str | bytes, source: str | Path) -> TrainSettings:
    """Read settings from JSON.

    A field that is missing was added by a later version; its default is the behaviour before.

    Args:
        text: JSON text.
        source: origin of the text, for messages.

    Raises:
        DataError: the text is not JSON, or has missing, unknown or invalid fields.
        ConfigError: a value is out of range.
    """
    encoded = text.encode(errors="replace") if isinstance(text, str) else text
    try:
        contents = msgspec.json.decode(to_utf8(encoded))
        settings = msgspec.convert(contents, TrainSettings, dec_hook=_backbone)
        unknown = list(_unknown(contents, msgspec.to_builtins(settings)))
    except JSON_ERRORS as error:
        fault = json_fault(error, encoded, "pass a run's settings.json")
        raise DataError(f"{source} holds no training settings: {fault}") from error
    if unknown:
        raise DataError(
            f"{source} has settings that this version does not know: {', '.join(unknown)}; upgrade idol-deploy"
        )
    return settings


def _backbone(kind: type, value: Any) -> BackboneConfig:
    """Convert the settings of a backbone; msgspec calls this for fields of type `BackboneConfig`."""
    assert kind is BackboneConfig
    kinds = {backbone().kind: backbone for backbone in BACKBONES}
    tag = value.get("kind", _untagged_kind(value)) if isinstance(value, dict) else value
    if tag not in kinds:
        raise ValueError(f"expected a backbone of kind {', '.join(kinds)}, got {tag!r}")
    return msgspec.convert(value, kinds[tag])


def _untagged_kind(value: Mapping[str, object]) -> str:
    """Return the kind of a backbone in a file from before the tag, which knew these three kinds."""
    return "swin" if "embed_dim" in value else "resnet" if "depth" in value else "mobilenet"


def _unknown(value: Mapping[str, Any], known: Mapping[str, Any], section: str = "") -> Iterator[str]:
    """Yield the dotted names of keys that are not among the known ones."""
    for key, inner in value.items():
        if key not in known:
            yield section + key
        elif isinstance(inner, dict):
            yield from _unknown(inner, known[key], f"{section}{key}.")


def network_config(name: str, classes: Path | None = None) -> IdolConfig:
    """Return the configuration of a preset, or of the `settings.json` of a training run.

    Args:
        name: name of the preset, or path of the settings.
        classes: file of `class_names` that replace those of the configuration (default: none).

    Raises:
        ConfigError: there is no such preset, or two classes have the same name.
        DataError: a file cannot be read, or holds no settings or class names.
    """
    if classes is not None:
        return replace(network_config(name), classes=class_names(classes))
    if not name.endswith(".json"):
        return preset(name)
    try:
        text = Path(name).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read settings {name}: {error.strerror}; check the path") from error
    return settings_from_json(text, name).network


def _at_least(least: int, section: str, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ConfigError(f"{section}.{name} must be at least {least}, got {value}")
