"""Network streams: reconnection, URLs with a length, and secrets in URLs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idol_runtime.errors import SourceError
from idol_runtime.sources import stream
from idol_runtime.sources.opening import open_source, source_label
from idol_runtime.sources.stream import redact
from samples.captures import FakeCapture

cv2 = pytest.importorskip("cv2")


def test_a_lost_stream_is_opened_again(fake: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr(stream.time, "sleep", naps.append)
    fake += [FakeCapture([(8, 8)] * n, 0) for n in (3, 0, 2, 0, 0, 0, 0, 0)]
    seen = []
    with open_source("rtsp://admin:password@10.0.0.7/live?key=abc") as source:
        assert source.live
        with pytest.raises(
            SourceError, match=r"rtsp://\*\*\*@10\.0\.0\.7/live\?\*\*\* was lost at frame 5"
        ) as caught:
            seen.extend(frame.index for frame in source)
    assert seen == [0, 1, 2, 3, 4]
    assert naps == [1, 2, 1, 2, 4, 8, 16]
    assert "word" not in str(caught.value)
    assert "abc" not in str(caught.value)


def test_a_url_with_a_length_is_no_live_stream(fake: list[Any]) -> None:
    fake.append(FakeCapture([(8, 8)] * 3, 3))
    with open_source("https://example.org/clip.mp4") as source:
        assert not source.live
        assert len(list(source)) == 3


def test_a_stream_that_cannot_be_opened_keeps_its_password() -> None:
    with pytest.raises(SourceError, match=r"cannot open rtsp://\*\*\*@127") as caught:
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
