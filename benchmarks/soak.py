"""Memory, time, threads and descriptors of a run that does not end.

Reads a synthetic camera over HTTP as `idol-deploy run` does, and writes JSON lines into files of 5 MB, of which the
newest 25 MB are retained; the state is saved every second. By default, a stub network finds the objects of the camera's
scene, so that nearly all of the time is host time; with --bundle, a real network runs.

    python -m benchmarks.soak --json benchmarks/results/soak.json --plot benchmarks/results/soak.svg
    python -m benchmarks.soak --frames 5000 --bundle models/edge_synth/edge_synth.idol --json OUT

Samples are taken in 200 windows. Exits with 1 if, from the second to the last quarter of the run, the median of the
resident memory grows by more than 2 % or that of the host time per frame by more than 20 %, if the number of threads or
descriptors changes, or if identities or frames are missing. Host time is the processor time of all Python threads
outside the network.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.camera import CONFIG, SIZE, Scene, StubNetwork, camera
from benchmarks.machine import machine_facts, write_json
from idol_runtime.backends.base import Backend, ImageBatch
from idol_runtime.run.options import RunOptions
from idol_runtime.run.run import run
from idol_runtime.sinks.opening import requested_outputs
from idol_runtime.sinks.policy import FilePolicy
from idol_runtime.streams import Streams
from idol_runtime.tracking.detection import NetworkOutput

__all__ = ["Sampled", "evaluate", "main", "resources", "soak"]

WINDOWS = 200
MEMORY_LIMIT, TIME_LIMIT = 1.02, 1.2
COLUMNS = ("frames", "rss_mib", "threads", "descriptors", "host_ms", "wall_ms")


def resources(pid: int | str = "self") -> dict[str, float]:
    """Return the resident memory in MiB, the number of threads and that of open descriptors of a process."""
    process = Path("/proc", str(pid))
    pages = int((process / "statm").read_text().split()[1])
    return {
        "rss_mib": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "threads": len(os.listdir(process / "task")),
        "descriptors": len(os.listdir(process / "fd")),
    }


class Sampled:
    """A backend that samples the resources of the process after every window of frames.

    Attributes:
        samples: rows of `COLUMNS`; times are means of the window.
    """

    def __init__(self, backend: Backend, frames: int) -> None:
        """Wrap a backend that will run `frames` frames."""
        self._backend, self._every = backend, max(1, frames // WINDOWS)
        self._frames, self._network_s = 0, 0.0
        self._thread_s: dict[threading.Thread, float] = {}  # also of threads that have ended
        self._host_s, self._wall_s = 0.0, time.monotonic()
        self.samples: list[tuple[float, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def infer(self, images: ImageBatch) -> list[NetworkOutput]:
        """Run the network; sample the resources before a window's last frame."""
        started = time.thread_time()
        outputs = self._backend.infer(images)
        self._network_s += time.thread_time() - started
        self._frames += len(images)
        if self._frames % self._every == 0:
            for thread in threading.enumerate():
                self._thread_s[thread] = time.clock_gettime(time.pthread_getcpuclockid(thread.ident or 0))
            host_s, wall_s = sum(self._thread_s.values()) - self._network_s, time.monotonic()
            spent = (1e3 * (host_s - self._host_s) / self._every, 1e3 * (wall_s - self._wall_s) / self._every)
            self._host_s, self._wall_s = host_s, wall_s
            self.samples.append((self._frames, *resources().values(), *spent))
        return outputs


def evaluate(samples: list[tuple[float, ...]]) -> dict[str, Any]:
    """Return the medians of every quarter, the growth from the second to the last, and the verdict."""
    quarters = [np.median(quarter, axis=0) for quarter in np.array_split(np.array(samples), 4)]
    medians = {
        name: [round(float(quarter[column]), 3) for quarter in quarters]
        for column, name in enumerate(COLUMNS[1:], 1)
    }
    growth = {name: round(values[3] / values[1], 4) for name, values in medians.items()}
    flat = {
        "rss_mib": growth["rss_mib"] <= MEMORY_LIMIT,
        "host_ms": growth["host_ms"] <= TIME_LIMIT,
        "threads": growth["threads"] == 1,
        "descriptors": growth["descriptors"] == 1,
    }
    return {"quarters": medians, "last_to_second": growth, "flat": flat}


