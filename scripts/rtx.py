"""Build the presets' tensorrt graphs with TensorRT-RTX on the CPU; `scripts/test-tensorrt-rtx` runs both commands.

    rtx.py graphs FOLDER          with PyTorch: write PRESET.fp32.onnx and PRESET.fp16.onnx of untrained networks, and
                                  edge_synth.int8.onnx, whose ranges are those of random images
    rtx.py build FOLDER           with TensorRT-RTX: build each graph in a process of its own and print the time

The builder is `idol_export.engine.network` with TensorRT-RTX's binding in the place of TensorRT's: it has the same
classes and names. TensorRT-RTX ends the process on an unknown node, so each graph has its own process. The engines are
discarded, because they do not run without a GPU. A build fails on a warning, and if the engine needs as much memory as
the gathered cells of one attention layer: then they are stored, because they are not fused with their sum.
"""

import json
import math
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PRESETS = ("edge_synth", "ytvis19_r50", "ovis_swin_l")
SIZE = 360, 640  # network size, at which the gathered cells need more memory than everything else
_TARGET = "SM86"


def export_graphs(folder: Path, presets: list[str]) -> None:
    """Write the graphs of untrained networks."""
    import torch

    from idol_deploy.config import preset
    from idol_deploy.model.idol import Idol
    from idol_export.graph.adapter import ExportGraph
    from idol_export.graph.operator import CORES, with_core
    from idol_export.graph.tracing import probe_to_onnx, shipped

    folder.mkdir(parents=True, exist_ok=True)
    for name in presets:
        started = time.monotonic()
        torch.manual_seed(0)
        graph = shipped(
            probe_to_onnx(ExportGraph(with_core(Idol(preset(name)).eval(), CORES["tensorrt"]), SIZE))
        )
        cells = _gathered(graph)
        graphs = [("fp32", graph, 4), ("fp16", _half(graph), 2)]
        if name == "edge_synth":
            graphs.append(("int8", _integer(graph), 4))
        for precision, data, size in graphs:
            (folder / f"{name}.{precision}.onnx").write_bytes(data)
            (folder / f"{name}.{precision}.gathered").write_text(str(cells * size))
        print(f"[rtx] {name}: exported in {time.monotonic() - started:.0f} s", flush=True)


def _half(graph: bytes) -> bytes:
    """Return the graph in fp16, as `export --precision fp16` makes it."""
    from idol_export.precision.folding import folded
    from idol_export.precision.half import islands_of, to_half

    plain = folded(graph)
    return to_half(plain, islands_of(plain))


def _integer(graph: bytes) -> bytes:
    """Return the graph in int8, as `export --precision int8 --target qdq` makes it."""
    import cv2
    import numpy as np

    from idol_export.precision.folding import folded
    from idol_export.precision.integer_graphs import IntegerGraphs
    from idol_export.precision.node_groups import KEPT

    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        cv2.imwrite(f"{folder}/0.png", image)
        return IntegerGraphs(folded(graph), SIZE, (), "qdq", folder, 1).probe(KEPT)


def _gathered(graph: bytes) -> int:
    """Return the number of values that the largest attention layer gathers."""
    from idol_export.precision.editor import Editor

    editor = Editor(graph)
    gathers = [
        node for node in editor.graph.node if node.op_type == "Gather" and node.input[1] in editor.producers
    ]
    return max(math.prod(editor.shape(node.output[0]) or ()) for node in gathers)


def build_all(folder: Path) -> int:
    """Build every graph of a folder and return the number of failures."""
    failures = 0
    for path in sorted(folder.glob("*.onnx"), key=lambda path: path.stat().st_size):
        done = subprocess.run(  # noqa: S603
            [sys.executable, __file__, "one", str(path)], capture_output=True, text=True, check=False
        )
        line = (done.stdout if done.returncode == 0 else done.stderr).strip().split("\n")[-1]
        print(
            f"[rtx] {path.stem:18} {line if done.returncode == 0 else f'FAILED ({done.returncode}): {line}'}",
            flush=True,
        )
        failures += done.returncode != 0
    return failures


def build_one(path: Path) -> None:
    """Build a graph in this process; exceptions of the builder are raised."""
    import tensorrt_rtx_bindings as rtx

    sys.modules["tensorrt"] = rtx
    from idol_export.engine import network
    from idol_runtime.bundle.engine_file import EngineKey

    configure = network._configure

    def configure_for_target(config: object, *arguments: object) -> None:
        configure(config, *arguments)
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(rtx.ComputeCapability, _TARGET), 0)

    network._configure = configure_for_target
    key = EngineKey(
        "tensorrt", "", path.suffixes[0][1:], (1, 1, 1), "", rtx.__version__, "none", "8.6", "none"
    )
    phases: list[str] = []

    class Manifest:
        dynamic_batch = False

    messages: list[str] = []
    logger = type(network.tensorrt_log().logger)
    store = logger.log
    logger.log = lambda self, severity, text: (messages.append(text), store(self, severity, text))
    cache = path.with_suffix(".cache")
    plan = network.build_plan(path.read_bytes(), Manifest(), key, cache, 2**30, phases.append)
    if plan.warnings:
        sys.exit(f"a warning: {plan.warnings[0]}")
    (memory,) = re.findall(r"Total Activation Memory: (\d+) bytes", "\n".join(messages))
    gathered = int(path.with_suffix(".gathered").read_text())
    if int(memory) >= gathered:
        sys.exit(f"the engine needs {memory} bytes, the gathered cells alone {gathered}: they are not fused")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        json.dumps(
            {
                "seconds": round(plan.seconds, 1),
                "MiB": len(plan.data) // 2**20,
                "memory MiB": int(memory) // 2**20,
                "gathered MiB": gathered // 2**20,
                "peak GiB": round(peak, 1),
                "phases told": len(phases),
            }
        )
    )


if __name__ == "__main__":
    command, place, *rest = sys.argv[1:]
    if command == "graphs":
        export_graphs(Path(place), rest or list(PRESETS))
    elif command == "build":
        sys.exit(min(build_all(Path(place)), 1))
    else:
        build_one(Path(place))
