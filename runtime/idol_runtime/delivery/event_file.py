"""The file of the events of a run."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from idol_runtime.delivery.queue import Delivery
from idol_runtime.errors import OutputError
from idol_runtime.events import Event
from idol_runtime.json_text import to_json
from idol_runtime.sinks.policy import FilePolicy
from idol_runtime.sinks.series import PartSeries

__all__ = ["EventFile"]

_log = logging.getLogger(__name__)


class EventFile:
    """A function, and a `Sender`, that appends events to a file, one JSON object per line.

        {"kind": "lost", "source": "door", "message": "…", "values": {}, "time": 1795862999.5}

    With `--rotate`, the file is a series of parts with the names of those of an output; a restart continues the newest
    one. The file is opened for each event, so that another program may rename it. A line that cannot be written, for
    example on a full disk, is lost, and the first loss is logged.
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
        self._failed = self._rotation_asked = False
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

    def __call__(self, event: Event) -> None:
        """Append an event."""
        now = time.monotonic()
        try:
            is_full = self._rotation_asked or self._series.is_full(self._size, now - self._opened_s)
            if is_full and self._size:
                self._series.add(self._path, self._size)
                self._path, self._size, self._opened_s = self._series.new_path(), 0, now
                self._rotation_asked = False
            with self._path.open("a+b") as file:
                # A line that was cut short ends here, so that only this line is lost.
                end = file.seek(0, 2)
                cut = end and file.seek(end - 1) is not None and file.read(1) != b"\n"
                file.write(b"\n" * bool(cut) + to_json(event) + b"\n")
                file.flush()  # raises an error of the disk before the size is counted
                self._size = file.tell()
        except OSError as error:
            if not self._failed:
                _log.warning("events are not written to %s: %s; free some space", self._path, error.strerror)
            self._failed = True
        else:
            self._failed = False
        self._series.evict(now, self._size)  # on a full disk, this may make the room

    def send(self, batch: Sequence[Delivery]) -> None:
        """Append events."""
        for delivery in batch:
            self(delivery.event)

    def close(self) -> None:
        """Do nothing: the file is opened for each event."""

    def rotate(self) -> None:
        """Continue in a new part from the next event on, if the file has parts; called from any thread."""
        self._rotation_asked = self._files.rotates
