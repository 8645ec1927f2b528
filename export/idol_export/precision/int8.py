"""The int8 precisions, one for each quantization target."""

from dataclasses import dataclass
from typing import cast

from idol_export.precision.base import Precision, ReduceOptions, RewrittenGraph
from idol_export.precision.folding import folded
from idol_export.precision.integer_graphs import IntegerGraphs
from idol_export.precision.node_groups import KEPT
from idol_export.precision.quantizer import Target
from idol_export.precision.search import Evaluation, search
from idol_export.verify.reference_graph import ReferenceGraph
from idol_runtime.bundle.certificates import Recipe, SearchStep
from idol_runtime.errors import ParityError

__all__ = ["INT8_ORT", "INT8_QDQ", "Int8Precision"]


@dataclass(frozen=True)
class Int8Precision(Precision):
    """8-bit integers for convolutions and for products with constant matrices, fp32 for all other nodes."""

    calibrated = True

    def rewrite(self, reference: ReferenceGraph, options: ReduceOptions) -> RewrittenGraph:
        """Quantize all groups of nodes except the default ones, or the best choice that a search finds."""
        assert options.calibrate is not None
        fp32 = reference.candidate
        graphs = IntegerGraphs(
            folded(fp32.probe),
            reference.network_size,
            fp32.libraries,
            cast(Target, self.target),
            options.calibrate,
            options.calibrate_frames,
            reference.announce,
        )
        kept, steps = (*KEPT, *options.keep), tuple[SearchStep, ...]()
        if options.auto is not None:
            steps = search(graphs, KEPT, Evaluation(self, reference, options), reference.announce)
            kept = steps[-1].kept
            if not (steps[-1].held or options.unverified):
                raise ParityError("id agreement", _refusal(steps[-1], options.id_limit))
        candidate = self.candidate(fp32, graphs.probe(kept))
        return RewrittenGraph(candidate, candidate.graph, Recipe(kept, graphs.share(kept), steps))


def _refusal(step: SearchStep, limit: float) -> str:
    return (
        f"no int8 configuration reaches an id agreement of {limit:.1%}, the last has at most {step.idf1:.2%} with "
        f"{step.integer_share:.0%} of the multiplications in int8; allow a larger loss with --auto, or leave out int8"
    )


INT8_ORT = Int8Precision("int8-ort", "int8", ("onnxruntime",))
INT8_QDQ = Int8Precision("int8-qdq", "int8", ("openvino", "tensorrt"), integers=False)
