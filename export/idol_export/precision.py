"""Graphs of fewer bits: made, compared with PyTorch and with the fp32 graph's tracks, and refused where they fail.

Rounding moves quantities across thresholds that fp32 graphs may not cross, so that decisions cannot be held to PyTorch
one by one as `idol_export.parity` does. What must hold is that the same instances are followed: IDF1 of the tracks
against those of the fp32 graph, and where there is ground truth, its scores.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from idol_deploy.model.idol import Idol
from idol_export.calibration import observe
from idol_export.clips import Clip, clips_of_dataset, drawn_clips, spread_frames, video_clip
from idol_export.editing import Editor
from idol_export.folding import fold_norms
from idol_export.graph import STAGES
from idol_export.ground_truth import judge
from idol_export.half_graph import emulated, islands_of, to_half
from idol_export.id_agreement import IdJudge
from idol_export.int8 import Dialect, candidates, observed_values, quantise
from idol_export.onnx import shipped
from idol_export.parity import Candidate, relative_error, torch_stages
from idol_runtime.backends.onnxruntime import OnnxRuntimeBackend, open_session, run_session
from idol_runtime.bundle import OUTPUT_NAMES, Canary
from idol_runtime.certificates import (
    GraphInfo,
    IdAgreement,
    Precision,
    PrecisionCertificate,
    ReducedName,
    StageError,
)
from idol_runtime.config import StreamConfig
from idol_runtime.errors import ConfigError, ParityError
from idol_runtime.pipeline import CANARY_TOLERANCE, Pipeline
from idol_runtime.preprocess import resize

__all__ = ["PARTS", "Exact", "ReduceOptions", "Reduced", "parts_of", "reduce_graph", "runnable"]

Announce = Callable[[str], None]

# What a stage may be off by before the graph is broken rather than coarse; identities decide about the rest.
_STAGE_LIMITS: Mapping[ReducedName, float] = {"fp16": 0.02, "bf16": 0.1, "int8-ort": 0.3, "int8-trt": 0.3}
PARTS = (*STAGES[1:], "heads")
_PRECISIONS: Mapping[ReducedName, Precision] = {
    "fp16": "fp16",
    "bf16": "bf16",
    "int8-ort": "int8",
    "int8-trt": "int8",
}
_DIALECTS: Mapping[ReducedName, Literal["onnx", "ort", "trt"]] = {
    "fp16": "onnx",
    "bf16": "trt",
    "int8-ort": "ort",
    "int8-trt": "trt",
}
_ID_LIMIT = 0.99
_INSTANCE_FRAMES = 500
_SCORE_LOSS = 0.01
_INFINITE = 1e9  # JSON has no infinity
_CANARY_MARGIN = 2.0  # processors round differently, and a wrong kernel is off by far more


@dataclass(frozen=True)
class ReduceOptions:
    """Which graphs of fewer bits to make, and what to hold them to.

    Attributes:
        names: of the graphs.
        calibrate: video or images that int8 takes its ranges from.
        calibrate_frames: how many of its frames.
        keep: parts of the network that stay fp32, among `PARTS`.
        judge: annotations to score against, of the videos in
        judge_frames: this folder.
        unverified: write a graph that fails as well; no runtime takes it unasked, and `run` refuses it.
    """

    names: tuple[ReducedName, ...] = ()
    calibrate: str | None = None
    calibrate_frames: int = 64
    keep: tuple[str, ...] = ()
    judge: Path | None = None
    judge_frames: Path | None = None
    unverified: bool = False

    def __post_init__(self) -> None:
        if any(name.startswith("int8") for name in self.names) and self.calibrate is None:
            raise ConfigError(
                "int8 takes its ranges from frames like those to come; give a video with --calibrate"
            )
        if (self.judge is None) != (self.judge_frames is None):
            raise ConfigError("--judge and --frames go together: annotations, and the folder of their frames")


@dataclass(frozen=True)
class Reduced:
    """A graph of fewer bits, and what is known of it."""

    name: ReducedName
    graph: bytes
    info: GraphInfo
    certificate: PrecisionCertificate


@dataclass(frozen=True)
class Exact:
    """What a graph of fewer bits is made of, and judged by.

    Attributes:
        model: in PyTorch.
        stream: thresholds and association.
        candidate: the fp32 graph.
        frame_size: (H, W) of the source.
        network_size: (h, w) of the network's input.
        canary: golden frame and PyTorch's answer.
    """

    model: Idol
    stream: StreamConfig
    candidate: Candidate
    frame_size: tuple[int, int]
    network_size: tuple[int, int]
    canary: Canary

    def pipeline(self, graph: bytes, name: str) -> Pipeline:
        """A graph, tracking."""
        session = open_session(graph, libraries=self.candidate.libraries)
        return Pipeline(OnnxRuntimeBackend(session, name, self.network_size), self.stream)


def reduce_graph(
    name: ReducedName,
    exact: Exact,
    options: ReduceOptions,
    frames: Iterable[NDArray[np.uint8]],  # [H, W, 3] each
    verify_source: str | None,
    announce: Announce,
) -> Reduced:
    """Make a graph of fewer bits, and compare it.

    Args:
        name: which.
        exact: what it is made of.
        options: how.
        frames: to compare the stages on.
        verify_source: video to compare tracks on; None: the videos of `options.judge`, else drawn ones.
        announce: called with each step's name.

    Raises:
        ParityError: it does not track as fp32 does; names the stage.
        ConfigError: nothing to calibrate on.
        SourceError: a video or image that cannot be read.
        DataError: annotations that are broken.
    """
    announce(f"making the {name} graph")
    probe = _probe(name, exact, options, announce)
    judging = shipped(probe)
    # No CPU runtime computes in bf16: what is judged rounds as it would, and what ships has its types.
    graph = judging
    if name == "bf16":
        graph = to_half(exact.candidate.graph, islands_of(exact.candidate.graph), "bf16")
    announce(f"comparing the {name} graph with PyTorch")
    stages, count = _stage_errors(name, exact, probe, judging, frames)
    announce(f"comparing the {name} graph's tracks with those of fp32")
    agreement = _agreement(exact, judging, options, verify_source)
    judged = None
    if options.judge is not None and options.judge_frames is not None:
        announce(f"scoring the {name} graph against {options.judge}")
        judged = judge(
            options.judge,
            options.judge_frames,
            lambda: exact.pipeline(judging, name),
            lambda: exact.pipeline(exact.candidate.graph, "fp32"),
            _SCORE_LOSS,
        )
    backend = "onnxruntime (cpu), bf16 emulated" if name == "bf16" else "onnxruntime (cpu)"
    certificate = PrecisionCertificate(stages, count, backend, agreement, judged)
    if certificate.failures and not options.unverified:
        raise ParityError(certificate.failures[0], _refusal(name, certificate))
    info = GraphInfo(
        precision=_PRECISIONS[name],
        dialect=_DIALECTS[name],
        operator=bool(exact.candidate.libraries),
        canary=_canary(exact, judging),
        emulated=name == "bf16",
    )
    return Reduced(name, graph, info, certificate)


def _probe(name: ReducedName, exact: Exact, options: ReduceOptions, announce: Announce) -> bytes:
    """The fp32 probe, rounded as the graph's precision has it."""
    probe = exact.candidate.probe
    if name == "fp16":
        return to_half(probe, islands_of(probe))
    if name == "bf16":
        return emulated(probe, islands_of(probe))
    return _int8(exact, options, announce, "ort" if name == "int8-ort" else "trt")


