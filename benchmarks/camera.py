"""A synthetic camera on loopback, and a stub network that detects the objects of its scene.

The camera is a process that sends JPEG pictures over HTTP. Each picture shows a number in its first rows, which the
network reads, so that its outputs depend on the picture alone. The scene has one object that stays and several that
come, are hidden for a while and go; `Scene.tracks` is the number of identities that a correct run assigns.
"""

import contextlib
import io
import multiprocessing
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from idol_runtime.backends.base import BatchLimit
from idol_runtime.config import AssociationConfig, Category, Preprocessing, StreamConfig
from idol_runtime.frames import RGBImage
from idol_runtime.tracking.detection import NetworkOutput

__all__ = ["CONFIG", "SIZE", "Scene", "StubNetwork", "camera", "milliseconds", "picture", "read_number"]

SIZE, NETWORK = (160, 256), (240, 384)
BITS = 32  # of a number, each a square of 8 pixels
QUERIES, CLASSES, WIDTH = 60, 8, 128
CONFIG = StreamConfig(
    tuple(Category(f"class {i}", i + 1) for i in range(CLASSES)),
    Preprocessing(short_side=NETWORK[0], max_side=2 * NETWORK[0]),
    AssociationConfig(max_age_s=0),  # frames alone, so that identities do not depend on the speed of the run
)


def milliseconds() -> int:
    """Return the monotonic time in milliseconds, modulo 2**32; the same in all processes of a machine."""
    return int(time.monotonic() * 1000) % 2**BITS


def picture(number: int, ground: RGBImage) -> RGBImage:
    """Return a picture that shows the number in front of `ground` [160, 256, 3]."""
    image = ground.copy()
    bits = number >> np.arange(BITS) & 1
    image[:8] = np.repeat(255 * bits, 8)[None, :, None]
    return image


