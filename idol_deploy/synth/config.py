"""What a synthetic data set is like: one frozen dataclass and its presets.

    config = override(preset("standard"), ["frames=32", "camera_jumps=0"])

Lengths are in short sides of the frame, so that one setting means the same at every size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from idol_runtime.errors import ConfigError
from idol_runtime.field_text import read_setting

__all__ = ["PRESETS", "SynthConfig", "easy", "hard", "override", "preset", "standard"]

_SHARES = ("look_alikes", "difference", "cross", "hide", "leave", "lurk", "blur", "lighting", "least_seen")
_RANGES = {"instances": 1, "occluders": 0, "vanish": 1, "scale": 0.02, "speed": 0.001}  # and their least


@dataclass(frozen=True)
class SynthConfig:
    """Settings of the generator.

    Attributes:
        frames: T of each video.
        size: (H, W) in pixels.
        instances: fewest and most in a video.
        look_alikes: share of the instances that another one of the same video looks like.
        difference: how unlike look-alikes are coloured; 0: not at all, 1: as two that are no look-alikes.
        scale: least and greatest long side of an instance.
        scale_change: logarithm by which an instance grows and shrinks.
        speed: least and greatest way per frame.
        occluders: fewest and most things in a video that hide instances and are none themselves.
        cross: share of the moves in which two meet, and pass or turn back.
        hide: share of the moves behind an occluder.
        leave: share of the moves out of the frame and back.
        lurk: share of the moves to a place where an occluder hides a good part. The rest roams.
        meeting: most frames that two who meet stay together.
        vanish: fewest frames for which a move means an instance to vanish, and the most for which any ever does.
        least_seen: share of its whole area from which on what is seen of an instance is a mask; with less it has
            vanished.
        camera: how far the camera wanders during a video.
        camera_jumps: how often in a video it jumps, on average.
        blur: share of the time between frames for which the shutter is open.
        lighting: how much brightness and colour change.
        noise: standard deviation of the sensor's noise, in levels of 255.
    """

    frames: int = 24
    size: tuple[int, int] = (160, 256)
    instances: tuple[int, int] = (4, 7)
    look_alikes: float = 0.6
    difference: float = 0.25
    scale: tuple[float, float] = (0.24, 0.38)
    scale_change: float = 0.15
    speed: tuple[float, float] = (0.03, 0.08)
    occluders: tuple[int, int] = (1, 2)
    cross: float = 0.3
    hide: float = 0.25
    leave: float = 0.1
    lurk: float = 0.05
    meeting: int = 2
    vanish: tuple[int, int] = (2, 9)
    least_seen: float = 0.1
    camera: float = 0.15
    camera_jumps: float = 0.2
    blur: float = 0.4
    lighting: float = 0.3
    noise: float = 2.0

    def __post_init__(self) -> None:
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        for name, least in _RANGES.items():
            low, high = getattr(self, name)
            if not least <= low <= high:
                raise ConfigError(
                    f"{name} must be two numbers from {least} on, the lower first, got {low},{high}"
                )
        for name, low, high in (
            ("frames", 1, 10_000),
            ("scale_change", 0, 1),
            ("camera", 0, 2),
            ("noise", 0, 50),
        ):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} must lie between {low} and {high}, got {getattr(self, name)}")
        if self.meeting < 0 or not 0 <= self.camera_jumps <= 10:
            raise ConfigError("meeting and camera_jumps must not be below 0, nor camera_jumps above 10")
        if not (min(self.size) >= 48 and max(self.size) <= 4 * min(self.size)):
            raise ConfigError(
                f"size must be at least 48x48 and no longer than four times its short side, got {self.size}"
            )
        if self.instances[1] > 30 or self.scale[1] > 0.9 or self.speed[1] > 0.5:
            raise ConfigError(
                "at most 30 instances, a scale of 0.9 and a speed of 0.5 are possible; lower them"
            )
        if self.cross + self.hide + self.leave + self.lurk > 1:
            raise ConfigError("cross, hide, leave and lurk are shares of one whole; lower them to a sum of 1")


def easy() -> SynthConfig:
    """Few instances, slow, look-alikes of clearly different colours, no jumps."""
    return SynthConfig(
        instances=(2, 4),
        difference=0.9,
        speed=(0.02, 0.05),
        occluders=(0, 1),
        cross=0.25,
        hide=0.15,
        leave=0.05,
        lurk=0.05,
        meeting=1,
        camera=0.08,
        camera_jumps=0.0,
        blur=0.25,
        lighting=0.15,
    )


def standard() -> SynthConfig:
    """The benchmark's setting."""
    return SynthConfig()


def hard() -> SynthConfig:
    """Many instances, fast and crowded, look-alikes that hardly differ: at least every fourth mask is mostly hidden."""
    return SynthConfig(
        instances=(6, 10),
        look_alikes=0.8,
        difference=0.12,
        scale=(0.26, 0.46),
        scale_change=0.25,
        speed=(0.04, 0.12),
        occluders=(1, 3),
        cross=0.35,
        hide=0.2,
        leave=0.1,
        lurk=0.15,
        meeting=4,
        camera=0.25,
        camera_jumps=0.7,
        blur=0.5,
        lighting=0.5,
        noise=4.0,
    )


PRESETS: Mapping[str, Callable[[], SynthConfig]] = MappingProxyType(
    {"easy": easy, "standard": standard, "hard": hard}
)


def preset(name: str) -> SynthConfig:
    """The preset of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}; take one of {', '.join(PRESETS)}")
    return PRESETS[name]()


def override(config: SynthConfig, changes: Sequence[str]) -> SynthConfig:
    """The settings with some changed.

    Args:
        config: what to start from.
        changes: `KEY=VALUE`, such as `noise=0` or `vanish=10,14`.

    Raises:
        ConfigError: no such key, or a value that cannot be.
    """
    changed: dict[str, Any] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ConfigError(f"{change!r} is no setting; write KEY=VALUE, such as noise=0")
        text = text.replace("x", ",") if key == "size" else text
        changed[key] = read_setting(config, key, text, change)
    return replace(config, **changed)  # at once: some shares must have a sum of at most 1
