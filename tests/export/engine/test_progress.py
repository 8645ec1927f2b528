"""The progress lines of a build, and their frequency."""

import time

import pytest

from idol_export.engine.progress import Progress


def test_phases_are_announced_immediately_and_steps_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(lines.append)
    progress.phase_start("Building", None, 2)
    progress.phase_start("Tactics", "Building", 40)
    for step in range(40):
        now[0] += 0.5
        assert progress.step_complete("Tactics", step)
    progress.phase_finish("Tactics")
    assert lines == [
        "TensorRT: Building",
        "TensorRT: Tactics, step 11 of 40",
        "TensorRT: Tactics, step 22 of 40",
        "TensorRT: Tactics, step 33 of 40",
    ]
    progress.cancelled = True
    assert not progress.step_complete("Building", 0)


def test_an_exception_of_announce_is_stored_and_cancels() -> None:
    first, second = faults = BrokenPipeError("first"), ValueError("second")
    left = iter(faults)

    def announce(_: str) -> None:
        raise next(left)

    progress = Progress(announce)
    progress.phase_start("Building", None, 2)
    assert not progress.step_complete("Building", 0)
    progress.phase_start("Again", None, 2)
    progress.phase_finish("Building")
    assert progress.fault is first
    assert next(left, None) is None, f"{second} was not raised"
