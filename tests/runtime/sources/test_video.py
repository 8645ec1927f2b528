"""Video files and pipes: every frame in order, times, damaged files, and names."""

import gc
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idol_runtime.errors import SourceError
from idol_runtime.sources import container as container_module
from idol_runtime.sources import video as video_module
from idol_runtime.sources.opening import open_source
from samples.captures import HEIGHT, WIDTH, read_all, shade, write_stream, write_video

av = pytest.importorskip("av")
cv2 = pytest.importorskip("cv2")
VARYING = [0.0, 0.05, 0.3, 0.31, 0.9]


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_a_video_yields_all_its_frames(tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    path = write_video(tmp_path / f"clip{suffix}")
    with open_source(path) as source:
        assert (source.fps, source.frame_count, source.size) == (25.0, 30, (HEIGHT, WIDTH))
        assert not source.live
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(30))
    assert [frame.time_s for frame in frames] == pytest.approx([i / 25 for i in range(30)])
    for frame in frames:
        assert frame.image.dtype == np.uint8
        assert frame.image.flags.c_contiguous
        assert frame.image.flags.writeable
        assert frame.image.mean() == pytest.approx(shade(frame.index), abs=3)
    assert not caplog.text


def test_colours_come_as_rgb(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "red.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 25, (WIDTH, HEIGHT))
    for _ in range(3):
        writer.write(np.full((HEIGHT, WIDTH, 3), (0, 0, 250), np.uint8))
    writer.release()
    red, green, blue = read_all(tmp_path / "red.mp4")[0].image.mean(axis=(0, 1))
    assert red > 230
    assert max(green, blue) < 20


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_video_cut_short_yields_its_good_frames_first(tmp_path: Path, suffix: str, stride: int) -> None:
    whole = write_video(tmp_path / f"whole{suffix}", noise=True).read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(whole[: len(whole) // 2])
    seen: list[int] = []
    complaint = r"ends at frame \d+ of \d+: .* cut short"
    source = open_source(tmp_path / f"cut{suffix}", stride=stride)
    with source, pytest.raises(SourceError, match=complaint) as caught:
        seen.extend(frame.index for frame in source)
    end = int(str(caught.value).split("ends at frame ")[1].split()[0])
    assert 3 <= end < 28
    assert seen == list(range(0, end, stride))


def test_damage_inside_a_video_ends_it_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = bytearray(write_video(tmp_path / "whole.avi", noise=True).read_bytes())
    for position in range(len(data) // 2, len(data) // 2 + 400, 20):
        data[position] ^= 0xFF
    (tmp_path / "damaged.avi").write_bytes(data)
    assert len(read_all(tmp_path / "damaged.avi")) == 30
    assert "of 30 frames are damaged" in caplog.text


def test_joined_files_are_whole(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The counters of transport streams start again where two of them are joined, and their times as well."""
    parts = []
    for first in (0, 6):
        path = tmp_path / f"{first}.ts"
        with av.open(path, "w") as container:
            stream = container.add_stream("mpeg2video", rate=25)
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
            for i in range(first, first + 6):
                image = np.full((HEIGHT, WIDTH, 3), shade(i), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
            container.mux(stream.encode(None))
        parts.append(path.read_bytes())
    (tmp_path / "joined.ts").write_bytes(b"".join(parts))
    frames = read_all(tmp_path / "joined.ts")
    assert [frame.image.mean() for frame in frames] == pytest.approx([shade(i) for i in range(12)], abs=3)
    assert [frame.time_s for frame in frames] == pytest.approx([0.04 * i for i in range(12)], abs=0.001)
    assert not caplog.text


def test_times_are_presentation_times(tmp_path: Path) -> None:
    (tmp_path / "varying.mkv").write_bytes(write_stream(VARYING))
    with open_source(tmp_path / "varying.mkv") as source:
        assert (source.frame_count, source.live) == (None, False)
        assert [frame.time_s for frame in source] == pytest.approx(VARYING)


@pytest.mark.parametrize("first", ["sound", "video"])
def test_sound_beside_the_video_changes_nothing(tmp_path: Path, first: str) -> None:
    """The pictures that the decoder holds at the end have their times, whatever stream ends first."""
    with av.open(tmp_path / "both.mkv", "w") as container:
        kinds = {"video": ("libx264", 25), "sound": ("pcm_s16le", 8000)}
        streams = {
            name: container.add_stream(*kinds[name]) for name in sorted(kinds, key=lambda n: n != first)
        }
        video, sound = streams["video"], streams["sound"]
        video.width, video.height, video.pix_fmt, sound.layout = WIDTH, HEIGHT, "yuv420p", "mono"
        for index in range(20):
            picture = np.full((HEIGHT, WIDTH, 3), shade(index), np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), format="s16", layout="mono")
        samples.sample_rate = 8000
        container.mux(sound.encode(samples))
    frames = read_all(tmp_path / "both.mkv")
    assert [frame.time_s for frame in frames] == pytest.approx([i / 25 for i in range(20)])


def test_pictures_are_freed_without_the_garbage_collector(tmp_path: Path) -> None:
    """PyAV's pictures have megabytes, but are small objects for the collector, which comes after hundreds of them."""

    def count() -> int:
        return sum(type(thing) is av.VideoFrame for thing in gc.get_objects())

    path = write_video(tmp_path / "clip.mp4")
    gc.collect()
    before = count()
    gc.disable()
    try:
        assert len(read_all(path)) == 30
        assert count() <= before
    finally:
        gc.enable()


def test_no_video_at_all(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("no video")
    with pytest.raises(SourceError, match=r"notes\.mp4 is not a video"):
        open_source(tmp_path / "notes.mp4")


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile link\n",
    ],
)
def test_a_playlist_reads_no_other_file(tmp_path: Path, playlist: str) -> None:
    """A file in a folder that a client may read must not lead to one that it may not read."""
    secret = write_video(tmp_path / "secret.avi").rename(tmp_path / "secret.ts")
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "link").symlink_to(secret)
    path = tmp_path / "media" / "list"
    path.write_text(playlist.format(secret))
    with pytest.raises(SourceError, match="or is a playlist of other files"):
        open_source(path)


def test_huge_pictures_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_module, "_MAX_PIXELS", 100_000)
    path = tmp_path / "a.mjpeg"
    for first, complaint in (
        (100, "a.mjpeg ends at frame 1"),
        (1000, "frames of 500x1000 pixels; scale them"),
    ):
        pictures = io.BytesIO()
        for width in (first, 1000):
            Image.new("RGB", (width, width // 2)).save(pictures, "JPEG")
        path.write_bytes(pictures.getvalue())
        with pytest.raises(SourceError, match=complaint):
            read_all(path)


def test_sound_is_no_video(tmp_path: Path) -> None:
    with av.open(tmp_path / "sound.mp4", "w") as container:
        stream = container.add_stream("aac", rate=48_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(SourceError, match=r"sound\.mp4 has no video, only other data"):
        open_source(tmp_path / "sound.mp4")


def test_an_unknown_codec_is_named(tmp_path: Path) -> None:
    path = write_video(tmp_path / "unknown.avi")
    path.write_bytes(path.read_bytes().replace(b"XVID", b"Qv99").replace(b"xvid", b"Qv99"))
    with pytest.raises(SourceError, match=r"no working decoder for the codec \(Qv99"):
        open_source(path)


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(SourceError, match="0 bytes"):
        open_source(tmp_path / "empty.mp4")


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_video_without_frames(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(SourceError, match=r"no frames|not a video|has no video"):
        open_source(write_video(tmp_path / f"none{suffix}", frames=0))


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked.mp4").write_text("x")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SourceError, match=r"cannot read .*locked\.mp4: Permission denied"):
        open_source(tmp_path / "locked.mp4")


@pytest.mark.parametrize("name", [b"2026-11-27T23:00:00.mp4", b"caf\xe9 100%d.mp4", b"rtsp:clip.mp4"])
def test_any_name_is_a_path(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        Path(os.fsdecode(name)).write_bytes(video.read_bytes())
    except OSError:
        pytest.skip("this file system has no such names")
    assert len(read_all(os.fsdecode(name))) == 30


def test_a_pipe_loses_no_frame(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=lambda: pipe.write_bytes(write_stream(VARYING)), daemon=True).start()
    with open_source(pipe) as source:
        assert source.live
        assert [frame.time_s for frame in source] == pytest.approx(VARYING)


def test_an_animation_that_is_cut_in_a_pipe(tmp_path: Path) -> None:
    """FFmpeg decodes the part of the last picture that has arrived, and reports no error."""
    rng, file = np.random.default_rng(0), io.BytesIO()
    first, *more = (Image.fromarray(rng.integers(0, 255, (32, 48, 3), np.uint8)) for _ in range(5))
    first.save(file, "GIF", save_all=True, append_images=more, duration=40)
    contents = file.getvalue()
    for number, share in enumerate((1.0, 0.7)):
        pipe = tmp_path / f"pipe{number}"
        os.mkfifo(pipe)
        sent = contents[: int(share * len(contents))]
        threading.Thread(target=pipe.write_bytes, args=(sent,), daemon=True).start()
        with open_source(pipe) as source:
            if share == 1:
                assert len(list(source)) == 5
            else:
                with pytest.raises(SourceError, match="the file is cut short or damaged"):
                    list(source)


def test_a_count_that_a_pipe_does_not_reach_is_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, pipe = tmp_path / "whole.mkv", tmp_path / "pipe"
    write_video(whole)
    os.mkfifo(pipe)
    contents = whole.read_bytes()[: int(0.6 * whole.stat().st_size)]
    threading.Thread(target=pipe.write_bytes, args=(contents,), daemon=True).start()
    with open_source(pipe) as source:
        count = len(list(source))
    assert 0 < count < 30
    assert f"has {count} frames, its container states about 30" in caplog.text


def test_standard_input_loses_no_frame() -> None:
    program = (
        "from idol_runtime.sources.opening import open_source; print(len(list(open_source('/dev/stdin'))))"
    )
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, input=write_stream(VARYING), capture_output=True, check=True)
    assert run.stdout == b"5\n"


def test_a_silent_pipe_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_module, "SILENCE_S", 0.2)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match=r"sent nothing for 0\.2 s; check that its writer runs"):
        open_source(tmp_path / "pipe")


@pytest.mark.parametrize("sent", [b"", write_stream(VARYING)])
def test_a_signal_ends_the_wait_for_a_pipe(tmp_path: Path, sent: bytes) -> None:
    """Also inside FFmpeg, which calls back into Python to read the pipe."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = os.open(pipe, os.O_RDWR)  # never closed: the pipe has no end
    os.write(writer, sent)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM))

    def read() -> None:
        timer.start()  # here, because a busy machine may go on only after the signal
        read_all(pipe)

    try:
        with pytest.raises(KeyboardInterrupt):
            read()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it may still come after another error
        timer.cancel()
        timer.join()
        signal.signal(signal.SIGTERM, before)
        os.close(writer)


@pytest.mark.clips
@pytest.mark.parametrize(
    ("name", "frames", "size"), [("bedroom", 200, (540, 960)), ("dancers", 270, (360, 640))]
)
def test_real_clips_are_read_to_their_end(clips: Path, name: str, frames: int, size: tuple[int, int]) -> None:
    with open_source(clips / f"{name}.mp4") as source:
        assert (source.frame_count, source.size) == (frames, size)
        times = [frame.time_s for frame in source]
    assert len(times) == frames
    assert times == sorted(times)
