"""Typed settings of a training run, and their form as JSON. Imports no torch.

settings = override(TrainSettings(preset("ytvis19_r50")), ["train.lr=2e-4", "loss.selection=iou"])
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import msgspec

from idol_deploy.config import IdolConfig, preset
from idol_deploy.model.config import BackboneConfig
from idol_runtime.errors import ConfigError, DataError
from idol_runtime.field_text import read_setting

__all__ = [
    "DataConfig",
    "RunConfig",
    "TrainSettings",
    "network_config",
    "override",
    "settings_from_json",
    "settings_to_json",
]

_T = TypeVar("_T")


@dataclass(frozen=True)
class DataConfig:
    """Where the training set lies, and how it is read.

    Attributes:
        annotations: JSON in the format of YouTube-VIS, OVIS or, for still images, COCO.
        frames: the folder that its file names are below.
        workers: processes that load, of each training process; 0: it loads by itself.
        strict: refuse broken frames and annotations instead of counting them.
        holdout: seed of the part of the videos that is left out of training; None: all are trained on.
        holdout_share: of the videos in that part.
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
    """How the arithmetic is done, and what is kept.

    Attributes:
        seed: of initial weights, order, augmentation and dropout.
        precision: of the network's products; losses, weights and their updates are fp32 in any case.
        accumulate: batches whose gradients are averaged to one step; each is normalised by itself, or all together with
            `loss.global_normaliser`, which takes another forward pass.
        recompute: keep no activations inside transformer and Swin layers and compute them again for the gradient:
            slower, less memory, the same bits.
        compile: compile the transformer's layers with torch.compile.
        operator: `auto` takes the deformable-attention library where it is built, `always` insists, `never` doesn't.
        keep_last: checkpoints to keep.
        evaluate_period: iterations between evaluations on the holdout, whose AP decides the best; 0: none.
        log_period: iterations between lines for people; the log file has every one.
        tensorboard: write TensorBoard's files as well.
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
    """All that decides what a training run does; with the same data and machine, its result.

    Attributes:
        network: network, classes, augmentation, optimiser, schedule and losses.
        data: the training set.
        run: arithmetic, and what is kept.
    """

    network: IdolConfig
    data: DataConfig = field(default_factory=DataConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def pairs_per_batch(self, world: int) -> int:
        """Pairs of each batch of each process.

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


# Where a setting's section is kept.
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


def override(settings: TrainSettings, changes: Sequence[str]) -> TrainSettings:
    """The settings with some changed.

    Args:
        settings: what to start from.
        changes: `SECTION.KEY=VALUE`, such as `train.lr=2e-4` or `train.steps=8000,11000`.

    Raises:
        ConfigError: no such section or key, or a value that cannot be.
    """
    for change in changes:
        path, equals, text = change.partition("=")
        section, _, key = path.partition(".")
        if not equals or section not in _SECTIONS:
            raise ConfigError(
                f"{change!r} is no setting; write SECTION.KEY=VALUE, SECTION being one of {', '.join(_SECTIONS)}"
            )
        settings = _changed(settings, _SECTIONS[section], key, text, change)
    return settings


def _changed(owner: Any, path: Sequence[str], key: str, text: str, change: str) -> Any:
    if path:
        return replace(owner, **{path[0]: _changed(getattr(owner, path[0]), path[1:], key, text, change)})
    return replace(owner, **{key: read_setting(owner, key, text, change)})


def settings_to_json(settings: TrainSettings) -> str:
    """Indented JSON, from which `settings_from_json` makes the same settings."""
    return msgspec.json.format(msgspec.json.encode(settings), indent=2).decode() + "\n"


def settings_from_json(text: str | bytes, source: str | Path) -> TrainSettings:
    """The settings that were saved.

    Args:
        text: JSON.
        source: where it is from, for messages.

    Raises:
        DataError: not JSON, or not these settings; names the field.
        ConfigError: a value that cannot be.
    """
    try:
        return _built(TrainSettings, msgspec.json.decode(text), "")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{source} holds no training settings: {error}") from error


def network_config(name: str) -> IdolConfig:
    """What a network is: the preset of this name, or what the `settings.json` of a training run says.

    Raises:
        ConfigError: no such preset.
        DataError: the file cannot be read, or holds no settings.
    """
    if not name.endswith(".json"):
        return preset(name)
    try:
        text = Path(name).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read settings {name}: {error.strerror}; check the path") from error
    return settings_from_json(text, name).network


def _built(kind: type[_T], value: object, where: str) -> _T:
    """A dataclass of dataclasses from what JSON holds.

    A field that is not there came with a later version, whose default is what all did before.
    """
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    needed = {
        entry.name for entry in fields(kind) if entry.default is MISSING and entry.default_factory is MISSING
    }
    unlike = ["everything"]
    if isinstance(value, dict):
        unlike = sorted((value.keys() - hints.keys()) | (needed - value.keys()))
    if unlike or not isinstance(value, dict):
        raise msgspec.ValidationError(
            f"{where or 'the whole'} has other fields than this version's: {', '.join(unlike)}"
        )
    return kind(
        **{
            entry.name: _field(hints[entry.name], value[entry.name], f"{where}.{entry.name}".lstrip("."))
            for entry in fields(kind)
            if entry.name in value
        }
    )


def _field(hint: Any, value: object, where: str) -> Any:
    if hint == BackboneConfig:
        names = value.keys() if isinstance(value, dict) else ()
        # No two backbones have the same settings; with unknown ones, that which shares most is complained of.
        hint = max(get_args(hint), key=lambda kind: _likeness(kind, names))
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return _built(hint, value, where)
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        raise msgspec.ValidationError(f"{where}: {error}") from error


def _likeness(kind: Any, names: Collection[str]) -> int:
    own = {entry.name for entry in fields(kind)}
    return len(own & set(names)) - len(own ^ set(names))


def _at_least(least: int, section: str, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ConfigError(f"{section}.{name} must be at least {least}, got {value}")
