"""Network streams: reconnection, ends, URLs with a length, and secrets in URLs."""

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idol_runtime.errors import SourceError
from idol_runtime.events import Event
from idol_runtime.frames import Frame
from idol_runtime.sources import live, stream
from idol_runtime.sources.live import LiveOptions
from idol_runtime.sources.opening import open_source, source_label
from idol_runtime.sources.stream import redact
from samples.captures import HEIGHT, WIDTH, Pipe, shade, write_stream

av = pytest.importorskip("av")
TIMES = [0.04 * i for i in range(8)]


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[bytes | None]:
    """A list of what the connections of a stream send, one after the other; None for one that is refused."""
    queue: list[bytes | None] = []

    def connect(_: object) -> Any:
        data = queue.pop(0)
        if data is None:
            raise av.error.ConnectionRefusedError(111, "Connection refused")
        return av.open(Pipe(data))

    monkeypatch.setattr(stream.StreamReader, "_open", connect)
    return queue


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_LONGEST_WAIT_S", 0.01)


def test_a_lost_stream_is_opened_again(connections: list[bytes | None]) -> None:
    connections += [write_stream(TIMES[:3]), None, write_stream(TIMES[:2], 3), None, None]
    seen, events = list[Frame](), list[Event]()
    address = "rtsp://admin:password@10.0.0.7/live?key=abc"
    with open_source(address, live=LiveOptions(reconnect=2), tell=events.append) as source:
        assert source.live
        with pytest.raises(SourceError, match=r"Connection refused.*no frame in 2 attempts") as caught:
            seen.extend(source)
    assert [frame.index for frame in seen] == [0, 1, 2, 3, 4]
    assert [frame.epoch for frame in seen] == [0, 0, 0, 1, 1]
    assert [frame.image.mean() for frame in seen] == pytest.approx([shade(i) for i in range(5)], abs=3)
    assert [frame.time_s for frame in seen] == pytest.approx([0.04 * i for i in range(5)], abs=0.1)
    assert all(0 < frame.arrived_s <= time.monotonic() for frame in seen)
    assert [event.kind for event in events] == ["connected", "lost", "back", "lost"]
    assert events[1].source == "rtsp://***@10.0.0.7/live?***"
    assert events[1].message == "was lost at frame 3; check the network and the sender; it is opened again"
    for text in (str(caught.value), *map(str, events)):
        assert "word" not in text
        assert "abc" not in text


def test_a_stream_that_is_not_supervised_ends_when_it_is_lost(connections: list[bytes | None]) -> None:
    connections += [write_stream(TIMES[:3])]
    with (
        open_source("rtsp://10.0.0.7/live") as source,
        pytest.raises(SourceError, match="was lost at frame 3"),
    ):
        list(source)


def test_timestamps_that_jump_do_not_move_the_clock(connections: list[bytes | None]) -> None:
    """A camera whose clock is set, ahead or back, goes on; the timestamps of a file are what they are."""
    times = [0, 0.04, 3600, 3600.04, 7200, 7200.04]
    connections += [write_stream(times)]
    seen: list[Frame] = []
    with open_source("rtsp://10.0.0.7/live") as source, pytest.raises(SourceError, match="was lost"):
        seen.extend(source)
    assert [frame.time_s for frame in seen] == pytest.approx([0.04 * i for i in range(6)], abs=0.001)


class SlowPipe:
    """A connection on which a little data arrives every few milliseconds."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        time.sleep(0.005)
        return self._data.read(min(size, 400))


def test_a_stream_that_goes_on_with_sound_alone_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pipe()
    with av.open(pipe, "w", format="matroska") as container:
        video, sound = container.add_stream("mpeg4", rate=25), container.add_stream("pcm_s16le", rate=8000)
        video.width, video.height, video.pix_fmt, sound.layout = WIDTH, HEIGHT, "yuv420p", "mono"
        for _ in range(3):
            container.mux(video.encode(av.VideoFrame(WIDTH, HEIGHT, "yuv420p")))
        container.mux(video.encode(None))
        for i in range(200):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
            samples.sample_rate, samples.pts = 8000, 800 * i
            container.mux(sound.encode(samples))
    slow = SlowPipe(pipe.getvalue())
    monkeypatch.setattr(stream.StreamReader, "_open", lambda _: av.open(slow))
    rules = LiveOptions(reconnect=0, read_timeout_s=0.2)
    with (
        open_source("rtsp://10.0.0.7/live", live=rules, tell=lambda _: None) as source,
        pytest.raises(SourceError, match=r"sent no picture that can be decoded for 0\.2 s"),
    ):
        list(source)
    assert slow.read(1), "the rest was not read"


class Handler(BaseHTTPRequestHandler):
    """Sends a video in the way that the path names."""

    protocol_version = "HTTP/1.1"
    requests = 0
    data = write_stream(TIMES)

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        type(self).requests += 1
        way, data = self.path.strip("/"), self.data
        self.send_response(200)
        if way == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n" % len(data) + data + b"\r\n0\r\n\r\n")
            return
        self.close_connection = True
        if way in ("length", "short"):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: 4 * len(data) // 5] if way == "short" else data)


@contextmanager
def server() -> Iterator[str]:
    """Yield the address of an HTTP server."""
    Handler.requests = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize(
    ("way", "rules", "requests"),
    [
        ("chunked", LiveOptions(), 1),
        ("length", LiveOptions(), 1),
        ("close", LiveOptions(), 2),
        ("close", None, 1),
    ],
)
def test_a_file_over_http_is_read_once(
    way: str, rules: LiveOptions | None, requests: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a stated length, a supervised stream is opened again: a stream continues, a file starts again."""
    with server() as address, open_source(f"{address}/{way}", live=rules) as source:
        times = [frame.time_s for frame in source]
    assert times == pytest.approx(TIMES)
    assert Handler.requests == requests
    assert ("closed the connection after 8 frames" in caplog.text) == (way == "close")


