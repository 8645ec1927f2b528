"""The measurement: opens every row, times the rows in turn, and returns one report.

The report is the content of the JSON file; tables and pages are made from it alone.
"""

import contextlib
import datetime
import importlib.metadata
import multiprocessing
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from idol_runtime.backends import OpenOptions
from idol_runtime.bench.burst import idle_power, run_alone
from idol_runtime.bench.roofline import GraphCost, Peaks, count_cost, measure_peaks
from idol_runtime.bench.rows import BenchOptions, BenchRow
from idol_runtime.bench.sensors import Reading, Sensors
from idol_runtime.bench.worker import STAGES, Worker, thread_limit
from idol_runtime.bundle.bundle import Bundle
from idol_runtime.errors import BackendError, IdolError, SourceError
from idol_runtime.pipeline import open_network
from idol_runtime.processor import processor_name
from idol_runtime.sources.opening import open_source
from idol_runtime.timing import paired_ratio, summarise

__all__ = ["FORMAT", "BenchOptions", "measure"]

FORMAT = 1
_PACKAGES = ("idol-deploy", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "torch")

_T = TypeVar("_T")
_Times = list[Mapping[str, float]]  # milliseconds by stage, of each frame


def measure(
    bundle: str | Path,
    rows: Sequence[BenchRow],
    options: BenchOptions,
    announce: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Time all rows and compare them with the first.

    Args:
        bundle: path of the bundle.
        rows: rows to compare; the report lists those that cannot be opened or fail, with the reason.
        options: frames, threads and device.
        announce: function that receives progress messages.

    Raises:
        BundleError: the bundle is broken.
        SourceError: the source cannot be read, or is live.
        BackendError: the device is unknown, no row could be measured, or a required row cannot be opened.
    """
    _check_source(options)
    left_out: list[dict[str, str]] = []
    sensors = Sensors(options.device)
    idle_w = idle_power(sensors)
    memory: dict[str, float | None] = {}
    with contextlib.ExitStack() as stack:
        workers = []
        for row in rows:
            announce(f"opening {row.name}")
            try:
                before = sensors.read()
                workers.append(Worker(row, bundle, options))
                memory[row.name] = _increase_mib(before, sensors.read())
            except IdolError as error:
                if row.required:
                    raise
                left_out.append({"row": row.name, "why": str(error)})
            else:
                stack.callback(workers[-1].close)
        announce(f"timing {options.frames} frames of {len(workers)} rows, interleaved")
        times = _time(workers, options, sensors, left_out)
        bursts: dict[str, dict[str, Any]] = {}
        if options.device != "cpu" or idle_w is not None:
            announce("measuring power and device memory, one row at a time")
            bursts = _run_alone(workers, sensors, memory, left_out)
        if not workers:
            raise BackendError(
                f"no row could be measured: {left_out[-1]['why'] if left_out else 'no row was given'}"
            )
        results = [
            _row(worker, times[worker.row.name], times[workers[0].row.name])
            | {"burst": bursts.get(worker.row.name)}
            for worker in workers
        ]
    report = _facts(bundle, options, sensors) | {"rows": results, "left_out": left_out, "idle_w": idle_w}
    announce("looking for the row that `run` uses")
    used, report["used_why"] = _in_process(options, _choice, bundle, options)
    for result in results:
        result["used"] = result["row"] == used
    announce("counting the network's operations and measuring the machine's peaks")
    report["roofline"] = _roofline(bundle, options)
    floor = report["roofline"].get("floor_ms")
    for result in results:
        p50 = result["stages_ms"]["network"]["p50"]
        result["roofline_share"] = None if floor is None else round(floor / p50, 3)
    return report


def _check_source(options: BenchOptions) -> None:
    if options.source is None:
        return
    with open_source(options.source) as source:
        if source.live:
            raise SourceError(
                f"{source.name} is live, so every row would get other frames; record it and pass the video"
            )


def _time(
    workers: list[Worker], options: BenchOptions, sensors: Sensors, left_out: list[dict[str, str]]
) -> dict[str, _Times]:
    """Run one frame of each worker in turn; workers that fail are removed and added to `left_out`."""
    times: dict[str, _Times] = {worker.row.name: [] for worker in workers}
    for index in range(options.warmup + options.frames):
        for worker in tuple(workers):
            try:
                stages = worker.step()
            except IdolError as error:
                left_out.append({"row": worker.row.name, "why": str(error)})
                workers.remove(worker)
                continue
            if index >= options.warmup:
                times[worker.row.name].append(stages)
        sensors.sample()
    return times


def _increase_mib(before: Reading, after: Reading) -> float | None:
    """Return the increase of the device's used memory; None if it is unknown or has not increased."""
    used = [reading.get("gpu_used_mib") for reading in (before, after)]
    if used[0] is None or used[1] is None or used[1] <= used[0]:
        return None
    return used[1] - used[0]


def _run_alone(
    workers: list[Worker],
    sensors: Sensors,
    memory: Mapping[str, float | None],
    left_out: list[dict[str, str]],
) -> dict[str, dict[str, Any]]:
    """Run a burst of every row; workers that fail are removed and added to `left_out`."""
    bursts = {}
    for worker in tuple(workers):
        name = worker.row.name
        try:
            bursts[name] = run_alone(worker, sensors, memory[name])
        except IdolError as error:
            left_out.append({"row": name, "why": str(error)})
            workers.remove(worker)
    return bursts


def _row(worker: Worker, times: _Times, reference: _Times) -> dict[str, Any]:
    """Return the results of one row; ratios are against the first row."""
    age = [sum(frame.values()) for frame in times]
    network = [frame["network"] for frame in times]
    summary, row, opening = summarise(age), worker.row, worker.opening
    return {
        "row": row.name,
        "backend": opening.name,
        "precision": row.precision,
        "stages_ms": {
            stage: summarise([frame[stage] for frame in times]) for stage in STAGES if stage in times[0]
        },
        "age_ms": summary,
        "frames_per_s": round(1e3 / summary["mean"], 2),
        "faster_network": paired_ratio([frame["network"] for frame in reference], network),
        "faster_frame": paired_ratio([sum(frame.values()) for frame in reference], age),
        "start_s": round(worker.start_s, 2),
        "open_s": round(opening.open_s, 2),
        "first_frame_s": round(opening.first_frame_s, 3),
        "peak_mib": round(worker.peak_mib()),
        "golden_error": float(f"{opening.error:.2g}"),
        "wrong": opening.wrong,
        "parity": None if row.tolerance_share is None else round(row.tolerance_share, 3),
        "id_agreement": row.id_agreement,
        "network_ms": [round(value, 3) for value in network],
    }


def _facts(bundle: str | Path, options: BenchOptions, sensors: Sensors) -> dict[str, Any]:
    with Bundle.open(bundle) as opened:
        manifest = opened.manifest
    fields = ("preset", "frame_size", "network_size", "weights_sha256", "note")
    installed = {str(d.metadata["Name"]).lower(): d.version for d in importlib.metadata.distributions()}
    return {
        "format": FORMAT,
        "bundle": {name: getattr(manifest, name) for name in fields},
        "machine": {
            "cpu": processor_name(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            **sensors.facts(),
        },
        "clocks": sensors.report(),
        "versions": {name: installed[name] for name in _PACKAGES if name in installed},
        "frames": options.frames,
        "threads": options.threads,
        "device": options.device,
        "source": "the golden frame, drifting" if options.source is None else Path(options.source).name,
    }


def _roofline(bundle: str | Path, options: BenchOptions) -> dict[str, Any]:
    """Return cost, peaks and lowest time of a frame, or the reason why they are missing."""
    if options.device != "cpu":
        return {"why_not": "peaks are measured on a CPU only"}
    try:
        with Bundle.open(bundle) as opened:
            cost = count_cost(opened.graph("portable"))
    except IdolError as error:
        return {"why_not": str(error)}
    return _floor(cost, _in_process(options, measure_peaks))


def _choice(bundle: str | Path, options: BenchOptions) -> tuple[str, str]:
    """Return the row that `run` uses on this device, and the reason; an error has no row."""
    try:
        network = open_network(bundle, OpenOptions(device=options.device, threads=options.threads))
    except IdolError as error:
        return "", str(error)
    with network:
        engine = network.backend.name.partition(" ")[0]
        return f"{engine}, {network.backend.graph}", network.backend.reason


def _in_process(options: BenchOptions, function: Callable[..., _T], *arguments: object) -> _T:
    """Return the result of a function that a new process calls."""
    with thread_limit(options.threads), multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _floor(cost: GraphCost, peaks: Peaks) -> dict[str, Any]:
    return {
        "work": asdict(cost),
        "peak_gflops": round(peaks.flops / 1e9, 1),
        "peak_gb_s": round(peaks.bytes / 1e9, 1),
        "floor_ms": round(peaks.floor_ms(cost), 3),
    }
