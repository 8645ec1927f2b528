"""Faults of cameras, disks and processes, each against a real `idol-deploy run`.

A camera on loopback (RTSP from GStreamer, or Motion JPEG over HTTP) shows a still scene with noise, so that every
object has the same identity before and after a fault unless its track was deleted. For each fault, the table gives the
events that an operator sees, how many identities go on, and the memory, threads and descriptors of the process before
and after it. The faults run a few at a time; the longest one takes ten minutes.

    scripts/install-test-packages
    idol-deploy plugins build
    python -m benchmarks.faults --json benchmarks/results/faults.json

Exits with 1 if no frame comes after a fault, if identities differ from the policy, if the process ends with another
status than expected, or if it has more threads or descriptors than before, or 10 % more memory.
"""

import argparse
import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.camera import SIZE
from benchmarks.live import BUNDLE
from benchmarks.machine import machine_facts, write_json
from benchmarks.soak import resources
from idol_export.verify.clips import synthetic_clips
from idol_runtime.frames import RGBImage
from tests.servers.mjpeg import MjpegServer
from tests.servers.rtsp import RtspServer

__all__ = ["FAULTS", "Fault", "Run", "main", "pictures", "try_fault"]

FPS = 5
WARM_UP, AFTER = 60, 20  # frames before and after a fault
MEMORY_LIMIT = 1.1


def pictures(size: tuple[int, int] = SIZE, count: int = 8) -> list[RGBImage]:
    """Return pictures of one scene that differ in their noise."""
    rng = np.random.default_rng(0)
    clips = synthetic_clips(SIZE)  # whose files are deleted with it
    scene = Image.fromarray(next(next(clips))).resize(size[::-1], Image.Resampling.BICUBIC)
    noise = rng.integers(-2, 3, (count, *size, 3))
    return list(np.clip(np.asarray(scene) + noise, 0, 255).astype(np.uint8))


