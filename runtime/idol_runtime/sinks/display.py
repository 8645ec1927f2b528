"""Results in a window, as they come."""

import subprocess
import sys

from idol_runtime.errors import OutputError
from idol_runtime.frames import Frame
from idol_runtime.optional import load_cv2
from idol_runtime.sinks.base import Sink
from idol_runtime.sinks.draw import DrawableResult, draw

__all__ = ["DisplaySink"]

_STOP_KEYS = (ord("q"), ord("Q"), 27)  # 27: Esc
_PROBE = "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1)"
_PROBE_SECONDS = 30


class DisplaySink(Sink):
    """Shows annotated frames in a window; q, Esc or closing it sets `stopped`.

    Args:
        title: of the window.
        boxes: draw boxes as well.
        caption: one line along the lower edge of every frame.

    Raises:
        OutputError: there is no screen, or this OpenCV cannot open windows.
        MissingDependencyError: OpenCV is not installed.
    """

    def __init__(self, title: str = "idol", *, boxes: bool = False, caption: str | None = None) -> None:
        super().__init__()
        self._cv2 = load_cv2("showing results")
        self._title = title
        self._boxes = boxes
        self._caption = caption
        self._opened = False
        self._open_window()

    def write(self, frame: Frame, result: DrawableResult) -> None:
        """Show one frame.

        Raises:
            OutputError: the window cannot be drawn.
        """
        cv2 = self._cv2
        image = draw(frame.image, result, boxes=self._boxes, caption=self._caption)
        try:
            cv2.imshow(self._title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            key = cv2.waitKey(1) & 0xFF
            gone = cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1
        except cv2.error as error:
            raise OutputError(f"cannot draw in the window; write a video instead ({error.err})") from error
        self.frames_written += 1
        self.stopped = self.stopped or gone or key in _STOP_KEYS

    def close(self) -> None:
        """Close the window; safe to call twice."""
        if self._opened:
            self._opened = False
            try:
                self._cv2.destroyWindow(self._title)
            except self._cv2.error:  # the user has closed it already
                return

    def abort(self) -> None:
        """As `close`: a window leaves nothing behind."""
        self.close()

    def _open_window(self) -> None:
        # Without a reachable screen OpenCV's windows end the whole process, so a child process tries first.
        try:
            probe = subprocess.run(  # noqa: S603 - our own interpreter, a constant program
                [sys.executable, "-c", _PROBE], capture_output=True, timeout=_PROBE_SECONDS, check=False
            )
            possible = probe.returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            possible = False
        if not possible:
            raise OutputError(
                "cannot open a window: there is no screen (is DISPLAY set?), or this OpenCV is "
                "opencv-python-headless; write a video instead"
            )
        self._cv2.namedWindow(self._title, self._cv2.WINDOW_NORMAL | self._cv2.WINDOW_KEEPRATIO)
        self._opened = True
