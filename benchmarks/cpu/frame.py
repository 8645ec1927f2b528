"""Speed of one frame of a network on a CPU, for several engines and precisions.

Runs a uint8 frame through ytvis19_r50 at 360x640 and edge_synth at 240x384 (by default) with reference weights,
interleaved. The rows are:

    eager            PyTorch in inference mode, the network as published with grid_sample
    compile          PyTorch with torch.compile, weights frozen
    openvino-grid    control: a graph with GridSample in OpenVINO, without anything of this package
    ort-grid         control: the same graph in ONNX Runtime
    portable         the portable graph in ONNX Runtime
    operator         the graph with the compiled operator in ONNX Runtime
    int8             the same in int8 for ONNX Runtime
    openvino         the graph with the compiled operator in OpenVINO
    openvino-bf16    the same in bf16
    openvino-int8    the same in int8 (Q/DQ)

    idol-deploy plugins build
    python -m benchmarks.cpu.frame --json benchmarks/results/frame_cpu.json --readme benchmarks/README.md
    python -m benchmarks.cpu.frame edge_synth:160x256 --threads 1 --rounds 40 --only operator,int8
    python -m benchmarks.cpu.frame --from benchmarks/results/frame_cpu.json --readme benchmarks/README.md

All rows run in one process whose allocator keeps freed memory, because PyTorch's time otherwise depends on the other
rows. `products_gflops` is the speed of a large matrix product in OpenVINO. `floor_ms` is the time of a frame's
multiplications at that speed, a lower limit for every graph on this machine. `shares` has the share of a frame's time
of each kind of node and type, from OpenVINO's profile.

`best` compares minima, which background load affects least. `error` is the largest difference from eager over the
largest value of the worst output. Exits with 1 if one of our fp32 graphs has an error above 1e-5, or if a speed-up of
`GOALS` is not reached. The error of a reduced-precision graph has no meaning with reference weights, which are random.
"""

import argparse
import importlib.metadata
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import PIL.Image
import torch
from numpy.typing import NDArray

from benchmarks.machine import keep_memory, machine_facts, put_into, report_result
from idol_deploy.config import preset
from idol_deploy.weights.reference import make_video, reference_model
from idol_export.graph.adapter import STAGES, ExportGraph
from idol_export.graph.operator import CORES, with_core
from idol_export.graph.tracing import probe_to_onnx, shipped
from idol_export.precision.editor import Editor
from idol_export.precision.folding import folded
from idol_export.precision.half import islands_of, to_half
from idol_export.precision.integer_graphs import IntegerGraphs
from idol_export.precision.node_groups import KEPT
from idol_export.precision.quantizer import Observed, Target, quantize
from idol_plugins.openvino import core_with_operator, openvino_library
from idol_plugins.ort import ort_library
from idol_runtime.backends.onnxruntime import open_session, run_session
from idol_runtime.bench.roofline import count_cost
from idol_runtime.bundle.bundle import OUTPUT_NAMES
from idol_runtime.files import replacing
from idol_runtime.processor import processor_features
from idol_runtime.timing import interleaved

ROWS: Mapping[str, str] = {
    "eager": "PyTorch eager, `grid_sample`",
    "compile": "`torch.compile`, weights frozen",
    "openvino-grid": "OpenVINO, GridSample graph (control)",
    "ort-grid": "ONNX Runtime, GridSample graph (control)",
    "portable": "ONNX Runtime, portable graph",
    "operator": "ONNX Runtime, operator",
    "int8": "ONNX Runtime, operator, `int8-ort`",
    "openvino": "OpenVINO, operator",
    "openvino-bf16": "OpenVINO, operator, `bf16`",
    "openvino-int8": "OpenVINO, operator, `int8-qdq`",
}
NETWORKS = ("ytvis19_r50:360x640", "edge_synth:240x384")
BEGIN, END = "<!-- frame: benchmarks/cpu/frame.py -->\n", "<!-- end of frame -->\n"
TOLERANCE = 1e-5
_EXACT = ("portable", "operator", "openvino")
_FASTEST = tuple(name for name in ROWS if name not in ("eager", "compile", "openvino-grid", "ort-grid"))
# Network, slow row, fast rows, and least speed-ups on processors with AMX, with AVX-512 VNNI, and without either.
GOALS = (
    (NETWORKS[0], "eager", _FASTEST, (11, 8, 4.5)),
    (NETWORKS[0], "eager", _EXACT, (3.8, 3.8, 3.2)),
    (NETWORKS[0], "openvino-grid", _FASTEST, (5, 4, 2)),
    (NETWORKS[0], "ort-grid", ("portable",), (1 / 0.9, 1 / 0.9, 1 / 0.9)),
    (NETWORKS[1], "eager", _FASTEST, (6, 5, 5)),
)
_ROWS, _INNER = 4096, 2048  # sizes of a large product: [rows, inner] x [inner, inner]

