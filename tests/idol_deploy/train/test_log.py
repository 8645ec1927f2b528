import json
import sys
from pathlib import Path
from typing import Any

import pytest

from idol_deploy.train.log import JsonLines, Progress, TensorBoard
from idol_runtime.errors import MissingDependencyError, OutputError


def test_lines_that_will_be_done_again_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = JsonLines(path, after=0)
    for iteration in (1, 2, 3):
        log.write({"iteration": iteration, "loss": 0.5})
    log.close()
    path.write_bytes(path.read_bytes() + b'{"iteration": 4, "lo')
    log = JsonLines(path, after=2)
    log.write({"iteration": 3, "loss": 0.25})
    log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["iteration"], line["loss"]) for line in lines] == [(1, 0.5), (2, 0.5), (3, 0.25)]


def test_full_disk_is_told() -> None:
    log = JsonLines(Path("/dev/full"), after=0)
    with pytest.raises(OutputError, match="cannot write /dev/full: No space left"):
        log.write({"iteration": 1})
    log.close()


def test_progress_tells_the_time_left() -> None:
    told: list[str] = []
    progress = Progress(told.append, iterations=100, period=10)
    for iteration in range(1, 21):
        progress.write(
            {"iteration": iteration, "loss": float(iteration), "lr": 1e-4, "seconds": {"data": 0.0}}
        )
        progress.write({"iteration": iteration, "scores": {"AP": 0.5}})
    assert [line.split(",")[0] for line in told] == [
        "iteration 10 of 100: loss 5.500",
        "iteration 20 of 100: loss 15.500",
    ]
    assert told[-1].endswith("0:00:00 left")


def test_tensorboard_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r"idol-deploy\[tensorboard\]"):
        TensorBoard(tmp_path, after=0)


def test_tensorboard_gets_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        def add_scalar(self, *scalar: Any) -> None:
            written.append(scalar)

    board = TensorBoard.__new__(TensorBoard)
    monkeypatch.setattr(board, "_writer", Writer(), raising=False)
    board.write(
        {"iteration": 3, "loss": 2.0, "grad_norm": None, "losses": {"loss_ce": 1.0}, "skipped": False}
    )
    assert written == [("loss", 2.0, 3), ("losses/loss_ce", 1.0, 3), ("skipped", 0.0, 3)]
