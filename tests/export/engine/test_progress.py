"""What is told of a build, and how often."""

import time

import pytest

from idol_export.engine.progress import Progress


def test_phases_are_told_at_once_and_steps_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(said.append)
    progress.started("Building", None, 2)
    progress.started("Tactics", "Building", 40)
    for step in range(40):
        now[0] += 0.5
        assert progress.stepped("Tactics", step)
    progress.finished("Tactics")
    assert said == [
        "TensorRT: Building",
        "TensorRT: Tactics, step 11 of 40",
        "TensorRT: Tactics, step 22 of 40",
        "TensorRT: Tactics, step 33 of 40",
    ]
    progress.cancelled = True
    assert not progress.stepped("Building", 0)


def test_a_fault_in_telling_is_kept_and_cancels() -> None:
    first, second = faults = BrokenPipeError("first"), ValueError("second")
    left = iter(faults)

    def tell(_: str) -> None:
        raise next(left)

    progress = Progress(tell)
    progress.started("Building", None, 2)
    assert not progress.stepped("Building", 0)
    progress.started("Again", None, 2)
    progress.finished("Building")
    assert progress.fault is first
    assert next(left, None) is None, f"{second} was met, too"
