"""Where int8 loses: each group of nodes in integers alone, then all of them with one after the other kept in fp32.

    idol-deploy plugins build
    python -m benchmarks.cpu.precision_parts --weights edge.safetensors --preset settings.json --size 160x256 \
        --calibrate FOLDER --annotations val/instances.json --frames val/JPEGImages [--clips 4] [--target ort]

Prints, for each choice, its share of all multiplications, the error of each stage against the fp32 graph (norm of the
difference over norm, in percent, of 4 frames), and the id agreement: IDF1 against the fp32 graph's tracks
at a mask IoU of 0.5. `curve` keeps one of `KEPT` after the other, then the backbone stride by stride. One identity that
changes in the middle of a clip costs half a clip: of few clips, errors tell more than agreement. `shaken` is fp32 with
every weight changed by about a ten-thousandth: what agreement is when next to nothing changes.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import machine_facts, tell_report
from idol_deploy.settings import network_config
from idol_deploy.weights.checkpoint import load_checkpoint
from idol_export.graph.adapter import STAGES, ExportGraph
from idol_export.graph.operator import with_fused_attention
from idol_export.graph.tracing import probe_to_onnx, shipped
from idol_export.precision.editor import Editor
from idol_export.precision.folding import folded
from idol_export.precision.half import islands_of, to_half
from idol_export.precision.integer_graphs import IntegerGraphs
from idol_export.precision.node_groups import GROUPS, KEPT
from idol_export.verify.clips import clips_of_dataset
from idol_export.verify.id_agreement import IdJudge, SeenFrame
from idol_plugins.ort import ort_library
from idol_runtime.backends.onnxruntime import OnnxRuntimeBackend, open_session, run_session
from idol_runtime.bundle.bundle import OUTPUT_NAMES
from idol_runtime.config import StreamConfig
from idol_runtime.pipeline import Pipeline
from idol_runtime.preprocess import resize
from idol_runtime.tracking.results import FrameResult

NAMES = (*STAGES[1:], *OUTPUT_NAMES)
ERROR_FRAMES = 4
SHAKEN = 1e-4

Clips = list[list[NDArray[np.uint8]]]


def choices(shares: Mapping[str, float]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names, and what is kept."""
    present = [group for group in GROUPS if group in shares]
    yield "all", ()
    yield "default", tuple(group for group in KEPT if group in present)
    kept: list[str] = []
    for group in (*KEPT, *(group for group in GROUPS if group.startswith("backbone/"))):
        if group in present:
            kept.append(group)
            yield f"curve: to {group}", tuple(kept)
    for group in present:
        yield f"only {group}", tuple(other for other in present if other != group)
    for group in present:
        yield f"all but {group}", (group,)


def shaken(probe: bytes) -> bytes:
    """The graph with its constant factors a little off."""
    editor = Editor(probe)
    rng = np.random.default_rng(0)
    for node in editor.graph.node:
        if node.op_type in ("Conv", "MatMul") and (weight := editor.constant(node.input[1])) is not None:
            factors = 1 + SHAKEN * rng.standard_normal(weight.shape)
            other = (weight.astype(np.float64) * factors).astype(np.float32)
            node.input[1] = editor.add_constant(f"{node.output[0]}_shaken", other)
    return editor.to_bytes()


class Reference:
    """The fp32 graph, on some clips."""

    def __init__(self, probe: bytes, stream: StreamConfig, size: tuple[int, int], clips: Clips) -> None:
        """Its stages and its tracks, found once."""
        self._stream, self._size, self._clips = stream, size, clips
        middles = [clip[len(clip) // 2] for clip in clips[:ERROR_FRAMES]]
        self._images = [resize(frame, size)[None] for frame in middles]
        session = open_session(probe, libraries=[ort_library()])
        self._exact = [run_session(session, NAMES, image) for image in self._images]
        self._seen = [[SeenFrame.of(result) for result in clip] for clip in self._tracks(shipped(probe))]

    def errors(self, probe: bytes) -> dict[str, float]:
        """Of each stage."""
        session = open_session(probe, libraries=[ort_library()])
        found = [run_session(session, NAMES, image) for image in self._images]
        return {
            name: float(
                np.sqrt(
                    sum(np.sum((a[name] - b[name]) ** 2) for a, b in zip(found, self._exact, strict=True))
                    / sum(np.sum(b[name] ** 2) for b in self._exact)
                )
            )
            for name in NAMES
        }

    def agreement(self, probe: bytes) -> tuple[float, int]:
        """IDF1, and of how many instance-frames."""
        judge = IdJudge()
        for seen, found in zip(self._seen, self._tracks(shipped(probe)), strict=True):
            for expected, result in zip(seen, found, strict=True):
                judge.frame(expected, result)
            judge.next_clip()
        return judge.idf1, judge.expected

    def _tracks(self, graph: bytes) -> Iterator[Iterator[FrameResult]]:
        session = open_session(graph, libraries=[ort_library()])
        with Pipeline(OnnxRuntimeBackend(session, "graph", self._size), self._stream) as pipeline:
            for clip in self._clips:
                pipeline.reset()
                yield (pipeline.step(frame) for frame in clip)


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--size", default="160x256", help="HEIGHTxWIDTH of the source's frames")
    parser.add_argument("--calibrate", required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument("--frames", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--target", choices=("ort", "trt"), default="ort")
    parser.add_argument("--only", default="*", help="names of choices, comma-separated: default, 'curve*' …")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    config = network_config(args.preset)
    size = config.preprocessing.network_size(*map(int, args.size.split("x")))
    model = load_checkpoint(args.weights, config)
    probe = probe_to_onnx(ExportGraph(with_fused_attention(model), size))
    clips = [list(clip) for clip in islice(clips_of_dataset(args.annotations, args.frames), args.clips)]
    reference = Reference(probe, config.stream, size, clips)
    probe = folded(probe)
    graphs = IntegerGraphs(probe, size, (ort_library(),), args.target, args.calibrate, 64)
    wanted = args.only.split(",")
    rows = {}
    print(
        f"{'':24}{'int8':>6}" + "".join(f"{name[:9]:>10}" for name in NAMES) + f"{'ids':>8}", file=sys.stderr
    )
    others = {"shaken": shaken, "fp16": lambda graph: to_half(graph, islands_of(graph))}
    for name, kept in [*((other, ()) for other in others), *choices(graphs.shares)]:
        if not any(fnmatch(name, pattern) for pattern in wanted):
            continue
        reduced = others[name](probe) if name in others else graphs.probe(kept)
        errors = reference.errors(reduced)
        idf1, count = reference.agreement(reduced)
        share = 0.0 if name in others else graphs.share(kept)
        rows[name] = {"kept": kept, "share": share, "errors": errors, "idf1": idf1, "instance_frames": count}
        cells = "".join(f"{100 * errors[stage]:10.2f}" for stage in NAMES)
        print(f"{name:24}{share:6.0%}{cells}{idf1:8.2%}", file=sys.stderr, flush=True)
    report = {**machine_facts(), "clips": len(clips), "rows": rows, "passed": bool(rows)}
    return tell_report(report, args.json)


if __name__ == "__main__":
    sys.exit(main())
