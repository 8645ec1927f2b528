"""The progress of a TensorRT build, and its cancellation."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from idol_runtime.signals import STOP_SIGNALS, handling

__all__ = ["Progress", "watched"]

_SECONDS = 5.0  # least time between two lines of one phase


class Progress:
    """A reporter of a build's phases, with at most one line every few seconds.

    The methods have the names and signatures of `IProgressMonitor`.

    Attributes:
        cancelled: True to end the build at its next step.
        fault: First exception of `announce`, which also cancels; to be raised after the build.
    """

    def __init__(self, announce: Callable[[str], None]) -> None:
        self.cancelled = False
        self.fault: BaseException | None = None
        self._announce = announce
        self._announced = 0.0
        self._steps: dict[str, int] = {}
        self._lock = threading.Lock()  # TensorRT calls from several threads

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """Handle the start of a phase; a phase without a parent is announced immediately."""
        with self._guarded():
            self._steps[phase_name] = num_steps
            if not parent_phase:
                self._report(phase_name)

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Handle the end of a step and return True to continue."""
        with self._guarded():
            if time.monotonic() - self._announced > _SECONDS:
                self._report(f"{phase_name}, step {step + 1} of {self._steps.get(phase_name, 0)}")
        return not self.cancelled

    def phase_finish(self, phase_name: str) -> None:
        """Handle the end of a phase."""
        with self._guarded():
            self._steps.pop(phase_name, None)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Admit one thread at a time and catch exceptions, which would end the process in TensorRT's callbacks."""
        with self._lock:
            try:
                yield
            except BaseException as error:  # noqa: BLE001 - raised after the build
                self.fault = self.fault or error
                self.cancelled = True

    def _report(self, what: str) -> None:
        self._announced = time.monotonic()
        self._announce(f"TensorRT: {what}")


@contextlib.contextmanager
def watched(config: Any, announce: Callable[[str], None]) -> Iterator[None]:
    """Report the progress of a build if TensorRT supports it; Ctrl-C then cancels the build cleanly.

    Args:
        config: An `IBuilderConfig`.
        announce: Called with each phase.

    Raises:
        KeyboardInterrupt: The build was cancelled and has ended.
        BaseException: First exception of `announce`; the build has ended.
    """
    import tensorrt as trt

    if not hasattr(trt, "IProgressMonitor") or not hasattr(config, "progress_monitor"):
        yield
        return
    progress = Progress(announce)

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.phase_start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step_complete(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.phase_finish(phase_name)

    def cancel(_signal: int, _frame: object) -> None:
        progress.cancelled = True

    monitor = Monitor()
    config.progress_monitor = monitor
    # A stop signal only sets a flag: an exception inside TensorRT's callbacks would end the process.
    with handling(cancel, *STOP_SIGNALS):
        yield
    if progress.fault is not None:
        raise progress.fault
    if progress.cancelled:
        raise KeyboardInterrupt
