"""A row in a process of its own: its memory is its own, and no other row's threads wait in it.

The parent asks for one frame at a time, so that rows take turns; each reads the source by itself.
"""

import contextlib
import importlib.util
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import numpy as np

from idol_runtime.backends import Backend
from idol_runtime.bench.rows import Row
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

__all__ = ["STAGES", "Opened", "Worker", "thread_limit"]

T = TypeVar("T")

# In the order in which a frame passes them; `copy` is between host and device, where the backend tells it.
STAGES = ("decode", "preprocess", "copy", "network", "postprocess", "association", "draw")
_DRIFT = 4  # pixels a frame, of the golden frame where there is no source


@dataclass(frozen=True)
class Opened:
    """What opening a row has taken.

    Attributes:
        name: of the backend, with device and graph.
        open_s: importing its engine and loading the graph, in seconds.
        first_frame_s: its first frame, from the resize to the comparison of its outputs, in seconds.
        error: the largest relative error of an output on the golden frame.
        wrong: whether an output is further off than it may be.
    """

    name: str
    open_s: float
    first_frame_s: float
    error: float
    wrong: bool


@dataclass
class Worker:
    """One row's process, opened and ready, until it is closed.

    Attributes:
        row: what it runs.
        bundle: path of the bundle.
        source: of frames; None: the golden frame, drifting.
        threads: that libraries in the process are told to use.
        start_s: from starting the process to its first answer, in seconds.
        opened: what opening took.
    """

    row: Row
    bundle: str
    source: str | None = None
    threads: int | None = None
    fit: bool = False
    start_s: float = 0.0
    opened: Opened = field(init=False)

    def __post_init__(self) -> None:
        """Start the process, and wait until the row is open.

        Raises:
            IdolError: it cannot be opened; the row's own words.
        """
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = theirs, self.row, self.bundle, self.source, self.fit
        self._pipe: Connection = ours
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        start = time.perf_counter()
        with thread_limit(self.threads):
            self._process.start()
        theirs.close()
        self.opened = self._receive(Opened)
        self.start_s = time.perf_counter() - start

    def step(self) -> Mapping[str, float]:
        """One more frame: milliseconds by stage, those of `STAGES` that it has.

        Raises:
            IdolError: the frame failed, or the process has died.
        """
        self._ask("step")
        taken: dict[str, float] = self._receive(dict)
        return taken

    def peak_mib(self) -> float:
        """The most memory that the process has held so far, in MiB; 0 where the system does not tell."""
        self._ask("memory")
        return self._receive(float)

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._pipe.send("end")
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()

    def _ask(self, what: str) -> None:
        with contextlib.suppress(OSError):  # told by what is received
            self._pipe.send(what)

    def _receive(self, kind: type[T]) -> T:
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(5)
            raise BackendError(
                f"{self.row.name}: its process ended with {self._process.exitcode}; "
                "-9 is usually a lack of memory: measure fewer rows at once with --only"
            ) from error
        if isinstance(answer, IdolError):
            self.close()
            raise answer
        assert isinstance(answer, kind)
        return answer


@contextlib.contextmanager
def thread_limit(threads: int | None) -> Iterator[None]:
    """Tell numpy's and others' thread pools, which read it when a process begins."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    if threads is not None:
        os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _serve(pipe: Connection, row: Row, bundle: str, source: str | None, fit: bool) -> None:
    """The process: open, then answer until the end."""
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
        pipe.send(Opened(backend.name, opened, first, max(stage.error for stage in golden), wrong))
        frames = _frames(source, golden_frame)
        line = _Line(backend, config, fit)
        while (asked := pipe.recv()) != "end":
            pipe.send(line.step(frames) if asked == "step" else _peak_mib())
    except IdolError as error:
        pipe.send(_plain(error))
    except (EOFError, OSError, KeyboardInterrupt):
        return  # the parent is gone
    except Exception as error:  # noqa: BLE001 - an engine raises what it likes; one row may not end the others
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        pipe.send(BackendError(f"{row.name} failed: {reason}"))


def _plain(error: IdolError) -> IdolError:
    """The same words in an exception that any process can unpickle."""
    return BackendError(str(error))


def _frames(source: str | None, golden_frame: GoldenFrame) -> Iterator[Frame | None]:
    """Frames without end, None where a source begins again."""
    index = 0
    while source is None:
        yield Frame(index, index / 30, np.roll(golden_frame.frame, _DRIFT * index, axis=1))
        index += 1
    while True:
        with open_source(source) as opened:
            yield from opened
        yield None


class _Line:
    """From a source's frame to a drawn one, timed stage by stage."""

    def __init__(self, backend: Backend, config: StreamConfig, fit: bool) -> None:
        self._backend = backend
        self._config = config
        self._pipeline = Pipeline(backend, config, fit=fit)
        self._tracker = Tracker(config.association)
        self._draws = importlib.util.find_spec("cv2") is not None

    def step(self, frames: Iterator[Frame | None]) -> dict[str, float]:
        """One frame; milliseconds by stage."""
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
        found = detect(output, self._config.association)
        times.append(time.perf_counter())
        ids = self._tracker.update(found.scores, found.labels, found.boxes, found.embeddings)
        times.append(time.perf_counter())
        names = self._config.class_names
        result = FrameResult.from_detections(frame.index, found, ids, prepared.placement, names)
        if self._draws:
            draw(frame.image, result)
        times.append(time.perf_counter())
        return self._by_stage(np.diff(times) * 1e3)

    def _by_stage(self, taken: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> dict[str, float]:
        names = [stage for stage in STAGES if stage != "copy"]
        found = {name: float(value) for name, value in zip(names, taken, strict=True)}
        if not self._draws:
            del found["draw"]
        copied = getattr(self._backend, "copy_ms", None)
        if copied is not None:
            found["copy"] = float(copied)
            found["network"] -= found["copy"]
        return {stage: found[stage] for stage in STAGES if stage in found}


def _peak_mib() -> float:
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
