"""The measurement: every row opened, then a frame of each in turns, and all that is known of them in one report.

The report is what the JSON file holds; tables and pages are made of it alone.
"""

import datetime
import importlib.metadata
import multiprocessing
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from idol_runtime.backends.base import check_threads
from idol_runtime.bench.roofline import GraphCost, Peaks, count_cost, measure_peaks
from idol_runtime.bench.rows import BenchRow
from idol_runtime.bench.sensors import Sensors
from idol_runtime.bench.worker import STAGES, Worker, thread_limit
from idol_runtime.bundle.bundle import Bundle
from idol_runtime.errors import BackendError, ConfigError, IdolError, SourceError
from idol_runtime.sources.opening import open_source
from idol_runtime.timing import paired_ratio, summarise

__all__ = ["FORMAT", "BenchOptions", "measure"]

FORMAT = 1
_PACKAGES = ("idol-deploy", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "torch")


@dataclass(frozen=True)
class BenchOptions:
    """How much is measured, and on what.

    Attributes:
        source: of frames; None: the bundle's golden frame, drifting.
        frames: that each row is timed on.
        warmup: frames of each before these.
        threads: CPU threads of each row; None: as many as each likes.
        device: `cpu`, `cuda` or `cuda:N`.
        fit: letterbox frames that the bundle was not made for.
    """

    source: str | None = None
    frames: int = 50
    warmup: int = 3
    threads: int | None = None
    device: str = "cpu"
    fit: bool = False

    def __post_init__(self) -> None:
        if self.frames < 1 or self.warmup < 0:
            raise ConfigError("a benchmark needs at least one frame, and no fewer than none to warm up")
        check_threads(self.threads)


