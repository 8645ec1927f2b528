"""The description of a reduced precision, and the options of reduced-precision graphs."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from idol_export.graph.tracing import shipped
from idol_export.precision.node_groups import GROUPS, PARTS
from idol_export.verify.candidate import ID_LIMIT, STAGE_LIMITS, Candidate
from idol_export.verify.reference_graph import ReferenceGraph
from idol_runtime.bundle.certificates import Engine, Recipe, ReducedName
from idol_runtime.bundle.certificates import Precision as Arithmetic
from idol_runtime.errors import ConfigError

__all__ = ["Precision", "ReduceOptions", "RewrittenGraph"]


@dataclass(frozen=True)
class RewrittenGraph:
    """The fp32 graph rewritten in a reduced precision.

    Attributes:
        candidate: graph that is evaluated on the CPU.
        graph: ONNX file that ships; differs from the candidate's for an emulated precision.
        recipe: groups of nodes in fp32 and in integers, of an int8 graph; else None.
    """

    candidate: Candidate
    graph: bytes
    recipe: Recipe | None = None


@dataclass(frozen=True)
class Precision(ABC):
    """A reduced precision for one quantization target.

    Attributes:
        name: name of the graph in the bundle.
        arithmetic: precision of the arithmetic.
        engines: engines that can run the graph.
        emulated: evaluate a graph in fp32 that rounds as the shipped graph does, because no CPU has this arithmetic.
        integers: evaluate quantized nodes in integers; False: in fp32, because the target's sums never overflow.
        calibrated: needs frames for the ranges of activations.
    """

    name: ReducedName
    arithmetic: Arithmetic
    engines: tuple[Engine, ...]
    emulated: bool = False
    integers: bool = True
    calibrated: ClassVar[bool] = False

    @abstractmethod
    def rewrite(self, reference: ReferenceGraph, options: "ReduceOptions") -> RewrittenGraph:
        """Rewrite the fp32 graph in this precision.

        Args:
            reference: fp32 graph.
            options: calibration, nodes that stay fp32, and search.

        Raises:
            ParityError: the search finds no configuration within the limits.
            ConfigError: there is no calibration frame.
            SourceError: a video or image cannot be read.
        """

    @property
    def stage_limit(self) -> float:
        """Largest relative error of a stage."""
        return STAGE_LIMITS[self.arithmetic]

    @property
    def target(self) -> str:
        """Quantization target of an int8 graph; empty for another precision."""
        return self.name.partition("-")[2]

    def candidate(self, fp32: Candidate, probe: bytes) -> Candidate:
        """Return the rewritten probe as a candidate that runs like the fp32 candidate."""
        return replace(fp32, name=self.name, probe=probe, graph=shipped(probe), integers=self.integers)


@dataclass(frozen=True)
class ReduceOptions:
    """Options of reduced-precision graphs.

    Attributes:
        precisions: precisions to add to the bundle.
        calibrate: video or images for the int8 ranges.
        calibrate_frames: number of calibration frames.
        keep: names among `PARTS` and `GROUPS` that stay fp32 in int8 graphs, besides the default `KEPT`.
        auto: search for the int8 configuration; largest loss of id agreement, 0 to 1; None for no search.
        annotations: annotation file of a data set to score on.
        annotation_frames: folder of the data set's frames.
        unverified: write a graph that fails its checks as well; `run` refuses to run it.
    """

    precisions: tuple[Precision, ...] = ()
    calibrate: str | None = None
    calibrate_frames: int = 64
    keep: tuple[str, ...] = ()
    auto: float | None = None
    annotations: Path | None = None
    annotation_frames: Path | None = None
    unverified: bool = False

    def __post_init__(self) -> None:
        calibrated = any(precision.calibrated for precision in self.precisions)
        if calibrated and self.calibrate is None:
            raise ConfigError(
                "int8 needs frames for its ranges; pass a video like the camera's with --calibrate"
            )
        if (self.annotations is None) != (self.annotation_frames is None):
            raise ConfigError(
                "--annotations and --frames go together; pass the annotation file and its folder of frames"
            )
        known = dict.fromkeys((*PARTS, *GROUPS))
        for part in self.keep:
            if part not in known:
                raise ConfigError(f"unknown part for --keep: {part!r}; pass one of {', '.join(known)}")
        if self.auto is not None and self.keep:
            raise ConfigError("--auto chooses the fp32 parts itself; leave out --keep")
        if self.auto is not None and not 0 <= self.auto < 1:
            raise ConfigError(f"--auto must be 0 to 99 percent of id agreement, got {100 * self.auto:g}")
        for option in () if calibrated else ("calibrate", "keep"):
            if getattr(self, option):
                raise ConfigError(f"--{option} applies to int8 only; pass --precision int8 or --auto as well")
        for option in () if self.precisions else ("annotations", "unverified"):
            if getattr(self, option):
                raise ConfigError(
                    f"--{option} applies to reduced-precision graphs only; pass --precision or --auto as well"
                )

    @property
    def id_limit(self) -> float:
        """Lowest IDF1 of a graph's tracks against those of fp32, 0 to 1."""
        return ID_LIMIT if self.auto is None else 1 - self.auto
