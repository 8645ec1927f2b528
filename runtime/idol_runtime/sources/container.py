"""The part that video files, pipes and network streams share: frames decoded with FFmpeg through PyAV."""

import math
import time
from abc import abstractmethod
from collections.abc import Generator, Iterator
from typing import Any

from idol_runtime.errors import SourceError
from idol_runtime.frames import RGBImage
from idol_runtime.optional import load_av
from idol_runtime.sources.base import MAX_FPS, NOMINAL_FPS, DecodingReader
from idol_runtime.sources.upright import Converter

__all__ = ["SILENCE_S", "ContainerReader"]

# A pipe or a stream that sends nothing for this time is lost.
SILENCE_S = 30.0
# Timestamps that go back further than this start again; smaller steps back are jitter.
_RESTART_S = 1.0
# After this time without a picture, a live source passes on none that waits in its decoder, and no part of one.
_STALE_S = 1.0
# Threads that decode a live source: each one delays the picture by a frame.
_LIVE_THREADS = 4
# Pixels of a picture. Larger ones, which a hostile camera may send, would take gigabytes of memory and are not decoded.
_MAX_PIXELS = 2**26
# Frame count of an AVI file that was written to a pipe.
_NO_COUNT = 2**30


class ContainerReader(DecodingReader):
    """A source that FFmpeg demultiplexes and decodes; frames are upright (display matrix applied).

    `fps` is the average rate; None if the container states none or one above `MAX_FPS`. `frame_count` is the
    container's estimate. `time_s` is the presentation time after the first frame.

    Attributes:
        open_error: message for a source that cannot be opened, with the placeholders `{name}` and `{reason}`.
        hint: end of messages: what to check when frames are missing.
    """

    open_error: str
    hint: str
    notes: list[str]
    _container: Any = None
    _silence_s = math.inf  # longest time without a picture
    _lossy = False  # a connection on which lost packets are usual
    _fault: Exception | None  # first error after which parts of the source are missing
    _head: bytes | None  # first packet of the connection

    def __init__(self, name: str) -> None:
        """Open a source and decode its first frame.

        Args:
            name: name of the source for messages, without passwords.

        Raises:
            MissingDependencyError: PyAV is not installed.
            SourceError: the source cannot be opened, has no video, or has no frame that can be decoded.
        """
        self.name, self.notes = name, list[str]()
        self._av = load_av("reading video")
        self._next, self._damaged, self._undecodable = 0, 0, 0
        self._first_pts: float | None = None
        self._offset_s = self._duration_s = 0.0
        self._stated: int | None = None  # number of frames that the container states or implies
        self._pictures: Generator[Any, None, None] | None = None
        try:
            self._first = self._start()
        except BaseException:
            self.close()
            raise
        self.size = self._first.shape[0], self._first.shape[1]

    def close(self) -> None:
        """Release the file or the connection."""
        self._fault = None  # its traceback refers to this reader, whose decoder threads end with it
        if self._pictures is not None:
            self._pictures.close()
        if self._container is not None:
            self._container.close()

    @abstractmethod
    def _open(self) -> Any:
        """Return an open PyAV container."""

    def _is_live(self, duration_s: float | None) -> bool:
        """Return True if a source of this duration has no end of its own."""
        return False

    def _is_end(self, error: Exception) -> bool:
        """Return True if an error in reading stands for the end of the source."""
        return False

    def _start(self) -> RGBImage:
        self._connect()
        stream, length = self._stream, self._container.duration
        rate = stream.average_rate or (stream.guessed_rate if stream.duration else None)
        self.fps = float(rate) if rate and 0 < rate <= MAX_FPS else None
        duration_s = length / self._av.time_base if length else None
        self.live = self._is_live(duration_s)
        if stream.frames < _NO_COUNT:
            estimate = round(duration_s * self.fps) if duration_s and self.fps else 0
            self._duration_s = duration_s or 0.0
            self._stated = min(filter(None, (stream.frames, estimate)), default=None)
            self.frame_count = None if self.live else self._stated
        picture = self._next_picture()
        if picture is None:
            raise SourceError(f"{self.name} has no frames; {self.hint}")
        return self._convert(picture)

    def _connect(self) -> None:
        """Open the container and choose its video."""
        self._fault, self._head = None, None
        try:
            self._container = self._open()
        except (self._av.FFmpegError, ValueError) as error:  # ValueError: a name that FFmpeg cannot take
            reason = getattr(error, "strerror", None) or error
            raise SourceError(self.open_error.format(name=self.name, reason=reason)) from error
        cover = self._av.stream.Disposition.attached_pic  # a still picture in a sound file
        count = sum(not stream.disposition & cover for stream in self._container.streams.video)
        if not count:
            raise SourceError(f"{self.name} has no video, only other data; {self.hint}")
        self._stream = self._container.streams.best("video")
        if count > 1 and not self._next:
            self.notes.append(f"{self.name} holds {count} videos; only track {self._stream.index} is read")
        if self._stream.codec_context is None:
            raise self._no_decoder()
        height, width = self._stream.codec_context.height, self._stream.codec_context.width
        if height * width > _MAX_PIXELS:
            raise SourceError(
                f"{self.name} has frames of {height}x{width} pixels; scale them to at most 8192x8192"
            )
        self._stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
        self._stream.thread_type = "AUTO"
        if self._container.duration is None:
            self._stream.codec_context.thread_count = _LIVE_THREADS
        self._converter = Converter(self._av)
        self._pictures = self._decoded()

    def _decoded(self) -> Generator[Any, None, None]:
        """Yield the decoded pictures; errors are counted or stored, so that all other pictures are read."""
        packets = self._container.demux()  # with the sound: a stream of sound alone must not wait without end
        since = time.monotonic()
        # An incomplete packet. In the middle of joined files it is whole, so it is decoded if another one follows.
        held: list[Any] = []
        packet: Any = True
        while packet is not None:
            try:
                packet = next(packets)  # the last one is empty and flushes the decoder
            except StopIteration:
                return
            except (self._av.FFmpegError, SourceError) as error:
                if isinstance(error.__cause__, KeyboardInterrupt):
                    raise KeyboardInterrupt from error
                self._fault, packet = None if self._is_end(error) else error, None
            stale = self.live and time.monotonic() - since > _STALE_S
            if packet is None and stale:
                return
            # `stream_index` is 0 for the empty packet that ends each stream.
            if packet is not None and packet.stream.index != self._stream.index:
                ready: list[Any] = []
            elif packet is not None and packet.size:
                self._head = self._head or bytes(packet)
                ready, held = [*held, packet], []
                if packet.is_corrupt and (stale or not self._lossy):
                    held = [ready.pop()]
            else:
                self._fault = self._fault or (EOFError() if held else None)
                ready = [packet]
            for picture in self._pictures_of(*ready):
                yield picture
                since = time.monotonic()
            if time.monotonic() - since > self._silence_s:
                self._fault = SourceError(
                    f"{self.name} sent no picture that can be decoded for {self._silence_s:g} s; {self.hint}"
                )
                return

    def _pictures_of(self, *packets: Any) -> Iterator[Any]:
        for packet in packets:
            try:
                pictures = self._stream.decode(packet)
            except self._av.FFmpegError as error:
                self._undecodable += 1
                if self._next and not self._lossy:
                    self._fault = error
                continue
            for picture in pictures:
                self._damaged += picture.is_corrupt
                yield picture

    def _convert(self, picture: Any) -> RGBImage:
        try:
            return self._converter(picture)
        except self._av.FFmpegError as error:
            raise SourceError(
                f"{self.describe(self._next - 1)} cannot be converted from {picture.format.name} to RGB; {self.hint}"
            ) from error

    def _decode(self) -> RGBImage | None:
        picture = self._next_picture()
        return None if picture is None else self._convert(picture)

    def _advance(self) -> bool:
        return self._next_picture() is not None

    def _next_picture(self) -> Any:
        """Return the next picture; None at the end."""
        assert self._pictures is not None
        picture = next(self._pictures, None)
        if picture is None:
            self._end()
            return None
        self.time_s = self._time_of(picture)
        self._next += 1
        return picture

    def _time_of(self, picture: Any) -> float:
        """Return the presentation time of a picture in seconds after the first one."""
        step = 1 / (self.fps or NOMINAL_FPS)
        after = self.time_s + step if self._next else 0.0
        if picture.time is None or not math.isfinite(picture.time):
            return after
        if self._first_pts is None:
            self._first_pts, self._offset_s = picture.time, after
        time_s = self._offset_s + picture.time - self._first_pts
        if self._next and time_s <= self.time_s:
            if time_s < self.time_s - _RESTART_S:
                self._first_pts, self._offset_s = picture.time, after
            return after
        return float(time_s)

    def _end(self) -> None:
        """Note what is missing, or raise an error for it."""
        if not self._next:
            if isinstance(self._fault, SourceError):
                raise self._fault
            if self._undecodable:
                raise self._no_decoder()
            return
        if self._damaged:
            self.notes.append(
                f"{self.name}: {self._damaged} of {self._next} frames are damaged and show FFmpeg's approximation"
            )
        self._check_complete()
        if self._undecodable:
            self.notes.append(
                f"{self.name}: {self._undecodable} packets could not be decoded, and their frames are missing"
            )
        estimate = self._stated or 0
        stated = self._stream.frames if estimate else 0
        # By its duration, a container whose frame rate varies or whose sound is longer seems to have more frames.
        ends_early = self.time_s + 3 / (self.fps or NOMINAL_FPS) < self._duration_s
        if self._next < stated or (not stated and ends_early and self._next < 0.99 * estimate):
            count = stated or f"about {estimate}"
            self.notes.append(
                f"{self.name} has {self._next} frames, its container states {count}; all were read"
            )

    def _check_complete(self) -> None:
        """Raise an error if a part of the source is missing."""
        if isinstance(self._fault, SourceError):
            raise self._fault
        if self._fault is not None:
            raise self._cut_short() from self._fault

    def _cut_short(self) -> SourceError:
        count = f" of {self._stated}" if self._stated else ""
        return SourceError(
            f"{self.name} ends at frame {self._next}{count}: the file is cut short or damaged; "
            f"copy it again, or read the good part with max_frames={self._next}"
        )

    def _no_decoder(self) -> SourceError:
        logging, level = self._av.logging, self._av.logging.get_level()
        logging.set_level(logging.INFO)  # the description of the streams is a message of FFmpeg
        lines = self._container.dumps_format().split("Video: ")[1:]
        logging.set_level(level)
        codec = lines[0].split(",")[0].removeprefix("none ").strip() if lines else "unknown"
        return SourceError(
            f"{self.name} cannot be decoded: this build of PyAV has no working decoder for the codec {codec}; convert "
            f"the video, for example with ffmpeg -i INPUT -c:v libx264 OUTPUT.mp4, or install another build of PyAV"
        )
