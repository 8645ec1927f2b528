import io
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


@pytest.mark.parametrize("line", ['{"iteration": "x"}', '{"iteration": null}', "[]", "{}", "\x00"])
def test_a_log_ends_where_it_is_no_log(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"iteration": 1}}\n{line}\n{{"iteration": 2}}\n')
    JsonLines(path, after=5).close()
    assert path.read_text() == '{"iteration": 1}\n'


def test_full_disk_is_told() -> None:
    log = JsonLines(Path("/dev/full"), after=0)
    with pytest.raises(OutputError, match="cannot write /dev/full: No space left"):
        log.write({"iteration": 1})
    log.close()


def test_progress_tells_the_time_left() -> None:
    messages: list[str] = []
    progress = Progress(messages.append, iterations=100, period=10)
    for iteration in range(1, 21):
        progress.write(
            {"iteration": iteration, "loss": float(iteration), "lr": 1e-4, "seconds": {"data": 0.0}}
        )
        progress.write({"iteration": iteration, "scores": {"AP": 0.5}})
    assert [line.split(",")[0] for line in messages] == [
        "iteration 10 of 100: loss 5.500",
        "iteration 20 of 100: loss 15.500",
    ]
    assert messages[-1].endswith("0:00:00 left")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_shows_a_bar_and_keeps_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, messages = Terminal(), []
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress(messages.append, iterations=20, period=2, done=10)
    for iteration in range(11, 21):
        seconds = {"data": 0.25, "forward": 0.75}
        progress.write({"iteration": iteration, "loss": float(iteration), "lr": 1e-4, "seconds": seconds})
    progress.announce("wrote a snapshot")
    progress.close()
    shown = terminal.getvalue()
    assert "10/20 [" in shown
    assert "\rwrote a snapshot\n" in shown
    last = shown.rstrip("\n").rpartition("\r")[2]
    assert "20/20 [" in last
    assert last.rstrip().endswith(", loss 19.500, lr 1.0e-04, 25% for data]")
    assert not messages


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="TensorBoard is not installed: pip install 'idol-deploy[tensorboard]'",
        exc_type=ImportError,
    )
    # A run that stopped after its fifth iteration, with a snapshot of the third.
    for after, last in ((0, 5), (3, 6)):
        board = TensorBoard(tmp_path, after)
        for iteration in range(after + 1, last + 1):
            entry = {"loss": iteration + 0.5 * after, "grad_norm": None, "losses": {"loss_ce": 1.0}}
            board.write({"iteration": iteration, **entry, "skipped": False})
        board.write({"iteration": last, "scores": {"AP": 0.1 * last}})
        board.close()
    found = reader.EventAccumulator(str(tmp_path))
    found.Reload()
    assert set(found.Tags()["scalars"]) == {"loss", "losses/loss_ce", "skipped", "scores/AP"}
    steps = {1: 1.0, 2: 2.0, 3: 3.0, 4: 5.5, 5: 6.5, 6: 7.5}
    assert {event.step: event.value for event in found.Scalars("loss")} == steps
    assert [event.step for event in found.Scalars("scores/AP")] == [6]


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
