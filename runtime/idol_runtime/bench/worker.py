"""A benchmark row in its own process, so that its memory and its threads are separate from other rows'.

The parent requests one frame at a time, so that rows run in turn. Every process reads the source itself.
"""

import contextlib
import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from idol_runtime.backends import Backend
from idol_runtime.bench.rows import BenchOptions, BenchRow
from idol_runtime.bundle.bundle import Bundle, GoldenFrame
from idol_runtime.config import StreamConfig
from idol_runtime.errors import BackendError, IdolError
from idol_runtime.frames import Frame
from idol_runtime.pipeline import Pipeline, compare_golden
from idol_runtime.sinks.draw import draw
from idol_runtime.sources.opening import open_source
from idol_runtime.tracking.association import Tracker
from idol_runtime.tracking.detection import detect
from idol_runtime.tracking.results import FrameResult

__all__ = ["STAGES", "OpenReport", "Worker", "thread_limit"]

T = TypeVar("T")

# In the order of a frame; `copy` is the time between host and device, if the backend reports it.
STAGES = ("decode", "preprocess", "copy", "network", "postprocess", "association", "draw")


@dataclass(frozen=True)
class OpenReport:
    """The times and the golden-frame error of opening a row.

    Attributes:
        name: name of the backend, with device and graph.
        open_s: seconds for importing the engine and loading the graph.
        first_frame_s: seconds for the first frame, from its resize to the comparison of its outputs.
        error: largest relative error of an output on the golden frame.
        wrong: whether an output exceeds its tolerance.
    """

    name: str
    open_s: float
    first_frame_s: float
    error: float
    wrong: bool


class Worker:
    """The process of one row, open until `close`.

    Attributes:
        row: row to run.
        start_s: seconds from starting the process to its first message.
        opening: times and error of opening the row.
    """

    def __init__(self, row: BenchRow, bundle: str | Path, options: BenchOptions) -> None:
        """Start the process and wait until the row is open.

        Args:
            row: row to run.
            bundle: path of the bundle.
            options: source of the frames, threads and letterboxing.

        Raises:
            IdolError: the row cannot be opened; the message is the row's.
        """
        self.row = row
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, row, bundle, options), daemon=True)
        start = time.perf_counter()
        with thread_limit(options.threads):
            self._process.start()
        theirs.close()
        self.opening = self._receive(OpenReport)
        self.start_s = time.perf_counter() - start

    def step(self) -> Mapping[str, float]:
        """Process one frame and return its milliseconds by stage, for the `STAGES` that this row has.

        Raises:
            IdolError: the frame failed, or the process has ended.
        """
        self._request("step")
        times: dict[str, float] = self._receive(dict)
        return times

    @property
    def pid(self) -> int:
        """The id of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def run(
        self, seconds: float, period: float, sample: Callable[[], object] = lambda: None
    ) -> tuple[int, float]:
        """Process frames without pause for some seconds; return their number and the exact time.

        Args:
            seconds: time after which no frame begins; one frame runs in any case.
            period: seconds between the calls of `sample`.
            sample: function to call meanwhile, in this process.

        Raises:
            IdolError: a frame failed, or the process has ended.
        """
        self._request(seconds)
        while not self._pipe.poll(period):
            sample()
        done: tuple[int, float] = self._receive(tuple)
        return done

    def peak_mib(self) -> float:
        """Return the peak memory of the process in MiB; 0 if the system does not report it."""
        self._request("memory")
        return self._receive(float)

    def close(self) -> None:
        """End the process."""
        self._request("end")
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()

    def _request(self, request: str | float) -> None:
        with contextlib.suppress(OSError):  # `_receive` reports it
            self._pipe.send(request)

    def _receive(self, kind: type[T]) -> T:
        try:
            message = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(5)
            raise BackendError(
                f"{self.row.name}: its process ended with {self._process.exitcode}; "
                "-9 usually means too little memory: measure fewer rows at once with --only"
            ) from error
        if isinstance(message, IdolError):
            self.close()
            raise message
        assert isinstance(message, kind)
        return message


@contextlib.contextmanager
def thread_limit(threads: int | None) -> Iterator[None]:
    """Set the environment variables that limit the thread pools of numpy and others in new processes."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ[name] for name in names if name in os.environ}
    if threads is not None:
        os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update(before)


