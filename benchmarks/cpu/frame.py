"""Speed of one frame of a network on a CPU, for several engines and precisions.

Runs a uint8 frame through ytvis19_r50 (by default) at 360x640 with reference weights, interleaved:

    eager      PyTorch in inference mode, the network as published with grid_sample
    compile    PyTorch with torch.compile, weights frozen
    openvino   the portable graph in OpenVINO, where it is installed
    portable   the portable graph in ONNX Runtime
    operator   the graph with the compiled operator in ONNX Runtime
    int8       the operator's graph in int8 for the quantization target `ort`, as exported
    int8-keep  the same with backbone and neck in fp32

    idol-deploy plugins build
    python -m benchmarks.cpu.frame [--threads 2] [--rounds 7] [--size 360x640] [--only eager,operator] [--json OUT]
    python -m benchmarks.cpu.frame --preset edge_synth --size 160x256 --only int8,int8-keep

`products_gflops` is the speed of a large matrix product in ONNX Runtime in fp32 and int8. `floor_ms` is the time of a
frame's multiplications at that speed, a lower limit for every graph on this machine.

`ratio` compares medians with the operator's; `best_ratio` compares minima, which background load affects least. `error`
is the largest difference from eager over the largest value of the worst output. Exits with 1 if one of our fp32 graphs
in ONNX Runtime has an error above 1e-5. The error of int8 has no meaning with reference weights, which are random.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import PIL.Image
import torch
from numpy.typing import NDArray

from benchmarks.machine import machine_facts, report_result
from idol_deploy.config import preset
from idol_deploy.model.idol import Idol
from idol_deploy.weights.reference import make_video, reference_model
from idol_export.graph.adapter import STAGES, ExportGraph
from idol_export.graph.operator import fused_node, with_core
from idol_export.graph.tracing import probe_to_onnx, shipped
from idol_export.precision.folding import folded
from idol_export.precision.integer_graphs import IntegerGraphs
from idol_export.precision.node_groups import KEPT
from idol_plugins.cpu import CpuLibrary, Isa
from idol_plugins.ort import ort_library
from idol_runtime.backends.onnxruntime import DISABLED_OPTIMIZERS, open_session, run_session
from idol_runtime.bench.roofline import count_cost
from idol_runtime.bundle.bundle import OUTPUT_NAMES
from idol_runtime.timing import interleaved

ENGINES = ("eager", "compile", "openvino", "portable", "operator", "int8", "int8-keep")
INT8_KEEPS = {"int8": KEPT, "int8-keep": (*KEPT, "backbone", "neck")}
TOLERANCE = 1e-5
_ROWS, _INNER = 4096, 1024  # sizes of a large product: [rows, inner] x [inner, inner]

Outputs: TypeAlias = Mapping[str, NDArray[np.float32]]
Engine: TypeAlias = Callable[[], Outputs]


def torch_engine(graph: torch.nn.Module, image: NDArray[np.uint8]) -> Engine:
    """Return a PyTorch network as a callable."""
    pixels = torch.from_numpy(image)

    def run() -> Outputs:
        with torch.inference_mode():
            return {n: t.numpy() for n, t in zip((*STAGES, *OUTPUT_NAMES), graph(pixels), strict=True)}

    return run


def openvino_engine(graph: bytes, image: NDArray[np.uint8], threads: int) -> Engine:
    """Return an OpenVINO model in fp32 with the given number of threads."""
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(graph, b""), "CPU", settings)

    def run() -> Outputs:
        outputs = compiled({"image": image})
        return {name: outputs[name] for name in OUTPUT_NAMES}

    return run


def ort_engine(graph: bytes, image: NDArray[np.uint8], threads: int) -> Engine:
    """Return an ONNX Runtime session with the compiled operator."""
    session = open_session(graph, threads=threads, libraries=[ort_library()])
    return lambda: run_session(session, OUTPUT_NAMES, image)


def int8_graphs(
    probe: bytes, image: NDArray[np.uint8], keeps: Mapping[str, tuple[str, ...]]
) -> dict[str, bytes]:
    """Return int8 graphs by name, each with its node groups kept in fp32, calibrated on one image."""
    _, height, width, _ = image.shape
    with tempfile.TemporaryDirectory() as folder:
        PIL.Image.fromarray(image[0]).save(f"{folder}/frame.png")
        graphs = IntegerGraphs(folded(probe), (height, width), (ort_library(),), "ort", folder, 1)
        return {name: shipped(graphs.probe(keep)) for name, keep in keeps.items()}


def open_engines(
    preset_name: str, size: tuple[int, int], threads: int, names: tuple[str, ...]
) -> dict[str, Engine]:
    """Return the requested engines that are installed."""
    model = reference_model(preset(preset_name))
    image = np.ascontiguousarray(make_video(1, *size, seed=0)[0].transpose(1, 2, 0))[None]
    plain = ExportGraph(model, size)
    engines: dict[str, Engine] = {}
    if "eager" in names:
        engines["eager"] = torch_engine(plain, image)
    if "compile" in names:
        import torch._inductor.config as inductor

        inductor.freezing = True
        engines["compile"] = torch_engine(torch.compile(plain, dynamic=False), image)  # type: ignore[arg-type]
    if {"openvino", "portable"} & set(names):
        portable = shipped(probe_to_onnx(plain))
        if "openvino" in names and importlib.util.find_spec("openvino"):
            engines["openvino"] = openvino_engine(portable, image, threads)
        session = open_session(portable, threads=threads)
        engines["portable"] = lambda: run_session(session, OUTPUT_NAMES, image)
    if "operator" in names:
        probe = probe_to_onnx(ExportGraph(with_core(model, fused_node), size))
        engines["operator"] = ort_engine(shipped(probe), image, threads)
        keeps = {name: keep for name, keep in INT8_KEEPS.items() if name in names}
        graphs = int8_graphs(probe, image, keeps) if keeps else {}
        engines |= {name: ort_engine(graph, image, threads) for name, graph in graphs.items()}
    return engines


def products(threads: int) -> dict[str, float]:
    """Return billions of operations per second of a large matrix product in fp32 and in dynamic int8."""
    rng = np.random.default_rng(0)
    left = rng.normal(size=(_ROWS, _INNER)).astype(np.float32)
    weight = rng.normal(size=(_INNER, _INNER)).astype(np.float32)
    constants: dict[str, NDArray[np.generic]] = {
        "w": weight,
        "w_int8": np.clip(np.rint(16 * weight), -64, 64).astype(np.int8),
        "scale": np.full(_INNER, 1 / 16, np.float32),
    }
    nodes = {
        "fp32": onnx.helper.make_node("MatMul", ["x", "w"], ["y"]),
        "int8": onnx.helper.make_node(
            "DynamicQuantizeMatMul", ["x", "w_int8", "scale"], ["y"], domain="com.microsoft"
        ),
    }
    speeds = {}
    for precision, node in nodes.items():
        graph = onnx.helper.make_graph(
            [node],
            "product",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [_ROWS, _INNER])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [_ROWS, _INNER])],
            [onnx.numpy_helper.from_array(constants[name], name) for name in node.input[1:]],
        )
        opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("com.microsoft", 1)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
        session = open_session(model.SerializeToString(), threads=threads)
        times = interleaved([partial(session.run, ["y"], {"x": left})], rounds=10)
        speeds[precision] = round(2e-6 * _ROWS * _INNER**2 / times.min(), 1)
    return speeds


def floors(model: Idol, size: tuple[int, int], speeds: Mapping[str, float]) -> dict[str, float]:
    """Return the milliseconds of a frame's convolutions and products alone at these speeds."""
    work = count_cost(shipped(probe_to_onnx(ExportGraph(model, size))))
    return {precision: round(1e-6 * work.flops / speed, 1) for precision, speed in speeds.items()}