@pytest.mark.parametrize("scheme", ["", "file://", "file:"])
def test_a_playlist_reads_no_local_file(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg refuses it; a camera that sends a playlist must not show a file of this machine."""
    secret = tmp_path / "secret.ts"
    with av.open(str(secret), "w", format="mpegts") as container:
        video = container.add_stream("mpeg2video", rate=25)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for _ in range(10):
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8))))
        container.mux(video.encode(None))
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"

    def answer(handler: Handler) -> None:
        listed = handler.path == "/list.m3u8"
        body = playlist.format(f"{scheme}{secret}" if scheme else "near.ts").encode()
        body = body if listed else secret.read_bytes()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/vnd.apple.mpegurl" if listed else "video/mp2t")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    monkeypatch.setattr(Handler, "do_GET", answer)
    with server() as address:
        if scheme:
            with pytest.raises(SourceError, match="cannot open"):
                open_source(f"{address}/list.m3u8")
        else:
            open_source(f"{address}/list.m3u8").close()


def test_a_file_whose_connection_is_lost_does_not_start_again() -> None:
    seen: list[Frame] = []
    with (
        server() as address,
        open_source(f"{address}/short", live=LiveOptions()) as source,
        pytest.raises(SourceError, match="was lost, and the server sends it from its beginning"),
    ):
        seen.extend(source)
    assert 0 < len(seen) < 8


def test_a_stream_that_cannot_be_opened_keeps_its_password() -> None:
    with pytest.raises(
        SourceError, match=r"cannot open rtsp://\*\*\*@127.*: Connection refused; check"
    ) as caught:
        open_source("rtsp://admin:hunter2@127.0.0.1:9/live")
    assert "hunter2" not in str(caught.value)


def test_an_unknown_scheme() -> None:
    with pytest.raises(SourceError, match=r"s3://\*\*\*@bucket/clip.*rtsp"):
        open_source("s3://key:secret@bucket/clip.mp4")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host/path", "http://host/path"),
        ("http://host:80/path?token=hunter2", "http://host:80/path?***"),
        ("rtsp://user:hunter2@host:554/path?token=hunter2", "rtsp://***@host:554/path?***"),
        ("rtsp://user:hun/ter:2@host/path", "rtsp://***@host/path"),
        ("rtsp://user:hun?ter2@host/path", "rtsp://***"),
        ("rtsp://user:hun@ter2@host/path", "rtsp://***"),
        ("rtsp://user:hunter2@host/path?mail=me@home", "rtsp://***"),
        ("rtsp:/user:hunter2@host/path", "rtsp:/***@host/path"),
        ("rtsp://host/user=admin_password=hunter2_channel=1_stream=0.sdp", "rtsp://host/***"),
        ("rtsp://host/ch1/Password=hunter2/main", "rtsp://host/ch1/***"),
        ("http://host/live/access_token=hunter2", "http://host/live/***"),
        ("http://host/apikey=hunter2/live", "http://host/***"),
        ("srt://host/passphrase=hunter2", "srt://host/***"),
        ("rtmp://a.example.org/live2/hunter-2", "rtmp://a.example.org/live2/***"),
        ("rtmps://a.example.org/x/y/hunter2", "rtmps://a.example.org/x/***"),
        ("rtmp://a.example.org/live", "rtmp://a.example.org/live"),
    ],
)
def test_redaction(url: str, shown: str) -> None:
    assert redact(url) == shown
    assert "hunter" not in source_label(url)


def test_a_url_with_one_slash() -> None:
    with pytest.raises(SourceError, match=r"rtsp:/\*\*\*@host/live: two slashes follow"):
        open_source("rtsp:/user:hunter2@host/live")


@given(st.text(alphabet="@?/:x", max_size=6), st.text(alphabet="@?/:x", max_size=6))
def test_no_url_shows_its_secrets(before: str, after: str) -> None:
    assert "S" not in redact(f"rtsp://user:{before}SSS{after}@host/path?key=SSS{before}")
