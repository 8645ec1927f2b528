"""Tracks and figures of a stream: presence, colours, and bounds."""

import time

import pytest

from idol_runtime.events import Event
from idol_runtime.serve.hub import Hub
from idol_runtime.serve.messages import EventMessage
from idol_runtime.serve.stream_view import MAX_INTERVALS, MAX_TRACKS, StreamView
from idol_runtime.sinks.palette import id_colour


def _see(view: StreamView, kit, wall: float, ids: list[int]) -> None:
    n = len(ids)
    view.see(kit.frame(wall=wall, ids=ids, labels=[0] * n, scores=[0.5] * n, boxes_xyxy=[[0.0] * 4] * n))


def test_presence_has_gaps_of_more_than_a_second(kit) -> None:
    view = StreamView(kit.hello().streams[0], ["cat"])
    for wall, ids in [(100.0, [1]), (100.1, [1]), (100.2, []), (100.9, [1]), (101.0, []), (103.0, [1, 2])]:
        _see(view, kit, wall, ids)
    newest, oldest = view.tracks_json()
    assert (newest["id"], oldest["id"]) == (2, 1)
    assert oldest["intervals"] == [[100.0, 100.9], [103.0, 103.0]]
    assert (oldest["first_seen"], oldest["last_seen"], oldest["present"]) == (100.0, 103.0, True)
    # A stream of one frame in five seconds has no gaps between its frames.
    for wall in (108.0, 113.0):
        _see(view, kit, wall, [2])
    assert view.tracks[2].intervals == [[103.0, 113.0]]


def test_tracks_and_their_intervals_are_bounded(kit) -> None:
    view = StreamView(kit.hello().streams[0], ["cat"])
    for number in range(100):
        _see(view, kit, 2 * number, [0])
        _see(view, kit, 2 * number + 0.5, [])
    assert len(view.tracks[0].intervals) == MAX_INTERVALS
    assert view.tracks[0].intervals[-1] == [198, 198]
    for number in range(1, 400):
        _see(view, kit, 200 + number / 10, [number])
    assert len(view.tracks) == MAX_TRACKS
    assert 0 not in view.tracks
    view.forget(200 + 600 + 39.85)
    assert view.tracks.keys() == {399}


@pytest.mark.parametrize("earlier", [1299.0, 0.1])
def test_nothing_is_left_of_the_time_before_the_clock_was_set(kit, earlier: float) -> None:
    view = StreamView(kit.hello().streams[0], ["cat"])
    for wall in (earlier - 0.1, earlier, 1000.0, 1299.0):
        _see(view, kit, wall, [1])
    assert view.tracks[1].intervals == [[1000.0, 1299.0]]
    assert view.history.columns(1300, 1)["frames"] == [1]


def test_tracks_have_their_colour_and_say_when_they_left(kit) -> None:
    hub = Hub(kit.hello(), lambda message: None)
    hub.receive(kit.frame())
    hub.receive(EventMessage(Event("track_leave", "door", "cat 12 leaves", {"id": 12, "label": 0}), 1))
    hub.receive(EventMessage(Event("track_leave", "door", "cat 99 leaves", {"id": 99}), 2))  # not known here
    left = {track["id"]: track["left"] for track in hub.streams["door"].tracks_json()}
    assert left == {3: False, 12: True}
    instances = hub.streams["door"].frame_json(kit.frame())["instances"]
    for entry in [*instances, *hub.streams["door"].tracks_json()]:
        assert bytes.fromhex(entry["colour"][1:]) == bytes(id_colour(entry["id"]))


def test_history_has_the_worst_age_of_a_second(kit) -> None:
    hub, now = Hub(kit.hello(), lambda message: None), int(time.time())
    for age_s in (0.02, 0.05, None, 0.03):
        hub.receive(kit.frame(wall=now - 0.5, age_s=age_s))
    history = hub.streams["door"].history.columns(now, 2)
    assert history["age_worst_s"] == [None, 0.05]
    assert history["frames"] == [0, 4]
