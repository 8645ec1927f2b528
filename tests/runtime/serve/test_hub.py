"""The state of a run and its clients."""

import asyncio
import time
from contextlib import ExitStack

import pytest
from starlette.exceptions import HTTPException

from idol_runtime.events import Event
from idol_runtime.serve import hub as hub_module
from idol_runtime.serve.hub import Hub
from idol_runtime.serve.messages import Edit, EventMessage, Reply, StreamInfo, StreamsMessage, Tick, Watch


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(hub_module.time, "monotonic", lambda: now[0])
    return now


def _picture(name: str):
    return {("picture", name), ("stats", "")}


def test_the_run_hears_which_streams_are_watched(kit, now) -> None:
    sent: list[object] = []
    hub = Hub(kit.hello(), sent.append)
    with hub.subscribe(_picture("door"), "a"), hub.subscribe(_picture("door"), "b"):
        assert sent == [Watch(["door"])]
        with hub.subscribe(_picture("nobody"), "c"):
            pass
    now[0] += 1
    hub.tick()
    with hub.subscribe(_picture("door"), "a"):  # a client that polls changes nothing
        pass
    assert sent == [Watch(["door"])]
    now[0] += 4
    hub.tick()
    assert sent == [Watch(["door"]), Watch([])]
    assert not hub.clients


def test_a_slow_client_gets_the_newest_and_an_own_rate(kit, now) -> None:
    hub = Hub(kit.hello(), lambda message: None)
    naps: list[float] = []

    async def read() -> None:
        with hub.subscribe({("frame", "door"), ("stats", "")}, "a", rate=4) as client:
            for index in range(5):
                hub.receive(kit.frame(index=index))
            assert await client.changes(1) == {("frame", "door")}
            assert hub.streams["door"].frame.index == 4
            sleep = asyncio.sleep

            async def nap(seconds: float) -> None:
                naps.append(seconds)
                await sleep(0)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(hub_module.asyncio, "sleep", nap)
                hub.tick()
                assert await client.changes(1) == {("stats", "")}

    kit.complete(read())
    assert naps == [0.25]


@pytest.mark.parametrize("turns", range(4))
def test_a_client_that_leaves_at_the_time_of_a_change_ends(kit, turns: int) -> None:
    hub = Hub(kit.hello(), lambda message: None)

    async def leave() -> None:
        with hub.subscribe({("stats", "")}, "a") as client:
            waiting = asyncio.ensure_future(client.changes(5))
            await asyncio.sleep(0.01)
            hub.tick()
            for _ in range(turns):
                await asyncio.sleep(0)
            if waiting.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await waiting

    kit.complete(leave())


def test_clients_are_limited_in_all_and_by_address(kit) -> None:
    hub = Hub(kit.hello(), lambda message: None)

    def connect(address: str, count: int = 1) -> ExitStack:
        with ExitStack() as clients:
            for _ in range(count):
                clients.enter_context(hub.subscribe({("stats", "")}, address))
            return clients.pop_all()

    others = connect("10.0.0.9", 32)
    with pytest.raises(HTTPException, match="too many clients: 32"):
        connect("10.0.0.9")
    with connect("127.0.0.1", 32), pytest.raises(HTTPException, match="too many clients: 64"):
        connect("127.0.0.1")
    connect("127.0.0.1").close()
    others.close()
    assert not hub.clients


def test_health_is_that_of_the_run_and_its_network(kit, now) -> None:
    hub = Hub(kit.hello(), lambda message: None)
    assert (hub.health(), hub.readiness()) == ("", "no stream has a frame yet")
    hub.receive(kit.frame())
    assert hub.readiness() == ""
    now[0] += 11
    assert hub.health() == "the run is silent"
    hub.receive(Tick(step_age_s=29.0, unsent=4))
    assert (hub.health(), hub.unsent) == ("", 4)
    now[0] += 2
    assert hub.health() == "the network hangs"
    assert Hub(kit.hello(streams=[]), lambda message: None).readiness() == ""


def test_streams_come_and_go(kit, caplog) -> None:
    hub = Hub(kit.hello(), lambda message: None)
    hub.receive(kit.frame())
    door = hub.streams["door"]
    many = [StreamInfo(str(number), "0", True, "added", 0.0) for number in range(100)]
    hub.receive(StreamsMessage([StreamInfo("door", "rtsp://door", True, "lost", 0.0), *many]))
    assert hub.streams["door"] is door
    assert (len(hub.streams), door.up) == (64, False)
    assert "the first 64 of 101" in caplog.text
    caplog.clear()
    hub.receive(StreamsMessage([StreamInfo("door", "rtsp://door", True, "back", 0.0), *many]))
    assert not caplog.text
    hub.receive(StreamsMessage(many[:1]))
    hub.receive(kit.frame())  # was still under way
    assert hub.streams.keys() == {"0"}
    for number in range(1200):
        hub.receive(EventMessage(Event("lost", "door", "lost"), number))
    assert len(hub.events) == 1000


def test_edits_are_answered_by_the_run_or_not_at_all(kit, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Edit] = []
    hub = Hub(kit.hello(), sent.append)
    monkeypatch.setattr(hub_module, "_EDIT_S", 0.02)

    async def edit() -> None:
        edits = [asyncio.ensure_future(hub.edit(remove=str(number))) for number in range(9)]
        await asyncio.sleep(0)
        hub.receive(Reply(sent[1].id, "no", 404))
        hub.receive(Reply(12345))
        answers = await asyncio.gather(*edits, return_exceptions=True)
        assert [getattr(answer, "status_code", None) for answer in answers] == [503, None, *[503] * 7]
        assert answers[1] == Reply(sent[1].id, "no", 404)
        assert "too many changes" in answers[8].detail
        assert "did not answer" in answers[0].detail

    kit.complete(edit())
    assert not hub._edits


def test_a_stream_that_was_replaced_starts_again(kit) -> None:
    """A change of its options removes it and adds it again: the server may see only the list after both."""
    hub = Hub(kit.hello(), lambda message: None)
    for index in range(3):
        hub.receive(kit.frame(index=index, dropped=20))
    hub.receive(StreamsMessage(kit.hello().streams))
    wall = hub.streams["door"].frame.wall + 5
    hub.receive(
        kit.frame(index=0, dropped=1, wall=wall, ids=[3], labels=[0], scores=[0.5], boxes_xyxy=[[0.0] * 4])
    )
    view = hub.streams["door"]
    assert [track["intervals"] for track in view.tracks_json()] == [[[wall, wall]]]
    assert view.history.columns(wall + 1, 1)["dropped"] == [1]


def test_thumbnails_go_on_after_the_clock_was_set_back(kit) -> None:
    offered: list[list[int]] = []
    hub = Hub(kit.hello(), lambda message: None)
    hub.draw = lambda message, thumbnails: offered.append(thumbnails)
    with hub.subscribe(_picture("door"), "a"):
        hub.receive(kit.frame(index=0, picture=True))
        for track in hub.streams["door"].tracks.values():
            track.thumbnail_s = time.time() + 3600
        hub.receive(kit.frame(index=1, picture=True))
    assert offered == [[3, 12]] * 2
