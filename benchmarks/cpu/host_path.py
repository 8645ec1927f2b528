"""Time of a frame outside the network, and time of the association of a crowd.

Processes a 720x1280 frame for a network of 360x640 with 300 queries, 16 candidates and 10 instances, whose masks cover
a third of the frame; and associates 100 detections with 200 tracks. Uses one thread.

    idol-deploy plugins build
    python -m benchmarks.cpu.host_path [--rounds 20] [--json OUT]

The time of a frame is its minimum over the rounds, since background load only adds time; a row is the median over
frames. `host` is the time of a run that writes JSON lines: resize, selection, masks, association, full resolution, run
lengths. It excludes decoding the source, the network, encoding a video, and drawing, which only --save and --display
need. `resizer` is our library if it is built, Pillow otherwise. Exits with 1 if `host` is above 12 ms or the
association above 1 ms.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from benchmarks.machine import machine_facts, report_result
from idol_plugins.errors import PluginError
from idol_plugins.image import ImageLibrary
from idol_runtime.config import AssociationConfig, Category, StreamConfig
from idol_runtime.frames import Frame, RGBImage
from idol_runtime.optional import load_cv2
from idol_runtime.preprocess import Placement, resize
from idol_runtime.sinks.base import SinkContext
from idol_runtime.sinks.draw import draw
from idol_runtime.sinks.jsonl import JsonlSink
from idol_runtime.tracking.association import Tracker
from idol_runtime.tracking.detection import NetworkOutput, detect
from idol_runtime.tracking.results import FrameResult

T = TypeVar("T")

SOURCE, NETWORK, PADDED = (720, 1280), (360, 640), (384, 640)
QUERIES, CLASSES, WIDTH = 300, 40, 256
KEPT, CANDIDATES = 10, 16
FRAMES = 8
HOST = ("resize", "detect", "associate", "result", "full resolution", "JSON line")
CROWD = 100, 200
LIMITS_MS = {"host": 12.0, "crowd": 1.0}


def network_output(seed: int) -> NetworkOutput:
    """Return network outputs: ten rough diamonds in a grid, displaced by the seed, and six duplicate queries."""
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((QUERIES, WIDTH), np.float32)
    logits = (
        np.full((QUERIES, CLASSES), -6, np.float32) + rng.standard_normal((QUERIES, CLASSES), np.float32) / 4
    )
    query = rng.permutation(QUERIES)[:CANDIDATES]
    which = np.arange(CANDIDATES) % KEPT
    logits[query, which] = 2 - np.arange(CANDIDATES) / 8
    drift = np.random.default_rng(seed).uniform(-6, 6, (KEPT, 2))
    centres = (np.stack([which % 5 * 128 + 64, which // 5 * 180 + 90], 1) + drift[which]).astype(np.float32)
    boxes = np.full((QUERIES, 4), 0.5, np.float32)
    boxes[query, :2] = centres / (NETWORK[1], NETWORK[0])
    # Duplicates have boxes half as wide, so that mask NMS and not box NMS removes them.
    boxes[query, 2:] = np.where(np.arange(CANDIDATES) < KEPT, 1.0, 0.6)[:, None] * (120 / 640, 120 / 360)
    params = np.zeros((QUERIES, 169), np.float32)
    head = np.zeros((8, 10), np.float32)
    head[0, 0], head[1, 0], head[2, 1], head[3, 1], head[4, 2] = 1, -1, 1, -1, 1.5
    params[query, :80] = head.ravel()
    params[query, 80:144] = np.eye(8, dtype=np.float32).ravel()
    params[query, 144:149] = -1
    params[query, 168] = 60
    reference = np.zeros((QUERIES, 2), np.float32)
    reference[query] = centres
    features = rng.standard_normal((8, PADDED[0] // 8, PADDED[1] // 8), np.float32)
    return NetworkOutput(logits, boxes, embeddings, features, params, reference)


class Clock:
    """Minimum CPU time in milliseconds of each step and frame."""

    def __init__(self) -> None:
        self.minima: dict[str, dict[int, float]] = defaultdict(dict)

    def __call__(self, step: str, frame: int, work: Callable[[], T]) -> T:
        """Run `work`, record its time and return its result."""
        start = time.thread_time()
        result = work()
        milliseconds = (time.thread_time() - start) * 1e3
        self.minima[step][frame] = min(milliseconds, self.minima[step].get(frame, milliseconds))
        return result

    def median(self, step: str) -> float:
        """Return the median over frames."""
        return float(np.median(list(self.minima[step].values())))


def source_frame() -> RGBImage:
    """Return smooth colours with some noise."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (45, 80, 3), np.uint8))
    image = np.asarray(small.resize(SOURCE[::-1], Image.Resampling.BICUBIC)).astype(np.int16)
    return np.clip(image + rng.integers(-6, 7, image.shape), 0, 255).astype(np.uint8)