Outputs: TypeAlias = Mapping[str, NDArray[np.float32]]
Engine: TypeAlias = Callable[[], Outputs]


class Graphs:
    """The graphs of a network with reference weights, made when they are needed."""

    def __init__(self, name: str) -> None:
        preset_name, _, size = name.partition(":")
        height, width = map(int, size.split("x"))
        self.size = height, width
        self.model = reference_model(preset(preset_name))
        self.image = np.ascontiguousarray(make_video(1, *self.size, seed=0)[0].transpose(1, 2, 0))[None]

    @cached_property
    def grid(self) -> bytes:
        """The graph with GridSample."""
        return shipped(probe_to_onnx(ExportGraph(self.model, self.size)))

    @cached_property
    def portable(self) -> bytes:
        """The portable graph."""
        return shipped(probe_to_onnx(ExportGraph(with_core(self.model, CORES["portable"]), self.size)))

    @cached_property
    def probe(self) -> bytes:
        """The graph with the operator and its stages, folded for reduced precision."""
        return folded(probe_to_onnx(ExportGraph(with_core(self.model, CORES["plugin"]), self.size)))

    @property
    def bf16(self) -> bytes:
        """The operator's graph in bf16."""
        return to_half(shipped(self.probe), islands_of(self.probe, "bf16"), "bf16")

    def int8(self, target: Target) -> bytes:
        """The operator's graph in int8, calibrated on one frame."""
        with tempfile.TemporaryDirectory() as folder:
            PIL.Image.fromarray(self.image[0]).save(f"{folder}/frame.png")
            graphs = IntegerGraphs(self.probe, self.size, (ort_library(),), target, folder, 1)
            return shipped(graphs.probe(KEPT))


def torch_engine(graph: torch.nn.Module, image: NDArray[np.uint8]) -> Engine:
    """Return a PyTorch network as a callable."""
    pixels = torch.from_numpy(image)

    def run() -> Outputs:
        with torch.inference_mode():
            return {n: t.numpy() for n, t in zip((*STAGES, *OUTPUT_NAMES), graph(pixels), strict=True)}

    return run


def ort_engine(graph: bytes, image: NDArray[np.uint8], threads: int) -> Engine:
    """Return an ONNX Runtime session with the compiled operator."""
    session = open_session(graph, threads=threads, libraries=[ort_library()])
    return lambda: run_session(session, OUTPUT_NAMES, image)


def openvino_request(graph: bytes, threads: int, *, profile: bool = False) -> Any:
    """Return an OpenVINO request with the compiled operator, in the types of the graph."""
    core = core_with_operator(openvino_library())
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "LATENCY",
        "PERF_COUNT": profile,
    }
    return core.compile_model(core.read_model(graph, b""), "CPU", settings).create_infer_request()


def openvino_engine(graph: bytes, image: NDArray[np.uint8], threads: int) -> Engine:
    """Return a graph in OpenVINO as a callable."""
    request = openvino_request(graph, threads)

    def run() -> Outputs:
        outputs = request.infer({"image": image}, share_inputs=True)
        return {name: outputs[name].copy() for name in OUTPUT_NAMES}

    return run


def open_engine(name: str, graphs: Graphs, threads: int) -> Engine:
    """Open one of `ROWS`."""
    if name == "eager":
        return torch_engine(ExportGraph(graphs.model, graphs.size), graphs.image)
    if name == "compile":
        import torch._inductor.config as inductor

        inductor.freezing = True
        compiled = torch.compile(ExportGraph(graphs.model, graphs.size), dynamic=False)
        return torch_engine(compiled, graphs.image)  # type: ignore[arg-type]
    engine = openvino_engine if name.startswith("openvino") else ort_engine
    return engine(graph_of(name, graphs), graphs.image, threads)