def shares(name: str, size: tuple[int, int], threads: int) -> dict[str, float]:
    """Return each kind of node's share of a frame's time with the operator, from ONNX Runtime's profile."""
    import onnxruntime

    graph = shipped(probe_to_onnx(ExportGraph(with_core(reference_model(preset(name)), fused_node), size)))
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        options.enable_profiling, options.profile_file_prefix = True, f"{folder}/frame"
        options.register_custom_ops_library(str(ort_library()))
        session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=DISABLED_OPTIMIZERS
        )
        image = np.ascontiguousarray(make_video(1, *size, seed=0)[0].transpose(1, 2, 0))[None]
        for _ in range(4):
            session.run(None, {"image": image})
        events = json.loads(Path(session.end_profiling()).read_text())
    spent: Counter[str] = Counter()
    for event in events:
        if event["name"].endswith("_kernel_time"):
            spent[event["args"]["op_name"]] += event["dur"]
    return {name: round(time / spent.total(), 3) for name, time in spent.most_common(8)}


def largest_error(outputs: Outputs, expected: Outputs) -> float:
    """Return the largest difference over the largest value of the worst output."""
    return max(
        float(np.abs(outputs[name] - expected[name]).max() / np.abs(expected[name]).max())
        for name in OUTPUT_NAMES
    )


def measure(engines: Mapping[str, Engine], rounds: int) -> dict[str, dict[str, float]]:
    """Measure each engine's error on a first call, then interleaved times."""
    outputs = {name: run() for name, run in engines.items()}
    times = dict(zip(engines, interleaved(list(engines.values()), rounds, warmup=0).T, strict=True))
    operator, eager = times["operator"], times["eager"]
    return {
        name: {
            "median_ms": round(float(np.median(milliseconds)), 1),
            "ratio": round(float(np.median(milliseconds) / np.median(operator)), 2),
            "best_ratio": round(milliseconds.min() / operator.min(), 2),
            "times_as_fast_as_eager": round(float(np.median(eager) / np.median(milliseconds)), 2),
            "best_times_as_fast_as_eager": round(eager.min() / milliseconds.min(), 2),
            "error": largest_error(outputs[name], outputs["eager"]),
        }
        for name, milliseconds in times.items()
    }


def main() -> int:
    """Measure, print and write the results, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--preset", default="ytvis19_r50")
    parser.add_argument("--size", default="360x640", help="HEIGHTxWIDTH (default: %(default)s)")
    parser.add_argument(
        "--only", default=",".join(ENGINES), help="engines to run besides eager and operator (default: all)"
    )
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    torch.set_num_threads(args.threads)
    library = CpuLibrary()
    names = ("eager", "operator", *args.only.split(","))
    rows = measure(open_engines(args.preset, (height, width), args.threads, names), args.rounds)
    speeds = products(args.threads)
    report = {
        "machine": machine_facts(),
        "versions": {name: version(name) for name in ("torch", "onnxruntime", "openvino")},
        "threads": args.threads,
        "rounds": args.rounds,
        "instructions": [isa.name for isa in Isa if library.offers(isa)],
        "preset": args.preset,
        "size": args.size,
        "passed": all(rows[name]["error"] <= TOLERANCE for name in ("portable", "operator") if name in rows),
        "ways": rows,
        "products_gflops": speeds,
        "floor_ms": floors(reference_model(preset(args.preset)), (height, width), speeds),
        "shares_of_operator": shares(args.preset, (height, width), args.threads),
    }
    return report_result(report, args.json)


def version(package: str) -> str:
    """Return the version of a package, or `not installed`."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())
