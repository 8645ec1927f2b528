"""Results out: an annotated video, JSON lines, id masks, or a window.

    with VideoSink("out.mp4", fps=30, size=(360, 640)) as sink:
        sink.write(frame, result)

A sink checks its place before any frame is computed, and its file takes its name when it is whole. Leaving
the `with` block by an error or by Ctrl-C finishes the file with what was written so far, and leaves none if
that is nothing.
"""

import contextlib
import shutil
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from idol_runtime.errors import ConfigError, FrameError, OutputError
from idol_runtime.files import replacing, writable_target
from idol_runtime.frames import Frame
from idol_runtime.optional import load_cv2
from idol_runtime.sinks.base import FileSink, Sink
from idol_runtime.sinks.display import DisplaySink
from idol_runtime.sinks.draw import DrawableResult, class_name, draw
from idol_runtime.sources.captures import MAX_FPS
from idol_runtime.suffixes import require_suffix
from idol_runtime.tracking.rle import encode_crops

__all__ = ["VIDEO_CODECS", "DisplaySink", "JsonlSink", "MaskSink", "Sink", "VideoSink"]

# MPEG-4 part 2: the one codec for all three that every OpenCV build on every platform can write.
VIDEO_CODECS = {".mp4": "mp4v", ".mkv": "mp4v", ".avi": "XVID"}
# OpenCV does not report a full disk; stopping short of it leaves room for the container's index.
_FREE_BYTES = 16 * 2**20


class VideoSink(FileSink):
    """Writes annotated frames as a video. A side of odd length grows by one repeated row or column.

    Args:
        path: .mp4, .mkv or .avi; an existing file is replaced on `close`.
        fps: frames per second.
        size: (height, width) of the frames in pixels.
        boxes: draw boxes as well.
        caption: one line along the lower edge of every frame.

    Raises:
        ConfigError: a frame rate that cannot be.
        OutputError: the place cannot be written, or the name has another suffix.
        MissingDependencyError: OpenCV is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: float,
        size: tuple[int, int],
        boxes: bool = False,
        caption: str | None = None,
    ) -> None:
        codec = VIDEO_CODECS[require_suffix(path, "a video", *VIDEO_CODECS)]
        if not 0 < fps <= MAX_FPS:
            raise ConfigError(f"frames per second must lie between 0 and {MAX_FPS:g}, got {fps}")
        self._cv2 = load_cv2("writing video")
        super().__init__(path)
        self._size = size
        self._boxes = boxes
        self._caption = caption
        self._canvas, self._bgr = np.empty((2, *size, 3), np.uint8)
        even = size[1] + size[1] % 2, size[0] + size[0] % 2
        fourcc = self._cv2.VideoWriter_fourcc(*codec)
        self._writer = self._cv2.VideoWriter(str(self._temporary), fourcc, fps, even)
        if not self._writer.isOpened():
            self.abort()
            raise OutputError(
                f"OpenCV cannot write {path} as {codec} at {even[0]}x{even[1]}, {fps:g} frames per second; "
                "try another suffix, or JSON lines"
            )

    def write(self, frame: Frame, result: DrawableResult) -> None:
        """Draw and append one frame.

        Raises:
            FrameError: a frame of another size.
            OutputError: the disk is full, or gone.
        """
        if frame.size != self._size:
            raise FrameError(
                f"frame {frame.index} is {frame.size[0]}x{frame.size[1]} and the video {self._size[0]}x"
                f"{self._size[1]}; give frames of one size"
            )
        self._check_place()
        canvas = self._canvas
        draw(frame.image, result, boxes=self._boxes, caption=self._caption, out=canvas)
        height, width = self._size
        cv2 = self._cv2
        bgr = cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR, dst=self._bgr)
        if height % 2 or width % 2:
            # Encoders store whole chroma pairs, and would drop the last row or column.
            bgr = cv2.copyMakeBorder(bgr, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        self._writer.write(bgr)
        self.frames_written += 1

    def _check_place(self) -> None:
        """OpenCV would not tell."""
        try:
            free = shutil.disk_usage(self.path.parent).free
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path}: its folder is gone ({error.strerror}); is its disk still connected?"
            ) from error
        if free < _FREE_BYTES:
            raise OutputError(f"cannot write {self.path}: the disk is full; free some space")

    def _finish(self) -> None:
        self._writer.release()
        # OpenCV reports no error on write, so the file itself is asked.
        video = self._cv2.VideoCapture(str(self._temporary))
        count = video.get(self._cv2.CAP_PROP_FRAME_COUNT) if video.isOpened() else 0
        video.release()
        if count < 0.99 * self.frames_written - 1:
            raise OutputError(
                f"{self.path} holds {max(int(count), 0)} of {self.frames_written} frames; is the disk full?"
            )


class JsonlSink(FileSink):
    """Writes one JSON object per frame and line.

        {"frame": 0, "time_s": 0.0, "size": [H, W], "instances": [{"id": 3, "label": 0, "class": "person",
         "score": 0.87, "box_xyxy": [left, top, right, bottom], "mask": {"size": [H, W], "counts": RLE}}]}

    Boxes are in pixels to 2 decimals, scores to 6.

    Args:
        path: the file; an existing one is replaced on `close`.

    Raises:
        OutputError: the place cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._file = self._temporary.open("wb")

    def write(self, frame: Frame, result: DrawableResult) -> None:
        """Append one line.

        Raises:
            OutputError: the disk is full.
        """
        line = msgspec.json.encode(_record(frame, result)) + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}; free some space") from error
        self.frames_written += 1

    def _finish(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}; free some space") from error


