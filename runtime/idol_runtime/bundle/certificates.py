"""The certificates of a bundle: fp32 graphs equal PyTorch, and reduced-precision graphs track like fp32 ones."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

__all__ = [
    "AnnotationScores",
    "Certificate",
    "Certificates",
    "Engine",
    "Fp32Name",
    "GraphInfo",
    "GraphName",
    "IdAgreement",
    "Precision",
    "PrecisionCertificate",
    "Recipe",
    "ReducedName",
    "SearchStep",
    "StageError",
    "current_name",
]

Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8"]
Engine: TypeAlias = Literal["onnxruntime", "openvino", "tensorrt"]
ReducedName: TypeAlias = Literal["fp16", "bf16", "int8-ort", "int8-qdq"]
Fp32Name: TypeAlias = Literal["portable", "plugin", "tensorrt"]
GraphName: TypeAlias = Fp32Name | ReducedName
_ENGINE_TITLES: Mapping[Engine, str] = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "TensorRT",
}


def current_name(text: str) -> str:
    """Replace the former name of the `int8-qdq` graph, `int8-trt`, in a name or in the JSON of an older file."""
    return text.replace("int8-trt", "int8-qdq")


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


class IdAgreement(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The agreement of a graph's tracks with those of the fp32 graph.

    Attributes:
        idf1: IDF1 of the tracks against the fp32 graph's, at a mask IoU of 0.5.
        instance_frames: number of masks of the fp32 graph in all frames.
        frames: number of frames.
        limit: lowest IDF1 that passes.
        least_instance_frames: lowest number of masks that suffices for the check.
        source: description of the frames.
        stopped: True if the comparison ended early, because it could no longer pass; `idf1` is then the highest value
            that was still possible, and `frames` the number of compared frames. Never True in a bundle.
    """

    idf1: float
    instance_frames: int
    frames: int
    limit: float
    least_instance_frames: int
    source: str
    stopped: bool = False

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
        idf1: IDF1 of the tracks against the fp32 graph's; None: not compared. Of a configuration beyond the limits, the
            highest value that was possible when the comparison stopped.
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


class GraphInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The description of a reduced-precision graph in the manifest.

    Attributes:
        precision: precision of the arithmetic.
        engines: engines that can run the graph.
        operator: whether deformable attention is the compiled operator.
        shares_weights: True for a graph that is stored without the bundle's shared weights; False for a complete
            graph, as in bundles of schema 3.
        recipe: int8 configuration; None for other precisions.
    """

    precision: Precision
    engines: tuple[Engine, ...]
    operator: bool
    shares_weights: bool = False
    recipe: Recipe | None = None

    @property
    def made_for(self) -> str:
        """Names of the engines in messages."""
        return " and ".join(_ENGINE_TITLES[engine] for engine in self.engines)


class PrecisionCertificate(_CheckedStages, frozen=True, forbid_unknown_fields=True):
    """The checks of a reduced-precision graph in one engine, on one kind of processor. They may have failed.

    Attributes:
        stages: errors of the stages against PyTorch, or of the outputs against the fp32 graph.
        frames: number of frames of these errors.
        engine: engine that ran the graph.
        processor: features of the processor that decide the arithmetic, sorted; None: unknown, as in bundles of
            schemas 3 and 4.
        agreement: agreement of the tracks with the fp32 graph's.
        golden_tolerances: largest relative error of each output on the golden frame.
        emulated: whether the engine rounded in fp32 as the graph's precision does, instead of computing in it.
        annotation_scores: scores against ground truth; None without annotations.
    """

    frames: int
    engine: Engine
    processor: tuple[str, ...] | None
    agreement: IdAgreement
    golden_tolerances: dict[str, float]
    emulated: bool = False
    annotation_scores: AnnotationScores | None = None

    def counts_on(self, engine: Engine, features: Sequence[str]) -> bool:
        """Return whether the checks hold for an engine on a processor.

        In TensorRT, those of ONNX Runtime count, because `idol-deploy build` compares each engine with PyTorch.

        Args:
            engine: engine that is to run the graph.
            features: features of the processor that decide the graph's arithmetic; see `decisive_features`.
        """
        if engine == "tensorrt":
            return self.engine in ("onnxruntime", "tensorrt")
        known = self.processor is None or self.processor == tuple(features)
        return self.engine == engine and not self.emulated and known

    @property
    def measured_in(self) -> str:
        """Engine and processor of the checks: `openvino, amx_int8 vnni`."""
        processor = ("unknown processor",) if self.processor is None else self.processor
        return ", ".join(filter(None, (self.engine, "emulated" if self.emulated else " ".join(processor))))

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
        precisions: certificates of each reduced-precision graph; none for a graph that no engine has run yet.
        tensorrt: certificate of the graph for TensorRT without our operator; None in older bundles.
    """

    portable: Certificate
    plugin: Certificate | None = None
    precisions: dict[ReducedName, tuple[PrecisionCertificate, ...]] = {}
    tensorrt: Certificate | None = None

    def by_graph(self) -> Mapping[GraphName, Certificate]:
        """Return the certificates of the fp32 graphs by name."""
        named: dict[GraphName, Certificate | None] = {
            "portable": self.portable,
            "plugin": self.plugin,
            "tensorrt": self.tensorrt,
        }
        return {name: certificate for name, certificate in named.items() if certificate is not None}
