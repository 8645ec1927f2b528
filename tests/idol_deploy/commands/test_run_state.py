"""The option --state of `idol-deploy run`: real processes that are stopped and killed, and later ones that continue."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from idol_runtime.state import load_state
from samples.waiting import LIMIT_S, until
from servers.mjpeg import MjpegServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Toy
    from tests.idol_deploy.conftest import Command, Start

FRAMES = 80
# Holds a run before its frame 20 until there is a file.
HELD = """
import time
from itertools import count
from pathlib import Path
from idol_runtime.streams import Streams

def track(*arguments, number=count(), track=Streams.track):
    held = next(number) >= 20
    while held and not Path({!r}).exists():
        time.sleep(0.01)
    return track(*arguments)

Streams.track = track
"""


@pytest.fixture
def long(toy: Toy, write_images: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder of images; jumps between two videos start and end tracks."""
    first, second = toy.video(40, seed=1), toy.video(40, seed=5)
    frames = [(first if t % 17 < 9 else second)[t % 40] for t in range(FRAMES)]
    return write_images(tmp_path / "long", np.stack(frames))


def _wait(process: subprocess.Popen[str], lines: Path, count: int) -> None:
    """Wait until the process has written so many lines."""
    until(lambda: lines.exists() and lines.read_bytes().count(b"\n") >= count, process)


def test_a_stopped_and_a_killed_run_continue_as_one_that_was_not(
    toy: Toy, long: Path, idol: Command, start: Start, tmp_path: Path
) -> None:
    whole, lines, state = tmp_path / "whole.jsonl", tmp_path / "a.jsonl", tmp_path / "a.state"
    assert idol("run", toy.path, "--source", long, "--jsonl", whole).status == 0
    command = ("run", toy.path, "--source", long, "--jsonl", lines, "--state", state)
    go_on = tmp_path / "go on"
    process = start(*command, first=HELD.format(str(go_on)))
    _wait(process, lines, 10)
    process.send_signal(signal.SIGTERM)
    go_on.touch()
    out, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    stopped = lines.read_bytes()
    assert 10 <= stopped.count(b"\n") < FRAMES, out
    assert whole.read_bytes().startswith(stopped)
    assert load_state(state).clean
    go_on.unlink()
    process = start(*command, first=HELD.format(str(go_on)))
    _wait(process, lines, stopped.count(b"\n") + 10)
    process.kill()
    process.communicate()
    assert not load_state(state).clean
    done = idol(*command)
    assert (done.status, lines.read_bytes() == whole.read_bytes()) == (0, True)
    assert "continues after frame" in done.err
    again = idol(*command)  # nothing is left to do, and nothing is lost
    assert (again.status, lines.read_bytes() == whole.read_bytes()) == (0, True)
    assert idol(*command[:-2], "--state", tmp_path / "other" / "a.state").status == 2


def test_a_state_of_other_settings_or_another_bundle_is_refused(
    toy: Toy, images: Path, idol: Command, refused: Callable[..., str], tmp_path: Path
) -> None:
    state = tmp_path / "{source}.state"
    command = ("run", toy.path, "--source", images, "--jsonl", tmp_path / "a.jsonl", "--state", state)
    assert idol(*command).status == 0
    assert load_state(tmp_path / "images.state").index == 6
    assert "association.match_score=0.5, and this run has 0.4" in refused(
        *command, "--set", "association.match_score=0.4"
    )
    assert "belongs to" in refused(*command, "--stride", 2)
    (tmp_path / "images.state").write_bytes(b"idol-state 1 0\n")
    assert "its SHA-256 does not match; remove the file" in refused(*command)


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        ("soon", "'soon' is no gap; use keep, reset or seconds"),
        ("-1", "--after-gap must not be negative, got -1.0"),
    ],
)
def test_a_gap_is_a_number_of_seconds_or_a_word(
    toy: Toy, images: Path, refused: Callable[..., str], tmp_path: Path, gap: str, expected: str
) -> None:
    command = ("run", toy.path, "--source", images, "--jsonl", tmp_path / "a")
    assert expected in refused(*command, f"--after-gap={gap}")


def test_results_are_not_continued(
    toy: Toy, images: Path, refused: Callable[..., str], tmp_path: Path
) -> None:
    command = ("run", toy.path, "--source", images, "--results", tmp_path / "a.json")
    assert "leave out --state or --results" in refused(*command, "--state", tmp_path / "a.state")


@pytest.mark.slow
def test_a_killed_camera_gives_no_identity_twice(toy: Toy, start: Start, tmp_path: Path) -> None:
    """Nothing matches, so that every identity must be new: in three runs, of which two are killed."""
    lines, state = tmp_path / "a.jsonl", tmp_path / "a.state"
    with MjpegServer(toy.size, fps=25) as camera:
        command = ("run", toy.path, "--source", camera.url, "--jsonl", lines, "--state", state)
        settings = ("--set", "association.match_score=1", "--after-gap", "keep")
        count = 0
        for end in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
            process = start(*command, *settings)
            _wait(process, lines, count + 70)
            process.send_signal(end)
            process.communicate(timeout=LIMIT_S)
            saved = load_state(state)
            count = lines.read_bytes().count(b"\n")
    written = [json.loads(line) for line in lines.read_bytes().splitlines()]
    identities = [instance["id"] for line in written for instance in line["instances"]]
    assert len(identities) > 3 * 70
    assert len(identities) == len(set(identities))
    numbers, times = [line["frame"] for line in written], [line["time_s"] for line in written]
    assert numbers == sorted(set(numbers))
    assert times == sorted(times)
    assert saved.clean
    assert saved.tracker.next_id == max(identities) + 1
