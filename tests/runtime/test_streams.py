"""Tests of several streams through one network: each has the results of the stream alone."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idol_runtime.backends.base import BatchLimit
from idol_runtime.config import AssociationConfig, Category, Preprocessing, StreamConfig
from idol_runtime.errors import BackendError, ConfigError, FrameError
from idol_runtime.pipeline import Pipeline
from idol_runtime.streams import AT_ONCE, Streams
from idol_runtime.tracking.detection import NetworkOutput
from idol_runtime.tracking.results import FrameResult

CONFIG = StreamConfig(
    categories=(Category("cat", 1), Category("dog", 2)),
    preprocessing=Preprocessing(short_side=None),
    association=AssociationConfig(mask_nms_iou=0.9),
)
SIZES = {"door": (32, 64), "yard": (64, 32), "roof": (32, 64), "gate": (64, 64), "well": (32, 64)}


class NoiseBackend:
    """A backend that detects some of four objects, chosen from the bytes of the image."""

    name, graph, reason = "noise (numpy)", None, ""

    def __init__(self, network_size: tuple[int, int] | None = None, most: int | None = None) -> None:
        self.network_size, self.batch = network_size, BatchLimit(most, "" if most is None else "it is small")
        self.seen: list[int] = []
        self.broken = self.closed = False

    def infer(self, images: np.ndarray) -> list[NetworkOutput]:
        if self.broken:
            raise BackendError("out of memory")
        self.seen.append(len(images))
        return [self._one(image) for image in images]

    def _one(self, image: np.ndarray) -> NetworkOutput:
        rng = np.random.default_rng(zlib.crc32(image.tobytes()))
        arrays = (
            2 * rng.normal(size=(4, 2)),
            rng.uniform(0.2, 0.6, (4, 4)),
            6 * np.eye(4, 8) + 0.1 * rng.normal(size=(4, 8)),
            rng.normal(size=(8, image.shape[0] // 8, image.shape[1] // 8)),
            rng.normal(size=(4, 169)),
            rng.uniform(0, 32, (4, 2)),
        )
        return NetworkOutput(*(array.astype(np.float32) for array in arrays))

    def close(self) -> None:
        self.closed = True


def frame(name: str, t: int) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(f"{name}{t}".encode()))
    return rng.integers(0, 256, (*SIZES[name], 3), dtype=np.uint8)


def same(a: FrameResult, b: FrameResult) -> None:
    assert a.index == b.index
    for name in ("ids", "labels", "scores", "boxes_xyxy", "mask_logits", "masks"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


@settings(max_examples=30)
@given(
    steps=st.lists(st.sets(st.sampled_from(sorted(SIZES))), min_size=1, max_size=8),
    ends=st.sets(st.tuples(st.integers(0, 7), st.sampled_from(sorted(SIZES))), max_size=3),
    at_once=st.integers(1, 5),
    most=st.sampled_from([None, 1, 2]),
)
def test_each_stream_gets_what_it_gets_alone(
    steps: list[set[str]], ends: set[tuple[int, str]], at_once: int, most: int | None
) -> None:
    """Streams start, pause, end and restart in any order, with different frame sizes."""
    streams = Streams(NoiseBackend(most=most), CONFIG, at_once=at_once)
    alone = {name: Pipeline(NoiseBackend(), CONFIG) for name in SIZES}
    for t, names in enumerate(steps):
        results = streams.step({name: frame(name, t) for name in sorted(names)})
        assert list(results) == sorted(names)
        for name, result in results.items():
            same(result, alone[name].step(frame(name, t)))
        for name in (name for at, name in ends if at == t):
            streams.reset(name)
            alone[name].reset()


@pytest.mark.parametrize("name", ["yard", "new"])
def test_a_broken_frame_names_its_stream_and_moves_none(name: str) -> None:
    streams, alone = Streams(NoiseBackend(), CONFIG), Pipeline(NoiseBackend(), CONFIG)
    for t in range(6):
        good = {"door": frame("door", t), "yard": frame("yard", t)}
        with pytest.raises(
            FrameError, match=f"^stream {name}: frame {t if name == 'yard' else 0} must be HxWx3"
        ):
            streams.step(good | {name: frame("yard", t)[:, :, 0]})
        same(streams.step(good)["door"], alone.step(good["door"]))
    assert streams.step({"new": frame("gate", 0)})["new"].index == 0, "a refused frame decides nothing"


def test_another_size_is_refused_until_the_stream_begins_again() -> None:
    streams = Streams(NoiseBackend(), CONFIG)
    streams.step({0: frame("door", 0), 1: frame("yard", 0)})
    with pytest.raises(
        FrameError, match=r"stream 1: frame 1 is 32x64, the previous frames are 64x32; call reset\(\)"
    ):
        streams.step({0: frame("door", 1), 1: frame("door", 1)})
    streams.reset(1)
    assert [result.index for result in streams.step({0: frame("door", 1), 1: frame("door", 1)}).values()] == [
        1,
        0,
    ]


def test_forget_accepts_another_size_and_goes_on_numbering() -> None:
    """Also while frames of the old size are prepared, and with frames of the new size prepared before `forget`."""
    streams = Streams(NoiseBackend(), CONFIG)
    stream = streams.join(0)
    old = [stream.prepare(frame("door", t)) for t in range(3)]
    before = streams.track({0: old[0]})[0]
    stream.forget()
    new = [stream.prepare(frame("yard", t)) for t in range(2)]
    results = [streams.track({0: prepared})[0] for prepared in (old[1], old[2], *new)]
    assert [result.index for result in results] == [1, 2, 3, 4]
    assert [result.size for result in results] == [SIZES["door"]] * 2 + [SIZES["yard"]] * 2
    assert min(result.ids.min() for result in results if len(result)) > before.ids.max(initial=-1)
    with pytest.raises(FrameError, match="frame 5 is 32x64, the previous frames are 64x32"):
        stream.prepare(frame("door", 5))


def test_a_network_that_fails_moves_no_stream() -> None:
    backend = NoiseBackend()
    streams, alone = Streams(backend, CONFIG), Pipeline(NoiseBackend(), CONFIG)
    for t in range(4):
        backend.broken = True
        with pytest.raises(BackendError, match="out of memory"):
            streams.step({"door": frame("door", t), "yard": frame("yard", t)})
        backend.broken = False
        results = streams.step({"door": frame("door", t), "yard": frame("yard", t)})
        same(results["door"], alone.step(frame("door", t)))


def test_how_many_frames_go_together() -> None:
    alike = {name: frame("door", i) for i, name in enumerate("abcdef")}
    for most, asked, seen in (
        (None, AT_ONCE, [4, 2]),
        (None, 8, [6]),
        (1, 8, [1] * 6),
        (5, 8, [5, 1]),
        (5, 2, [2] * 3),
    ):
        backend = NoiseBackend(most=most)
        with Streams(backend, CONFIG, at_once=asked) as streams:
            streams.step(alike)
        assert backend.seen == seen
        assert streams.reason == ("it is small" if most is not None and most < asked else "")
        assert backend.closed
    with pytest.raises(ConfigError, match="at_once must be at least 1, got"):
        Streams(NoiseBackend(), CONFIG, at_once=0)
    with pytest.raises(ConfigError, match="at_once must be at least 1, got"):
        Streams.open("no.idol", at_once=0)  # before anything is opened


def test_a_prepared_frame_is_its_own() -> None:
    """A video capture may write the next frame to the same memory."""
    with Streams(NoiseBackend(), CONFIG) as streams:
        stream = streams.join("door")
        buffer = frame("door", 0)
        kept = buffer.copy()
        prepared = stream.prepare(buffer)
        buffer[:] = 0
    assert np.array_equal(prepared.image, kept)


def test_frames_are_letterboxed_stream_by_stream() -> None:
    backend = NoiseBackend((32, 64))
    with pytest.raises(FrameError, match=r"^stream yard: a frame of 64x32 .*--fit"):
        Streams(backend, CONFIG).step({name: frame(name, 0) for name in ("door", "yard")})
    streams = Streams(backend, CONFIG, fit=True)
    results = streams.step({name: frame(name, 0) for name in ("door", "yard", "gate")})
    assert backend.seen == [3]
    assert [result.masks.shape[1:] for result in results.values()] == [(32, 64), (64, 32), (64, 64)]
    same(results["yard"], Pipeline(NoiseBackend((32, 64)), CONFIG, fit=True).step(frame("yard", 0)))
