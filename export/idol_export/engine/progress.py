"""What TensorRT does while it builds, told as it goes; and how a build is cancelled."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from idol_runtime.signals import handling

__all__ = ["Progress", "watched"]

_SECONDS = 5.0  # between two lines of one phase


class Progress:
    """A build's phases; told at most every few seconds.

    Attributes:
        cancelled: set it, and the build ends at its next step.
        fault: what telling raised first, which cancels, too; to be raised when the build has ended.
    """

    def __init__(self, announce: Callable[[str], None]) -> None:
        self.cancelled = False
        self.fault: BaseException | None = None
        self._announce = announce
        self._told = 0.0
        self._steps: dict[str, int] = {}
        self._lock = threading.Lock()  # TensorRT calls from several threads

    def started(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins; one without a parent is told at once."""
        with self._guarded():
            self._steps[phase] = steps
            if not parent:
                self._tell(phase)

    def stepped(self, phase: str, step: int) -> bool:
        """A step of a phase is done; whether to go on."""
        with self._guarded():
            if time.monotonic() - self._told > _SECONDS:
                self._tell(f"{phase}, step {step + 1} of {self._steps.get(phase, 0)}")
        return not self.cancelled

    def finished(self, phase: str) -> None:
        """A phase is over."""
        with self._guarded():
            self._steps.pop(phase, None)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """One thread at a time, and nothing is raised: in TensorRT's callbacks that would end the process."""
        with self._lock:
            try:
                yield
            except BaseException as error:  # noqa: BLE001 - raised when the build has ended
                self.fault = self.fault or error
                self.cancelled = True

    def _tell(self, what: str) -> None:
        self._told = time.monotonic()
        self._announce(f"TensorRT: {what}")


@contextlib.contextmanager
def watched(config: Any, announce: Callable[[str], None]) -> Iterator[Progress]:
    """Tell a build's progress where TensorRT offers it; Ctrl-C then cancels the build instead of killing it.

    Args:
        config: an `IBuilderConfig`.
        announce: called with each phase.

    Raises:
        KeyboardInterrupt: it was cancelled, and has ended.
        BaseException: whatever `announce` raised first; the build has ended.
    """
    import tensorrt as trt

    progress = Progress(announce)
    if not hasattr(trt, "IProgressMonitor") or not hasattr(config, "progress_monitor"):
        yield progress
        return

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.started(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.stepped(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.finished(phase_name)

    monitor = Monitor()
    config.progress_monitor = monitor
    with _interrupts(progress):
        yield progress
    if progress.fault is not None:
        raise progress.fault
    if progress.cancelled:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _interrupts(progress: Progress) -> Iterator[None]:
    """Ctrl-C as a request: raised inside TensorRT's callbacks it would end the process."""

    def cancel(_signal: int, _frame: object) -> None:
        progress.cancelled = True

    with handling(cancel, signal.SIGINT):
        yield