def _record(frame: Frame, result: DrawableResult) -> dict[str, object]:
    instances = [
        {
            "id": int(result.ids[i]),
            "label": int(result.labels[i]),
            "class": class_name(int(result.labels[i]), result.class_names),
            "score": round(float(result.scores[i]), 6),
            "box_xyxy": [round(float(value), 2) for value in result.boxes_xyxy[i]],
            "mask": rle,
        }
        for i, rle in enumerate(encode_crops(result.crops, result.size))
    ]
    return {
        "frame": frame.index,
        "time_s": round(frame.time_s, 6),
        "size": frame.size,
        "instances": instances,
    }


class MaskSink(Sink):
    """Writes every frame's identities as a 16-bit PNG, `000000.png` for frame 0: id + 1, 0 the background.

    Where masks overlap, the higher score is on top.

    Args:
        directory: created if missing, its parent not; one that holds PNG files already is refused, since
            frames of two runs would mix.

    Raises:
        OutputError: the place cannot be written, or holds PNG files.
    """

    def __init__(self, directory: str | Path) -> None:
        super().__init__()
        self.path = Path(directory)
        try:
            if self.path.exists() and not self.path.is_dir():
                raise OutputError(f"{self.path} is a file; give a folder for the masks")
            self._created = not self.path.exists()
            if self._created:
                writable_target(self.path)
                self.path.mkdir()
            if any(self.path.glob("*.png")):
                raise OutputError(f"{self.path} holds PNG files already; empty it, or give another folder")
            writable_target(self.path / "000000.png")
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}; choose another place") from error

    def write(self, frame: Frame, result: DrawableResult) -> None:
        """Write one PNG.

        Raises:
            OutputError: an id beyond 65534, or a full disk.
        """
        identities = _identity_map(frame.size, result)
        with replacing(self.path / f"{frame.index:06d}.png") as temporary:
            Image.fromarray(identities).save(temporary)
        self.frames_written += 1

    def close(self) -> None:
        """Remove the folder if it was made here and no frame was written."""
        if self._created and not self.frames_written:
            with contextlib.suppress(OSError):
                self.path.rmdir()

    def abort(self) -> None:
        """As `close`: every PNG is whole once it has its name."""
        self.close()


def _identity_map(size: tuple[int, int], result: DrawableResult) -> NDArray[np.uint16]:
    """[H, W] id + 1, 0 the background."""
    if len(result.ids) and int(result.ids.max()) >= 65535:
        raise OutputError(
            f"track id {int(result.ids.max())} does not fit a 16-bit mask; write JSON lines instead"
        )
    identities = np.zeros(size, np.uint16)
    for i in np.argsort(result.scores, kind="stable"):
        crop = result.crops[i]
        identities[crop.place()][crop.pixels] = result.ids[i] + 1
    return identities
