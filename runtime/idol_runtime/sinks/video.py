"""Annotated videos."""

import shutil
from pathlib import Path

import numpy as np

from idol_runtime.errors import ConfigError, FrameError, OutputError
from idol_runtime.files import require_suffix
from idol_runtime.frames import Frame
from idol_runtime.optional import load_cv2
from idol_runtime.sinks.base import FileSink, SinkContext
from idol_runtime.sinks.draw import DrawableResult, draw
from idol_runtime.sources.capture import MAX_FPS

__all__ = ["VideoSink"]

# MPEG-4 part 2 is the one codec for all three containers that every OpenCV build on every platform can write.
_CODECS = {".mp4": "mp4v", ".mkv": "mp4v", ".avi": "XVID"}


class VideoSink(FileSink):
    """A video of annotated frames. A side of odd length grows by one repeated row or column.

    Raises:
        ConfigError: the frame rate is out of range.
        OutputError: the file cannot be written, or its name has another suffix.
        MissingDependencyError: OpenCV is not installed.
    """

    def __init__(self, target: str | Path, context: SinkContext) -> None:
        codec = _CODECS[require_suffix(target, "a video", *_CODECS)]
        fps, (height, width) = context.fps, context.size
        if not 0 < fps <= MAX_FPS:
            raise ConfigError(f"frames per second must lie between 0 and {MAX_FPS:g}, got {fps}")
        self._cv2 = load_cv2("writing video")
        super().__init__(target, context)
        self._canvas, self._bgr = np.empty((2, height, width, 3), np.uint8)
        even = width + width % 2, height + height % 2
        fourcc = self._cv2.VideoWriter_fourcc(*codec)
        self._writer = self._cv2.VideoWriter(str(self._temporary), fourcc, fps, even)
        if not self._writer.isOpened():
            self.abort()
            raise OutputError(
                f"OpenCV cannot write {target} as {codec} at {even[0]}x{even[1]}, {fps:g} frames per second; "
                "try another suffix, or JSON lines"
            )

    @classmethod
    def check(cls, target: str) -> None:
        """Check the suffix of the file name."""
        require_suffix(target, "a video", *_CODECS)

    def write(self, frame: Frame, result: DrawableResult) -> None:
        """Draw and append one frame.

        Raises:
            FrameError: the frame has another size than the video.
            OutputError: the disk is full or no longer connected.
        """
        cv2, (height, width) = self._cv2, self.context.size
        if frame.size != (height, width):
            raise FrameError(
                f"frame {frame.index} is {frame.size[0]}x{frame.size[1]}, but the video is {height}x{width}; "
                "give frames of one size"
            )
        self._check_disk()
        draw(frame.image, result, boxes=self.context.boxes, caption=self.context.caption, out=self._canvas)
        bgr = cv2.cvtColor(self._canvas, cv2.COLOR_RGB2BGR, dst=self._bgr)
        if height % 2 or width % 2:
            # Encoders store pairs of chroma samples, and would drop the last row or column.
            bgr = cv2.copyMakeBorder(bgr, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        self._writer.write(bgr)
        self.frames_written += 1

    def _check_disk(self) -> None:
        """Check the disk, because OpenCV reports no error on write."""
        try:
            free = shutil.disk_usage(self.path.parent).free
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path}: its folder is gone ({error.strerror}); check that its disk is connected"
            ) from error
        if free < 16 * 2**20:  # stopping before the disk is full leaves room for the container's index
            raise OutputError(f"cannot write {self.path}: the disk is full; free some space")

    def _finish(self) -> None:
        self._writer.release()
        # OpenCV reports no error on write, so read back how many frames the file contains.
        video = self._cv2.VideoCapture(str(self._temporary))
        count = video.get(self._cv2.CAP_PROP_FRAME_COUNT) if video.isOpened() else 0
        video.release()
        if count < 0.99 * self.frames_written - 1:
            raise OutputError(
                f"{self.path} contains {max(int(count), 0)} of {self.frames_written} frames; check that the disk is "
                "not full"
            )
