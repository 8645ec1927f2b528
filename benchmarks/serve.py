"""Frame time of a run with and without load on its server.

Runs `idol-deploy serve` on a video, with the whole run process on core 0 and its server process on core 1, as a
program that shares a small machine with its clients. Rounds without clients alternate with rounds of load from core 1:
in turn, clients that watch the page's stream with pictures together with requests for the latest result, and clients
that never read.

    scripts/install-test-packages
    idol-deploy plugins build
    python -m benchmarks.serve --json benchmarks/results/serve.json

`frame_ms` is the time between two frames in the loop of the network: decoding, the network, tracking, and whatever
the run process does for its server. Exits with 1 unless the median of a round under load is at most 5 % above that of
the round before it, in the median of all rounds, all requests are answered, and clients that never read are dropped
within their time limit, at no cost in memory or frame time.
"""

import argparse
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.load import Answer, Load
from benchmarks.machine import machine_facts, report_result
from benchmarks.soak import resources
from idol_runtime.timing import summarise

__all__ = ["Served", "frame_times", "main", "measure", "stall", "write_video"]

BUNDLE = Path(__file__).parents[1] / "models" / "edge_synth" / "edge_synth.idol"
STREAM, SIZE = "street", (800, 1280)
# Most of the frame time that the load may add, growth of the server in MiB, and time after which a client is dropped.
MOST_RATIO, MOST_GROWTH_MIB, DROPPED_S = 1.05, 24.0, 10.0
STALLED = 20
# Time after a change of the load that is not measured: the server watches a stream for 3 s after its last client.
SETTLE_S = 4.0

# Kind, begin and end of a round.
Round: TypeAlias = tuple[str, float, float]