def runnable(graphs: Sequence[Reduced]) -> list[ReducedName]:
    """Those that ONNX Runtime may open: verified, and in a dialect of it."""
    dialects = OnnxRuntimeBackend.dialects
    return [graph.name for graph in graphs if graph.certificate.passed and graph.info.dialect in dialects]


def _refusal(name: str, certificate: PrecisionCertificate) -> str:
    failed, agreement = certificate.failures[0], certificate.agreement
    why = {
        "id agreement": f"IDF1 against fp32 is {agreement.idf1:.2%} on {agreement.instance_frames} instance-frames of "
        f"{agreement.source}, allowed {agreement.limit:.0%} on {agreement.least_instance_frames}",
    }
    if certificate.judged is not None:
        judged = certificate.judged
        why["ground truth"] = (
            f"AP falls from {judged.ap_fp32:.1%} to {judged.ap:.1%} and IDF1 from {judged.idf1_fp32:.1%} to "
            f"{judged.idf1:.1%}, allowed {judged.limit:.0%}"
        )
    for stage in certificate.stages:
        why.setdefault(stage.stage, f"relative error {stage.error:.1e}, allowed {stage.tolerance:.0e}")
    return (
        f"the {name} graph fails at stage '{failed}': {why[failed]}; nothing was written. Keep more in fp32 (--keep "
        "backbone), give other frames (--calibrate, --verify), or write it marked with --unverified"
    )


