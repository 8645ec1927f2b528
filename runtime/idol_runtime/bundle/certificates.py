"""The certificates of a bundle: fp32 graphs equal PyTorch, and reduced-precision graphs track like fp32 ones."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

__all__ = [
    "AnnotationScores",
    "Certificate",
    "Certificates",
    "GraphInfo",
    "GraphName",
    "IdAgreement",
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
    """The largest relative error of one stage over all verified frames."""

    stage: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Result of the comparison with the tolerance; False for NaN."""
        return self.error <= self.tolerance


class _CheckedStages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    stages: tuple[StageError, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """Names of the failed checks, in the order of computation."""
        return tuple(stage.stage for stage in self.stages if not stage.passed)

    @property
    def passed(self) -> bool:
        """Result of all checks; False if no stage was compared."""
        return bool(self.stages) and not self.failures

    @property
    def tolerance_share(self) -> float:
        """Largest share of its tolerance that a stage used."""
        return max((stage.error / stage.tolerance for stage in self.stages if stage.tolerance), default=0.0)


class Certificate(_CheckedStages, frozen=True, forbid_unknown_fields=True):
    """The parity check of an fp32 graph against PyTorch.

    Attributes:
        stages: error of every stage, in the order of computation.
        frames: number of verified frames.
        detections: number of compared detections.
        identities: number of compared track ids.
        near_ties: number of decisions that rounding may change.
        source: description of the frames.
        backend: backend that ran the graph.
    """

    frames: int
    detections: int
    identities: int
    near_ties: int
    source: str
    backend: str


class GraphInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The description of a reduced-precision graph in the manifest.

    Attributes:
        precision: precision of the arithmetic.
        target: quantization target: `onnx` (any engine), `ort` (ONNX Runtime) or `trt` (TensorRT).
        operator: whether deformable attention is the compiled operator.
        golden_tolerances: largest relative error of each output on the golden frame.
        emulated: whether the checks emulated the rounding in fp32, because the processor lacks the precision.
        shares_weights: True for a graph that is stored without the bundle's shared weights; False for a complete
            graph, as in bundles of schema 3.
    """

    precision: Precision
    target: Literal["onnx", "ort", "trt"] = msgspec.field(name="dialect")
    operator: bool
    golden_tolerances: dict[str, float] = msgspec.field(name="canary")
    emulated: bool = False
    shares_weights: bool = False

    @property
    def made_for(self) -> str:
        """Name of the target in messages."""
        return {"onnx": "any backend", "ort": "ONNX Runtime", "trt": "TensorRT"}[self.target]


class IdAgreement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The agreement of a graph's tracks with those of the fp32 graph.

    Attributes:
        idf1: IDF1 of the tracks against the fp32 graph's, at a mask IoU of 0.5.
        instance_frames: number of masks of the fp32 graph in all frames.
        frames: number of frames.
        limit: lowest IDF1 that passes.
        least_instance_frames: lowest number of masks that suffices for the check.
        source: description of the frames.
    """

    idf1: float
    instance_frames: int
    frames: int
    limit: float
    least_instance_frames: int
    source: str

    @property
    def passed(self) -> bool:
        """Result of the check; False if too few masks were compared."""
        return self.instance_frames >= self.least_instance_frames and self.idf1 >= self.limit


class AnnotationScores(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Scores of a graph and of the fp32 graph against ground truth, all between 0 and 1.

    Attributes:
        ap: AP of the graph.
        ap_fp32: AP of the fp32 graph.
        idf1: IDF1 of the graph.
        idf1_fp32: IDF1 of the fp32 graph.
        limit: largest loss of AP and of IDF1 that passes.
        source: name of the data set.
    """

    ap: float
    ap_fp32: float
    idf1: float
    idf1_fp32: float
    limit: float
    source: str

    @property
    def proves(self) -> bool:
        """Validity of the check: True if the fp32 scores are higher than the limit, so that they can fall by more."""
        return min(self.ap_fp32, self.idf1_fp32) > self.limit

    @property
    def passed(self) -> bool:
        """Result of the check; False if it is not valid or a score falls by more than the limit."""
        loss = max(self.ap_fp32 - self.ap, self.idf1_fp32 - self.idf1)
        return self.proves and loss <= self.limit


class SearchStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One int8 configuration that the search tried.

    Attributes:
        kept: groups of nodes that stayed fp32.
        integer_share: share of the multiplications that are in integers.
        error: relative error of the outputs against the fp32 graph's.
        idf1: IDF1 of the tracks against the fp32 graph's; None: not compared.
        held: whether the tracks were compared and are within the limits.
        speed: how many times as fast as fp32; None: not measured.
    """

    kept: tuple[str, ...]
    integer_share: float
    error: float
    idf1: float | None = None
    held: bool = False
    speed: float | None = None


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The int8 configuration of a graph.

    Attributes:
        kept: groups of nodes, or parts of the network, that stayed fp32.
        integer_share: share of the multiplications that are in integers.
        search: configurations that the search tried; empty without a search.
    """

    kept: tuple[str, ...]
    integer_share: float
    search: tuple[SearchStep, ...] = ()


class PrecisionCertificate(_CheckedStages, frozen=True, forbid_unknown_fields=True):
    """The checks of a reduced-precision graph. They may have failed, if it was exported with `--unverified`.

    Attributes:
        stages: errors of the stages against PyTorch.
        frames: number of frames of these errors.
        backend: backend that ran the graph.
        agreement: agreement of the tracks with the fp32 graph's.
        annotation_scores: scores against ground truth; None without annotations.
        recipe: int8 configuration; None for other precisions.
    """

    frames: int
    backend: str
    agreement: IdAgreement
    annotation_scores: AnnotationScores | None = msgspec.field(name="judged", default=None)
    recipe: Recipe | None = None

    @property
    def failures(self) -> tuple[str, ...]:
        """Names of the failed checks, in the order of computation."""
        ids = () if self.agreement.passed else ("id agreement",)
        scores = self.annotation_scores
        annotations = () if scores is None or scores.passed else ("ground truth",)
        return (*super().failures, *ids, *annotations)


class Certificates(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The certificates of a bundle, one for each graph.

    Attributes:
        portable: certificate of the portable graph.
        plugin: certificate of the plugin graph; None if the bundle has none.
        precisions: certificates of the reduced-precision graphs by name.
    """

    portable: Certificate
    plugin: Certificate | None = None
    precisions: dict[ReducedName, PrecisionCertificate] = {}

    def by_graph(self) -> Mapping[GraphName, Certificate]:
        """Return the certificates of the fp32 graphs by name."""
        certificates: dict[GraphName, Certificate] = {"portable": self.portable}
        return certificates if self.plugin is None else {**certificates, "plugin": self.plugin}
