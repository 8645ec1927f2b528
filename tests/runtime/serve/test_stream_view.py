import time

from idol_runtime.events import Event
from idol_runtime.serve.hub import Hub
from idol_runtime.serve.messages import EventMessage
from idol_runtime.sinks.palette import id_colour


def test_tracks_have_their_colour_and_say_when_they_left(kit) -> None:
    hub = Hub(kit.hello(), lambda message: None)
    hub.receive(kit.frame())
    hub.receive(EventMessage(Event("track_leave", "door", "cat 12 leaves", {"id": 12, "label": 0})))
    hub.receive(EventMessage(Event("track_leave", "door", "cat 99 leaves", {"id": 99})))  # not known here
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
