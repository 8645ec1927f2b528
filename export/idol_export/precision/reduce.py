"""Graphs of fewer bits: made, compared with PyTorch and with the fp32 graph's tracks, and refused where they fail.

Rounding moves quantities across thresholds that fp32 graphs may not cross, so that decisions cannot be held to PyTorch
one by one as in `idol_export.verify.parity`. What must hold is that the same instances are followed: IDF1 of the tracks
against those of the fp32 graph, and where there is ground truth, its scores.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from idol_export.graph.adapter import STAGES
from idol_export.graph.tracing import shipped
from idol_export.precision.folding import folded
from idol_export.precision.half import emulated, islands_of, to_half
from idol_export.precision.integer_graphs import IntegerGraphs
from idol_export.precision.node_groups import GROUPS, KEPT, PARTS
from idol_export.precision.search import output_error, search, speeds
from idol_export.verify.clips import spread_frames
from idol_export.verify.parity import relative_error, torch_stages
from idol_export.verify.reference_graph import Exact, Judge
from idol_runtime.backends.onnxruntime import OnnxRuntimeBackend, run_session
from idol_runtime.bundle.bundle import OUTPUT_NAMES
from idol_runtime.bundle.certificates import (
    GraphInfo,
    Precision,
    PrecisionCertificate,
    Recipe,
    ReducedName,
    SearchStep,
    StageError,
)
from idol_runtime.errors import ConfigError, ParityError
from idol_runtime.pipeline import GOLDEN_TOLERANCE
from idol_runtime.preprocess import resize

__all__ = ["ReduceOptions", "Reduced", "reduce_graph", "runnable"]

Announce = Callable[[str], None]

# What a stage may be off by before the graph is broken rather than coarse; identities decide about the rest.
_STAGE_LIMITS: Mapping[ReducedName, float] = {"fp16": 0.02, "bf16": 0.1, "int8-ort": 0.3, "int8-trt": 0.3}
_PRECISIONS: Mapping[ReducedName, Precision] = {
    "fp16": "fp16",
    "bf16": "bf16",
    "int8-ort": "int8",
    "int8-trt": "int8",
}
_TARGETS: Mapping[ReducedName, Literal["onnx", "ort", "trt"]] = {
    "fp16": "onnx",
    "bf16": "trt",
    "int8-ort": "ort",
    "int8-trt": "trt",
}
_LOSS = 0.01  # of id agreement
_INSTANCE_FRAMES = 500
_SCORE_LOSS = 0.01
_ERROR_FRAMES = 4  # that the search tells groups apart on
_INFINITE = 1e9  # JSON has no infinity
_GOLDEN_MARGIN = 2.0  # processors round differently, and a wrong kernel is off by far more
_GOLDEN_LIMIT = 0.9  # an answer of zeros is off by 1


@dataclass(frozen=True)
class ReduceOptions:
    """Which graphs of fewer bits to make, and what to hold them to.

    Attributes:
        names: of the graphs.
        calibrate: video or images that int8 takes its ranges from.
        calibrate_frames: how many of its frames.
        keep: what stays fp32 beside `KEPT`, among `PARTS` and `GROUPS`.
        auto: search for what stays fp32 instead; how much of the id agreement may be lost.
        annotations: file to score against.
        annotation_frames: folder of its frames.
        unverified: write a graph that fails as well; no runtime takes it unasked, and `run` refuses it.
    """

    names: tuple[ReducedName, ...] = ()
    calibrate: str | None = None
    calibrate_frames: int = 64
    keep: tuple[str, ...] = ()
    auto: float | None = None
    annotations: Path | None = None
    annotation_frames: Path | None = None
    unverified: bool = False

    def __post_init__(self) -> None:
        integers = any(name.startswith("int8") for name in self.names)
        if integers and self.calibrate is None:
            raise ConfigError(
                "int8 takes its ranges from frames like those to come; give a video with --calibrate"
            )
        if (self.annotations is None) != (self.annotation_frames is None):
            raise ConfigError(
                "--annotations and --frames go together: annotations, and the folder of their frames"
            )
        known = (*PARTS, *GROUPS)
        for part in self.keep:
            if part not in known:
                raise ConfigError(f"--keep takes {', '.join(dict.fromkeys(known))}; got {part!r}")
        if self.auto is not None and self.keep:
            raise ConfigError("--auto finds out itself what stays fp32; leave out --keep")
        if self.auto is not None and not 0 <= self.auto < 1:
            raise ConfigError("--auto takes what may be lost of the id agreement, in percent: 0 to 99")
        for option in () if integers else ("calibrate", "keep"):
            if getattr(self, option):
                raise ConfigError(f"--{option} is of int8; give --precision int8 or --auto as well")
        for option in () if self.names else ("annotations", "unverified"):
            if getattr(self, option):
                raise ConfigError(
                    f"--{option} is of graphs of fewer bits; give --precision or --auto as well"
                )


@dataclass(frozen=True)
class Reduced:
    """A graph of fewer bits, and what is known of it."""

    name: ReducedName
    graph: bytes
    info: GraphInfo
    certificate: PrecisionCertificate


def reduce_graph(
    name: ReducedName,
    exact: Exact,
    judge: Judge,
    options: ReduceOptions,
    frames: Iterable[NDArray[np.uint8]],  # [H, W, 3] each
    announce: Announce,
) -> Reduced:
    """Make a graph of fewer bits, and compare it.

    Args:
        name: which.
        exact: what it is made of.
        judge: of its tracks and scores.
        options: how.
        frames: to compare the stages on.
        announce: called with each step's name.

    Raises:
        ParityError: it does not track as fp32 does; names the stage.
        ConfigError: nothing to calibrate on.
        SourceError: a video or image that cannot be read.
        DataError: annotations that are broken.
    """
    announce(f"making the {name} graph")
    probe, recipe = _probe(name, exact, judge, options, announce)
    judging = shipped(probe)
    # No CPU runtime computes in bf16: what is judged rounds as it would, and what ships has its types.
    graph = judging
    if name == "bf16":
        fp32 = folded(exact.candidate.probe)
        graph = to_half(shipped(fp32), islands_of(fp32), "bf16")
    announce(f"comparing the {name} graph with PyTorch")
    stages, count = _stage_errors(name, exact, probe, judging, frames)
    announce(f"comparing the {name} graph's tracks with those of fp32")
    agreement = judge.agreement(judging, name, _id_limit(options), _INSTANCE_FRAMES)
    if options.annotations is not None:
        announce(f"scoring the {name} graph against {options.annotations}")
    annotation_scores = judge.annotation_scores(judging, name, _SCORE_LOSS)
    backend = "onnxruntime (cpu), bf16 emulated" if name == "bf16" else "onnxruntime (cpu)"
    certificate = PrecisionCertificate(stages, count, backend, agreement, annotation_scores, recipe)
    if certificate.failures and not options.unverified:
        raise ParityError(certificate.failures[0], _refusal(name, certificate))
    info = GraphInfo(
        precision=_PRECISIONS[name],
        target=_TARGETS[name],
        operator=bool(exact.candidate.libraries),
        golden_tolerances=_golden_tolerances(exact, judging, name),
        emulated=name == "bf16",
    )
    return Reduced(name, graph, info, certificate)


def _id_limit(options: ReduceOptions) -> float:
    return 1 - (_LOSS if options.auto is None else options.auto)


def _probe(
    name: ReducedName, exact: Exact, judge: Judge, options: ReduceOptions, announce: Announce
) -> tuple[bytes, Recipe | None]:
    """The fp32 probe, rounded as the graph's precision has it; of int8, what of it is."""
    probe = folded(exact.candidate.probe)
    if name == "fp16":
        return to_half(probe, islands_of(probe)), None
    if name == "bf16":
        return emulated(probe, islands_of(probe)), None
    assert options.calibrate is not None
    graphs = IntegerGraphs(
        probe,
        exact.network_size,
        tuple(exact.candidate.libraries),
        "ort" if name == "int8-ort" else "trt",
        options.calibrate,
        options.calibrate_frames,
        announce,
    )
    kept: tuple[str, ...] = (*KEPT, *options.keep)
    tried: tuple[SearchStep, ...] = ()
    if options.auto is not None:
        tried = _searched(name, graphs, exact, judge, options, announce)
        kept = tried[-1].kept
    return graphs.probe(kept), Recipe(kept, graphs.share(kept), tried)


