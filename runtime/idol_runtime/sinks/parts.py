"""Outputs that are files or folders: one, or a series of parts."""

import contextlib
import io
import math
import os
import re
import time
from abc import abstractmethod
from pathlib import Path
from typing import Literal, TypeAlias

from idol_runtime.errors import OutputError
from idol_runtime.files import hidden_path, lock, sync, writable_target
from idol_runtime.frames import Frame
from idol_runtime.sinks.base import Sink, SinkContext
from idol_runtime.sinks.series import PartSeries
from idol_runtime.tracking.results import FrameResult

__all__ = ["FileSink", "Mode", "PartSink"]

Mode: TypeAlias = Literal["new", "append", "replace"]


class PartSink(Sink):
    """A sink that writes a file or a folder, or a series of them: the parts of the output.

    A part has its visible name from its first frame on. The first part has the name of the target. With `--rotate`,
    and where a part cannot be continued, names hold the time in UTC: `out-20261128T103119Z.jsonl`. A name that exists
    is never used again, whatever the clock shows.

    A finite source replaces an old file when its first frame is written. A live source, and a run that continues an
    earlier one, append to the newest part or start the next one.
    """

    _contents: re.Pattern[str] | None = None  # names of the files in a part; None: a part is a file

    def __init__(self, target: str | Path, context: SinkContext) -> None:
        super().__init__(target, context)
        self.path: Path = Path(target)
        self._target = self._check_target(self.path)
        self._is_open = self._rotation_asked = False
        self._size = 0  # bytes of the open part
        self._opened_s = self._synced_s = 0.0
        self._parts = self._evicted = 0
        self._hidden: Path | None = None  # the open part, until it replaces an old file
        self._resumes = context.live or context.append
        # The part that is continued; None: a new one.
        self._continued: Path | None = self._target
        with self._output_errors():
            self._series = PartSeries(self._target, context.files, self._contents)
            if context.files.rotates:
                self._check_target(self._new_path())
                self._continued = self._series.newest if self._resumes else None

    @classmethod
    def check(cls, target: str) -> None:
        """Check that the target can be written.

        Raises:
            OutputError: the folder is missing or not writable, or the target is of another kind.
        """
        cls._check_target(Path(target))

    def rotate(self) -> None:
        """Continue in a new file from the next frame on; called from any thread."""
        self._rotation_asked = True

    def end_part(self) -> None:
        """Complete the open part, and delete the parts beyond the limit; the next frame begins a new one."""
        if self._is_open:
            with contextlib.suppress(OSError, OutputError):  # the next frame tells that the disk is full
                self._close_part()
            self._continued = None
        self._evict(time.monotonic())

    def close(self) -> None:
        """Complete the open part; may be called twice.

        Raises:
            OutputError: the part cannot be completed; what was whole before is kept.
        """
        if self._is_open:
            with self._output_errors():
                self._close_part()

    @property
    def note(self) -> str:
        """Facts about the parts; empty for none."""
        facts = [self._fact] if self._fact else []
        if self._parts > 1:
            facts.append(f"{self._target} has {self._parts} parts, the last one is {self.path.name}")
        if self._evicted:
            facts.append(f"parts of {self._target} deleted by --retain: {self._evicted}")
        if self.frames_lost:
            facts.append(f"frames not written to {self._target}: {self.frames_lost}")
        return "; ".join(facts)

    @abstractmethod
    def _open(self, path: Path, mode: Mode, frame: Frame) -> None:
        """Open a part for its first frame."""

    @abstractmethod
    def _append(self, frame: Frame, result: FrameResult) -> None:
        """Write one frame to the open part, and set `_size`."""

    @abstractmethod
    def _sync(self) -> None:
        """Write what the operating system holds back to the disk."""

    @abstractmethod
    def _finish(self, torn: bool) -> None:
        """Complete the open part, or with `torn` restore its state before the frame that could not be written."""

    def _reuse(self, path: Path) -> Mode | None:
        """Return how an existing part is continued; None: start the next one."""
        return "append" if self._resumes or self._parts else "replace"

    @classmethod
    def _check_target(cls, path: Path) -> Path:
        return writable_target(path)

    def _check_disk(self) -> None:
        """Check that there is room for a frame; the open part can still be completed."""

    def _is_present(self) -> bool:
        """Return False if the open part was moved or deleted."""
        return self.path.exists()

    def _splits(self, frame: Frame) -> bool:
        """Return True if the frame does not fit into the open part."""
        return False

    def _write(self, frame: Frame, result: FrameResult) -> None:
        now = time.monotonic()
        try:
            self._write_part(now, frame, result)
        finally:  # on a full disk, this may make the room
            self._evict(now)

    def _write_part(self, now: float, frame: Frame, result: FrameResult) -> None:
        try:
            self._check_disk()
        except OutputError:
            if self._is_open:
                self._close_part()
            raise
        if self._is_open and not self._is_present():
            with contextlib.suppress(OSError, OutputError):
                self._close_part()
            if not self.context.live:
                raise OutputError(f"cannot write {self.path}: it was moved or deleted; start the run again")
        is_full = self._rotation_asked or self._series.is_full(self._size, now - self._opened_s)
        if self._is_open and (is_full or self._splits(frame)):
            self._close_part()
            self._continued = None
        self._rotation_asked = False
        if not self._is_open:
            self._open_part(now, frame)
        try:
            self._append(frame, result)
            if self._hidden is not None:
                self._hidden.replace(self.path)
                self._hidden = None
            if now - self._synced_s >= self.context.files.sync_s:
                self._sync()
                self._synced_s = now
        except (OSError, OutputError):
            self._close_part(torn=True)
            raise

    def _evict(self, now: float) -> None:
        if gone := self._series.evict(now, self._size if self._is_open else 0):
            if self._continued in gone:
                self._continued = None
            self._evicted += len(gone)
            message = f"parts of {self._target} deleted by --retain: {len(gone)}, up to {gone[-1].name}"
            self._tell("evicted", message, parts=len(gone))

    def _open_part(self, now: float, frame: Frame) -> None:
        previous, path = self.path, self._continued
        mode: Mode = "new"
        if path is not None and path.exists():
            reuse = self._reuse(path)
            path, mode = (path, reuse) if reuse else (None, "new")
        self._check_target(path or self._target)
        self.path = path or self._new_path()
        if mode == "replace":
            self._hidden = hidden_path(self.path)
        self._open(self._hidden or self.path, mode, frame)
        if math.isfinite(self.context.files.sync_s):
            sync(self.path.parent)
        self._is_open, self._opened_s, self._continued = True, now, self.path
        if mode == "append":
            self._opened_s -= self._series.resume(self.path)
        if mode != "append" or not self._parts:
            self._parts += 1
        if self.path != previous and (self._parts > 1 or (self._resumes and not self.context.files.rotates)):
            self._tell("rotated", f"{previous.name} continues in {self.path.name}", part=str(self.path))

    def _new_path(self) -> Path:
        return self._series.new_path()

    def _close_part(self, torn: bool = False) -> None:
        self._is_open = False
        try:
            with contextlib.suppress(OSError, OutputError) if torn else contextlib.nullcontext():
                self._finish(torn)
        finally:
            if self._hidden is not None:
                self._hidden.unlink(missing_ok=True)
                self._hidden = None
            if self._size:
                self._series.add(self.path, self._size)