class Served:
    """A run with its server, each on a core of its own; a context manager.

    Attributes:
        port: port of the server.
        server: process of the server.
    """

    def __init__(self, times: Path, video: Path, network: list[str]) -> None:
        """Start the run.

        Args:
            times: file for the times of all frames, written at the end.
            video: source.
            network: bundle and options of the network.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "benchmarks.serve", "--child", str(times)]
        command += ["serve", *network, "--source", str(video), "--http", f"127.0.0.1:{self.port}"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.server = 0

    def __enter__(self) -> "Served":
        try:
            self._wait()
            (self.server,) = self._children()
        except BaseException:
            self._process.kill()
            raise
        for task in Path(f"/proc/{self.server}/task").iterdir():
            os.sched_setaffinity(int(task.name), {1})
        return self

    def __exit__(self, *error: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)

    def _wait(self) -> None:
        """Wait for the first frame."""
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=1).close()
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError("the run has ended, or has no frame after a minute; see its messages above")

    def _children(self) -> list[int]:
        tasks = Path(f"/proc/{self._process.pid}/task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]

    def cpu_s(self) -> float:
        """Return the processor time of the server so far."""
        fields = Path(f"/proc/{self.server}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def frame_times(times: NDArray[np.float64], rounds: list[Round]) -> dict[str, Any]:
    """Return the frame times of each kind of round, and the ratios of the medians of rounds with clients.

    Args:
        times: monotonic times of all frames.
        rounds: kind, begin and end of each round; every second one is without clients.
    """
    frame_ms: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    alone = 1.0
    for kind, begin, end in rounds:
        frames = 1e3 * np.diff(times[(times > begin + SETTLE_S) & (times < end)])
        frame_ms.setdefault(kind, []).extend(frames.tolist())
        if kind == "none":
            alone = float(np.median(frames))
        else:
            ratios.setdefault(kind, []).append(round(float(np.median(frames)) / alone, 3))
    return {
        "frame_ms": {kind: summarise(values) for kind, values in frame_ms.items()},
        "ratio": {kind: round(float(np.median(values)), 3) for kind, values in ratios.items()},
        "ratio_by_round": ratios,
    }


def write_video(path: Path, seconds: int) -> None:
    """Write a video of the synthetic clips that models are verified on, repeated."""
    import av

    from benchmarks.camera import SIZE as SMALL
    from idol_export.verify.clips import synthetic_clips

    short = path.with_name("short.mp4")
    with av.open(str(short), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        for clip in synthetic_clips(SMALL):
            for image in clip:
                large = Image.fromarray(image).resize(SIZE[::-1], Image.Resampling.BICUBIC)
                container.mux(stream.encode(av.VideoFrame.from_image(large)))
        container.mux(stream.encode(None))
    command = ["ffmpeg", "-loglevel", "error", "-stream_loop", "-1", "-i", str(short), "-t", str(seconds)]
    subprocess.run([*command, "-c", "copy", str(path)], check=True)


def measure(served: Served, load: Load, rounds: int, seconds: float) -> tuple[list[Round], dict[str, Any]]:
    """Alternate between no clients, the load and clients that stall; return the rounds and other figures."""
    done, answers, cpu_s, dropped_s = list[Round](), list[Answer](), 0.0, list[float]()
    time.sleep(2)
    memory = {"before": resources(served.server)["rss_mib"]}
    for _ in range(rounds):
        done.append(_round("none", seconds))
        before = served.cpu_s()
        load.start(served.port)
        done.append(_round("load", seconds))
        answers.append(load.stop())
        cpu_s += served.cpu_s() - before
        memory.setdefault("load", resources(served.server)["rss_mib"])
        done.append(_round("none", seconds))
        begin = time.monotonic()
        dropped_s += stall(served.port, STALLED)
        done.append(("stalled", begin, time.monotonic()))
    memory["stalled"] = resources(served.server)["rss_mib"]
    requests_ms = [ms for answer in answers for ms in answer["request_ms"]]
    return done, {
        "requests_per_s": round(min(answer["requests_per_s"] for answer in answers), 1),
        "request_ms": summarise(requests_ms),
        "failed_requests": sum(answer["failed"] for answer in answers),
        "pictures_per_s_and_client": round(min(answer["pictures_per_s"] for answer in answers), 1),
        "server_cores": round(cpu_s / (rounds * seconds), 2),
        "server_mib": {name: round(value, 1) for name, value in memory.items()},
        "stalled_clients": STALLED,
        "stalled_clients_dropped_s": [round(value, 1) for value in (min(dropped_s), max(dropped_s))],
    }


def stall(port: int, count: int) -> list[float]:
    """Connect clients that never read, and return after how many seconds the server has dropped each."""
    clients, dropped_s, started = {}, list[float](), time.monotonic()
    poll = select.poll()
    for _ in range(count):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(f"GET /api/live?stream={STREAM} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        clients[client.fileno()] = client
        poll.register(client, select.POLLRDHUP)
    while clients and time.monotonic() < started + 3 * DROPPED_S:
        for descriptor, _ in poll.poll(100):
            poll.unregister(descriptor)
            clients.pop(descriptor).close()
            dropped_s.append(time.monotonic() - started)
    dropped_s += [3 * DROPPED_S] * len(clients)
    for client in clients.values():
        client.close()
    return dropped_s


def _round(kind: str, seconds: float) -> Round:
    begin = time.monotonic()
    time.sleep(seconds)
    return kind, begin, time.monotonic()


def _child(times: Path, arguments: list[str]) -> int:
    """Run a command on core 0, and write the time of every call of the network."""
    os.sched_setaffinity(0, {0})
    from idol_deploy.cli import main as command
    from idol_runtime.streams import Streams

    track, noted = Streams.track, list[float]()

    def timed(*arguments: Any) -> Any:
        results = track(*arguments)
        noted.append(time.monotonic())
        return results

    Streams.track = timed  # type: ignore[method-assign]
    try:
        return command(arguments)
    finally:
        np.save(times, np.array(noted))


def main() -> int:
    """Measure, print and write the results, and return the exit status."""
    if sys.argv[1:2] == ["--child"]:
        return _child(Path(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each kind (default: 7)")
    parser.add_argument("--seconds", type=float, default=10, help="time of a round (default: 10)")
    parser.add_argument("--watchers", type=int, default=20, help="clients that watch (default: 20)")
    parser.add_argument("--requests", type=float, default=200, help="requests per second (default: 200)")
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="bundle (default: the demo model)")
    parser.add_argument("--backend", default="openvino", help="inference engine (default: openvino)")
    parser.add_argument("--graph", default="plugin", help="graph (default: plugin)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the results to this file")
    args = parser.parse_args()
    machine = machine_facts()
    os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory() as folder:
        video, times = Path(folder) / f"{STREAM}.mkv", Path(folder) / "times.npy"
        write_video(video, round(6 * args.rounds * args.seconds + 120))
        network = [str(args.bundle), "--backend", args.backend, "--graph", args.graph, "--threads", "1"]
        with Load(1, STREAM, args.watchers, args.requests) as load, Served(times, video, network) as served:
            rounds, figures = measure(served, load, args.rounds, args.seconds)
        frames = frame_times(np.load(times), rounds)
    memory, late = figures["server_mib"], figures["stalled_clients_dropped_s"][1]
    checks = {
        "frame time": max(frames["ratio"].values()) <= MOST_RATIO,
        "requests": figures["failed_requests"] == 0 and figures["requests_per_s"] > 0.95 * args.requests,
        "stalled clients": late < DROPPED_S + 5,
        "memory": memory["stalled"] - memory["load"] < MOST_GROWTH_MIB,
    }
    load_facts = {
        "watchers": args.watchers,
        "requests_per_s": args.requests,
        "picture": SIZE,
        "rounds": args.rounds,
    }
    report = {
        "machine": machine,
        "load": load_facts,
        "passed": all(checks.values()),
        "checks": checks,
    }
    return report_result({**report, **frames, **figures}, args.json)


if __name__ == "__main__":
    sys.exit(main())
