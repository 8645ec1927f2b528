"""Time and memory of the association over a long stream.

Streams random detections through the tracker; identities appear, stay for a while and vanish. The table gives for each
quarter of the stream the median time per frame, the memory allocated by Python and numpy, and the tracks in the bank.

    python -m benchmarks.cpu.association_stream [--frames 2000] [--repeats 3] [--json OUT]

Exits with 1 if memory grows by more than 5 % or the time per frame by more than 50 % from the second to the last
quarter. The first quarter is not compared, because the bank is still filling.
"""

import argparse
import sys
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import machine_facts, write_json
from idol_runtime.config import AssociationConfig
from idol_runtime.tracking.association import Tracker

MEMORY_LIMIT, TIME_LIMIT = 1.05, 1.5
WIDTH, CLASSES = 256, 40
# Share of the identities that new ones replace in each frame.
TURNOVER = 0.02

Detections = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Load:
    """Results for one number of detections per frame, by quarter of the stream."""

    detections_per_frame: int
    identities: int
    median_us: list[float]
    held_kib: list[float]
    tracks: list[int]
    time_ratio_last_to_first: float
    time_ratio_last_to_second: float
    memory_ratio_last_to_second: float

    @property
    def passed(self) -> bool:
        """True if the last quarter costs no more than the second, within the limits."""
        return (
            self.memory_ratio_last_to_second <= MEMORY_LIMIT and self.time_ratio_last_to_second <= TIME_LIMIT
        )


def detections(frames: int, mean_count: int, seed: int) -> Iterator[Detections]:
    """Yield scores, labels, boxes and embeddings of each frame, sorted by score."""
    rng = np.random.default_rng(seed)
    # A fifth of the identities is hidden in each frame.
    pool = round(mean_count / 0.8)
    embeddings = rng.standard_normal((pool, WIDTH), np.float32)
    labels = rng.integers(0, CLASSES, pool)
    for _ in range(frames):
        fresh = rng.random(pool) < TURNOVER
        embeddings[fresh] = rng.standard_normal((int(fresh.sum()), WIDTH), np.float32)
        seen = np.flatnonzero(rng.random(pool) < 0.8)
        scores = np.sort(rng.uniform(0.1, 1, len(seen)))[::-1].astype(np.float32)
        noise = 0.1 * rng.standard_normal((len(seen), WIDTH), np.float32)
        boxes = rng.uniform(0.1, 0.9, (len(seen), 4)).astype(np.float32)
        yield scores, labels[seen].astype(np.int64), boxes, embeddings[seen] + noise


def _times_us(frames: int, count: int) -> NDArray[np.float64]:
    """Return the time of every frame, without tracemalloc, which slows down allocation."""
    tracker = Tracker(AssociationConfig())
    times = []
    for frame in detections(frames, count, seed=count):
        start = time.perf_counter_ns()
        tracker.update(*frame)
        times.append(time.perf_counter_ns() - start)
    return np.array(times) / 1e3


def measure(frames: int, count: int, repeats: int) -> Load:
    """Run one load `repeats` times to measure time, and once more to measure memory."""
    runs = np.stack([_times_us(frames, count) for _ in range(repeats)])
    # The minimum over the runs of a frame, since background load only adds time.
    quarters = np.array_split(runs.min(axis=0), 4)
    median_us = [float(np.median(quarter)) for quarter in quarters]
    tracker = Tracker(AssociationConfig())
    # Allocated before the measurement, so that the samples do not count as growth.
    memory, tracks = np.zeros(frames), np.zeros(frames)
    identities = 0
    tracemalloc.start()
    for t, frame in enumerate(detections(frames, count, seed=count)):
        ids = tracker.update(*frame)
        identities = max(identities, int(ids.max(initial=-1)) + 1)
        memory[t] = tracemalloc.get_traced_memory()[0] / 1024
        tracks[t] = len(tracker.bank or ())
    tracemalloc.stop()
    held_kib = [float(np.median(quarter)) for quarter in np.array_split(memory, 4)]
    return Load(
        detections_per_frame=count,
        identities=identities,
        median_us=[round(value, 1) for value in median_us],
        held_kib=[round(value, 1) for value in held_kib],
        tracks=[round(float(np.median(quarter))) for quarter in np.array_split(tracks, 4)],
        time_ratio_last_to_first=round(median_us[3] / median_us[0], 3),
        time_ratio_last_to_second=round(median_us[3] / median_us[1], 3),
        memory_ratio_last_to_second=round(held_kib[3] / held_kib[1], 3),
    )


def report(loads: list[Load]) -> str:
    """Return the results as a table."""
    lines = ["detections  quarter  µs/frame       KiB  tracks"]
    for load in loads:
        rows = zip(load.median_us, load.held_kib, load.tracks, strict=True)
        for quarter, (us, kib, tracks) in enumerate(rows, start=1):
            lines.append(f"{load.detections_per_frame:10d}  {quarter:7d}  {us:8.1f}  {kib:8.1f}  {tracks:6d}")
        lines.append(
            f"{'':10}  {load.identities} identities; time last/first {load.time_ratio_last_to_first:.2f}, "
            f"last/second {load.time_ratio_last_to_second:.2f}; memory last/second "
            f"{load.memory_ratio_last_to_second:.2f}: {'flat' if load.passed else 'GROWS'}"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure, print and write the results, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--frames", type=int, default=2000, help="length of the stream (default: %(default)s)"
    )
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[10, 50], help="detections per frame (default: 10 50)"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=3,
        help="timed runs, of which the minimum of each frame counts (default: 3)",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results to this file")
    args = parser.parse_args()
    if args.frames < 40 or args.repeats < 1 or min(args.counts) < 1:
        parser.error(
            f"expected at least 40 frames, 1 repeat and 1 detection per frame, "
            f"got --frames {args.frames} --repeats {args.repeats} --counts {min(args.counts)}"
        )
    loads = [measure(args.frames, count, args.repeats) for count in args.counts]
    print(report(loads))
    passed = all(load.passed for load in loads)
    result = {
        "machine": machine_facts(),
        "frames": args.frames,
        "repeats": args.repeats,
        "passed": passed,
        "loads": [asdict(load) for load in loads],
    }
    write_json(result, args.json)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