class Run:
    """`idol-deploy run` in a process, with the frames and events that it writes.

    Attributes:
        folder: folder of all files.
        outputs: folder of the JSON lines.
        pid: process id; another one after each `start`.
    """

    def __init__(self, folder: Path, urls: Sequence[str], options: Sequence[str], bundle: Path) -> None:
        self.folder, self.outputs = folder, folder / "outputs"
        self.outputs.mkdir()
        sources = [argument for url in urls for argument in ("--source", url)]
        files = ("--jsonl", f"{self.outputs}/{{number}}.jsonl", "--events", str(folder / "events.jsonl"))
        state = ("--state", f"{folder}/{{number}}.state")
        engine = ("--backend", "onnxruntime", "--graph", "fp32", "--threads", "1")
        command = ("run", str(bundle), *sources, *files, *state, *engine, *options)
        self._seen = 0  # events that were waited for
        self._command = [sys.executable, "-m", "idol_deploy.cli", *command]

    def start(self) -> None:
        """Start the process."""
        with (self.folder / "console.txt").open("ab") as console:
            self._process = subprocess.Popen(self._command, stdout=console, stderr=console)
        self.pid = self._process.pid

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end and return the exit status."""
        self._process.send_signal(number)
        return self._process.wait(60)

    def kill(self) -> None:
        """Kill the process unless it has ended."""
        self._process.kill()
        self._process.wait()

    def frames(self, source: int = 1) -> list[dict[str, Any]]:
        """Return the frames of a source that are written completely, in the order of their files."""
        files = sorted(
            self.outputs.glob(f"{source}*.jsonl"), key=lambda path: (path.stat().st_mtime, path.name)
        )
        return [json.loads(line) for path in files for line in path.read_bytes().split(b"\n")[:-1]]

    def events(self) -> list[dict[str, Any]]:
        """Return the events so far."""
        path = self.folder / "events.jsonl"
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []

    def wait(self, more: int, limit_s: float = 90) -> None:
        """Wait for further frames of the first source."""
        count = len(self.frames())
        self._until(lambda: len(self.frames()) >= count + more, f"{more} frames", limit_s)

    def wait_event(self, kind: str, limit_s: float = 90) -> None:
        """Wait for an event of a kind after the last one that was waited for."""

        def position() -> int:
            kinds = [event["kind"] for event in self.events()]
            return kinds.index(kind, self._seen) + 1 if kind in kinds[self._seen :] else 0

        self._until(lambda: position() > 0, f"an event of kind {kind}", limit_s)
        self._seen = position()

    def _until(self, condition: Callable[[], bool], what: str, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > deadline or self._process.poll() is not None:
                console = (self.folder / "console.txt").read_text()[-2000:]
                raise RuntimeError(f"{what} did not come within {limit_s:g} s; console:\n{console}")
            time.sleep(0.2)


@dataclass(frozen=True)
class Fault:
    """A fault and what must come of it.

    Attributes:
        name: description of the fault.
        cause: function that causes the fault and ends it.
        camera: kind of camera.
        cameras: number of cameras.
        keeps: True if identities go on; False: the tracks are reset.
        options: further options of `idol-deploy run`.
    """

    name: str
    cause: Callable[[Run, Sequence[Any], argparse.Namespace], object]
    camera: type[MjpegServer] | type[RtspServer] = MjpegServer
    cameras: int = 1
    keeps: bool = True
    options: Sequence[str] = ()


def _restart(run: Run, cameras: Sequence[RtspServer], args: argparse.Namespace) -> None:
    for _ in range(args.restarts):
        cameras[0].kill()
        run.wait_event("lost")
        cameras[0].start()
        run.wait(10)


def _down(run: Run, cameras: Sequence[RtspServer], args: argparse.Namespace) -> None:
    cameras[0].kill()
    time.sleep(args.down_s)
    cameras[0].start()
    run.wait_event("back")


def _dead(run: Run, cameras: Sequence[RtspServer], args: argparse.Namespace) -> None:
    run.end()
    cameras[0].kill()
    run.start()
    run.wait_event("waiting")
    cameras[0].start()
    run.wait(WARM_UP)


def _sends(fault: Any) -> Callable[[Run, Sequence[MjpegServer], argparse.Namespace], None]:
    """Return a function that makes the camera send something else until the run has lost it."""

    def cause(run: Run, cameras: Sequence[MjpegServer], args: argparse.Namespace) -> None:
        cameras[0].fault = fault
        run.wait_event("lost")
        cameras[0].fault = ""
        run.wait_event("back")

    return cause


def _resize(run: Run, cameras: Sequence[MjpegServer], args: argparse.Namespace) -> None:
    cameras[0].pictures = jpegs((2 * SIZE[0], 2 * SIZE[1]))
    run.wait_event("resized")


def _fill_disk(run: Run, cameras: Sequence[MjpegServer], args: argparse.Namespace) -> None:
    filler = run.outputs / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    run.wait_event("output_stopped")
    filler.unlink()
    run.wait_event("output_back")


def _hang_up(run: Run, cameras: Sequence[MjpegServer], args: argparse.Namespace) -> None:
    for _ in range(args.restarts):
        os.kill(run.pid, signal.SIGHUP)
        run.wait_event("rotated")
        run.wait(2)


def _kill(run: Run, cameras: Sequence[MjpegServer], args: argparse.Namespace) -> None:
    for _ in range(5):
        run.end(signal.SIGKILL)
        run.start()
        run.wait_event("resumed")
        run.wait(15)
    run.wait(WARM_UP)


def _lose_one(run: Run, cameras: Sequence[MjpegServer], args: argparse.Namespace) -> None:
    cameras[0].stop()
    run.wait_event("lost")
    time.sleep(args.down_s / 30)
    cameras[0].start()
    run.wait_event("back")


FAULTS = (
    Fault("server down for ten minutes", _down, RtspServer, keeps=False),
    Fault("server killed and restarted 20 times", _restart, RtspServer),
    Fault("server dead at the start", _dead, RtspServer),
    Fault("stall in the middle of a frame", _sends("stall")),
    Fault("garbage", _sends("garbage")),
    Fault("frozen picture", _sends("freeze")),
    Fault("connection dropped and refused", _sends("refuse")),
    Fault("resolution doubled", _resize, keeps=False),
    Fault("disk full and freed", _fill_disk),
    Fault("SIGHUP 20 times", _hang_up, options=("--rotate", "1h")),
    Fault("SIGKILL and resumed 5 times", _kill),
    Fault("one of four cameras lost", _lose_one, cameras=4, options=("--queue", "block")),
)


@functools.cache
def jpegs(size: tuple[int, int]) -> list[bytes]:
    """Return the pictures as JPEG files."""
    files = [BytesIO() for _ in pictures(size)]
    for file, image in zip(files, pictures(size), strict=True):
        Image.fromarray(image).save(file, "JPEG", quality=90)
    return [file.getvalue() for file in files]


def _camera(kind: type[Any], folder: Path) -> Any:
    if kind is MjpegServer:
        return MjpegServer(SIZE, FPS, pictures=jpegs(SIZE))
    for index, image in enumerate(pictures()):
        Image.fromarray(image).save(folder / f"{index:05}.png")
    return RtspServer(SIZE, FPS, pictures=folder)


def try_fault(fault: Fault, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Cause a fault and return its row of the table."""
    started = time.monotonic()
    with ExitStack() as stack:
        cameras = [stack.enter_context(_camera(fault.camera, folder)) for _ in range(fault.cameras)]
        run = Run(folder, [camera.url for camera in cameras], fault.options, args.bundle)
        if fault.cause is _fill_disk:
            mount = ("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(run.outputs))
            subprocess.run(mount, check=True)
            stack.callback(subprocess.run, ("umount", "-l", str(run.outputs)), check=True)
        run.start()
        stack.callback(run.kill)
        run.wait(WARM_UP)
        ids, before, seen = _ids(run.frames()[-1:]), resources(run.pid), len(run.events())
        fault.cause(run, cameras, args)
        run.wait(AFTER)
        after, events = resources(run.pid), run.events()[seen:]
        status = run.end()
        frames = run.frames()
        others = [_missing(run.frames(source)) for source in range(2, fault.cameras + 1)]
    kept = len(ids & _ids(frames[-5:]))
    leaks = [
        name
        for name, value in after.items()
        if value > before[name] * (MEMORY_LIMIT if name == "rss_mib" else 1)
    ]
    return {
        "fault": fault.name,
        "passed": kept == (len(ids) if fault.keeps else 0)
        and not leaks
        and status == 130
        and not any(others),
        "seconds": round(time.monotonic() - started),
        "events": [event["message"].replace(str(folder), "") for event in events],
        "identities": len(ids),
        "kept": kept,
        "missing_frames_of_others": sum(others),
        "before": {name: round(value, 1) for name, value in before.items()},
        "after": {name: round(value, 1) for name, value in after.items()},
        "status": status,
    }


def _ids(frames: Sequence[dict[str, Any]]) -> set[int]:
    return {instance["id"] for frame in frames for instance in frame["instances"]}


def _missing(frames: Sequence[dict[str, Any]]) -> int:
    """Return the number of frames that a source has not written, between its first and its last one."""
    return int(frames[-1]["frame"]) + 1 - len(frames)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| fault | what the operator sees | identities kept | threads | descriptors | MiB |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        messages = Counter(re.sub(r"\d+(\.\d+)?", "N", message) for message in row["events"])
        seen = "; ".join(
            f"{count} × {message}" if count > 1 else message for message, count in messages.items()
        )
        cells = [
            f"{row['before'][name]:g} → {row['after'][name]:g}"
            for name in ("threads", "descriptors", "rss_mib")
        ]
        lines.append(
            f"| {row['fault']} | {seen} | {row['kept']} of {row['identities']} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Cause all faults, print and write the results, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="bundle (default: the demo model)")
    parser.add_argument("--only", default="", metavar="TEXT", help="faults whose names contain this text")
    parser.add_argument("--restarts", type=int, default=20, help="restarts of the server (default: 20)")
    parser.add_argument("--down-s", type=float, default=600, help="longest fault in seconds (default: 600)")
    parser.add_argument("--at-once", type=int, default=3, help="faults at the same time (default: 3)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results to this file")
    args = parser.parse_args()
    faults = [fault for fault in FAULTS if args.only in fault.name]
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(args.at_once) as pool:
        folders = [Path(temporary, str(number)) for number in range(len(faults))]
        for folder in folders:
            folder.mkdir()
        tries = [pool.submit(try_fault, *pair, args) for pair in zip(faults, folders, strict=True)]
        wait(tries)
    for fault, attempt in zip(faults, tries, strict=True):
        if error := attempt.exception():
            print(f"{fault.name}: {error}", file=sys.stderr)
    rows = [attempt.result() for attempt in tries if not attempt.exception()]
    print(table(rows))
    report = {
        "machine": machine_facts(),
        "passed": len(rows) == len(faults) and all(row["passed"] for row in rows),
        "restarts": args.restarts,
        "down_s": args.down_s,
        "faults": rows,
    }
    write_json(report, args.json)
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
