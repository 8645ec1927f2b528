"""Decoded frames equal those of the `ffmpeg` command, for each property of a video in a codec that has it."""

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from idol_runtime.sources.opening import open_source

pytest.importorskip("av")
FFMPEG = shutil.which("ffmpeg")
pytestmark = pytest.mark.skipif(
    FFMPEG is None, reason="ffmpeg is not installed: scripts/install-test-packages"
)

X264, X265 = (
    "-c:v libx264 -preset ultrafast -pix_fmt yuv420p",
    "-c:v libx265 -preset ultrafast -x265-params log-level=none",
)
MATRIX = "-vf scale=out_color_matrix={0} -color_primaries {1} -color_trc {1} -colorspace {1}"
INTERLACED = "-flags +ildct+ilme"
# name of the file: options of ffmpeg
FILES = {
    "h264.mp4": X264,
    "h264.ts": X264,
    "h265.mp4": f"{X265} -pix_fmt yuv420p",
    "vp8.webm": "-c:v libvpx -b:v 1M -deadline realtime",
    "vp9.webm": "-c:v libvpx-vp9 -b:v 1M -deadline realtime -cpu-used 8",
    "av1.mkv": "-c:v libsvtav1 -preset 12",
    "mpeg2.mpg": "-c:v mpeg2video -q:v 3",
    "mpeg4.avi": "-c:v mpeg4 -q:v 3",
    "prores.mov": "-c:v prores_ks",
    "mjpeg.avi": "-c:v mjpeg -q:v 3",
    "ffv1.mkv": "-c:v ffv1",
    "interlaced_h264.mp4": f"{X264} {INTERLACED}",
    "interlaced_mpeg2.ts": f"-c:v mpeg2video -q:v 3 {INTERLACED}",
    "ten_bits_h264.mp4": f"{X264} -pix_fmt yuv420p10le",
    "ten_bits_h265.mkv": f"{X265} -pix_fmt yuv420p10le",
    "422.mp4": f"{X264} -pix_fmt yuv422p",
    "444.mp4": f"{X264} -pix_fmt yuv444p",
    "rgb.mkv": "-c:v ffv1 -pix_fmt bgr0",
    "grey.mkv": "-c:v ffv1 -pix_fmt gray",
    "full_range.mp4": f"{X264} -vf scale=out_range=full -color_range pc",
    "bt709.mp4": f"{X264} {MATRIX.format('bt709', 'bt709')}",
    "bt601.mp4": f"{X264} {MATRIX.format('bt601', 'smpte170m')}",
    "varying_rate.mkv": f"{X264} -vf select=not(mod(n\\,3))+not(mod(n\\,7)) -vsync vfr",
    "odd_size.mp4": f"{X264} -vf scale=175:143 -pix_fmt yuv444p",
    "odd_size.mkv": "-vf scale=175:143 -c:v ffv1 -pix_fmt yuv420p",
}
# x' = a x + c y, y' = b x + d y for (a, b, c, d)
ORIENTATIONS = {
    "turned by 90": (0, 1, -1, 0),
    "turned by 180": (-1, 0, 0, -1),
    "turned by 270": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transposed and turned by 180": (0, -1, -1, 0),
}


def make(path: Path, options: str) -> Path:
    source = "-f lavfi -i testsrc2=size=176x144:rate=25:duration=0.6"
    command = f"{FFMPEG} -v error -y {source} {options}".split()
    made = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
    if "Unknown encoder" in made.stderr:
        pytest.skip(f"this ffmpeg lacks the encoder: {options}")
    assert made.returncode == 0, made.stderr
    return path


def decode(path: Path, height: int, width: int) -> NDArray[np.int16]:  # [T, H, W, 3]
    """Return the frames of the `ffmpeg` command, without deinterlacing or repeated frames."""
    command = f"{FFMPEG} -v error -i {path} -vsync passthrough -f rawvideo -pix_fmt rgb24 -"
    pixels = subprocess.run(command.split(), capture_output=True, check=True).stdout
    return np.frombuffer(pixels, np.uint8).reshape(-1, height, width, 3).astype(np.int16)


def compare(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_source(path) as source:
        frames = list(source)
    expected = decode(path, *source.size)
    assert len(frames) == len(expected) > 0
    for frame, pixels in zip(frames, expected, strict=True):
        # The same libraries in another version: rounding in a conversion may differ.
        assert np.abs(frame.image - pixels).mean() <= 2
    assert "damaged" not in caplog.text


@pytest.mark.parametrize("name", FILES)
def test_frames_are_those_of_ffmpeg(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    compare(make(tmp_path / name, FILES[name]), caplog)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_display_matrix_is_applied(
    tmp_path: Path, orientation: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = make(tmp_path / "clip.mp4", X264)
    a, b, c, d = (65536 * value for value in ORIENTATIONS[orientation])
    unit, track = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 2**30), path.read_bytes()
    header = track.index(b"tkhd")
    place = track.index(unit, header)
    path.write_bytes(track[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30) + track[place + 36 :])
    compare(path, caplog)
    with open_source(path) as source:
        assert source.size == ((176, 144) if a == 0 else (144, 176))