def host(clock: Clock, rounds: int, folder: str) -> None:
    """Time a stream of frames from the source's pixels to a JSON line and a picture."""
    image, outputs = source_frame(), [network_output(seed) for seed in range(FRAMES)]
    config, placement = AssociationConfig(), Placement(SOURCE, NETWORK, NETWORK)
    names = tuple(f"class {i}" for i in range(CLASSES))
    canvas = np.empty_like(image)
    categories = tuple(Category(name, i) for i, name in enumerate(names))
    context = SinkContext("host", 30, StreamConfig(categories))
    with JsonlSink(Path(folder) / "host.jsonl", context) as sink:
        for _ in range(rounds):
            tracker = Tracker(config)
            for t, output in enumerate(outputs):
                clock("resize", t, lambda: resize(image, NETWORK))
                detections = clock("detect", t, lambda output=output: detect(output, config))
                arrays = (
                    detections.scores,
                    detections.labels,
                    detections.boxes,
                    detections.embeddings,
                )
                ids = clock("associate", t, lambda arrays=arrays, tracker=tracker: tracker.update(*arrays))
                parts = t, detections, ids, placement, names
                result = clock("result", t, lambda parts=parts: FrameResult.from_detections(*parts))
                assert (len(result), len(detections.candidates)) == (KEPT, CANDIDATES)
                clock("full resolution", t, lambda result=result: result.crops)
                pair = Frame(t, t / 30, image), result
                clock("JSON line", t, lambda pair=pair: sink.write(*pair))
                clock("draw", t, lambda result=result: draw(image, result, out=canvas))


def crowd(clock: Clock, rounds: int) -> None:
    """Time 100 detections against a bank of 200 tracks, all of which appeared in the previous frame."""
    rng = np.random.default_rng(0)
    detections, tracks = CROWD
    embeddings = rng.standard_normal((tracks, WIDTH), np.float32)
    boxes = rng.uniform(0.1, 0.9, (tracks, 4)).astype(np.float32)
    scores = np.sort(rng.uniform(0.3, 1, tracks))[::-1].astype(np.float32)
    labels = np.zeros(tracks, np.int64)
    for t in range(FRAMES):
        seen = np.sort(rng.permutation(tracks)[:detections])
        noisy = embeddings[seen] + 0.1 * rng.standard_normal((detections, WIDTH), np.float32)
        frame = scores[seen], labels[seen], boxes[seen], noisy
        for _ in range(rounds):
            tracker = Tracker(AssociationConfig())
            for _ in range(3):
                tracker.update(scores, labels, boxes, embeddings)
            ids = clock("crowd: associate", t, lambda tracker=tracker, frame=frame: tracker.associate(*frame))
            clock(
                "crowd: remember",
                t,
                lambda tracker=tracker, ids=ids, frame=frame: tracker.commit(ids, *frame),
            )
            assert np.array_equal(ids, seen)


def resizer() -> str:
    """Return the name of the library that resizes frames."""
    try:
        return ImageLibrary().path.name
    except PluginError:
        return "Pillow"


def main() -> int:
    """Measure, print and write the results, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args()
    load_cv2("drawing results").setNumThreads(1)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        host(clock, args.rounds, folder)
    crowd(clock, args.rounds)
    steps = {step: round(clock.median(step), 3) for step in clock.minima}
    totals = {
        "host": round(sum(clock.median(step) for step in HOST), 3),
        "crowd": round(clock.median("crowd: associate") + clock.median("crowd: remember"), 3),
    }
    report = {
        "machine": machine_facts(),
        "source": SOURCE,
        "network": NETWORK,
        "kept": KEPT,
        "candidates": CANDIDATES,
        "crowd": CROWD,
        "rounds": args.rounds,
        "resizer": resizer(),
        "passed": all(totals[name] <= limit for name, limit in LIMITS_MS.items()),
        "limits_ms": LIMITS_MS,
        "ms": {**totals, **steps},
    }
    return report_result(report, args.json)


if __name__ == "__main__":
    sys.exit(main())
