"""The servers of the fault tests: they send, stall, fail and return as the tests say."""

import socket
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from idol_runtime.errors import FrameError
from idol_runtime.frames import Frame
from idol_runtime.sources.opening import open_source
from samples.captures import HEIGHT, WIDTH, shade, write_images
from servers.mjpeg import MjpegServer
from servers.rtsp import RtspServer

pytestmark = pytest.mark.slow


def frames(iterator: Iterator[Frame], count: int) -> tuple[list[Frame], float]:
    """Return the next frames and the seconds that they took."""
    started = time.monotonic()
    return list(islice(iterator, count)), time.monotonic() - started


@pytest.mark.gstreamer
def test_rtsp_server(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{i:05d}.png" for i in range(6)])
    with RtspServer((HEIGHT, WIDTH), pictures=tmp_path) as server:
        with open_source(server.url) as source:
            iterator = iter(source)
            seen, _ = frames(iterator, 14)
            assert source.fps == pytest.approx(25)
            assert [frame.time_s for frame in seen] == pytest.approx(np.arange(14) / 25, abs=0.01)
            expected = [shade(i % 6) / 3 for i in range(14)]
            assert [frame.image.mean() for frame in seen] == pytest.approx(expected, abs=3)
            server.pause()
            stalled = threading.Timer(1, server.resume)
            stalled.start()
            assert frames(iterator, 40)[1] > 0.9
        server.size, server.pictures, server.codec = (96, 128), None, "mjpeg"
        server.restart()
        with open_source(server.url) as source:
            assert source.size == (96, 128)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(server.url.split(":")[2].split("/")[0])))


def test_mjpeg_server() -> None:
    with MjpegServer() as server, open_source(server.url) as source:
        assert source.size == (120, 160)
        iterator = iter(source)
        frames(iterator, 10)
        server.fps = 120
        frames(iterator, 10)
        # A busy machine may send them later, and together.
        assert any(frames(iterator, 60)[1] == pytest.approx(0.5, abs=0.2) for _ in range(20))
        started, server.fault = time.monotonic(), "stall"
        threading.Timer(0.6, setattr, (server, "fault", "")).start()
        frames(iterator, 200)  # those that were sent before the fault arrive first
        assert time.monotonic() - started > 0.6
        server.fault = "freeze"
        seen, _ = frames(iterator, 200)  # those that were sent before the freeze arrive first
        assert np.array_equal(seen[-2].image, seen[-1].image)
        server.fault = ""
        server.size = (60, 80)
        with pytest.raises(FrameError, match="is 60x80"):
            frames(iterator, 200)
        assert server.connections == 1
