"""Events about frames that are dropped continuously: when they are told, their figures and the cause."""

from collections.abc import Iterable

import pytest

from idol_runtime.run.drops import DropReports


def told(
    seconds: Iterable[tuple[int, int]], stride: int = 1, slow_output: bool = False
) -> list[tuple[int, str, dict[str, float]]]:
    """Return the events and their seconds; each second has a number of dropped and of processed frames."""
    events, now, dropped, frames = list[tuple[int, str, dict[str, float]]](), 0, 0, 0
    drops = DropReports(0, stride, lambda kind, message, **values: events.append((now, message, values)))
    for lost, done in seconds:
        now, dropped, frames = now + 1, dropped + lost, frames + done
        drops.update(now, dropped, frames, slow_output=slow_output)
    return events


@pytest.mark.parametrize(
    "seconds",
    [[(1, 24)] * 3600, [(1, 0)] + [(0, 1)] * 3600, [(0, 0)] * 3600, [(25, 0)] * 9],
    ids=["4 % of the frames", "one of few frames", "a lost camera", "9 s"],
)
def test_single_drops_are_not_told(seconds: list[tuple[int, int]]) -> None:
    assert told(seconds) == []


def test_continuous_drops_are_told_at_growing_intervals_with_their_figures() -> None:
    events = told([(0, 25)] * 10 + [(15, 10)] * 3000 + [(0, 25)] * 700 + [(15, 10)] * 30)
    assert [now for now, *_ in events] == [20, 40, 80, 160, 320, 640, 1240, 1840, 2440, 3040, 3720, 3740]
    _, message, values = events[0]
    assert values == {"dropped": 150, "frames": 100, "seconds": 10, "total": 150}
    assert message == (
        "150 of 250 frames dropped in 10 s: a frame comes every 40 ms, and the network takes one every 100 ms; "
        "idol-deploy doctor and run --explain name a faster graph; else run fewer streams or give --stride 3"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (
            (5, 5),
            "the outputs take one every 200 ms; check the disk, write fewer outputs, or give --stride 4",
        ),
        ((10, 0), "the outputs take none; check the disk, write fewer outputs, or give a higher --stride"),
    ],
    ids=["slow", "hanging"],
)
def test_slow_outputs_are_told_apart(seconds: tuple[int, int], text: str) -> None:
    ((_, message, _),) = told([seconds] * 10, stride=2, slow_output=True)
    assert message.endswith(f"a frame comes every 100 ms, and {text}")