def measure(
    bundle: str | Path,
    rows: Sequence[BenchRow],
    options: BenchOptions,
    announce: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Time all rows, and compare them with the first.

    Args:
        bundle: path of the bundle.
        rows: what to compare; a row that cannot be opened, or fails, is left out, and the report says why.
        options: how much is measured.
        announce: is told what happens.

    Raises:
        BundleError: the bundle is broken.
        SourceError: the source cannot be read, or is live.
        BackendError: no device can have such a name, no row could be measured, or one that is required cannot be
            opened.
    """
    _check_source(options)
    left_out: list[dict[str, str]] = []
    sensors = Sensors(options.device)
    workers = _open(bundle, rows, options, left_out, announce)
    times: dict[str, list[Mapping[str, float]]] = {worker.row.name: [] for worker in workers}
    try:
        announce(f"{options.frames} frames of {len(workers)} rows, in turns")
        for index in range(options.warmup + options.frames):
            for worker in tuple(workers):
                try:
                    taken = worker.step()
                except IdolError as error:
                    left_out.append({"row": worker.row.name, "why": str(error)})
                    workers.remove(worker)
                    continue
                if index >= options.warmup:
                    times[worker.row.name].append(taken)
            sensors.sample()
        if not workers:
            raise BackendError(f"no row could be measured: {left_out[-1]['why']}")
        found = [_row(worker, times[worker.row.name], times[workers[0].row.name]) for worker in workers]
    finally:
        for worker in workers:
            worker.close()
    report = _facts(bundle, options) | {"clocks": sensors.report(), "rows": found, "left_out": left_out}
    announce("counting the network's work, and what the machine could do")
    report["roofline"] = _roofline(bundle, options)
    _share(report)
    return report


def _check_source(options: BenchOptions) -> None:
    if options.source is None:
        return
    with open_source(options.source) as source:
        if source.live:
            raise SourceError(
                f"{source.name} gives every row other frames; record some, and give the video to the benchmark"
            )


def _open(
    bundle: str | Path,
    rows: Sequence[BenchRow],
    options: BenchOptions,
    left_out: list[dict[str, str]],
    announce: Callable[[str], None],
) -> list[Worker]:
    workers: list[Worker] = []
    try:
        for row in rows:
            announce(f"opening {row.name}")
            try:
                workers.append(Worker(row, str(bundle), options.source, options.threads, options.fit))
            except IdolError as error:
                if row.required:
                    raise
                left_out.append({"row": row.name, "why": str(error)})
    except BaseException:
        for worker in workers:
            worker.close()
        raise
    if not workers:
        raise BackendError(
            f"no row could be opened: {left_out[0]['why'] if left_out else 'none was asked for'}"
        )
    return workers


def _row(
    worker: Worker, times: Sequence[Mapping[str, float]], reference: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """What is known of one row; ratios are of the first row to it."""
    stages = [stage for stage in STAGES if stage in times[0]]
    age = [sum(frame.values()) for frame in times]
    summary = summarise(age)
    return {
        "row": worker.row.name,
        "backend": worker.opening.name,
        "precision": worker.row.precision,
        "stages_ms": {stage: summarise([frame[stage] for frame in times]) for stage in stages},
        "age_ms": summary,
        "frames_per_s": round(1e3 / summary["mean"], 2),
        "faster_network": paired_ratio([f["network"] for f in reference], [f["network"] for f in times]),
        "faster_frame": paired_ratio([sum(f.values()) for f in reference], age),
        "start_s": round(worker.start_s, 2),
        "open_s": round(worker.opening.open_s, 2),
        "first_frame_s": round(worker.opening.first_frame_s, 3),
        "peak_mib": round(worker.peak_mib()),
        "golden_error": float(f"{worker.opening.error:.2g}"),
        "wrong": worker.opening.wrong,
        "parity": None if worker.row.tolerance_share is None else round(worker.row.tolerance_share, 3),
        "id_agreement": worker.row.id_agreement,
        "network_ms": [round(frame["network"], 3) for frame in times],
    }


def _facts(bundle: str | Path, options: BenchOptions) -> dict[str, Any]:
    with Bundle.open(bundle) as opened:
        manifest = opened.manifest
    return {
        "format": FORMAT,
        "bundle": {
            "preset": manifest.preset,
            "frame_size": manifest.frame_size,
            "network_size": manifest.network_size,
            "weights_sha256": manifest.weights_sha256,
            "note": manifest.note,
        },
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        },
        "versions": _versions(),
        "frames": options.frames,
        "threads": options.threads,
        "device": options.device,
        "source": "the golden frame, drifting" if options.source is None else Path(options.source).name,
    }


def _cpu() -> str:
    """The processor as Linux names it; the architecture elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    pairs = [line.partition(":") for line in lines]
    names = [value.strip() for key, _, value in pairs if key.strip() in ("model name", "Model")]
    return names[0] if names else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    installed = {
        str(found.metadata["Name"]).lower(): found.version for found in importlib.metadata.distributions()
    }
    return {name: installed[name] for name in _PACKAGES if name in installed}


def _roofline(bundle: str | Path, options: BenchOptions) -> dict[str, Any]:
    """Work, peaks and floor; why there is none, where there is none."""
    if options.device != "cpu":
        return {"why_not": "peaks are measured on a CPU alone"}
    try:
        with Bundle.open(bundle) as opened:
            cost = count_cost(opened.graph("portable"))
    except IdolError as error:
        return {"why_not": str(error)}
    with thread_limit(options.threads), multiprocessing.get_context("spawn").Pool(1) as pool:
        peaks = pool.apply(measure_peaks)
    return _floor(cost, peaks)


def _floor(cost: GraphCost, peaks: Peaks) -> dict[str, Any]:
    return {
        "work": asdict(cost),
        "peak_gflops": round(peaks.flops / 1e9, 1),
        "peak_gb_s": round(peaks.bytes / 1e9, 1),
        "floor_ms": round(peaks.floor_ms(cost), 3),
    }


def _share(report: dict[str, Any]) -> None:
    """Add to every row what share of its network's time the floor is."""
    floor = report["roofline"].get("floor_ms")
    for row in report["rows"]:
        row["roofline_share"] = (
            None if floor is None else round(floor / row["stages_ms"]["network"]["p50"], 3)
        )