def graph_of(name: str, graphs: Graphs) -> bytes:
    """Return the ONNX file of a row."""
    if name in ("openvino-grid", "ort-grid"):
        return graphs.grid
    if name == "portable":
        return graphs.portable
    if name == "openvino-bf16":
        return graphs.bf16
    if name in ("int8", "openvino-int8"):
        return graphs.int8("ort" if name == "int8" else "qdq")
    return shipped(graphs.probe)


def shares(graph: bytes, image: NDArray[np.uint8], threads: int) -> dict[str, float]:
    """Return the share of a frame's time of each kind of node and type, from OpenVINO's profile."""
    request = openvino_request(graph, threads, profile=True)
    spent: dict[str, tuple[str, float]] = {}
    for _ in range(4):
        request.infer({"image": image})
        for node in request.profiling_info:
            kind = f"{node.node_type} {node.exec_type.rpartition('_')[2].lower()}"
            seconds = node.real_time.total_seconds()
            spent[node.node_name] = min(spent.get(node.node_name, (kind, seconds)), (kind, seconds))
    total = Counter[str]()
    for kind, seconds in spent.values():
        total[kind] += seconds
    return {kind: round(seconds / total.total(), 3) for kind, seconds in total.most_common(10)}


def products(threads: int) -> dict[str, float]:
    """Return billions of operations per second of a large matrix product in OpenVINO, in fp32, bf16 and int8."""
    rng = np.random.default_rng(0)
    left = rng.normal(size=(_ROWS, _INNER)).astype(np.float32)
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, left.shape) for name in ("x", "y")
    ]
    weight = onnx.numpy_helper.from_array(rng.normal(size=(_INNER, _INNER)).astype(np.float32), "w")
    nodes = [
        onnx.helper.make_node("Cast", ["x"], ["v"], to=onnx.TensorProto.FLOAT),  # the type of the graph
        onnx.helper.make_node("MatMul", ["v", "w"], ["y"], name="product"),
    ]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    opsets = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    fp32 = onnx.shape_inference.infer_shapes(model).SerializeToString()
    integers = Editor(fp32)
    quantize(integers, ["product"], {"v": Observed(-4, 4, np.zeros(_INNER, np.float32))}, "qdq")
    graphs = {"fp32": fp32, "bf16": to_half(fp32, (), "bf16"), "int8": integers.to_bytes()}
    speeds = {}
    for precision, data in graphs.items():
        request = openvino_request(data, threads)
        times = interleaved([lambda r=request: r.infer({"x": left}, share_inputs=True)], rounds=10)  # type: ignore[misc]
        speeds[precision] = round(2e-6 * _ROWS * _INNER**2 / times.min(), 1)
    return speeds


def largest_error(outputs: Outputs, expected: Outputs) -> float:
    """Return the largest difference over the largest value of the worst output."""
    return max(
        float(np.abs(outputs[name] - expected[name]).max() / np.abs(expected[name]).max())
        for name in OUTPUT_NAMES
    )


def measure(engines: Mapping[str, Engine], rounds: int) -> dict[str, dict[str, float]]:
    """Measure each engine's error on a first call, then interleaved times."""
    outputs = {name: run() for name, run in engines.items()}
    times = dict(zip(engines, interleaved(list(engines.values()), rounds).T, strict=True))
    eager = times["eager"]
    return {
        name: {
            "median_ms": round(float(np.median(milliseconds)), 1),
            "least_ms": round(float(milliseconds.min()), 1),
            "times_as_fast_as_eager": round(float(np.median(eager) / np.median(milliseconds)), 2),
            "best_times_as_fast_as_eager": round(eager.min() / milliseconds.min(), 2),
            "error": largest_error(outputs[name], outputs["eager"]),
        }
        for name, milliseconds in times.items()
    }


def measure_network(
    name: str, rows: Sequence[str], threads: int, rounds: int, speeds: Mapping[str, float]
) -> dict[str, Any]:
    """Return the measurements of one network."""
    graphs = Graphs(name)
    measured = measure({row: open_engine(row, graphs, threads) for row in rows}, rounds)
    profiled = [row for row in ("openvino", "openvino-bf16", "openvino-int8") if row in rows]
    flops = count_cost(graphs.grid).flops
    return {
        "rows": measured,
        "floor_ms": {precision: round(1e-6 * flops / speed, 1) for precision, speed in speeds.items()},
        "shares": {row: shares(graph_of(row, graphs), graphs.image, threads) for row in profiled},
    }