def _searched(
    name: ReducedName,
    graphs: IntegerGraphs,
    exact: Exact,
    judge: Judge,
    options: ReduceOptions,
    announce: Announce,
) -> tuple[SearchStep, ...]:
    limit = _id_limit(options)

    def measure(held: Sequence[bytes]) -> Sequence[float | None]:
        if name == "int8-trt":
            return [None] * len(held)  # no processor computes as TensorRT does
        image = resize(exact.golden_frame.frame, exact.network_size)
        return speeds(exact.candidate.graph, held, image, exact.candidate.libraries)

    def scores_hold(graph: bytes) -> bool:
        annotation_scores = judge.annotation_scores(graph, name, _SCORE_LOSS)
        return annotation_scores is None or annotation_scores.passed

    assert options.calibrate is not None
    images = [resize(frame, exact.network_size) for frame in spread_frames(options.calibrate, _ERROR_FRAMES)]
    session = exact.session(exact.candidate.graph, "fp32")
    expected = [run_session(session, OUTPUT_NAMES, image[None]) for image in images]
    tried = search(
        graphs,
        KEPT,
        lambda graph: output_error(exact.session(graph, name), expected, images),
        lambda graph: judge.agreement(graph, name, limit, _INSTANCE_FRAMES),
        scores_hold,
        measure,
        announce,
    )
    if not tried[-1].held and not options.unverified:
        raise ParityError(
            "id agreement",
            f"no choice of what computes in int8 reaches an id agreement of {limit:.1%}; the last had "
            f"{tried[-1].idf1:.2%} with {tried[-1].integer_share:.0%} of the multiplications: allow more with "
            "--auto, or leave out int8",
        )
    return tried


