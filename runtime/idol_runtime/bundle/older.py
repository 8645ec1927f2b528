"""Conversion of bundles of schemas 3 and 4, in which each reduced-precision graph has one certificate.

These certificates were measured in ONNX Runtime, on a processor that they do not name.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec

from idol_runtime.bundle.certificates import (
    AnnotationScores,
    Engine,
    GraphInfo,
    IdAgreement,
    Precision,
    PrecisionCertificate,
    Recipe,
    ReducedName,
    StageError,
    current_name,
)

__all__ = ["OlderBundle"]

_ENGINES: Mapping[str, tuple[Engine, ...]] = {
    "onnx": ("onnxruntime", "openvino", "tensorrt"),
    "ort": ("onnxruntime",),
    "trt": ("openvino", "tensorrt"),
}


class _Info(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    precision: Precision
    target: Literal["onnx", "ort", "trt"] = msgspec.field(name="dialect")
    operator: bool
    golden_tolerances: dict[str, float] = msgspec.field(name="canary")
    emulated: bool = False
    shares_weights: bool = False


class _Certificate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    stages: tuple[StageError, ...]
    frames: int
    backend: str
    agreement: IdAgreement
    judged: AnnotationScores | None = None
    recipe: Recipe | None = None


class OlderBundle:
    """Conversion of the JSON of one bundle's members; `msgspec.DecodeError` if it is not the JSON of that member.

    Attributes:
        recipes: int8 configurations of its graphs, which the manifest holds today; set by `certificates`.
    """

    def __init__(self) -> None:
        self._infos: Mapping[ReducedName, _Info] = {}
        self.recipes: Mapping[ReducedName, Recipe | None] = {}

    def manifest(self, encoded: bytes) -> bytes:
        """Convert the manifest."""
        fields = _fields(encoded)
        self._infos = msgspec.json.decode(fields.get("precisions", b"{}"), type=dict[ReducedName, _Info])
        infos = {
            name: GraphInfo(info.precision, _ENGINES[info.target], info.operator, info.shares_weights)
            for name, info in self._infos.items()
        }
        return msgspec.json.encode({**fields, "precisions": infos})

    def certificates(self, encoded: bytes) -> bytes:
        """Convert the certificates, after the manifest; one of a graph that the manifest lacks is left out."""
        fields = _fields(encoded)
        older = msgspec.json.decode(fields.get("precisions", b"{}"), type=dict[ReducedName, _Certificate])
        self.recipes = {name: certificate.recipe for name, certificate in older.items()}
        precisions = {
            name: (_upgraded(certificate, self._infos[name]),)
            for name, certificate in older.items()
            if name in self._infos
        }
        return msgspec.json.encode({**fields, "precisions": precisions})


def _fields(encoded: bytes) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(current_name(encoded.decode()), type=dict[str, msgspec.Raw])


def _upgraded(certificate: _Certificate, info: _Info) -> PrecisionCertificate:
    return PrecisionCertificate(
        stages=certificate.stages,
        frames=certificate.frames,
        engine="onnxruntime",
        processor=None,
        agreement=certificate.agreement,
        golden_tolerances=info.golden_tolerances,
        emulated=info.emulated or info.target == "trt",
        annotation_scores=certificate.judged,
    )
