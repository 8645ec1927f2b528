"""Speed of the training loader with 0, 1 and 2 workers, and the time of each of its steps.

Reads frames of YouTube-VIS size with moving shapes, or your data set, with the published augmentation of `ytvis19_r50`,
in batches of 4 pairs. Rounds are interleaved over the numbers of workers.

    python -m benchmarks.cpu.data_loading [--size 720x1280] [--workers 0,1,2] [--batches 12] [--rounds 3] [--json OUT]
    python -m benchmarks.cpu.data_loading --annotations train.json --frames train/JPEGImages

Exits with 1 if batches differ between numbers of workers.
"""

import argparse
import hashlib
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import machine_facts, report_result
from idol_deploy.config import IdolConfig, preset
from idol_deploy.data import pairs as pairs_module
from idol_deploy.data.faults import FaultLog
from idol_deploy.data.loader import EndlessSampler, LoaderState, PairLoader, draw_sample, to_pair
from idol_deploy.data.pairs import open_pairs
from idol_deploy.data.samples import PairSource, Sample
from idol_deploy.data.transforms import View
from idol_deploy.data.ytvis import read_dataset
from idol_deploy.objective.batch import Batch, collate
from tests.moving_shapes import SHAPES, make_videos

PAIRS = 4
STATE = LoaderState(seed=1)


def digest(batch: Batch) -> str:
    """Return a hash of the arrays that the losses use."""
    sha = hashlib.sha256()
    for tensor in (batch.images, batch.padding_mask, batch.targets.masks, batch.targets.boxes):
        sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()


def speed(source: PairSource, config: IdolConfig, workers: int, batches: int) -> tuple[float, list[str]]:
    """Return images per second after a first batch, and the digests of all batches."""
    loader = PairLoader(source, config.preprocessing, pairs=PAIRS, state=STATE, workers=workers)
    stream = iter(loader)
    loaded = [next(stream)]
    start = time.perf_counter()
    # Workers have the same number of prepared batches at the start and at the end.
    loaded += itertools.islice(stream, batches)
    elapsed = time.perf_counter() - start
    stream.close()  # type: ignore[attr-defined]
    return 2 * PAIRS * batches / elapsed, [digest(batch) for batch in loaded]


@contextmanager
def timed(owner: Any, name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Add the time of every call of `owner.name` to `seconds[name]`."""
    function = getattr(owner, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

    setattr(owner, name, wrapper)
    try:
        yield
    finally:
        setattr(owner, name, function)


def profile(source: PairSource, config: IdolConfig, batches: int) -> dict[str, float]:
    """Return milliseconds per image in one process, by step."""
    seconds: dict[str, float] = {}
    names = {
        "read_frame": "read",
        "image": "resize images",
        "expand_masks": "expand masks",
        "masks": "resize masks",
        "boxes_of": "boxes",
    }
    draws = itertools.islice(EndlessSampler(len(source), STATE, PAIRS), batches)
    start = time.perf_counter()
    joined = 0.0
    with (
        timed(pairs_module, "read_frame", seconds),
        timed(pairs_module, "expand_masks", seconds),
        timed(pairs_module, "boxes_of", seconds),
        timed(View, "image", seconds),
        timed(View, "masks", seconds),
    ):
        for draw in draws:
            samples = [draw_sample(source, one, STATE.seed)[0] for one in draw]
            begin = time.perf_counter()
            collate([to_pair(one) for one in samples if isinstance(one, Sample)], config.preprocessing)
            joined += time.perf_counter() - begin
    total = time.perf_counter() - start
    parts = {names[name]: value for name, value in seconds.items()} | {"join": joined}
    parts["rest"] = total - sum(parts.values())
    return {name: round(1e3 * value / (2 * PAIRS * batches), 2) for name, value in parts.items()}


def main() -> int:
    """Measure, print and write the results, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--size", default="720x1280", help="HEIGHTxWIDTH of generated frames (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", default="0,1,2", help="numbers of loader processes (default: %(default)s)"
    )
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--annotations", type=Path, help="annotations of your data set, in place of generated frames"
    )
    parser.add_argument("--frames", type=Path, help="folder of frames of --annotations")
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args()
    if (args.annotations is None) != (args.frames is None):
        parser.error("--annotations and --frames must be given together")
    torch.set_num_threads(1)  # as in a worker
    with tempfile.TemporaryDirectory() as folder:
        if args.annotations is None:
            height, width = map(int, args.size.split("x"))
            dataset = make_videos(folder, videos=6, frames=12, size=(height, width), shapes=6)
            annotations, frames = dataset.annotations, dataset.frames
        else:
            annotations, frames = args.annotations, args.frames
        report = measure(annotations, frames, args)
    report["data"] = "of the user" if args.annotations else f"shapes, {args.size}"
    return report_result(report, args.json)


def measure(annotations: Path, frames: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure all numbers of workers, interleaved."""
    classes = tuple(category.name for category in read_dataset(annotations, FaultLog()).categories)
    config = replace(preset("ytvis19_r50"), classes=classes or SHAPES)
    source = open_pairs(annotations, frames, config)
    counts = [int(count) for count in args.workers.split(",")]
    speeds: dict[int, list[float]] = {count: [] for count in counts}
    digests = set()
    for _ in range(args.rounds):
        for count in counts:
            images, batches = speed(source, config, count, args.batches)
            speeds[count].append(images)
            digests.add(tuple(batches))
    return {
        "machine": machine_facts(),
        "torch": torch.__version__,
        "pairs_per_batch": PAIRS,
        "images_per_second": {
            str(count): {"median": round(float(np.median(images)), 1), "best": round(max(images), 1)}
            for count, images in speeds.items()
        },
        "ms_per_image": profile(source, config, args.batches),
        "passed": len(digests) == 1,
    }


if __name__ == "__main__":
    sys.exit(main())
