"""Throughput of one process with four sources against four processes with one source each.

All write JSON lines, which must be identical. The four processes use one thread each for the network, the one process
1, 2 and 4. The models are loaded once; the runs are interleaved.

    idol-deploy plugins build
    python -m benchmarks.streams --json benchmarks/results/streams.json

Exits with 1 if a source's lines differ.
"""

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.camera import SIZE
from benchmarks.live import BUNDLE
from benchmarks.machine import machine_facts, report_result
from idol_runtime.run.options import RunOptions
from idol_runtime.run.run import run
from idol_runtime.sinks.opening import requested_outputs
from idol_runtime.streams import Streams
from idol_runtime.timing import interleaved, paired_ratio, summarise

__all__ = ["main", "process", "write_sources"]

SOURCES = 4


def write_sources(folder: Path, frames: int | None = None) -> list[Path]:
    """Write synthetic clips as folders of pictures and return these, one per source; `frames`: at most so many each."""
    from idol_export.verify.clips import synthetic_clips

    clips = [list(clip) for clip in synthetic_clips(SIZE)]
    folders = [folder / f"source{number}" for number in range(SOURCES)]
    for number, target in enumerate(folders):
        target.mkdir()
        images = [image for clip in clips[number::SOURCES] for image in clip]
        for index, image in enumerate(images[:frames]):
            Image.fromarray(image).save(target / f"{index:04}.jpg", quality=95)
    return folders


@contextmanager
def process(bundle: Path, threads: int, sources: Sequence[Path], outputs: Path) -> Iterator[Connection]:
    """Load a bundle in a new process; it runs the sources once for every message, and returns the number of frames."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    worker = context.Process(target=_work, args=(there, bundle, threads, sources, outputs), daemon=True)
    worker.start()
    there.close()
    try:
        assert here.recv() == "loaded"
        yield here
    finally:
        here.close()
        worker.join()


def _work(connection: Connection, bundle: Path, threads: int, sources: Sequence[Path], outputs: Path) -> None:
    options = [
        RunOptions(source, requested_outputs(jsonl=outputs / f"{source.name}.jsonl")) for source in sources
    ]
    with Streams.open(
        bundle, backend="onnxruntime", graph="fp32", threads=threads, at_once=len(sources)
    ) as streams:
        connection.send("loaded")
        while True:
            try:
                connection.recv()
            except EOFError:
                return
            connection.send(sum(summary.frames for summary in run(streams, options)))


def _run_all(connections: Sequence[Connection]) -> int:
    """Run the sources of all processes at the same time and return the number of frames."""
    for connection in connections:
        connection.send("run")
    return sum(connection.recv() for connection in connections)


def main() -> int:
    """Measure, print and write the results, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="bundle (default: the demo model)")
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=[1, 2, 4],
        help="threads of the one process (default: 1 2 4)",
    )
    parser.add_argument("--rounds", type=int, default=7, help="interleaved runs (default: 7)")
    parser.add_argument("--frames", type=int, help="at most so many frames per source (default: 72)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        sources = write_sources(folder, args.frames)
        shares = {f"{SOURCES} processes, 1 thread each": (1, [[source] for source in sources])}
        shares |= {f"1 process, threads: {threads}": (threads, [sources]) for threads in args.threads}
        runs: dict[str, list[Connection]] = {}
        for name, (threads, groups) in shares.items():
            (folder / name).mkdir()
            runs[name] = [
                stack.enter_context(process(args.bundle, threads, group, folder / name)) for group in groups
            ]
        frames = _run_all(next(iter(runs.values())))
        times = interleaved([partial(_run_all, connections) for connections in runs.values()], args.rounds).T
        identical = all(
            len({(folder / name / f"{source.name}.jsonl").read_bytes() for name in runs}) == 1
            for source in sources
        )
    report = {
        "machine": machine_facts(),
        "sources": SOURCES,
        "frames": frames,
        "rounds": args.rounds,
        "passed": identical and frames > 0,
        "identical_lines": identical,
        "rows": {
            name: {
                "frames_per_s": round(1e3 * frames / float(np.median(milliseconds)), 1),
                "throughput_over_first": round(float(np.median(times[0]) / np.median(milliseconds)), 3),
                "in_pairs": paired_ratio(times[0], milliseconds),
                "ms": summarise(milliseconds),
            }
            for name, milliseconds in zip(runs, times, strict=True)
        },
    }
    return report_result(report, args.json)


if __name__ == "__main__":
    sys.exit(main())
