"""The series of files or folders that an output is written as: their names, their limits and their deletion."""

import contextlib
import os
import re
import stat
import time
from collections import deque
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import NamedTuple

from idol_runtime.sinks.policy import UNLIMITED, FilePolicy

__all__ = ["PartSeries", "part_size"]

# The time in the name of a part.
_TIME = "%Y%m%dT%H%M%SZ"


class _Part(NamedTuple):
    path: Path
    modified: float  # in seconds since 1970


class _OldPart(NamedTuple):
    path: Path
    ended_s: float  # on the monotonic clock
    size: int


class PartSeries:
    """The parts of an output: their names, the end of one, and the deletion of complete ones, the oldest first.

    Ages are measured by the monotonic clock; only parts of earlier runs have the ages that their times state.

    Attributes:
        newest: newest part of earlier runs; None without one and without `--rotate`.
    """

    def __init__(self, target: Path, files: FilePolicy, contents: re.Pattern[str] | None = None) -> None:
        """Find the parts of earlier runs.

        Args:
            target: path that the names of the parts are made from.
            files: limits of the parts.
            contents: names of the files in a part that is a folder; None for parts that are files.

        Raises:
            OSError: the folder of the target cannot be read.
        """
        self._target, self._files, self._size = target, files, 0
        self._contents = contents
        self._parts = deque[_OldPart]()  # complete parts; none is remembered without a limit
        parts = _parts(target, contents is not None) if files.rotates else []
        self.newest = parts[-1].path if parts else None
        ahead = time.time() - time.monotonic()
        for path, modified in parts if files.retain != UNLIMITED else ():
            with contextlib.suppress(OSError):  # deleted meanwhile
                self.add(path, part_size(path), min(modified - ahead, time.monotonic()))

    def is_full(self, size: int, age_s: float) -> bool:
        """Return True if a part of this size in bytes and this age ends."""
        return size >= self._files.rotate.size or age_s >= self._files.rotate.seconds

    def new_path(self) -> Path:
        """Return an unused name with the time."""
        stamp = datetime.now(timezone.utc).strftime(_TIME)
        stem, suffix = self._target.stem, self._target.suffix
        names = (f"{stem}-{stamp}{f'-{n}' if n > 1 else ''}{suffix}" for n in count(1))
        return next(path for name in names if not os.path.lexists(path := self._target.with_name(name)))

    def add(self, path: Path, size: int, ended_s: float | None = None) -> None:
        """Add a complete part."""
        if self._files.retain != UNLIMITED:
            self._parts.append(_OldPart(path, time.monotonic() if ended_s is None else ended_s, size))
            self._size += size

    def resume(self, path: Path) -> float:
        """Take a part that is continued out of the complete ones, and return its age in seconds.

        The age begins with the time in the name of the part; it is 0 without one, or if that time has not come yet.
        """
        self._size -= sum(part.size for part in self._parts if part.path == path)
        self._parts = deque(part for part in self._parts if part.path != path)
        now = datetime.now(timezone.utc)
        with contextlib.suppress(ValueError):
            started = datetime.strptime(path.stem[len(self._target.stem) + 1 :][:16], _TIME)
            return max(0.0, (now - started.replace(tzinfo=timezone.utc)).total_seconds())
        return 0.0

    def evict(self, now: float, open_size: int) -> list[Path]:
        """Delete the parts beyond the limit, and return their paths.

        Args:
            now: time on the monotonic clock.
            open_size: bytes of the part that is written.
        """
        limit, gone = self._files.retain, []
        while self._parts and (
            self._size + open_size > limit.size or now - self._parts[0].ended_s > limit.seconds
        ):
            part = self._parts.popleft()
            self._size -= part.size
            with contextlib.suppress(OSError):  # a part may have been moved, or hold files of the user
                if not _is_part(part.path.lstat(), self._contents is not None):
                    continue
                if self._contents is not None:
                    for file in filter(self._contents.fullmatch, os.listdir(part.path)):
                        os.unlink(part.path / file)
                    part.path.rmdir()
                else:
                    part.path.unlink()
                gone.append(part.path)
        return gone


def _parts(target: Path, are_folders: bool) -> list[_Part]:
    """Return the existing parts of an output that have a time in their names, the oldest first; no links."""
    pattern = re.compile(re.escape(target.stem) + r"-\d{8}T\d{6}Z(-\d+)?" + re.escape(target.suffix))
    parts = []
    for path in target.parent.iterdir():
        if pattern.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                status = path.lstat()
                if _is_part(status, are_folders):
                    parts.append(_Part(path, status.st_mtime))
    # By their names where the clock of the file system does not tell them apart.
    return sorted(parts, key=lambda part: (part.modified, len(part.path.name), part.path.name))


def _is_part(status: os.stat_result, is_folder: bool) -> bool:
    """Return True for a file or a folder, and False for a link, and for what is in the place of a part."""
    return stat.S_ISDIR(status.st_mode) if is_folder else stat.S_ISREG(status.st_mode)


def part_size(path: Path) -> int:
    """Return the size of a file, or of the files in a folder, in bytes."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(path))
