"""What a bundle proves of its graphs: fp32 ones equal PyTorch, and those of fewer bits track as they do."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

__all__ = [
    "Certificate",
    "GraphInfo",
    "GraphName",
    "IdAgreement",
    "AnnotationScores",
    "Certificates",
    "Precision",
    "PrecisionCertificate",
    "Recipe",
    "ReducedName",
    "SearchStep",
    "StageError",
]

Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8"]
ReducedName: TypeAlias = Literal["fp16", "bf16", "int8-ort", "int8-trt"]
GraphName: TypeAlias = Literal["portable", "plugin"] | ReducedName


class StageError(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of the certificate: the largest relative error of a stage over all verified frames."""

    stage: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the error is a number within the tolerance."""
        return self.error <= self.tolerance


class Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was compared with PyTorch, on how many frames, and how close it came."""

    stages: tuple[StageError, ...]
    frames: int
    detections: int
    identities: int
    near_ties: int
    source: str
    backend: str

    @property
    def passed(self) -> bool:
        """Whether every stage holds."""
        return bool(self.stages) and all(stage.passed for stage in self.stages)


class GraphInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a graph of fewer bits is.

    Attributes:
        precision: of its arithmetic.
        target: who runs it: `onnx` any runtime, `ort` ONNX Runtime, `trt` TensorRT.
        operator: whether deformable attention is our operator.
        emulated: whether it was judged with its rounding emulated in fp32, for want of a processor that has it.
        golden_tolerances: of each output, how far the answer to the golden frame may be from PyTorch's.
        shares_weights: True for a graph that is stored without the bundle's shared weights; False for a whole graph,
            as in bundles of schema 3.
    """

    precision: Precision
    target: Literal["onnx", "ort", "trt"] = msgspec.field(name="dialect")
    operator: bool
    golden_tolerances: dict[str, float] = msgspec.field(name="canary")
    emulated: bool = False
    shares_weights: bool = False

    @property
    def made_for(self) -> str:
        """Who runs it, for people."""
        return {"onnx": "any backend", "ort": "ONNX Runtime", "trt": "TensorRT"}[self.target]


class IdAgreement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether tracks are those of the fp32 graph.

    Attributes:
        idf1: of the tracks against those of fp32, at a mask IoU of 0.5.
        instance_frames: of fp32, how many masks in all frames.
        frames: how many.
        limit: the least that is allowed.
        least_instance_frames: fewer would prove too little.
        source: what the frames are.
    """

    idf1: float
    instance_frames: int
    frames: int
    limit: float
    least_instance_frames: int
    source: str

    @property
    def passed(self) -> bool:
        """Whether enough was compared, and it agrees."""
        return self.instance_frames >= self.least_instance_frames and self.idf1 >= self.limit


class AnnotationScores(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Scores against ground truth, beside those of the fp32 graph; all are shares of 1.

    Attributes:
        ap: of the graph.
        ap_fp32: of fp32.
        idf1: of the graph.
        idf1_fp32: of fp32.
        limit: how much AP and IDF1 may fall.
        source: which data set.
    """

    ap: float
    ap_fp32: float
    idf1: float
    idf1_fp32: float
    limit: float
    source: str

    @property
    def proves(self) -> bool:
        """Whether fp32 has any score to lose."""
        return min(self.ap_fp32, self.idf1_fp32) > self.limit

    @property
    def passed(self) -> bool:
        """Whether there was something to lose, and neither falls further."""
        falls = max(self.ap_fp32 - self.ap, self.idf1_fp32 - self.idf1)
        return self.proves and falls <= self.limit


class SearchStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A choice of what computes in integers that was tried.

    Attributes:
        kept: groups of nodes that stayed fp32.
        integer_share: of all multiplications, how many were in integers.
        error: of its outputs against those of fp32, relative.
        idf1: of its tracks against those of fp32; None: they were not compared.
        held: whether it was compared, and within the limits.
        speed: how many times as fast as fp32, where it was measured.
    """

    kept: tuple[str, ...]
    integer_share: float
    error: float
    idf1: float | None = None
    held: bool = False
    speed: float | None = None


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of a graph computes in integers.

    Attributes:
        kept: groups of nodes or parts of the network that are fp32.
        integer_share: of all multiplications, how many are in integers.
        search: what was tried to find it, if it was searched for.
    """

    kept: tuple[str, ...]
    integer_share: float
    search: tuple[SearchStep, ...] = ()


class PrecisionCertificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a graph of fewer bits was compared with, and how it did; it may have failed.

    Attributes:
        stages: errors against PyTorch on the way to the outputs.
        frames: that they were measured on.
        backend: what ran the graph.
        agreement: of identities with the fp32 graph.
        annotation_scores: against ground truth, where there was any.
        recipe: of int8.
    """

    stages: tuple[StageError, ...]
    frames: int
    backend: str
    agreement: IdAgreement
    annotation_scores: AnnotationScores | None = msgspec.field(name="judged", default=None)
    recipe: Recipe | None = None

    @property
    def failures(self) -> tuple[str, ...]:
        """Names of what is out of bounds, in the order of computation."""
        stages = tuple(stage.stage for stage in self.stages if not stage.passed)
        ids = () if self.agreement.passed else ("id agreement",)
        annotation_scores = (
            () if self.annotation_scores is None or self.annotation_scores.passed else ("ground truth",)
        )
        return (*stages, *ids, *annotation_scores)

    @property
    def passed(self) -> bool:
        """Whether all is within bounds."""
        return bool(self.stages) and not self.failures


class Certificates(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A certificate for each graph of a bundle; `precisions` are the graphs of fewer bits, by name."""

    portable: Certificate
    plugin: Certificate | None = None
    precisions: dict[ReducedName, PrecisionCertificate] = {}

    def by_graph(self) -> Mapping[GraphName, Certificate]:
        """Of the fp32 graphs that are there."""
        found: dict[GraphName, Certificate] = {"portable": self.portable}
        return found if self.plugin is None else {**found, "plugin": self.plugin}
