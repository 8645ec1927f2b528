"""Sample videos and images, and stand-ins for OpenCV captures."""

import io
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from idol_runtime.frames import Frame
from idol_runtime.sources.opening import open_source
from samples.waiting import LIMIT_S

__all__ = [
    "HEIGHT",
    "WIDTH",
    "FakeCapture",
    "Hanging",
    "Pipe",
    "read_all",
    "shade",
    "write_images",
    "write_stream",
    "write_video",
]

av = pytest.importorskip("av")
cv2 = pytest.importorskip("cv2")

HEIGHT, WIDTH = 48, 64


def shade(index: int) -> int:
    """Return the brightness of synthetic frame `index`; steps are large enough to survive a lossy codec."""
    return 20 + 7 * index


def write_video(path: Path, frames: int = 30, fps: float = 25.0, noise: bool = False) -> Path:
    codec = "XVID" if path.suffix == ".avi" else "mp4v"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, (WIDTH, HEIGHT))
    assert writer.isOpened()
    rng = np.random.default_rng(0)
    for i in range(frames):
        image = np.full((HEIGHT, WIDTH, 3), shade(i), np.uint8)
        if noise:
            image = rng.integers(0, 256, image.shape, dtype=np.uint8)
        writer.write(image)
    writer.release()
    return path


class Pipe:
    """A file object that can only be read or written from front to back, like a pipe or a connection."""

    def __init__(self, data: bytes = b"") -> None:
        buffer = io.BytesIO(data)
        self.read, self.write, self.getvalue = buffer.read, buffer.write, buffer.getvalue


def write_stream(
    times_s: list[float], first_shade: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> bytes:
    """Return an MPEG-4 video in Matroska without a stated length, with a frame at each of the times."""
    pipe = Pipe()
    with av.open(pipe, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, time_s in enumerate(times_s):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), shade(first_shade + i), np.uint8))
            frame.pts, frame.time_base = round(1000 * time_s), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return pipe.getvalue()


def write_images(folder: Path, names: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        Image.new("RGB", (WIDTH, HEIGHT), (shade(i), 0, 0)).save(folder / name)
    return folder


def read_all(source: Any, **options: Any) -> list[Frame]:
    with open_source(source, **options) as frames:
        return list(frames)


class FakeCapture:
    """A stand-in for `cv2.VideoCapture`: frames of the given sizes, then the end."""

    def __init__(self, sizes: list[tuple[int, int]], count: float = -1, fps: float = 25.0) -> None:
        self.sizes, self.count, self.fps = sizes, count, fps
        self.position = 0
        self.released = False

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return True

    def get(self, key: int) -> float:
        return {cv2.CAP_PROP_FPS: self.fps, cv2.CAP_PROP_FRAME_COUNT: self.count}[key]

    def set(self, key: int, value: float) -> bool:
        return False

    def grab(self) -> bool:
        self.position += 1
        return self.position <= len(self.sizes)

    def retrieve(self, buffer: NDArray[np.uint8] | None = None) -> tuple[bool, NDArray[np.uint8] | None]:
        height, width = self.sizes[self.position - 1]
        return (True, np.zeros((height, width, 3), np.uint8)) if height else (False, None)

    def release(self) -> None:
        self.released = True


class Hanging(FakeCapture):
    """A camera that sends nothing after its first frame until `go_on` is set."""

    def __init__(self) -> None:
        super().__init__([(8, 8)] * 3)
        self.hangs, self.go_on = threading.Event(), threading.Event()

    def grab(self) -> bool:
        if self.position:
            self.hangs.set()
            assert self.go_on.wait(LIMIT_S)
        return super().grab()
