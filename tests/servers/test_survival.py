"""Faults of an RTSP camera, from a real server: what the user is told, what frames come, and what is left behind."""

import gc
import os
import random
import socketserver
import threading
import time
from itertools import islice, pairwise

import pytest

from idol_runtime.events import Event
from idol_runtime.frames import Frame
from idol_runtime.sources import live
from idol_runtime.sources.live import LiveOptions
from idol_runtime.sources.opening import open_source
from servers.rtsp import RtspServer

pytestmark = [pytest.mark.slow, pytest.mark.gstreamer]
RULES = LiveOptions(open_timeout_s=4, read_timeout_s=1.5)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_LONGEST_WAIT_S", 0.2)


def usage() -> tuple[int, int, int]:
    """Return the numbers of threads and open files, and the resident memory in MiB."""
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    page = os.sysconf("SC_PAGE_SIZE")
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")), pages * page // 2**20


def settle(expected: tuple[int, int]) -> tuple[int, int]:
    """Return the numbers of threads and open files, once they are the expected ones or after 10 s."""
    deadline = time.monotonic() + 10
    while usage()[:2] != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    return usage()[:2]


def test_a_server_that_is_killed_and_started_twenty_times() -> None:
    events: list[Event] = []
    with RtspServer() as server, open_source(server.url, live=RULES, tell=events.append) as source:
        frames = iter(source)
        seen = list(islice(frames, 5))
        threads, files, memory = usage()
        gc.disable()  # connections are released at once, not by a later collection
        try:
            for epoch in range(1, 21):
                server.restart()
                seen += islice((frame for frame in frames if frame.epoch >= epoch), 3)
                assert seen[-1].epoch == epoch
                if epoch == 10:
                    memory = usage()[2]
            assert settle((threads, files)) == (threads, files)
            assert usage()[2] <= memory + 8
        finally:
            gc.enable()
    assert [event.kind for event in events] == ["connected", *["lost", "back"] * 20]
    check(seen)


def check(frames: list[Frame]) -> None:
    """Check that the frames have growing times, those of the monotonic clock, and that none is black or repeated."""
    times, arrivals = ([getattr(frame, name) for frame in frames] for name in ("time_s", "arrived_s"))
    assert times == sorted(set(times))
    assert times[-1] - times[0] == pytest.approx(arrivals[-1] - arrivals[0], abs=1)
    assert all(frame.image.max() > 128 for frame in frames)
    for before, after in pairwise(frames):
        assert before.size != after.size or (before.image != after.image).any()


def test_a_server_that_is_dead_at_the_start() -> None:
    events: list[Event] = []
    with RtspServer(start=False) as server, open_source(server.url, live=RULES, tell=events.append) as source:
        assert source.size is None
        starter = threading.Timer(2, server.start)
        starter.start()
        seen = list(islice(source, 5))
        starter.join()
        assert source.size == (120, 160)
    assert [event.kind for event in events] == ["waiting", "connected"]
    assert "Connection refused" in events[0].message
    assert [frame.epoch for frame in seen] == [0] * 5
    check(seen)


def garbage(port: int) -> socketserver.ThreadingTCPServer:
    """Start a server that sends random bytes to everybody."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            for i in range(1000):
                try:
                    self.request.sendall(random.Random(i).randbytes(2000))
                except OSError:
                    return

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address, daemon_threads = True, True

    server = Server(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


@pytest.mark.parametrize("fault", ["stall", "garbage", "size"])
def test_faults_of_an_rtsp_camera(fault: str) -> None:
    """The fault lasts 3 s longer than the user is told about it."""
    events: list[Event] = []
    noise: list[socketserver.ThreadingTCPServer] = []
    size = (120, 160)

    def repair() -> None:
        if fault == "stall":
            server.resume()
            return
        for sender in noise:
            sender.shutdown()
            sender.server_close()
        server.size = size
        server.start()

    def tell(event: Event) -> None:
        events.append(event)
        if event.kind == "lost":
            threading.Timer(3, repair).start()

    with RtspServer() as server, open_source(server.url, live=RULES, tell=tell) as source:
        frames = iter(source)
        seen = list(islice(frames, 5))
        threads, files, _ = usage()
        if fault == "stall":
            server.pause()
        else:
            server.kill()
        if fault == "garbage":
            noise.append(garbage(int(server.url.split(":")[2].split("/")[0])))
        if fault == "size":
            size = (96, 128)
        seen += islice((frame for frame in frames if frame.epoch), 5)
        assert settle((threads, files)) == (threads, files)
    assert seen[-1].epoch == 1
    assert seen[-1].size == source.size == size
    assert [event.kind for event in events] == ["connected", "lost", "back", *["resized"] * (fault == "size")]
    assert 3 < seen[5].time_s - seen[4].time_s < 12
    check(seen)
