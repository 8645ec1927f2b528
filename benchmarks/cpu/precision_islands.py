"""Which nodes of a graph of 16 bits must stay fp32: each kind of them is made an island, alone, and taken away, alone.

    idol-deploy plugins build
    python -m benchmarks.cpu.precision_islands --weights models/edge_synth/edge_synth.safetensors \
        --preset models/edge_synth/settings.json --size 240x384 [--half fp16]

Prints the relative error of each stage against the fp32 graph: of a graph as `export` makes it, without the islands of
linear blocks, of coordinates or of the image, without any, with each kind of nodes more and with each kind of
`idol_export.precision.half.ISLANDS` less. bf16 is emulated. Without --weights the network has reference weights, whose
errors say little.
"""

import argparse
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np

from idol_deploy.settings import network_config
from idol_deploy.weights.checkpoint import load_checkpoint
from idol_deploy.weights.reference import make_video, reference_model
from idol_export.graph.adapter import STAGES, ExportGraph
from idol_export.graph.operator import with_fused_attention
from idol_export.graph.tracing import probe_to_onnx
from idol_export.precision.editor import Editor
from idol_export.precision.folding import folded
from idol_export.precision.half import (
    ISLANDS,
    Half,
    coordinates,
    emulated,
    islands_of,
    linear_blocks,
    pixels,
    to_half,
)
from idol_export.verify.parity import relative_error
from idol_plugins.ort import ort_library
from idol_runtime.backends.onnxruntime import open_session, run_session
from idol_runtime.bundle.bundle import OUTPUT_NAMES

# They move values, and round nothing.
MOVES = {"Cast", "Concat", "Expand", "Gather", "Pad", "Reshape", "Slice", "Split", "Transpose", "Unsqueeze"}
NAMES = (*STAGES, *OUTPUT_NAMES)


def errors(probe: bytes, islands: Collection[str], half: Half, image: np.ndarray) -> dict[str, float]:
    """Of each stage, with these nodes as islands."""
    make = to_half if half == "fp16" else emulated
    graph = make(probe, islands, half)
    found, exact = (
        run_session(open_session(data, libraries=[ort_library()]), NAMES, image) for data in (graph, probe)
    )
    return {name: relative_error(found[name], exact[name]) for name in NAMES}


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--preset", default="edge_synth")
    parser.add_argument("--size", default="160x256", help="HEIGHTxWIDTH of the network's input")
    parser.add_argument("--half", choices=("fp16", "bf16"), default="fp16")
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    config = network_config(args.preset)
    model = load_checkpoint(args.weights, config) if args.weights else reference_model(config)
    image = np.ascontiguousarray(make_video(1, height, width, seed=0)[0].transpose(1, 2, 0))[None]
    probe = folded(probe_to_onnx(ExportGraph(with_fused_attention(model), (height, width))))
    editor = Editor(probe)
    kinds: dict[str, set[str]] = {}
    for node in editor.graph.node:
        kinds.setdefault(node.op_type, set()).add(node.name)
    islands = islands_of(probe)
    rows = {
        "as exported": islands,
        "without linear blocks": islands - linear_blocks(editor) | pixels(editor),
        "without coordinates": islands - coordinates(editor),
        "without the image": islands - pixels(editor),
        # The operator computes in fp32 in any case.
        "no island": kinds["DeformAttn"],
    }
    for kind in sorted(set(kinds) - MOVES - {"DeformAttn"}):
        if kind in ISLANDS:
            rows[f"without {kind}"] = islands - kinds[kind]
        else:
            rows[f"with {kind}"] = islands | kinds[kind]
    print(f"{'':28}" + "".join(f"{name[:12]:>13}" for name in NAMES))
    for row, held in rows.items():
        found = errors(probe, held, args.half, image)
        print(f"{row:28}" + "".join(f"{found[name]:13.1e}" for name in NAMES), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
