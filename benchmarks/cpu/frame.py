"""One frame of a network on a CPU: what our operator and integers gain over everything else that runs the network.

Reference weights, ytvis19_r50 at 360x640 unless asked otherwise, uint8 frame in and six outputs out, all ways in turns:

    eager      PyTorch, the network as published, grid_sample and all, in inference mode
    compile    the same under torch.compile, weights frozen
    openvino   the portable graph in OpenVINO, where it is installed
    portable   the portable graph in ONNX Runtime
    operator   the graph with our operator in ONNX Runtime
    int8       the same in the `ort` dialect of int8, as `export` makes it
    int8-keep  the same, but for a backbone and a neck of fp32

    idol-deploy plugins build
    python -m benchmarks.cpu.frame [--threads 2] [--rounds 7] [--size 360x640] [--only eager,operator] [--json OUT]
    python -m benchmarks.cpu.frame --preset edge_synth --size 160x256 --only int8,int8-keep

`products` is what a large matrix product reaches in ONNX Runtime, fp32 and as int8 has it: a frame's multiplications at
that speed, `floor_ms`, are the least time that any graph of these products can take here.

Ratios are of medians to the operator's; `best` are of the least times, which other work on the machine disturbs least.
Errors are the largest difference from eager over the largest value, over all outputs. Exits with 1 when that of a graph
of ours in ONNX Runtime in fp32 is above 1e-5. int8's error says nothing: these weights are random.
"""

import argparse
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

from benchmarks.machine import machine_facts, tell_report
from idol_deploy.config import preset
from idol_deploy.model.idol import Idol
from idol_deploy.weights.reference import make_video, reference_model
from idol_export.graph.adapter import STAGES, ExportGraph
from idol_export.graph.operator import with_fused_attention
from idol_export.graph.tracing import probe_to_onnx, shipped
from idol_export.precision.folding import folded
from idol_export.precision.integer_graphs import IntegerGraphs
from idol_export.precision.node_groups import KEPT
from idol_plugins.cpu import CpuLibrary, Isa
from idol_plugins.ort import ort_library
from idol_runtime.backends.onnxruntime import DISABLED_OPTIMIZERS, open_session, run_session
from idol_runtime.bench.roofline import count_work
from idol_runtime.bundle.bundle import OUTPUT_NAMES
from idol_runtime.timing import interleaved

WAYS = ("eager", "compile", "openvino", "portable", "operator", "int8", "int8-keep")
INT8_KEEPS = {"int8": KEPT, "int8-keep": (*KEPT, "backbone", "neck")}
TOLERANCE = 1e-5
_ROWS, _INNER = 4096, 1024  # of a large product

Outputs: TypeAlias = Mapping[str, NDArray[np.float32]]
Way: TypeAlias = Callable[[], Outputs]


def torch_way(graph: torch.nn.Module, image: NDArray[np.uint8]) -> Way:
    """A network whose outputs follow its stages."""
    pixels = torch.from_numpy(image)

    def run() -> Outputs:
        with torch.inference_mode():
            return {n: t.numpy() for n, t in zip((*STAGES, *OUTPUT_NAMES), graph(pixels), strict=True)}

    return run


def openvino_way(graph: bytes, image: NDArray[np.uint8], threads: int) -> Way:
    """OpenVINO, told to keep to fp32 and to as many threads as the others."""
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(graph, b""), "CPU", settings)

    def run() -> Outputs:
        found = compiled({"image": image})
        return {name: found[name] for name in OUTPUT_NAMES}

    return run


def session_way(graph: bytes, image: NDArray[np.uint8], threads: int) -> Way:
    """ONNX Runtime with our operator."""
    session = open_session(graph, threads=threads, libraries=[ort_library()])
    return lambda: run_session(session, OUTPUT_NAMES, image)


def in_integers(
    probe: bytes, image: NDArray[np.uint8], keeps: Mapping[str, tuple[str, ...]]
) -> dict[str, bytes]:
    """The graph in int8 for what each way keeps in fp32, calibrated on the image alone."""
    _, height, width, _ = image.shape
    with tempfile.TemporaryDirectory() as folder:
        PIL.Image.fromarray(image[0]).save(f"{folder}/frame.png")
        graphs = IntegerGraphs(folded(probe), (height, width), (ort_library(),), "ort", folder, 1)
        return {way: shipped(graphs.probe(keep)) for way, keep in keeps.items()}


