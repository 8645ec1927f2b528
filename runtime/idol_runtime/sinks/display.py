"""A window that shows results during the run."""

import contextlib
import subprocess
import sys
from pathlib import Path

from idol_runtime.errors import OutputError
from idol_runtime.frames import Frame
from idol_runtime.optional import load_cv2
from idol_runtime.sinks.base import Sink, SinkContext
from idol_runtime.sinks.draw import DrawableResult, draw

__all__ = ["DisplaySink"]

_STOP_KEYS = (ord("q"), ord("Q"), 27)  # 27: Esc
_PROBE = "import cv2; cv2.namedWindow('probe'); cv2.waitKey(1)"
_PROBE_SECONDS = 30


class DisplaySink(Sink):
    """A window with annotated frames; q, Esc or closing the window sets `stopped`.

    Raises:
        OutputError: there is no screen, or this OpenCV build cannot open windows.
        MissingDependencyError: OpenCV is not installed.
    """

    is_path = False
    interactive = True

    def __init__(self, target: str | Path, context: SinkContext) -> None:
        super().__init__(target, context)
        self._cv2 = load_cv2("showing results")
        self._title = context.name
        _check_screen()
        self._cv2.namedWindow(self._title, self._cv2.WINDOW_NORMAL | self._cv2.WINDOW_KEEPRATIO)
        self._is_open = True

    def _write(self, frame: Frame, result: DrawableResult) -> None:
        """Show one frame.

        Raises:
            OutputError: the window cannot be drawn.
        """
        cv2 = self._cv2
        image = draw(frame.image, result, boxes=self.context.boxes, caption=self.context.caption)
        try:
            cv2.imshow(self._title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            key = cv2.waitKey(1) & 0xFF
            closed = cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1
        except cv2.error as error:
            raise OutputError(f"cannot draw in the window ({error.err}); write a video instead") from error
        self.stopped = self.stopped or closed or key in _STOP_KEYS

    def close(self) -> None:
        """Close the window; may be called twice."""
        if self._is_open:
            self._is_open = False
            with contextlib.suppress(self._cv2.error):  # raised if the user has already closed the window
                self._cv2.destroyWindow(self._title)


def _check_screen() -> None:
    """Open a window in a child process: without a screen, OpenCV would end this whole process."""
    try:
        probe = subprocess.run(  # noqa: S603 - our own interpreter, a constant program
            [sys.executable, "-c", _PROBE], capture_output=True, timeout=_PROBE_SECONDS, check=False
        )
        failed = probe.returncode != 0
    except (OSError, subprocess.TimeoutExpired):
        failed = True
    if failed:
        raise OutputError(
            "cannot open a window: there is no screen, or OpenCV is opencv-python-headless; set DISPLAY, or write a "
            "video instead"
        )
