"""Creation and checks of reduced-precision graphs.

Rounding moves many quantities across thresholds. Single decisions can therefore not be compared with PyTorch, as
`idol_export.verify.parity` does for fp32 graphs. A graph passes if its tracks agree with those of the fp32 graph (IDF1)
and, where there are annotations, if its scores are close to those of fp32.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from idol_export.precision.base import Announce, Precision, ReduceOptions
from idol_export.verify.parity import Candidate, graph_stages, relative_error, torch_stages
from idol_export.verify.reference_graph import ReferenceGraph
from idol_runtime.backends.onnxruntime import run_session
from idol_runtime.bundle.bundle import OUTPUT_NAMES
from idol_runtime.bundle.certificates import GraphInfo, PrecisionCertificate, StageError
from idol_runtime.errors import ParityError
from idol_runtime.pipeline import GOLDEN_TOLERANCE
from idol_runtime.preprocess import resize
from idol_runtime.processor import decisive_features, processor_features

__all__ = ["Reduced", "reduce_graph"]

_INFINITE = 1e9  # in place of infinity, which JSON lacks
_GOLDEN_MARGIN = 2.0  # processors round differently; a wrong kernel's error is far larger
_GOLDEN_LIMIT = 0.9  # outputs of zeros have an error of 1


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
    announce: Announce,
) -> Reduced:
    """Make a reduced-precision graph and check it.

    Args:
        precision: precision of the graph.
        reference: fp32 graph to rewrite and to compare with.
        options: calibration, limits, and nodes that stay fp32.
        frames: source frames to compare the stages on.
        announce: called with the name of each step.

    Raises:
        ParityError: the graph fails a check; the message names the stage.
        ConfigError: there is no calibration frame.
        SourceError: a video or image cannot be read.
        DataError: the annotations are broken.
    """
    announce(f"making the {precision.name} graph")
    rewritten = precision.rewrite(reference, options, announce)
    candidate = rewritten.candidate
    announce(f"comparing the {precision.name} graph with PyTorch")
    errors, count = _stage_errors(candidate, reference, frames)
    announce(f"comparing the {precision.name} graph's tracks with those of fp32")
    agreement = reference.agreement(candidate, options.id_limit)
    if options.annotations is not None:
        announce(f"scoring the {precision.name} graph on {options.annotations}")
    scores = reference.annotation_scores(candidate)
    stages = tuple(StageError(stage, error, precision.stage_limit) for stage, error in errors.items())
    certificate = PrecisionCertificate(
        stages=stages,
        frames=count,
        engine="onnxruntime",
        processor=decisive_features(precision.arithmetic, processor_features()),
        agreement=agreement,
        golden_tolerances=_golden_tolerances(candidate, reference),
        emulated="onnxruntime" not in precision.engines,
        annotation_scores=scores,
    )
    if certificate.failures and not options.unverified:
        raise ParityError(certificate.failures[0], _refusal(precision.name, certificate))
    info = GraphInfo(
        precision=precision.arithmetic,
        engines=precision.engines,
        operator=bool(candidate.libraries),
        recipe=rewritten.recipe,
    )
    return Reduced(precision, rewritten.graph, info, certificate)


def _stage_errors(
    candidate: Candidate, reference: ReferenceGraph, frames: Iterable[NDArray[np.uint8]]
) -> tuple[dict[str, float], int]:
    """Return the largest error of each stage against PyTorch, and the number of frames."""
    probe, graph = candidate.open_probe(), candidate.open_graph()
    errors: dict[str, float] = {}
    count = 0
    for frame in frames:
        image = resize(frame, reference.network_size)
        tensors = graph_stages(probe, graph, image)
        for stage, expected in torch_stages(reference.model, image).items():
            error = min(relative_error(tensors[stage], expected), _INFINITE)
            errors[stage] = max(errors.get(stage, 0.0), error)
        count += 1
    return errors, count


def _golden_tolerances(candidate: Candidate, reference: ReferenceGraph) -> dict[str, float]:
    """Return the tolerance of each output on the golden frame: a multiple of the error measured here."""
    image = resize(reference.golden_frame.frame, reference.network_size)
    outputs = run_session(candidate.open_graph(), OUTPUT_NAMES, image[None])
    return {
        name: min(
            max(GOLDEN_TOLERANCE, _GOLDEN_MARGIN * relative_error(outputs[name][0], expected)), _GOLDEN_LIMIT
        )
        for name, expected in reference.golden_frame.outputs.items()
    }


def _refusal(name: str, certificate: PrecisionCertificate) -> str:
    failed, agreement = certificate.failures[0], certificate.agreement
    reasons = {
        "id agreement": f"IDF1 against fp32 is {agreement.idf1:.2%} on {agreement.instance_frames} instance-frames of "
        f"{agreement.source}, allowed {agreement.limit:.0%} on {agreement.least_instance_frames}",
    }
    scores = certificate.annotation_scores
    if scores is not None:
        reasons["ground truth"] = (
            f"AP falls from {scores.ap_fp32:.1%} to {scores.ap:.1%} and IDF1 from {scores.idf1_fp32:.1%} to "
            f"{scores.idf1:.1%}, allowed {scores.limit:.0%}"
            if scores.proves
            else f"the fp32 scores are too low to compare with, AP {scores.ap_fp32:.1%} and IDF1 {scores.idf1_fp32:.1%}"
        )
    for stage in certificate.stages:
        reasons.setdefault(stage.stage, f"relative error {stage.error:.1e}, allowed {stage.tolerance:.0e}")
    return (
        f"the {name} graph fails at stage '{failed}': {reasons[failed]}; nothing was written; keep more in fp32 "
        "(--keep backbone), pass other frames (--calibrate, --verify), or write it marked as failed (--unverified)"
    )
