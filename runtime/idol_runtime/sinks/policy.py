"""Limits of output files: when a file ends, when old files are deleted, and how often files reach the disk."""

import math
import re
from dataclasses import dataclass

from idol_runtime.errors import ConfigError

__all__ = ["UNLIMITED", "FilePolicy", "Limit"]

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_TIMES = ("s", "min", "h", "d")


@dataclass(frozen=True)
class Limit:
    """A limit in time, in size, or in both; infinite where it is not given.

    Attributes:
        seconds: longest time in seconds.
        size: largest size in bytes.
    """

    seconds: float = math.inf
    size: float = math.inf

    @classmethod
    def parse(cls, text: str, option: str) -> "Limit":
        """Return the limit that a text states, such as `1h`, `500MB` or `7d,20GB`.

        Args:
            text: one number with a unit, or two that are separated by a comma.
            option: name of the option in messages.

        Raises:
            ConfigError: the text has another form.
        """
        values: dict[str, float] = {}
        for part in text.split(","):
            match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", part.strip())
            unit = match and {name.lower(): name for name in _UNITS}.get(match[2].lower())
            if not match or not unit or float(match[1]) == 0:
                raise ConfigError(
                    f"{option} is not a limit: {text!r}; give a time or a size such as 1h, 500MB or 7d,20GB "
                    f"({', '.join(_UNITS)})"
                )
            values["seconds" if unit in _TIMES else "size"] = float(match[1]) * _UNITS[unit]
        return cls(**values)


UNLIMITED = Limit()


@dataclass(frozen=True)
class FilePolicy:
    """Limits of the files of every output.

    Attributes:
        rotate: time and size after which an output continues in a new file; infinite: only one file.
        retain: age and total size from which the oldest files of an output are deleted; infinite: none.
        sync_s: shortest time between two writes to the disk in seconds; a power failure loses at most the frames of
            this time. 0: after every frame; infinite: when the operating system does it.
    """

    rotate: Limit = UNLIMITED
    retain: Limit = UNLIMITED
    sync_s: float = 1.0

    def __post_init__(self) -> None:
        if self.retain != UNLIMITED and not self.rotates:
            raise ConfigError("--retain deletes whole files and needs --rotate; add --rotate 1h, for example")
        for name in ("seconds", "size"):
            rotate, retain = getattr(self.rotate, name), getattr(self.retain, name)
            if math.isfinite(rotate) and rotate > retain:
                raise ConfigError(
                    f"--rotate must not be larger than --retain, got {name} {rotate:g} and {retain:g}; lower --rotate"
                )
        if not self.sync_s >= 0:
            raise ConfigError(f"--sync must be 0 or more seconds, got {self.sync_s}; give 1, for example")

    @classmethod
    def parse(cls, rotate: str | None = None, retain: str | None = None, sync: str = "1") -> "FilePolicy":
        """Return the policy of the options' texts.

        Raises:
            ConfigError: a text cannot be read, or the limits contradict each other.
        """
        try:
            sync_s = math.inf if sync == "off" else float(sync)
        except ValueError as error:
            raise ConfigError(f"--sync is not a number of seconds: {sync!r}; give 1, or off") from error
        limits = {"rotate": rotate, "retain": retain}
        return cls(
            **{name: Limit.parse(text, f"--{name}") for name, text in limits.items() if text is not None},
            sync_s=sync_s,
        )

    @property
    def rotates(self) -> bool:
        """True if an output is written as a series of files."""
        return self.rotate != UNLIMITED