def goals(networks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Compare the measured speed-ups with `GOALS` for this processor; leave out what was not measured."""
    features = processor_features()
    amx, vnni = "amx_int8" in features, {"avx512", "vnni"} <= set(features)
    compared = []
    for network, slow, fast, limits in GOALS:
        rows = networks.get(network, {"rows": {}})["rows"]
        times = {name: rows[name]["median_ms"] for name in fast if name in rows}
        if slow not in rows or not times:
            continue
        fastest = min(times, key=lambda name: times[name])
        limit = limits[0 if amx else 1 if vnni else 2]
        speed_up = rows[slow]["median_ms"] / times[fastest]
        compared.append(
            {"network": network, "slow": slow, "fast": fastest, "goal": limit, "speed_up": round(speed_up, 2)}
        )
    return compared


def table(report: Mapping[str, Any]) -> str:
    """Return a Markdown table of times and speed-ups, and one of the goals."""
    networks = report["networks"]
    heads = [f"`{name.partition(':')[0]}`, {name.partition(':')[2]}" for name in networks]
    lines = [
        "| | " + " | ".join(f"{head}, ms | times eager | error" for head in heads) + " |",
        "| --- |" + " ---: | ---: | ---: |" * len(heads),
    ]
    for row, title in ROWS.items():
        cells = [title]
        for network in networks.values():
            entry = network["rows"].get(row)
            cells += (
                ["", "", ""]
                if entry is None
                else [
                    f"{entry['median_ms']:.1f} ({entry['least_ms']:.1f})",
                    f"{entry['times_as_fast_as_eager']:.2f} ({entry['best_times_as_fast_as_eager']:.2f})",
                    f"{entry['error']:.0e}",
                ]
            )
        lines.append(f"| {' | '.join(cells)} |")
    for precision in report["products_gflops"]:
        floors = (f"{network['floor_ms'][precision]:.1f} | | " for network in networks.values())
        lines.append(f"| products alone, {precision} | {'| '.join(floors)}|")
    machine = report["machine"]
    facts = (
        f"{machine['cpu']} ({', '.join(report['processor'])}), {report['threads']} threads, {report['rounds']} rounds, "
        f"{machine['date']}; medians and, in brackets, minima."
    )
    lines += ["", facts, "", "| network | speed-up | goal | measured |", "| --- | --- | ---: | ---: |"]
    lines += [
        f"| {goal['network']} | {ROWS[goal['fast']]} over {ROWS[goal['slow']]} | {goal['goal']:.2f} | "
        f"{goal['speed_up']:.2f} |"
        for goal in report["goals"]
    ]
    return "\n".join([*lines, ""])


def benchmark(networks: Sequence[str], rows: Sequence[str], threads: int, rounds: int) -> dict[str, Any]:
    """Measure networks and return the report."""
    torch.set_num_threads(threads)
    speeds = products(threads)
    measured = {name: measure_network(name, rows, threads, rounds, speeds) for name in networks}
    compared = goals(measured)
    exact = [network["rows"][row]["error"] for network in measured.values() for row in _EXACT if row in rows]
    packages = ("torch", "onnxruntime", "openvino")
    return {
        "machine": machine_facts(),
        "processor": processor_features(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "threads": threads,
        "rounds": rounds,
        "passed": max(exact, default=0) <= TOLERANCE and all(g["speed_up"] >= g["goal"] for g in compared),
        "networks": measured,
        "products_gflops": speeds,
        "goals": compared,
    }


def main() -> int:
    """Measure or read the results, print and write them, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="PRESET:HEIGHTxWIDTH")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--only", default=",".join(ROWS), metavar="ROWS", help="rows besides eager (default: all)"
    )
    parser.add_argument("--from", dest="earlier", type=Path, metavar="JSON", help="earlier result to read")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument(
        "--readme", type=Path, metavar="FILE", help="write the tables between the marks of FILE"
    )
    args = parser.parse_args()
    if args.earlier:
        report = json.loads(args.earlier.read_text())
    else:
        keep_memory()
        rows = dict.fromkeys(("eager", *args.only.split(",")))
        report = benchmark(args.networks, list(rows), args.threads, args.rounds)
    if args.readme is not None:
        page = put_into(args.readme.read_text(), table(report), BEGIN, END)
        with replacing(args.readme) as temporary:
            temporary.write_text(page)
    return report_result(report, args.json)


if __name__ == "__main__":
    sys.exit(main())