def read_number(image: RGBImage) -> int:
    """Return the number of a picture [h, w, 3] of any size and of the shape of `SIZE`."""
    height, width = image.shape[:2]
    bits = image[height // 40, (2 * np.arange(BITS) + 1) * width // (2 * BITS), 1] > 127
    return int((bits << np.arange(BITS)).sum())


@contextlib.contextmanager
def camera(fps: float | None = None, *, clips: bool = False) -> Iterator[str]:
    """Run a camera in a process of its own and yield its URL.

    Args:
        fps: pictures per second; their numbers are `milliseconds` at which they are sent. None: as many as the reader
            takes, numbered from 0.
        clips: show the synthetic clips that models are verified on instead of a still background.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, fps, clips), daemon=True)
    process.start()
    there.close()
    try:
        yield f"http://127.0.0.1:{here.recv()}/"
    finally:
        here.close()
        process.join()


def _serve(connection: Connection, fps: float | None, clips: bool) -> None:
    grounds = _clips() if clips else [_ground()]

    class Handler(BaseHTTPRequestHandler):
        disable_nagle_algorithm = True  # which would hold pictures back for 40 ms

        def log_message(self, *_: object) -> None:
            """Write no log."""

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=picture")
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self._send(time.monotonic())

        def _send(self, started: float) -> None:
            for sent in count():
                if fps and (early := started + sent / fps - time.monotonic()) > 0:
                    time.sleep(early)
                buffer = io.BytesIO()
                shown = picture(milliseconds() if fps else sent, grounds[sent % len(grounds)])
                Image.fromarray(shown).save(buffer, "JPEG", quality=85)
                head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {buffer.tell()}\r\n\r\n"
                self.wfile.write(head.encode() + buffer.getvalue() + b"\r\n")

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection.send(server.server_port)
        with contextlib.suppress(EOFError):
            connection.recv()  # until the other end is closed
        server.shutdown()


def _ground() -> RGBImage:
    small = np.random.default_rng(0).integers(0, 256, (10, 16, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize(SIZE[::-1], Image.Resampling.BICUBIC))


def _clips() -> list[RGBImage]:
    from idol_export.verify.clips import synthetic_clips

    return [image for clip in synthetic_clips(SIZE) for image in clip]


class Scene:
    """A scene of objects on a grid: the first one stays; the others are replaced after 60 to 128 frames.

    An object is hidden in the middle of its life: not at all, for 4 frames, or for 14, after which a tracker with a
    `max_age` of 10 frames starts a new track. Embeddings of different objects are closer to that of the object that
    stays than to each other, so that an object that appears continues no track of another one.
    """

    _LIVES = 60 + 17 * np.arange(9) % 77  # frames
    _HIDDEN = np.array((0, 4, 14))  # frames, by life

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.objects = 1 + len(self._LIVES)
        looks = rng.standard_normal((99, len(self._LIVES), WIDTH), np.float32)  # repeated after 99 lives
        looks *= 6 / np.linalg.norm(looks, axis=2, keepdims=True)
        looks[:, :, 0] = 1
        self._looks = looks
        self._stays = np.zeros((1, WIDTH), np.float32)
        self._stays[0, 0] = 20

    def at(self, frame: int) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32]]:
        """Return which objects are visible [n], their centres [n, 2] as x, y in 0..1, and their embeddings [n, C]."""
        life, age = np.divmod(frame, self._LIVES)
        middle, hidden = self._LIVES // 2, self._HIDDEN[life % len(self._HIDDEN)]
        visible = np.r_[True, (age < middle) | (age >= middle + hidden)]
        looks = self._looks[life % len(self._looks), np.arange(len(life))]
        drift = np.r_[0, age / self._LIVES - 0.5] * 0.08
        place = np.arange(self.objects)
        centres = np.stack([(place % 5 + 0.5) / 5 + drift, (place // 5 + 0.6) / 2.2], 1)
        return visible, centres.astype(np.float32), np.concatenate([self._stays, looks])

    def tracks(self, frames: int) -> int:
        """Return the number of identities in the first frames, with the default `max_age`."""
        lives = -(-frames // self._LIVES)
        back = (
            2 * self._LIVES + self._LIVES // 2 + self._HIDDEN[2]
        )  # first return after 14 frames, then every 3 lives
        again = np.maximum(0, (frames - 1 - back) // (3 * self._LIVES) + 1)
        return 1 + int((lives + again).sum())


class StubNetwork:
    """A backend that finds the objects of the camera's scene, each with a duplicate that mask NMS removes.

    Attributes:
        frames: number of frames processed.
    """

    name, graph, reason, network_size, batch = "stub (numpy)", None, "", NETWORK, BatchLimit()

    def __init__(self, delay_s: float = 0.0, number_per_frame: float = 1.0) -> None:
        """Create the network.

        Args:
            delay_s: time that a frame takes at least, in seconds, as if a device computed it.
            number_per_frame: increase of the camera's number from one frame of the scene to the next.
        """
        self.frames = 0
        self._delay_s, self._number_per_frame = delay_s, number_per_frame
        self._scene, rng = Scene(), np.random.default_rng(1)
        n = self._scene.objects
        self._logits = np.full((QUERIES, CLASSES), -6, np.float32)
        self._boxes = np.full((QUERIES, 4), 0.5, np.float32)
        self._boxes[:n, 2:], self._boxes[n : 2 * n, 2:] = (0.2, 0.36), (0.12, 0.22)
        self._features = rng.standard_normal((8, NETWORK[0] // 8 + 2, NETWORK[1] // 8), np.float32)
        # The mask head computes 40 - |x| - |y| - noise: rough diamonds around the reference.
        first = np.zeros((8, 10), np.float32)
        first[0, 0], first[1, 0], first[2, 1], first[3, 1], first[4, 2] = 1, -1, 1, -1, 1.5
        layers = (
            first.ravel(),
            np.eye(8, dtype=np.float32).ravel(),
            [-1.0] * 5 + [0.0] * 3,
            [0.0] * 16,
            [40.0],
        )
        self._params = np.tile(np.concatenate(layers).astype(np.float32), (QUERIES, 1))

    def infer(self, images: NDArray[np.uint8]) -> list[NetworkOutput]:
        """Return the objects of each picture."""
        started = time.monotonic()
        outputs = [self._output(read_number(image)) for image in images]
        self.frames += len(images)
        if self._delay_s:
            time.sleep(max(0.0, started + self._delay_s - time.monotonic()))
        return outputs

    def _output(self, number: int) -> NetworkOutput:
        frame = int(number / self._number_per_frame)
        visible, centres, looks = self._scene.at(frame)
        n = len(visible)
        logits, boxes = self._logits.copy(), self._boxes.copy()
        embeddings, reference = np.zeros((QUERIES, WIDTH), np.float32), np.zeros((QUERIES, 2), np.float32)
        rows = np.arange(n)
        wave = 0.3 * np.sin(frame / 7 + rows)
        for first, score in ((0, 2.0), (n, 0.5)):
            logits[first + rows[visible], rows[visible] % CLASSES] = (score + wave)[visible]
            boxes[first : first + n, :2] = centres
            embeddings[first : first + n] = looks
            reference[first : first + n] = centres * (NETWORK[1], NETWORK[0])
        return NetworkOutput(logits, boxes, embeddings, self._features, self._params, reference)

    def close(self) -> None:
        """Do nothing."""