def parts_of(editor: Editor) -> dict[str, str]:
    """Which of `PARTS` each node of a probe is in: the first whose last value it leads to."""
    found: dict[str, str] = {}
    for part in PARTS[:-1]:
        for node in editor.makers_of(part):
            found.setdefault(node, part)
    return {node.name: found.get(node.name, PARTS[-1]) for node in editor.graph.node}


def _int8(exact: Exact, options: ReduceOptions, announce: Announce, dialect: Dialect) -> bytes:
    editor = Editor(exact.candidate.probe)
    fold_norms(editor)
    parts = parts_of(editor)
    chosen = [node for node in candidates(editor) if parts[node] not in options.keep]
    values = observed_values(editor, chosen, dialect)
    assert options.calibrate is not None
    announce(f"calibrating on {options.calibrate_frames} frames of {Path(options.calibrate).name}")
    frames = spread_frames(options.calibrate, options.calibrate_frames)
    resized = (resize(frame, exact.network_size) for frame in frames)
    quantise(editor, chosen, observe(editor.to_bytes(), values, resized, exact.candidate.libraries), dialect)
    return editor.to_bytes()


def _stage_errors(
    name: ReducedName, exact: Exact, probe: bytes, graph: bytes, frames: Iterable[NDArray[np.uint8]]
) -> tuple[tuple[StageError, ...], int]:
    libraries = exact.candidate.libraries
    probing, shipping = (open_session(data, libraries=libraries) for data in (probe, graph))
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


def _agreement(exact: Exact, graph: bytes, options: ReduceOptions, verify_source: str | None) -> IdAgreement:
    ids = IdJudge()
    source, clips = _clips(exact, options, verify_source)
    with exact.pipeline(exact.candidate.graph, "fp32") as theirs, exact.pipeline(graph, "reduced") as ours:
        for clip in clips:
            for pipeline in (theirs, ours):
                pipeline.reset()
            for frame in clip:
                ids.frame(theirs.step(frame), ours.step(frame))
            ids.next_clip()
    return ids.agreement(_ID_LIMIT, _INSTANCE_FRAMES, source)


def _clips(exact: Exact, options: ReduceOptions, verify_source: str | None) -> tuple[str, Iterator[Clip]]:
    if verify_source is not None:
        return Path(verify_source).name, iter([video_clip(verify_source)])
    if options.judge is not None and options.judge_frames is not None:
        return options.judge.name, clips_of_dataset(options.judge, options.judge_frames)
    return "drawn videos", drawn_clips(exact.frame_size)


def _canary(exact: Exact, graph: bytes) -> dict[str, float]:
    """What a right answer to the golden frame may be off by: some more than it is here."""
    session = open_session(graph, libraries=exact.candidate.libraries)
    answer = run_session(session, OUTPUT_NAMES, resize(exact.canary.frame, exact.network_size)[None])
    return {
        name: max(
            CANARY_TOLERANCE, _CANARY_MARGIN * min(relative_error(answer[name][0], expected), _INFINITE)
        )
        for name, expected in exact.canary.outputs.items()
    }
