"""Age of frames of a camera that is faster than the network.

Reads a synthetic camera of 120 frames per second over HTTP as `idol-deploy run --queue latest` does, with a stub
network of a fixed time and with the demo model.

    idol-deploy plugins build
    python -m benchmarks.live --json benchmarks/results/live.json

`age` is the time from the arrival of a decoded frame to its result, as the run measures it. `since sent` is measured
without the run's clock: each picture shows the time at which it was sent; it adds transfer and decoding, and excludes
the tracker. Exits with 1 unless the 99th percentile of `age` is below two median network times in every case.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.camera import BITS, CONFIG, StubNetwork, camera, milliseconds, read_number
from benchmarks.machine import machine_facts, write_json
from idol_runtime.backends.base import Backend, ImageBatch
from idol_runtime.run.options import RunOptions
from idol_runtime.run.run import run
from idol_runtime.sinks.opening import requested_outputs
from idol_runtime.streams import Streams
from idol_runtime.timing import summarise
from idol_runtime.tracking.detection import NetworkOutput

__all__ = ["Clocked", "main", "measure"]

FPS = 120.0
BUNDLE = Path(__file__).parents[1] / "models" / "edge_synth" / "edge_synth.idol"


class Clocked:
    """A backend that notes the time of every frame in the network and since it was sent, in milliseconds."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.network_ms: list[float] = []
        self.sent_ms: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def infer(self, images: ImageBatch) -> list[NetworkOutput]:
        """Run the network on one frame."""
        started = time.perf_counter()
        outputs = self._backend.infer(images)
        self.network_ms.append(1e3 * (time.perf_counter() - started))
        self.sent_ms.append((milliseconds() - read_number(images[0])) % 2**BITS)
        return outputs


def measure(streams: Streams, frames: int, *, clips: bool, folder: Path) -> dict[str, Any]:
    """Return the ages of a number of processed frames, in milliseconds; `clips` as for `camera`."""
    streams.backend = clocked = Clocked(streams.backend)
    with streams, camera(FPS, clips=clips) as url:
        outputs = requested_outputs(jsonl=folder / "live.jsonl")
        (summary,) = run(streams, [RunOptions(url, outputs, queue="latest", max_frames=frames)])
    network = summarise(clocked.network_ms)
    age = {f"p{percent}": round(1e3 * summary.ages.percentile(percent), 1) for percent in (50, 99)}
    return {
        "passed": summary.frames == frames and summary.dropped > 0 and age["p99"] < 2 * network["p50"],
        "network": clocked.name,
        "frames": summary.frames,
        "dropped": summary.dropped,
        "network_ms": network,
        "age_ms": age,
        "age_p99_in_network_times": round(age["p99"] / network["p50"], 2),
        "since_sent_ms": summarise(clocked.sent_ms),
    }


def table(report: Mapping[str, Any]) -> str:
    """Return the cases as a table."""
    lines = ["network ms  frames  dropped  age p50  p99  / network  since sent p50  p99"]
    for case in report["cases"]:
        age, sent = case["age_ms"], case["since_sent_ms"]
        lines.append(
            f"{case['network_ms']['p50']:10.1f}  {case['frames']:6d}  {case['dropped']:7d}  {age['p50']:7.1f}  "
            f"{age['p99']:.1f}  {case['age_p99_in_network_times']:9.2f}  {sent['p50']:14.0f}  {sent['p99']:.0f}  "
            f"{case['network']}"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure, print and write the results, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--frames", type=int, default=2000, help="processed frames per case (default: 2000)")
    parser.add_argument("--stub-ms", type=float, default=20, help="time of the stub network (default: 20)")
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="bundle (default: the demo model)")
    parser.add_argument("--threads", type=int, default=1, help="threads of its network (default: 1)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # The scene moves as slowly as that of a camera of 120 frames per second.
        stub = Streams(StubNetwork(args.stub_ms / 1e3, number_per_frame=1e3 / FPS), CONFIG)
        cases = [measure(stub, args.frames, clips=False, folder=Path(folder))]
        bundle = Streams.open(args.bundle, backend="onnxruntime", graph="fp32", threads=args.threads)
        cases.append(measure(bundle, args.frames, clips=True, folder=Path(folder)))
    report = {
        "machine": machine_facts(),
        "fps": FPS,
        "passed": all(case["passed"] for case in cases),
        "cases": cases,
    }
    print(table(report))
    write_json(report, args.json)
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
