"""Tests of a row in its own process: stages, end, and messages of failures."""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from idol_runtime.bench.rows import BenchOptions, BenchRow
from idol_runtime.bench.worker import STAGES, Worker, thread_limit
from idol_runtime.bundle.bundle import OUTPUT_NAMES, Bundle
from idol_runtime.errors import BackendError
from idol_runtime.tracking.detection import NetworkOutput


class Answering:
    """A backend that returns the golden outputs times a factor; it may wait or end its process."""

    reason = ""

    def __init__(
        self, bundle: str, factor: float, seconds: float, dies_at: int | None, queries: int | None
    ) -> None:
        with Bundle.open(bundle) as opened:
            self.network_size = opened.manifest.network_size
            outputs = opened.golden_frame().outputs
        self.name = f"answering in process {os.getpid()}"
        self.copy_ms = 0.5
        self._output = NetworkOutput(**{name: factor * outputs[name][:queries] for name in OUTPUT_NAMES})
        self._seconds = seconds
        self._left = dies_at

    def infer(self, images: np.ndarray) -> list[NetworkOutput]:
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                os._exit(7)
        time.sleep(self._seconds)
        return [self._output]

    def close(self) -> None:
        """Do nothing."""


def answering(
    bundle: str,
    factor: float = 1,
    seconds: float = 0,
    dies_at: int | None = None,
    queries: int | None = None,
) -> Answering:
    return Answering(bundle, factor, seconds, dies_at, queries)


def refusing() -> Answering:
    raise BackendError("no such engine; install it")


def failing() -> Answering:
    raise RuntimeError("an engine's own words\nand more of them")


@pytest.fixture
def opened(tiny_bundle: Path) -> Iterator[Callable[[BenchRow], Worker]]:
    workers: list[Worker] = []

    def open_row(row: BenchRow) -> Worker:
        workers.append(Worker(row, tiny_bundle, BenchOptions(threads=1)))
        return workers[-1]

    yield open_row
    for worker in workers:
        worker.close()


def test_a_row_runs_in_a_process_of_its_own(opened: Callable[[BenchRow], Worker], tiny_bundle: Path) -> None:
    worker = opened(BenchRow("slow", partial(answering, str(tiny_bundle), 1.0, 0.02)))
    assert worker.opening.name.startswith("answering in process ")
    assert worker.opening.name != f"answering in process {os.getpid()}"
    assert worker.opening.error == 0
    assert not worker.opening.wrong
    assert worker.start_s > worker.opening.open_s
    for _ in range(2):
        taken = worker.step()
        assert list(taken) == [stage for stage in STAGES if stage in taken]
        assert set(taken) >= set(STAGES) - {"draw"}
        assert taken["copy"] == 0.5
        assert taken["network"] >= 19
    assert worker.peak_mib() > 10


def test_a_burst_is_sampled_while_it_runs(opened: Callable[[BenchRow], Worker], tiny_bundle: Path) -> None:
    worker = opened(BenchRow("slow", partial(answering, str(tiny_bundle), 1.0, 0.02)))
    samples: list[int] = []
    frames, seconds = worker.run(0.3, 0.05, lambda: samples.append(worker.pid))
    assert seconds >= 0.3
    assert 1 <= frames <= seconds / 0.02
    assert 1 <= len(samples) <= seconds / 0.05 + 1
    assert worker.pid != os.getpid()
    assert worker.run(0, 0.05)[0] == 1, "at least one frame"
    assert set(worker.step()) >= {"network"}, "the process goes on"


def test_a_wrong_answer_is_measured(opened: Callable[[BenchRow], Worker], tiny_bundle: Path) -> None:
    worker = opened(BenchRow("wrong", partial(answering, str(tiny_bundle), 1.5)))
    assert worker.opening.error == pytest.approx(0.5)
    assert worker.opening.wrong


def test_an_answer_of_another_shape_is_no_row(tiny_bundle: Path) -> None:
    row = BenchRow("short", partial(answering, str(tiny_bundle), queries=1))
    with pytest.raises(BackendError, match=r"answering in .*: logits has shape \(1, 2\), expected \(3, 2\)"):
        Worker(row, tiny_bundle, BenchOptions())


@pytest.mark.parametrize(
    ("open_row", "words"), [(refusing, "no such engine; install it"), (failing, "an engine's own words$")]
)
def test_a_row_that_cannot_be_opened(
    tiny_bundle: Path, open_row: Callable[[], Answering], words: str
) -> None:
    with pytest.raises(BackendError, match=words):
        Worker(BenchRow("none", open_row), tiny_bundle, BenchOptions())


def test_a_process_that_dies_is_told(opened: Callable[[BenchRow], Worker], tiny_bundle: Path) -> None:
    worker = opened(BenchRow("mortal", partial(answering, str(tiny_bundle), dies_at=1)))
    with pytest.raises(BackendError, match="mortal: its process ended with 7"):
        worker.step()


def test_threads_are_told_and_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with thread_limit(3):
        assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == "3"
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert "MKL_NUM_THREADS" not in os.environ