def soak(frames: int, bundle: Path | None, folder: Path) -> dict[str, Any]:
    """Run a number of frames and return the report; outputs are written to `folder`."""
    policy = FilePolicy.parse(rotate="5MB", retain="25MB")
    with camera(clips=bundle is not None) as url:
        if bundle is None:
            streams = Streams(StubNetwork(), CONFIG)
        else:
            streams = Streams.open(bundle, backend="onnxruntime", graph="fp32")
        with streams:
            network = streams.backend.name
            streams.backend = sampled = Sampled(streams.backend, frames)
            outputs = requested_outputs(jsonl=folder / "soak.jsonl")
            options = RunOptions(
                url,
                outputs,
                files=policy,
                queue="block",
                max_frames=frames,
                state=folder / "soak.state",
            )
            (summary,) = run(streams, [options])
    files = sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    written = [json.loads(line)["frame"] for path in files for line in path.read_bytes().splitlines()]
    report = {
        "machine": machine_facts(),
        "network": network,
        "frames": summary.frames,
        "first_line": written[0],  # of the files that are not deleted
        "lines": len(written),
        "files": len(files),
        "tracks": summary.tracks,
        "expected_tracks": Scene().tracks(frames) if bundle is None else None,
        **evaluate(sampled.samples),
        "columns": " ".join(COLUMNS),
        "samples": [" ".join(f"{value:.7g}" for value in sample) for sample in sampled.samples],
    }
    complete = summary.frames == frames and written == list(range(written[0], frames))
    complete &= report["expected_tracks"] in (None, summary.tracks)
    return {"passed": complete and all(report["flat"].values()), "complete": complete, **report}


def plot(report: Mapping[str, Any], path: Path) -> None:
    """Write a figure of memory and host time over the frames."""
    from idol_deploy.studies.figure.sheet import sheet

    frames, rss, _, _, host, _ = np.loadtxt(report["samples"], unpack=True)
    with sheet(path, (7, 3.2)) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True)
        for axes, values, label in ((upper, rss, "resident memory, MiB"), (lower, host, "host time, ms")):
            axes.plot(frames, values, linewidth=0.8)
            axes.set_ylim(0, 1.25 * values.max())
            axes.set_ylabel(label)
        lower.set_xlabel(f"frames of {SIZE[0]}x{SIZE[1]}; {report['network']}")


def table(report: Mapping[str, Any]) -> str:
    """Return the quarters as a table."""
    lines = ["               quarter 1         2         3         4  last/second"]
    for name, values in report["quarters"].items():
        row = "  ".join(f"{value:8.2f}" for value in values)
        flat = {True: "flat", False: "CHANGES"}.get(report["flat"].get(name), "")
        lines.append(f"{name:14s}  {row}  {report['last_to_second'][name]:11.3f}  {flat}")
    tracks, expected = report["tracks"], report["expected_tracks"]
    lines.append(
        f"{report['frames']} frames, {report['lines']} lines, {tracks} tracks (expected: {expected})"
    )
    return "\n".join(lines)


def main() -> int:
    """Run, print, write and plot the result, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--frames", type=int, default=300_000, help="number of frames (default: 300000)")
    parser.add_argument("--bundle", type=Path, metavar="FILE", help="run this bundle's network")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result to this file")
    parser.add_argument("--plot", type=Path, metavar="OUT", help="write a figure: .svg, .pdf or .png")
    args = parser.parse_args()
    if args.frames < 2 * WINDOWS:
        parser.error(f"--frames must be at least {2 * WINDOWS}, got {args.frames}")
    with tempfile.TemporaryDirectory() as folder:
        report = soak(args.frames, args.bundle, Path(folder))
    print(table(report))
    write_json(report, args.json)
    if args.plot:
        plot(report, args.plot)
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