class FileSink(PartSink):
    """A sink whose parts are files. What a failed write left is cut off.

    The open file is locked: two runs that write the same file would overwrite each other's data.

    Attributes:
        _file: the open file, without a buffer.
    """

    _file: "_File"

    def __init__(self, target: str | Path, context: SinkContext) -> None:
        super().__init__(target, context)
        if self._continued is not None and self._continued.exists():
            with self._output_errors(), _File(self._continued, "r+") as file:
                lock(file.fileno(), self._continued)

    def _open(self, path: Path, mode: Mode, frame: Frame) -> None:
        self._file = _File(path, "r+" if mode == "append" else "x")
        try:
            lock(self._file.fileno(), self.path)
        except OutputError:
            self._file.close()
            raise
        self._size = self._file.seek(0, io.SEEK_END)
        try:
            self._begin(frame)
        except BaseException:
            self._file.close()
            if not self._size:
                path.unlink(missing_ok=True)
            raise

    def _begin(self, frame: Frame) -> None:
        """Prepare the open file for its first frame."""

    def _end(self) -> None:
        """Write what completes the open file."""

    def _is_present(self) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False

    def _sync(self) -> None:
        os.fsync(self._file.fileno())

    def _finish(self, torn: bool) -> None:
        with self._file as file:
            file.discards = torn
            try:
                self._end()
                if math.isfinite(self.context.files.sync_s):
                    os.fsync(file.fileno())
            except (OSError, OutputError):
                torn = True
                raise
            finally:
                if torn:
                    with contextlib.suppress(OSError):
                        file.truncate(self._size)
                        if not self._size:
                            (self._hidden or self.path).unlink()


class _File(io.FileIO):
    """An unbuffered file that writes all bytes or raises an error.

    Attributes:
        discards: True to ignore what is written.
    """

    discards = False

    def write(self, data: "bytes | memoryview") -> int:  # type: ignore[override]
        rest = memoryview(data)
        while rest and not self.discards:
            rest = rest[super().write(rest) :]
        return len(data)
