"""The file of the events of a run."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from idol_runtime.delivery.queue import Delivery
from idol_runtime.errors import OutputError
from idol_runtime.json_text import to_json
from idol_runtime.sinks.policy import FilePolicy
from idol_runtime.sinks.series import PartSeries

__all__ = ["EventFile"]


class EventFile:
    """A sender that appends events to a file, one JSON object per line.

        {"kind": "lost", "source": "door", "message": "…", "values": {}, "time": 1795862999.5}

    With `--rotate`, the file is a series of parts with the names of those of an output; a restart continues the newest
    one. The file is opened for each batch, so that another program may rename it.
    """

    def __init__(self, path: Path, files: FilePolicy | None = None) -> None:
        """Check the file.

        Args:
            path: path of the file.
            files: limits of the parts; None for one file without a limit.

        Raises:
            OutputError: the file cannot be written.
        """
        self.name = str(path)
        self._files, self._path = files or FilePolicy(), path
        self._rotation_asked = False
        self._opened_s = time.monotonic()
        try:
            self._series = PartSeries(path.resolve(), self._files)
            if self._files.rotates:
                self._path = self._series.newest or self._series.new_path()
                self._opened_s -= self._series.resume(self._path)
            with self._path.open("ab") as file:
                self._size = file.tell()
        except OSError as error:
            raise OutputError(
                f"cannot write events to {path}: {error.strerror}; give --events a file in an existing folder"
            ) from error

    def send(self, batch: Sequence[Delivery]) -> None:
        """Append events.

        Raises:
            OutputError: none of them is written.
        """
        now = time.monotonic()
        try:
            self._end_full_part(now)
            self._append(b"".join(to_json(delivery.event) + b"\n" for delivery in batch))
        except OSError as error:
            raise OutputError(f"is not written: {error.strerror}; check the disk and the folder") from error
        finally:
            self._series.evict(now, self._size)  # on a full disk, this may make the room

    def close(self) -> None:
        """Do nothing: the file is opened for each batch."""

    def rotate(self) -> None:
        """Continue in a new part from the next event on, if the file has parts; called from any thread."""
        self._rotation_asked = self._files.rotates

    def _end_full_part(self, now: float) -> None:
        is_full = self._rotation_asked or self._series.is_full(self._size, now - self._opened_s)
        if is_full and self._size:
            self._series.add(self._path, self._size)
            self._path, self._size, self._opened_s = self._series.new_path(), 0, now
            self._rotation_asked = False

    def _append(self, lines: bytes) -> None:
        with self._path.open("a+b", buffering=0) as file:
            end = file.seek(0, 2)
            # A line that was cut short ends here, so that only this line is lost.
            cut = end and file.seek(end - 1) is not None and file.read(1) != b"\n"
            data = b"\n" * bool(cut) + lines
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(end)
                raise
            self._size = file.tell()