def ways(name: str, size: tuple[int, int], threads: int, wanted: tuple[str, ...]) -> dict[str, Way]:
    """Every way that was asked for and is installed."""
    model = reference_model(preset(name))
    image = np.ascontiguousarray(make_video(1, *size, seed=0)[0].transpose(1, 2, 0))[None]
    plain = ExportGraph(model, size)
    found: dict[str, Way] = {}
    if "eager" in wanted:
        found["eager"] = torch_way(plain, image)
    if "compile" in wanted:
        import torch._inductor.config as inductor

        inductor.freezing = True
        found["compile"] = torch_way(torch.compile(plain, dynamic=False), image)  # type: ignore[arg-type]
    if {"openvino", "portable"} & set(wanted):
        portable = shipped(probe_to_onnx(plain))
        if "openvino" in wanted and importlib.util.find_spec("openvino"):
            found["openvino"] = openvino_way(portable, image, threads)
        session = open_session(portable, threads=threads)
        found["portable"] = lambda: run_session(session, OUTPUT_NAMES, image)
    if "operator" in wanted:
        probe = probe_to_onnx(ExportGraph(with_fused_attention(model), size))
        found["operator"] = session_way(shipped(probe), image, threads)
        keeps = {way: keep for way, keep in INT8_KEEPS.items() if way in wanted}
        graphs = in_integers(probe, image, keeps) if keeps else {}
        found |= {way: session_way(graph, image, threads) for way, graph in graphs.items()}
    return found


def products(threads: int) -> dict[str, float]:
    """Multiplications and additions per second, in billions, of a product of large matrices: fp32, and dynamic int8."""
    rng = np.random.default_rng(0)
    left = rng.normal(size=(_ROWS, _INNER)).astype(np.float32)
    weight = rng.normal(size=(_INNER, _INNER)).astype(np.float32)
    constants: dict[str, NDArray[np.generic]] = {
        "w": weight,
        "w_int8": np.clip(np.rint(16 * weight), -64, 64).astype(np.int8),
        "scale": np.full(_INNER, 1 / 16, np.float32),
    }
    made = {
        "fp32": onnx.helper.make_node("MatMul", ["x", "w"], ["y"]),
        "int8": onnx.helper.make_node(
            "DynamicQuantizeMatMul", ["x", "w_int8", "scale"], ["y"], domain="com.microsoft"
        ),
    }
    found = {}
    for precision, node in made.items():
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
        found[precision] = round(2e-6 * _ROWS * _INNER**2 / times.min(), 1)
    return found


def floors(model: Idol, size: tuple[int, int], reached: Mapping[str, float]) -> dict[str, float]:
    """A frame's least time in milliseconds, if nothing but its convolutions and products took any."""
    work = count_work(shipped(probe_to_onnx(ExportGraph(model, size))))
    return {precision: round(1e-6 * work.flops / speed, 1) for precision, speed in reached.items()}


def shares(name: str, size: tuple[int, int], threads: int) -> dict[str, float]:
    """Of a frame's time with the operator, by kind of node, as ONNX Runtime's profile has it."""
    import onnxruntime

    graph = shipped(probe_to_onnx(ExportGraph(with_fused_attention(reference_model(preset(name))), size)))
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


def furthest(found: Outputs, expected: Outputs) -> float:
    """The largest difference over the largest value, of the worst output."""
    return max(
        float(np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max())
        for name in OUTPUT_NAMES
    )


def measure(found: Mapping[str, Way], rounds: int) -> dict[str, dict[str, float]]:
    """Times of each way, taken in turns after a first call, and its error."""
    answers = {name: run() for name, run in found.items()}
    times = dict(zip(found, interleaved(list(found.values()), rounds, first=0).T, strict=True))
    operator, eager = times["operator"], times["eager"]
    return {
        name: {
            "median_ms": round(float(np.median(taken)), 1),
            "ratio": round(float(np.median(taken) / np.median(operator)), 2),
            "best_ratio": round(taken.min() / operator.min(), 2),
            "times_as_fast_as_eager": round(float(np.median(eager) / np.median(taken)), 2),
            "best_times_as_fast_as_eager": round(eager.min() / taken.min(), 2),
            "error": furthest(answers[name], answers["eager"]),
        }
        for name, taken in times.items()
    }


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--preset", default="ytvis19_r50")
    parser.add_argument("--size", default="360x640", help="HEIGHTxWIDTH")
    parser.add_argument(
        "--only", default=",".join(WAYS), help="some of these; eager and operator are always run"
    )
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    torch.set_num_threads(args.threads)
    library = CpuLibrary()
    found = measure(
        ways(args.preset, (height, width), args.threads, ("eager", "operator", *args.only.split(","))),
        args.rounds,
    )
    reached = products(args.threads)
    report = {
        "machine": machine_facts(),
        "versions": {name: versions(name) for name in ("torch", "onnxruntime", "openvino")},
        "threads": args.threads,
        "rounds": args.rounds,
        "instructions": [isa.name for isa in Isa if library.offers(isa)],
        "preset": args.preset,
        "size": args.size,
        "passed": all(
            found[name]["error"] <= TOLERANCE for name in ("portable", "operator") if name in found
        ),
        "ways": found,
        "products_gflops": reached,
        "floor_ms": floors(reference_model(preset(args.preset)), (height, width), reached),
        "shares_of_operator": shares(args.preset, (height, width), args.threads),
    }
    return tell_report(report, args.json)


def versions(package: str) -> str:
    """Of an installed package."""
    import importlib.metadata

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())