def runnable(graphs: Sequence[Reduced]) -> list[ReducedName]:
    """Those that ONNX Runtime may open: verified, and in a dialect of it."""
    targets = OnnxRuntimeBackend.targets
    return [graph.name for graph in graphs if graph.certificate.passed and graph.info.target in targets]


def _refusal(name: str, certificate: PrecisionCertificate) -> str:
    failed, agreement = certificate.failures[0], certificate.agreement
    why = {
        "id agreement": f"IDF1 against fp32 is {agreement.idf1:.2%} on {agreement.instance_frames} instance-frames of "
        f"{agreement.source}, allowed {agreement.limit:.0%} on {agreement.least_instance_frames}",
    }
    if certificate.annotation_scores is not None:
        scores = certificate.annotation_scores
        why["ground truth"] = (
            f"AP falls from {scores.ap_fp32:.1%} to {scores.ap:.1%} and IDF1 from {scores.idf1_fp32:.1%} to "
            f"{scores.idf1:.1%}, allowed {scores.limit:.0%}"
            if scores.proves
            else f"fp32 itself has AP {scores.ap_fp32:.1%} and IDF1 {scores.idf1_fp32:.1%} there, which proves nothing"
        )
    for stage in certificate.stages:
        why.setdefault(stage.stage, f"relative error {stage.error:.1e}, allowed {stage.tolerance:.0e}")
    return (
        f"the {name} graph fails at stage '{failed}': {why[failed]}; nothing was written. Keep more in fp32 (--keep "
        "backbone), give other frames (--calibrate, --verify), or write it marked with --unverified"
    )


def _stage_errors(
    name: ReducedName, exact: Exact, probe: bytes, graph: bytes, frames: Iterable[NDArray[np.uint8]]
) -> tuple[tuple[StageError, ...], int]:
    probing, shipping = (exact.session(data, name) for data in (probe, graph))
    errors: dict[str, float] = {}
    count = 0
    for frame in frames:
        image = resize(frame, exact.network_size)
        found = {
            **run_session(probing, STAGES, image[None]),
            **run_session(shipping, OUTPUT_NAMES, image[None]),
        }
        for stage, expected in torch_stages(exact.model, image).items():
            error = min(relative_error(found[stage][0], expected), _INFINITE)
            errors[stage] = max(errors.get(stage, 0.0), error)
        count += 1
    limit = _STAGE_LIMITS[name]
    return tuple(StageError(stage, error, limit) for stage, error in errors.items()), count


def _golden_tolerances(exact: Exact, graph: bytes, name: ReducedName) -> dict[str, float]:
    """What a right answer to the golden frame may be off by: some more than it is here, and less than no answer is."""
    image = resize(exact.golden_frame.frame, exact.network_size)
    answer = run_session(exact.session(graph, name), OUTPUT_NAMES, image[None])
    errors = {
        output: relative_error(answer[output][0], right)
        for output, right in exact.golden_frame.outputs.items()
    }
    return {
        output: min(max(GOLDEN_TOLERANCE, _GOLDEN_MARGIN * error), _GOLDEN_LIMIT)
        for output, error in errors.items()
    }