def _serve(pipe: Connection, row: BenchRow, bundle: str | Path, options: BenchOptions) -> None:
    """Run in the process: open the row, then serve requests until `end`."""
    try:
        start = time.perf_counter()
        backend = row.open()
        opened = time.perf_counter() - start
        with Bundle.open(bundle) as read:
            golden_frame, config = read.golden_frame(), read.manifest.stream
        start = time.perf_counter()
        golden = compare_golden(backend, golden_frame, row.tolerances)
        first = time.perf_counter() - start
        wrong = not all(stage.passed for stage in golden)
        pipe.send(OpenReport(backend.name, opened, first, max(stage.error for stage in golden), wrong))
        frames = _frames(options.source, golden_frame)
        path = _TimedPath(backend, config, options.fit)
        while (request := pipe.recv()) != "end":
            if request == "step":
                pipe.send(path.step(frames))
            else:
                pipe.send(_peak_mib() if request == "memory" else path.run(frames, request))
    except IdolError as error:
        pipe.send(BackendError(str(error)))  # unlike other exceptions of the tree, always picklable
    except (EOFError, OSError, KeyboardInterrupt):
        return  # the parent is gone
    except Exception as error:  # noqa: BLE001 - an engine may raise anything, and one row must not stop the others
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        pipe.send(BackendError(f"{row.name} failed: {reason}"))


def _frames(source: str | None, golden_frame: GoldenFrame) -> Iterator[Frame | None]:
    """Yield frames endlessly, with None where the source starts again."""
    index = 0
    while source is None:
        drifting = np.roll(golden_frame.frame, 4 * index, axis=1)  # by four pixels per frame
        yield Frame(index, index / 30, drifting)
        index += 1
    while True:
        with open_source(source) as opened:
            yield from opened
        yield None


class _TimedPath:
    """The path from a source's frame to a drawn frame, timed stage by stage."""

    def __init__(self, backend: Backend, config: StreamConfig, fit: bool) -> None:
        self._backend = backend
        self._config = config
        self._pipeline = Pipeline(backend, config, fit=fit)
        self._tracker = Tracker(config.association)
        self._draws = importlib.util.find_spec("cv2") is not None

    def step(self, frames: Iterator[Frame | None]) -> dict[str, float]:
        """Process one frame and return its milliseconds by stage."""
        times = [time.perf_counter()]
        frame = next(frames)
        if frame is None:
            self._pipeline.reset()
            self._tracker.reset()
            frame = next(frames)
            assert frame is not None
        times.append(time.perf_counter())
        prepared = self._pipeline.prepare(frame.image)
        times.append(time.perf_counter())
        output = self._backend.infer(prepared.image[None])[0]
        times.append(time.perf_counter())
        detections = detect(output, self._config.association)
        times.append(time.perf_counter())
        ids = self._tracker.update(
            detections.scores, detections.labels, detections.boxes, detections.embeddings
        )
        times.append(time.perf_counter())
        names = self._config.class_names
        result = FrameResult.from_detections(frame.index, detections, ids, prepared.placement, names)
        if self._draws:
            draw(frame.image, result)
        times.append(time.perf_counter())
        return self._by_stage(np.diff(times) * 1e3)

    def run(self, frames: Iterator[Frame | None], seconds: float) -> tuple[int, float]:
        """Process frames for some seconds; return their number and the exact time."""
        start = now = time.perf_counter()
        count = 0
        while count == 0 or now - start < seconds:
            self.step(frames)
            count, now = count + 1, time.perf_counter()
        return count, now - start

    def _by_stage(self, durations: NDArray[np.float64]) -> dict[str, float]:
        names = [stage for stage in STAGES if stage != "copy"]
        times = {name: float(value) for name, value in zip(names, durations, strict=True)}
        if not self._draws:
            del times["draw"]
        copy_ms = getattr(self._backend, "copy_ms", None)
        if copy_ms is not None:
            times["copy"] = float(copy_ms)
            times["network"] -= times["copy"]
        return {stage: times[stage] for stage in STAGES if stage in times}


def _peak_mib() -> float:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
