"""What is told of a build, and how often."""

import time

import pytest

from idol_export.engine.progress import Progress


def test_phases_are_told_at_once_and_steps_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(said.append)
    progress.phase_start("Building", None, 2)
    progress.phase_start("Tactics", "Building", 40)
    for step in range(40):
        now[0] += 0.5
        assert progress.step_complete("Tactics", step)
    progress.phase_finish("Tactics")
    assert said == [
        "TensorRT: Building",
        "TensorRT: Tactics, step 11 of 40",
        "TensorRT: Tactics, step 22 of 40",
        "TensorRT: Tactics, step 33 of 40",
    ]
    progress.cancelled = True
    assert not progress.step_complete("Building", 0)


def test_a_fault_in_telling_is_kept_and_cancels() -> None:
    first, second = faults = BrokenPipeError("first"), ValueError("second")
    left = iter(faults)

    def tell(_: str) -> None:
        raise next(left)

    progress = Progress(tell)
    progress.phase_start("Building", None, 2)
    assert not progress.step_complete("Building", 0)
    progress.phase_start("Again", None, 2)
    progress.phase_finish("Building")
    assert progress.fault is first
    assert next(left, None) is None, f"{second} was met, too"
