"""Creation and checks of reduced-precision graphs.

Rounding moves many quantities across thresholds. Single decisions can therefore not be compared with PyTorch, as
`idol_export.verify.parity` does for fp32 graphs. A graph passes if its tracks agree with those of the fp32 graph (IDF1)
and, where there are annotations, if its scores are close to those of fp32.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idol_deploy.progress import counted
from idol_export.precision.base import Precision, ReduceOptions
from idol_export.verify.candidate import Candidate, finite_error, golden_tolerances, relative_error
from idol_export.verify.parity import graph_stages, torch_stages
from idol_export.verify.reference_graph import ReferenceGraph
from idol_runtime.backends.onnxruntime import run_session
from idol_runtime.bundle.bundle import OUTPUT_NAMES
from idol_runtime.bundle.certificates import (
    AnnotationScores,
    GraphInfo,
    IdAgreement,
    PrecisionCertificate,
    StageError,
)
from idol_runtime.errors import ParityError
from idol_runtime.preprocess import resize
from idol_runtime.processor import decisive_features, processor_features

__all__ = ["Reduced", "reduce_graph"]


@dataclass(frozen=True)
class Reduced:
    """A reduced-precision graph.

    Attributes:
        precision: its precision.
        graph: ONNX file that ships.
        info: its entry in the manifest.
        certificate: results of its checks.
    """

    precision: Precision
    graph: bytes
    info: GraphInfo
    certificate: PrecisionCertificate

    @property
    def runnable(self) -> bool:
        """True if ONNX Runtime may run the graph: it is made for it and verified."""
        return self.certificate.passed and not self.certificate.emulated


def reduce_graph(
    precision: Precision,
    reference: ReferenceGraph,
    options: ReduceOptions,
    frames: Iterable[NDArray[np.uint8]],  # [H, W, 3] each
    count: int,
) -> Reduced:
    """Make a reduced-precision graph and check it, cheap checks first.

    Args:
        precision: precision of the graph.
        reference: fp32 graph to rewrite and to compare with.
        options: calibration, limits, and nodes that stay fp32.
        frames: source frames to compare the stages on.
        count: number of these frames.

    Raises:
        ParityError: the graph fails a check; the message names the stage.
        ConfigError: there is no calibration frame.
        SourceError: a video or image cannot be read.
        DataError: the annotations are broken.
    """
    reference.announce(f"making the {precision.name} graph")
    rewritten = precision.rewrite(reference, options)
    candidate, to_end = rewritten.candidate, options.unverified
    fix = "keep more in fp32 (--keep backbone), calibrate on other frames (--calibrate)"
    fix = f"{fix if precision.calibrated else 'leave the graph out'}, or write it marked as failed (--unverified)"

    def require(stage: str, reason: str, *, passed: bool) -> None:
        if not (passed or to_end):
            raise ParityError(stage, f"the {precision.name} graph fails at stage '{stage}': {reason}; {fix}")

    errors, compared = dict[str, float](), 0
    for found in _stage_errors(candidate, reference, frames, count):
        compared += 1
        for stage, error in found.items():
            errors[stage] = max(errors.get(stage, 0.0), error)
            reason = f"relative error {error:.1e}, allowed {precision.stage_limit:.0e}"
            require(stage, reason, passed=error <= precision.stage_limit)
    agreement = reference.agreement(candidate, options.id_limit, to_end=to_end)
    require("id agreement", _describe(agreement), passed=agreement.passed)
    scores = reference.annotation_scores(candidate)
    if scores is not None:
        require("ground truth", _describe(scores), passed=scores.passed)
    stages = tuple(StageError(stage, error, precision.stage_limit) for stage, error in errors.items())
    certificate = PrecisionCertificate(
        stages=stages,
        frames=compared,
        engine="onnxruntime",
        processor=decisive_features(precision.arithmetic, processor_features()),
        agreement=agreement,
        golden_tolerances=_golden_tolerances(candidate, reference),
        emulated="onnxruntime" not in precision.engines,
        annotation_scores=scores,
    )
    info = GraphInfo(
        precision=precision.arithmetic,
        engines=precision.engines,
        operator=bool(candidate.libraries),
        recipe=rewritten.recipe,
    )
    return Reduced(precision, rewritten.graph, info, certificate)


def _stage_errors(
    candidate: Candidate, reference: ReferenceGraph, frames: Iterable[NDArray[np.uint8]], count: int
) -> Iterator[dict[str, float]]:
    """Yield the errors of all stages against PyTorch, frame by frame."""
    step = f"comparing the {candidate.name} graph with PyTorch"
    reference.announce(step, 0, count)
    probe, graph = candidate.open_probe(), candidate.open_graph()
    for frame in counted(frames, reference.announce, step, count):
        image = resize(frame, reference.network_size)
        tensors = graph_stages(probe, graph, image)
        expected = torch_stages(reference.model, image)
        yield {stage: finite_error(tensors[stage], array) for stage, array in expected.items()}


def _golden_tolerances(candidate: Candidate, reference: ReferenceGraph) -> dict[str, float]:
    image = resize(reference.golden_frame.frame, reference.network_size)
    outputs = run_session(candidate.open_graph(), OUTPUT_NAMES, image[None])
    expected = reference.golden_frame.outputs
    return golden_tolerances({name: relative_error(outputs[name][0], expected[name]) for name in outputs})


def _describe(result: IdAgreement | AnnotationScores) -> str:
    """Describe a failed comparison of tracks or scores."""
    if isinstance(result, AnnotationScores):
        if not result.proves:
            ap, idf1 = result.ap_fp32, result.idf1_fp32
            return f"the fp32 scores are too low to compare with, AP {ap:.1%} and IDF1 {idf1:.1%}"
        return (
            f"AP falls from {result.ap_fp32:.1%} to {result.ap:.1%} and IDF1 from {result.idf1_fp32:.1%} to "
            f"{result.idf1:.1%}, allowed {result.limit:.0%}"
        )
    if result.instance_frames < result.least_instance_frames:
        return (
            f"{result.source} has {result.instance_frames} instance-frames, at least "
            f"{result.least_instance_frames} are needed: pass a longer --verify, or --annotations and --frames"
        )
    reached = (
        f"cannot reach {result.limit:.1%} any more after frame {result.frames}: at most {result.idf1:.2%}"
        if result.stopped
        else f"is {result.idf1:.2%}, allowed {result.limit:.1%}"
    )
    return f"IDF1 against fp32 {reached} on {result.instance_frames} instance-frames of {result.source}"
