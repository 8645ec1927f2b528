"""Sample videos and images, and stand-ins for OpenCV captures."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from idol_runtime.frames import Frame
from idol_runtime.sources.opening import open_source

__all__ = ["HEIGHT", "WIDTH", "FakeCapture", "Hanging", "read_all", "shade", "write_images", "write_video"]

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

    def __init__(
        self, sizes: list[tuple[int, int]], count: float, fps: float = 25.0, clock: bool = True
    ) -> None:
        self.sizes, self.count, self.fps, self.clock = sizes, count, fps, clock
        self.position = 0
        self.released = False

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return True

    def get(self, key: int) -> float:
        stamp = 1000 * (self.position - 1) / self.fps if self.clock else 0.0
        known = {
            cv2.CAP_PROP_FPS: self.fps,
            cv2.CAP_PROP_FRAME_COUNT: self.count,
            cv2.CAP_PROP_POS_MSEC: stamp,
        }
        return known[key]

    def set(self, key: int, value: float) -> bool:
        return False

    def grab(self) -> bool:
        self.position += 1
        return self.position <= len(self.sizes)

    def retrieve(self) -> tuple[bool, NDArray[np.uint8] | None]:
        height, width = self.sizes[self.position - 1]
        return (True, np.zeros((height, width, 3), np.uint8)) if height else (False, None)

    def release(self) -> None:
        self.released = True


class Hanging(FakeCapture):
    """A camera that sends nothing after its first frame until `go_on` is set."""

    def __init__(self) -> None:
        super().__init__([(8, 8)] * 3, -1)
        self.hangs, self.go_on = threading.Event(), threading.Event()

    def grab(self) -> bool:
        if self.position:
            self.hangs.set()
            assert self.go_on.wait(20)
        return super().grab()
