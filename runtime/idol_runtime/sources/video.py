"""Video files and pipes as a frame source."""

import os
import select
import stat
from pathlib import Path
from typing import Any

from idol_runtime.errors import SourceError
from idol_runtime.sources.base import Source, local_path
from idol_runtime.sources.container import SILENCE_S, ContainerReader
from idol_runtime.sources.stated_size import stated_size

__all__ = ["VideoReader"]

# How a complete file ends, by its format. FFmpeg decodes the part of a last picture that is there.
_LAST_BYTES = {"gif": b";", "apng": b"IEND\xaeB`\x82"}
_TAIL = 8
# Formats whose files name other files, which FFmpeg would read: also outside the folders that a client may use.
_PLAYLISTS = {"concat", "dash", "hls", "imf", "sdp"}


class VideoReader(ContainerReader):
    """A video file or a pipe; any path that is no other kind of source, so that a missing file is reported as one.

    A pipe is read once and is `live`: other sources do not wait for it.
    """

    hint = "check that a video player plays it"
    open_error = (
        "{name} is not a video that FFmpeg can read, is cut short, or is a playlist of other files; " + hint
    )

    def __init__(self, source: Source) -> None:
        """Open a video file or a pipe.

        Args:
            source: path of the file, of a named pipe, or `/dev/stdin`.

        Raises:
            MissingDependencyError: PyAV is not installed.
            SourceError: the file does not exist, cannot be read, is empty, or is no video; or the pipe sends nothing.
        """
        self._path = local_path(source)
        self._pipe: _Pipe | None = None
        status = _status(self._path, source)
        self._regular = stat.S_ISREG(status.st_mode)
        if not self._regular:
            self.hint = "a pipe needs a format that is read from front to back, such as MPEG-TS or Matroska"
            self.open_error = "{name} sends no video that FFmpeg can read; " + self.hint
        elif not status.st_size:
            raise SourceError(f"{source} is an empty file (0 bytes); copy it again")
        super().__init__(str(source))

    @classmethod
    def accepts(cls, source: Source) -> bool:
        """Return True: this is the last kind to be tried."""
        return True

    @classmethod
    def check(cls, source: Source) -> None:
        """Check that the file exists and can be read."""
        _status(local_path(source), source)

    @classmethod
    def paths(cls, source: Source) -> list[Path]:
        """Return the file, if it exists."""
        path = local_path(source)
        # os.path.isfile, unlike Path.is_file, returns False for an impossible file name.
        return [path] if os.path.isfile(path) else []

    def close(self) -> None:
        """Release the file or the pipe."""
        super().close()
        if self._pipe is not None:
            self._pipe.close()

    def _open(self) -> Any:
        # An absolute path, because FFmpeg takes text before a colon for a protocol.
        place: Any = f"file:{self._path.absolute()}"
        if not self._regular:
            place = self._pipe = _Pipe(self._path, self.name)
        formats = ",".join(self._av.formats_available - _PLAYLISTS)
        return self._av.open(place, options={"format_whitelist": formats}, metadata_errors="replace")

    def _is_live(self, duration_s: float | None) -> bool:
        return not self._regular

    def _check_complete(self) -> None:
        super()._check_complete()
        if self._pipe is None:
            missing = stated_size(self._path) > self._path.stat().st_size
        else:
            last = _LAST_BYTES.get(self._container.format.name)
            missing = last is not None and not self._pipe.tail.endswith(last)
        if missing:
            raise self._cut_short()


class _Pipe:
    """A file object that reads a pipe and gives up when nothing arrives for `SILENCE_S` seconds.

    Attributes:
        tail: last bytes that arrived.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._name = name
        self.tail = b""
        try:
            # Non-blocking, because opening a pipe otherwise waits for its writer.
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise SourceError(
                f"cannot read {name}: {error.strerror}; check that it is a file or a pipe"
            ) from error
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; none at the end.

        Raises:
            SourceError: nothing arrived in time.
        """
        try:
            # Without a writer, a pipe that was never written to is not ready, while one that was is at its end.
            ready = self._poll.poll(1000 * SILENCE_S)
            if ready:
                data = os.read(self._file, size)
                self.tail = (self.tail + data)[-_TAIL:]
                return data
        except KeyboardInterrupt as error:  # PyAV passes on only an Exception
            raise SourceError(f"reading {self._name} was interrupted; start again") from error
        raise SourceError(f"{self._name} sent nothing for {SILENCE_S:g} s; check that its writer runs")

    def close(self) -> None:
        """Close the pipe."""
        os.close(self._file)


def _status(path: Path, source: Source) -> os.stat_result:
    """Return the status of a file that can be read.

    Raises:
        SourceError: it does not exist or cannot be read.
    """
    try:
        # Only a regular file may be opened to look at it: data taken out of a pipe would be lost.
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            path.open("rb").close()
    except FileNotFoundError as error:
        raise SourceError(f"{source} does not exist; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"cannot read {source}: {reason}; check the path and its permissions") from error
    return status
