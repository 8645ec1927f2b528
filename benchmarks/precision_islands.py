"""Which nodes of a graph of 16 bits must stay fp32: each kind of them is made an island, alone, and taken away, alone.

    idol-deploy plugins build
    python benchmarks/precision_islands.py --weights edge.safetensors --preset edge_synth --size 160x256 [--half fp16]

Prints the relative error of each stage against the fp32 graph, for a graph without islands, with all kinds of
`idol_export.half_graph.ISLANDS`, with each kind more and with each kind less. bf16 is emulated. Without --weights the
network has reference weights, whose errors say little.
"""

import argparse
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np

from idol_deploy.checkpoint import load_checkpoint
from idol_deploy.config import preset
from idol_deploy.reference import make_video, reference_model
from idol_export.editing import Editor
from idol_export.fused import with_fused_attention
from idol_export.graph import STAGES, ExportGraph
from idol_export.half_graph import ISLANDS, Half, emulated, islands_of, to_half
from idol_export.onnx import probe_to_onnx
from idol_export.parity import relative_error
from idol_plugins.ort import ort_library
from idol_runtime.backends.onnxruntime import open_session, run_session
from idol_runtime.bundle import OUTPUT_NAMES

# They move values, and round nothing.
MOVES = {"Cast", "Concat", "Expand", "Gather", "Pad", "Reshape", "Slice", "Split", "Transpose", "Unsqueeze"}
NAMES = (*STAGES, *OUTPUT_NAMES)


def errors(probe: bytes, kinds: Collection[str], half: Half, image: np.ndarray) -> dict[str, float]:
    """Of each stage, with these kinds of nodes as islands."""
    make = to_half if half == "fp16" else emulated
    graph = make(probe, islands_of(probe, kinds), half)
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
    config = preset(args.preset)
    model = load_checkpoint(args.weights, config) if args.weights else reference_model(config)
    probe = probe_to_onnx(ExportGraph(with_fused_attention(model), (height, width)))
    image = np.ascontiguousarray(make_video(1, height, width, seed=0)[0].transpose(1, 2, 0))[None]
    kinds = sorted({node.op_type for node in Editor(probe).graph.node} - MOVES)
    # The operator computes in fp32 in any case.
    rows: dict[str, Collection[str]] = {"no island": {"DeformAttn"}, "all islands": set(ISLANDS)}
    rows |= {f"with {kind}": {*ISLANDS, kind} for kind in kinds if kind not in ISLANDS}
    rows |= {f"without {kind}": set(ISLANDS) - {kind} for kind in kinds if kind in ISLANDS}
    rows.pop("without DeformAttn", None)
    print(f"{'':28}" + "".join(f"{name[:12]:>13}" for name in NAMES))
    for row, islands in rows.items():
        found = errors(probe, islands, args.half, image)
        print(f"{row:28}" + "".join(f"{found[name]:13.1e}" for name in NAMES), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
