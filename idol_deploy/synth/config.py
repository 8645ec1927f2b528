"""Settings of the synthetic videos, and their presets.

    config = override_synth(synth_preset("standard"), ["frames=32", "camera_jumps=0"])

Lengths are in short sides of the frame, so that a setting has the same effect at every frame size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from idol_runtime.errors import ConfigError
from idol_runtime.field_text import read_setting

__all__ = ["PRESETS", "SynthConfig", "override_synth", "synth_preset"]

_SHARES = ("look_alikes", "difference", "cross", "hide", "leave", "lurk", "blur", "lighting", "least_seen")
_LIMITS: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys((*_SHARES, "scale_change"), (0, 1)),
    "frames": (1, 10_000),
    "meeting": (0, 10_000),
    "camera": (0, 2),
    "camera_jumps": (0, 10),
    "noise": (0, 50),
    # Settings of two numbers, to both of which the limits apply.
    "instances": (1, 30),
    "occluders": (0, 10_000),
    "vanish": (1, 10_000),
    "scale": (0.02, 0.9),
    "speed": (0.001, 0.5),
}


@dataclass(frozen=True)
class SynthConfig:
    """Settings of the generator. The defaults are the preset `standard`.

    Attributes:
        frames: frames per video, 1 to 10,000.
        size: (height, width) of a frame in pixels; at least 48x48, long side at most four short sides.
        instances: fewest and most instances per video, 1 to 30.
        look_alikes: share of the instances that have a look-alike in the same video.
        difference: colour difference between look-alikes; 0: none, 1: as large as between other instances.
        scale: smallest and largest long side of an instance, 0.02 to 0.9.
        scale_change: largest change of an instance's size in a video, as a natural logarithm; 0: none.
        speed: smallest and largest distance per frame, 0.001 to 0.5.
        occluders: fewest and most occluders per video; an occluder hides instances and is no instance itself.
        cross: share of the moves in which two instances meet, and pass each other or turn back.
        hide: share of the moves that go behind an occluder.
        leave: share of the moves that leave the frame and return.
        lurk: share of the moves to a place where an occluder hides most of the instance. The remaining moves roam.
        meeting: most frames that two instances stay together when they meet.
        vanish: fewest frames of a planned absence, and most frames of any absence.
        least_seen: visible share of an instance's area below which it has no mask.
        camera: distance that the camera wanders in a video, 0 to 2.
        camera_jumps: mean number of camera jumps per video, 0 to 10.
        blur: exposure time as a share of the time between frames; a higher value blurs more.
        lighting: strength of the changes in brightness and colour; 0: none.
        noise: standard deviation of the sensor noise, in levels of 255; at most 50.
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
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            first, second = value if isinstance(value, tuple) else (value, value)
            if not low <= first <= second <= high:
                order = ", the lower first" if isinstance(value, tuple) else ""
                raise ConfigError(f"{name} must lie between {low} and {high}{order}, got {value}")
        height, width = self.size
        if not 48 <= min(self.size) <= max(self.size) <= 4 * min(self.size):
            limits = "at least 48x48, with a long side of at most four short sides"
            raise ConfigError(f"size must be {limits}, got {height}x{width}")
        if self.cross + self.hide + self.leave + self.lurk > 1:
            raise ConfigError("cross, hide, leave and lurk are shares of the moves; lower them to a sum of 1")


PRESETS: Mapping[str, SynthConfig] = MappingProxyType(
    {
        # Few and slow instances, look-alikes of clearly different colours, no jumps of the camera.
        "easy": SynthConfig(
            instances=(2, 4),
            difference=0.9,
            speed=(0.02, 0.05),
            occluders=(0, 1),
            cross=0.25,
            hide=0.15,
            leave=0.05,
            meeting=1,
            camera=0.08,
            camera_jumps=0.0,
            blur=0.25,
            lighting=0.15,
        ),
        "standard": SynthConfig(),
        # Many and fast instances, look-alikes that hardly differ; at least a quarter of the masks are mostly hidden.
        "hard": SynthConfig(
            instances=(6, 10),
            look_alikes=0.8,
            difference=0.12,
            scale=(0.26, 0.46),
            scale_change=0.25,
            speed=(0.04, 0.12),
            occluders=(1, 3),
            cross=0.35,
            hide=0.2,
            lurk=0.15,
            meeting=4,
            camera=0.25,
            camera_jumps=0.7,
            blur=0.5,
            lighting=0.5,
            noise=4.0,
        ),
    }
)


def synth_preset(name: str) -> SynthConfig:
    """Return the preset with this name.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; take one of {', '.join(PRESETS)}")
    return PRESETS[name]


def override_synth(config: SynthConfig, changes: Sequence[str]) -> SynthConfig:
    """Return the settings with some of them changed.

    Args:
        config: settings to start from.
        changes: `KEY=VALUE` texts, such as `noise=0` or `vanish=10,14`.

    Raises:
        ConfigError: the key is unknown, or the value is not allowed.
    """
    changed: dict[str, Any] = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ConfigError(f"{change!r} is not a setting; write KEY=VALUE, such as noise=0")
        text = text.replace("x", ",") if key == "size" else text
        changed[key] = read_setting(config, key, text, change)
    return replace(config, **changed)  # all at once: the sum of some shares must not pass 1 in between
