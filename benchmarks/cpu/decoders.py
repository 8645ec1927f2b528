"""PyAV and OpenCV as decoders of video files: frames against those of `ffmpeg`, speed, size and licence.

    python -m benchmarks.cpu.decoders [--rounds 7] [--json OUT]

Needs the command `ffmpeg`, which makes the videos and decodes them for the comparison. A frame is right if it differs
from ffmpeg's by 2 of 255 at most, on average. The times of a 720x1280 H.264 video, from the file to RGB arrays, are
interleaved; `ratio` is the median over rounds of PyAV's time divided by OpenCV's. Exits with 1 if a frame of PyAV is
wrong.
"""

import argparse
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np

from benchmarks.machine import machine_facts, report_result
from idol_runtime.errors import SourceError
from idol_runtime.frames import RGBImage
from idol_runtime.optional import load_av, load_cv2
from idol_runtime.sources.opening import open_source

_SIZE = 144, 176
# Name and options of ffmpeg, for properties in which the decoders may differ.
VIDEOS = {
    "h264.mp4": "-c:v libx264 -pix_fmt yuv420p",
    "interlaced.mp4": "-c:v libx264 -pix_fmt yuv420p -flags +ildct+ilme",
    "ten_bits.mp4": "-c:v libx264 -pix_fmt yuv420p10le",
    "422.mp4": "-c:v libx264 -pix_fmt yuv422p",
    "full_range.mp4": "-vf scale=out_range=full -c:v libx264 -pix_fmt yuv420p -color_range pc",
    "bt709.mp4": "-vf scale=out_color_matrix=bt709 -c:v libx264 -pix_fmt yuv420p -colorspace bt709",
    "av1.mkv": "-c:v libsvtav1 -preset 12",
    "prores.mov": "-c:v prores_ks",
    "ffv1.mkv": "-c:v ffv1",
}
Decoder = Callable[[Path], Iterator[RGBImage]]


def pyav(path: Path) -> Iterator[RGBImage]:
    """Yield the frames of this project's reader."""
    with open_source(path) as source:
        for frame in source:
            yield frame.image


def opencv(path: Path) -> Iterator[RGBImage]:
    """Yield the frames of `cv2.VideoCapture`."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # quiet
    cv2 = load_cv2("the comparison")
    capture = cv2.VideoCapture(str(path))
    while True:
        decoded, image = capture.read()
        if not decoded:
            return
        yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


DECODERS: dict[str, Decoder] = {"pyav": pyav, "opencv": opencv}


def make(path: Path, options: str, size: tuple[int, int] = _SIZE, seconds: float = 1) -> None:
    """Write a test picture that moves as a video."""
    source = f"testsrc2=size={size[1]}x{size[0]}:rate=25:duration={seconds}"
    command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", source, *options.split(), str(path)]
    subprocess.run(command, check=True, capture_output=True)


def wrong_frames(decoder: Decoder, path: Path) -> int:
    """Return the number of frames that are missing, surplus or different from ffmpeg's."""
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = subprocess.run(command, check=True, capture_output=True).stdout
    expected = np.frombuffer(pixels, np.uint8).reshape(-1, *_SIZE, 3)
    try:
        frames = list(decoder(path))
    except SourceError:
        frames = []
    wrong = (
        a is None or b is None or a.shape != b.shape or np.abs(a.astype(int) - b).mean() > 2
        for a, b in zip_longest(frames, expected)
    )
    return sum(map(int, wrong))


def times_ms(path: Path, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds per frame of every decoder and round, interleaved."""
    times: dict[str, list[float]] = {name: [] for name in DECODERS}
    for _ in range(rounds):
        for name, decoder in DECODERS.items():
            start = time.perf_counter()
            count = sum(1 for _ in decoder(path))
            times[name].append((time.perf_counter() - start) * 1e3 / count)
    return times


def installed_megabytes(package: str) -> float:
    """Return the size of an installed package's files."""
    files = importlib.metadata.files(package) or []
    return round(
        sum(Path(file.locate()).stat().st_size for file in files if Path(file.locate()).is_file()) / 1e6, 1
    )


def ffmpeg_licences() -> dict[str, str]:
    """Return the licence that the FFmpeg of each package states in its library."""
    folders = {"pyav": load_av("the comparison"), "opencv": load_cv2("the comparison")}
    licences = {}
    for name, module in folders.items():
        place = Path(str(module.__file__)).parents[1]
        library = next(place.glob(f"{'av' if name == 'pyav' else 'opencv_python*'}.libs/libavcodec-*"), None)
        text = library.read_bytes() if library else b""
        stated = text.partition(b"libavcodec license: ")[2].partition(b"\0")[0].decode()
        licences[name] = stated + (", with x264 and x265 (GPL)" if b"--enable-libx264" in text else "")
    return licences


def main(arguments: list[str]) -> int:
    """Run the comparison and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the timing (default: 7)")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    options = parser.parse_args(arguments)
    if shutil.which("ffmpeg") is None:
        raise SystemExit("ffmpeg not found; install it: apt-get install ffmpeg")
    with tempfile.TemporaryDirectory() as folder:
        wrong = {}
        for name, encoder in VIDEOS.items():
            make(Path(folder) / name, encoder)
            wrong[name] = {
                key: wrong_frames(decoder, Path(folder) / name) for key, decoder in DECODERS.items()
            }
        make(Path(folder) / "large.mp4", f"{VIDEOS['h264.mp4']} -vf noise=alls=10:allf=t", (720, 1280), 4)
        times = times_ms(Path(folder) / "large.mp4", options.rounds)
    packages = {"pyav": "av", "opencv": "opencv-python"}
    report = {
        "machine": machine_facts(),
        "versions": {name: importlib.metadata.version(package) for name, package in packages.items()},
        "installed_mb": {name: installed_megabytes(package) for name, package in packages.items()},
        "ffmpeg_licence": ffmpeg_licences(),
        "wrong_frames_of_25": wrong,
        "ms_per_frame_720x1280": {name: round(float(np.median(values)), 2) for name, values in times.items()},
        "ratio": round(float(np.median(np.divide(times["pyav"], times["opencv"]))), 3),
        "passed": not any(row["pyav"] for row in wrong.values()),
    }
    return report_result(report, options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
