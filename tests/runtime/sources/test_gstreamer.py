"""GStreamer pipelines: exact pictures, ends, errors with their fix, and processes that hang or crash."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idol_runtime.errors import ConfigError, SourceError
from idol_runtime.events import Event
from idol_runtime.sources.gstreamer import PipelineReader, pipeline_text
from idol_runtime.sources.live import LiveOptions
from idol_runtime.sources.opening import open_source, reader_kind, source_label
from samples.captures import read_all
from samples.waiting import until
from servers import jetson
from servers.rtsp import GSTREAMER_PYTHON

pytest.importorskip("av")
gstreamer = pytest.mark.gstreamer
DOCUMENTS = Path(__file__).parents[3] / "docs"
LIVE = "gst:videotestsrc is-live=true ! appsink"


@pytest.mark.parametrize(
    ("source", "label"),
    [
        (LIVE, "videotestsrc"),
        ("rtspsrc location=rtsp://camera/live ! decodebin ! appsink", "rtspsrc"),
        ("gst:rtsp://me:hunter2@camera/live ! decodebin ! appsink", "rtsp_camera_live"),
        ("csi:1", "csi1"),
        ("v4l2:/dev/video2", "video2"),
    ],
)
def test_forms(source: str, label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert reader_kind(source) is PipelineReader
    assert source_label(source) == label
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "csi:1"
    path.mkdir()
    assert reader_kind("csi:1") is not PipelineReader


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("csi:front", "no number of a camera: csi:front; the first CSI camera is csi:0"),
        ("v4l2:video0", "no path of a device: v4l2:video0; write for example v4l2:/dev/video0"),
        ("gst:", "does not end in appsink"),
        ("gst:videotestsrc", "does not end in appsink; add: ! appsink"),
        ("gst:videotestsrc ! appsink ! fakesink", "does not end in appsink"),
        ("gst:filesrc location='a ! appsink", "No closing quotation; close the quotation marks"),
        pytest.param(
            "gst:nosuchsrc ! appsink", 'no element "nosuchsrc"; install its package', marks=gstreamer
        ),
        pytest.param("gst:videotestsrc size=9 ! appsink", 'no property "size"', marks=gstreamer),
        pytest.param(
            "v4l2:/dev/video97",
            r"Cannot identify device '/dev/video97' \(system error: No such",
            marks=gstreamer,
        ),
        pytest.param("gst:videotestsrc num-buffers=0 ! appsink", "it has no frames", marks=gstreamer),
    ],
)
def test_an_error_names_the_fix(source: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: name)
    with pytest.raises((ConfigError, SourceError), match=message):
        open_source(source)
    assert source_label(source)


def test_gst_launch_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        SourceError, match=r"gst-launch-1.0 is not installed; .* apt install gstreamer1.0-tools"
    ):
        open_source(LIVE)


@gstreamer
def test_an_error_hides_passwords() -> None:
    secret = (
        "gst:rtspsrc location=rtsp://me:hunter2@127.0.0.1:9/live user-pw='hunter 3' ! decodebin ! appsink"
    )
    with pytest.raises(SourceError, match="Failed to connect") as caught:
        open_source(secret)
    assert "hunter" not in str(caught.value)
    assert "rtsp://***@127.0.0.1:9/live" in str(caught.value)


@gstreamer
@pytest.mark.parametrize(("height", "width"), [(240, 321), (2304, 4098)])
def test_pictures_are_exact_and_keep_their_times(height: int, width: int) -> None:
    size = f"width={width},height={height}"
    pattern = f"videotestsrc pattern=smpte num-buffers=4 ! video/x-raw,format=RGB,{size},framerate=15/1"
    png = subprocess.run(
        [
            "gst-launch-1.0",
            "-q",
            *pattern.replace("buffers=4", "buffers=1").split(),
            *["!", "pngenc", "!", "fdsink"],
        ],
        capture_output=True,
        check=True,
    )
    expected = np.asarray(Image.open(io.BytesIO(png.stdout)))
    frames = read_all(f"gst:{pattern} ! appsink")
    assert [frame.time_s for frame in frames] == pytest.approx(np.arange(4) / 15, abs=1e-3)
    assert np.array_equal(frames[0].image, expected)


@gstreamer
def test_colours_of_yuv_pictures() -> None:
    bars = "videotestsrc pattern=smpte100 num-buffers=1 ! video/x-raw,format=I420,width=280,height=40"
    (frame,) = read_all(f"gst:{bars} ! appsink")
    colours = [[255] * 3, [255, 255, 0], [0, 255, 255], [0, 255, 0], [255, 0, 255], [255, 0, 0], [0, 0, 255]]
    assert frame.image[20, 20::40] == pytest.approx(np.array(colours), abs=5)  # 219 levels of brightness


@gstreamer
def test_a_file_ends_and_a_live_pipeline_is_lost() -> None:
    with open_source("gst:videotestsrc num-buffers=3 ! appsink") as source:
        assert not source.live
        assert source.fps == 30
        assert len(list(source)) == 3
    with open_source(LIVE.replace("true", "true num-buffers=3")) as source:
        assert source.live
        with pytest.raises(SourceError, match="stopped at frame 3: it has no more frames"):
            list(source)


@gstreamer
def test_a_supervised_pipeline_is_started_again() -> None:
    events: list[Event] = []
    files = len(os.listdir("/proc/self/fd"))
    with open_source(LIVE, live=LiveOptions(), tell=events.append) as source:
        iterator = iter(source)
        for fault, reason in ((signal.SIGKILL, "signal SIGKILL"), (signal.SIGSTOP, "sent nothing for 0.5 s")):
            list(islice(iterator, 3))
            (process,) = _children()
            if fault is signal.SIGSTOP:  # only now, because a busy pipeline may be late
                source._reader._connection.opened.result()._process.limit_s = 0.5  # type: ignore[attr-defined]
            os.kill(process, fault)
            list(islice(iterator, 10))
            assert [event.kind for event in events] == ["connected", "lost", "back"]
            assert reason in events.pop(1).message
            events.pop()
    assert _children() == []
    assert len(os.listdir("/proc/self/fd")) <= files


@gstreamer
def test_waiting_does_not_mend_an_invalid_pipeline() -> None:
    with (
        open_source("gst:nosuchsrc ! appsink", live=LiveOptions(), tell=lambda _: None) as source,
        pytest.raises(ConfigError, match="no element"),
    ):
        list(source)


@gstreamer
def test_another_size_ends_the_pipeline(tmp_path: Path) -> None:
    folder = tmp_path / "zwei Größen"
    folder.mkdir()
    for i in range(6):
        Image.new("RGB", (64 + 32 * (i > 2), 48)).save(folder / f"{i}.png")
    seen = []
    pictures = f"multifilesrc location='{folder}/%d.png' caps=image/png,framerate=9/1 ! pngdec ! appsink"
    with (
        open_source(pictures) as source,
        pytest.raises(SourceError, match=r"its frames have another size, .*; open it again"),
    ):
        seen.extend(source)
    assert [frame.image.shape for frame in seen] == [(48, 64, 3)] * 3


@gstreamer
@pytest.mark.parametrize("fault", [signal.SIGSTOP, signal.SIGSEGV, None])
def test_a_process_that_hangs_or_crashes_leaves_nothing(fault: signal.Signals | None) -> None:
    files = os.listdir("/proc/self/fd")
    source = open_source(LIVE)
    iterator = iter(source)
    assert len(list(islice(iterator, 3))) == 3
    (process,) = _children()
    if fault is not None:
        os.kill(process, fault)
    if fault is signal.SIGSEGV:
        with pytest.raises(SourceError, match=r"gst-launch-1.0 was ended by signal SIGSEGV"):
            list(iterator)
    source.close()
    assert _children() == []
    assert len(os.listdir("/proc/self/fd")) <= len(files)


def _children() -> list[int]:
    """Return the pipelines that this process has started, also those that have ended and are not yet waited for."""
    children: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has ended
            children |= {int(pid) for pid in path.read_text().split()}
    return [pid for pid in children if Path(f"/proc/{pid}/comm").read_text().startswith("gst-launch")]


@gstreamer
def test_a_program_that_ends_stops_its_pipelines() -> None:
    script = f"""
import threading
from idol_runtime.sources.live import LiveOptions
from idol_runtime.sources.opening import open_source
source = open_source({LIVE!r})
threading.Thread(target=list, args=[source], daemon=True).start()
print(source._reader._process._process.pid)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    until(lambda: not Path("/proc", done.stdout.strip()).exists())


@gstreamer
def test_pipelines_of_jetsons_are_valid() -> None:
    text = "".join((DOCUMENTS / name).read_text() for name in ("streams.md", "install.md"))
    documented = re.findall(r"'gst:([^']* nv[^']*)'", text)
    assert len(documented) >= 3
    wrong = "nvarguscamerasrc ! nvvidconv ! video/x-raw,format=BGR ! appsink"
    pipelines = [pipeline_text("csi:0"), pipeline_text("v4l2:/dev/video0"), *documented, wrong]
    done = subprocess.run(
        [GSTREAMER_PYTHON, "-I", jetson.__file__, *pipelines], capture_output=True, text=True, check=True
    )
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [wrong]
