"""The `.idol` bundle: one zip file with the graphs, their description and their certificates.

    manifest.json   description: schema version, preset, classes, preprocessing, thresholds, shapes, hashes
    weights.onnx    weights that the graphs share
    portable.onnx   the network in standard operators
    plugin.onnx     the network with deformable attention as one compiled operator; optional
    tensorrt.onnx   the network in standard operators that TensorRT fuses; missing in older bundles
    fp16.onnx …     the network in reduced precision, optional: fp16, bf16, int8-ort, int8-qdq
    canary.npz      the golden frame with PyTorch's outputs
    parity.json     certificates of each graph: parity with PyTorch, down to track ids, or agreement with fp32

A graph is its file after `weights.onnx`, byte by byte: protobuf messages merge when joined. The SHA-256 of the
manifest is the zip's comment; the manifest holds those of the other files. Reading a bundle unpickles nothing and
extracts nothing to disk. docs/bundle.md describes the format.
"""

import io
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from idol_runtime.bundle.certificates import (
    Certificate,
    Certificates,
    Engine,
    GraphInfo,
    GraphName,
    PrecisionCertificate,
    ReducedName,
    StageError,
    current_name,
)
from idol_runtime.bundle.older import OlderBundle
from idol_runtime.bundle.sealed_zip import SealedZip, sha256, write_sealed
from idol_runtime.config import StreamConfig
from idol_runtime.errors import BundleError, ConfigError
from idol_runtime.json_text import JSON_ERRORS
from idol_runtime.processor import decisive_features, processor_features

__all__ = [
    "GOLDEN_FRAME",
    "GRAPHS",
    "MANIFEST",
    "OUTPUT_NAMES",
    "CERTIFICATES",
    "SCHEMA_VERSION",
    "WEIGHTS",
    "Bundle",
    "GoldenFrame",
    "Certificate",
    "GraphName",
    "Manifest",
    "Member",
    "Certificates",
    "StageError",
    "TensorInfo",
    "write_bundle",
]

SCHEMA_VERSION = 5
_READABLE = (3, 4, SCHEMA_VERSION)  # in 3, reduced-precision graphs share no weights
MANIFEST, WEIGHTS, GOLDEN_FRAME, CERTIFICATES = "manifest.json", "weights.onnx", "canary.npz", "parity.json"
GRAPHS: Mapping[GraphName, str] = {
    "portable": "portable.onnx",
    "plugin": "plugin.onnx",
    "tensorrt": "tensorrt.onnx",
    "fp16": "fp16.onnx",
    "bf16": "bf16.onnx",
    "int8-ort": "int8-ort.onnx",
    "int8-qdq": "int8-qdq.onnx",
}
OUTPUT_NAMES = ("logits", "boxes", "embeddings", "mask_features", "mask_params", "mask_reference")

_MIB = 2**20
# A protobuf cannot exceed 2 GiB; the other limits are far above what the exporter writes.
_MAX_BYTES = {
    MANIFEST: 4 * _MIB,
    WEIGHTS: 2048 * _MIB,
    **dict.fromkeys(GRAPHS.values(), 2048 * _MIB),
    GOLDEN_FRAME: 256 * _MIB,
    CERTIFICATES: 16 * _MIB,
}
_OPTIONAL = set(GRAPHS.values()) - {GRAPHS["portable"]}
_BROKEN = "export it again, or download it again"


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Size and hash of one file in the bundle."""

    bytes: int
    sha256: str


class TensorInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input or output of the graph; a dimension of -1 is a batch size that is free at run time."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The description of a bundle.

    Attributes:
        schema_version: version of the bundle format.
        preset: name of the configuration of the weights.
        stream: categories, preprocessing, thresholds and association.
        frame_size: (H, W) of the source frames that the graphs were made for, in pixels.
        network_size: (h, w) of the resized frame before padding, in pixels.
        padded_size: (h, w) of the padded network input, in pixels.
        dynamic_batch: whether the graphs accept several frames at once.
        precision: precision of the portable, the plugin and the tensorrt graph.
        inputs: inputs of each graph.
        outputs: outputs of each graph.
        weights_sha256: hash of the weights, independent of the file format they came from.
        members: size and hash of the other files.
        versions: versions of the packages that made the bundle.
        created: time of the export, ISO 8601, UTC.
        note: caption for annotated videos, such as `untrained weights`.
        storage: format of the stored weights; fp16 weights were rounded before the checks; graphs cast them to fp32.
        precisions: descriptions of the reduced-precision graphs by name.
    """

    schema_version: int
    preset: str
    stream: StreamConfig
    frame_size: tuple[int, int]
    network_size: tuple[int, int]
    padded_size: tuple[int, int]
    dynamic_batch: bool
    precision: Literal["fp32"]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    weights_sha256: str
    members: dict[str, Member]
    versions: dict[str, str]
    created: str
    note: str = ""
    storage: Literal["fp32", "fp16"] = "fp32"
    precisions: dict[ReducedName, GraphInfo] = {}

    def __post_init__(self) -> None:
        if min(*self.frame_size, *self.network_size, *self.padded_size) < 1:
            raise ConfigError("frame, network and padded sizes must be positive")


@dataclass(frozen=True)
class GoldenFrame:
    """A frame with PyTorch's outputs for it.

    Attributes:
        frame: [H, W, 3] uint8 RGB.
        outputs: arrays by output name, without the batch dimension.
    """

    frame: NDArray[np.uint8]
    outputs: Mapping[str, NDArray[np.float32]]

    def to_bytes(self) -> bytes:
        """Return an npz archive."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {"frame": self.frame, **self.outputs}
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> "GoldenFrame":
        """Read the archive of `to_bytes`, without unpickling and without inflating beyond the size limit."""
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size, limit = sum(info.file_size for info in archive.infolist()), _MAX_BYTES[GOLDEN_FRAME]
        if size > limit:
            raise BundleError(f"its content is larger than {limit // _MIB} MiB")
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            outputs = {name: np.asarray(archive[name], np.float32) for name in OUTPUT_NAMES}
            return GoldenFrame(frame=np.asarray(archive["frame"], np.uint8), outputs=outputs)


def write_bundle(path: str | Path, manifest: Manifest, members: Mapping[str, bytes]) -> Manifest:
    """Write a bundle atomically.

    Args:
        path: path of the bundle.
        manifest: manifest; its `members` are replaced.
        members: contents of the other files by name.

    Returns:
        The manifest as written.

    Raises:
        OutputError: the path cannot be written.
    """
    listing = {name: Member(bytes=len(data), sha256=sha256(data)) for name, data in members.items()}
    manifest = msgspec.structs.replace(manifest, members=listing)
    write_sealed(path, MANIFEST, manifest, members)
    return manifest


class Bundle:
    """An open bundle. Every file is checked against its hash when it is read.

    Example:
        with Bundle.open("model.idol") as bundle:
            print(bundle.manifest.preset)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = SealedZip(
            path, lambda why: BundleError(f"{path} is not a complete .idol bundle: {why}; {_BROKEN}")
        )
        self._names = {current_name(name): name for name in self._file.names}  # in the zip, of each member
        older = OlderBundle()
        try:
            self.manifest = self._read_manifest(older)
            self.certificates = self._read_certificates(older)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def open(path: str | Path) -> "Bundle":
        """Open and validate a bundle.

        Raises:
            BundleError: the file is not a bundle, is broken, modified or of another schema, or an fp32 graph has no
                passed certificate.
        """
        if os.path.isdir(path):
            raise BundleError(f"{path} is a folder; give the .idol file that idol-deploy export wrote")
        if not os.path.isfile(path):  # unlike Path.is_file, returns False for an invalid name
            raise BundleError(f"{path} does not exist; write one with: idol-deploy export")
        return Bundle(Path(path))

    def __enter__(self) -> "Bundle":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def member(self, name: str) -> bytes:
        """Return the content of a file of the bundle."""
        data, expected = self._file.read(self._names[name], _MAX_BYTES[name]), self.manifest.members[name]
        if len(data) != expected.bytes or sha256(data) != expected.sha256:
            raise self._broken(f"{name} was changed after it was written")
        return data

    def graph(self, name: GraphName = "portable") -> bytes:
        """Return the complete ONNX file of a graph that `certificates` lists."""
        own = self.member(GRAPHS[name])
        info = self.manifest.precisions.get(cast(ReducedName, name))
        return self.member(WEIGHTS) + own if info is None or info.shares_weights else own

    def certificate(self, graph: GraphName | None, engine: Engine) -> PrecisionCertificate | None:
        """Return the certificate of a reduced-precision graph that counts for an engine on this processor.

        It may have failed. None: the graph has none that counts here, or it is an fp32 graph.
        """
        name = cast(ReducedName, graph)
        if name not in self.manifest.precisions:
            return None
        features = decisive_features(self.manifest.precisions[name].precision, processor_features())
        counting = (c for c in self.certificates.precisions[name] if c.counts_on(engine, features))
        # One that was measured in this engine and on this processor comes first.
        return max(counting, key=lambda c: (c.engine == engine, c.processor is not None), default=None)

    def tolerances(self, graph: GraphName | None, engine: Engine) -> Mapping[str, float] | None:
        """Return the golden-frame tolerance of each output; None for an fp32 graph or without a certificate."""
        certificate = self.certificate(graph, engine)
        return None if certificate is None else certificate.golden_tolerances

    def golden_frame(self) -> GoldenFrame:
        """Return the golden frame with its expected outputs."""
        data = self.member(GOLDEN_FRAME)
        try:
            golden = GoldenFrame.from_bytes(data)
        except Exception as error:  # numpy's parser also raises EOFError, zlib.error and tokenize.TokenError
            raise self._broken(f"{GOLDEN_FRAME} cannot be read ({error})") from error
        if golden.frame.shape != (*self.manifest.frame_size, 3):
            raise self._broken(f"the golden frame is not {self.manifest.frame_size}")
        return golden

    def _read_manifest(self, older: OlderBundle) -> Manifest:
        names, known = list(map(current_name, self._file.names)), set(_MAX_BYTES)
        if len(set(names)) < len(names) or not known - _OPTIONAL <= set(names) <= known:
            odd = sorted((set(names) - known) | (known - _OPTIONAL - set(names))) or sorted(names)
            raise BundleError(
                f"{self.path} is not an .idol bundle: unexpected or missing {odd[:5]}; {_BROKEN}"
            )
        version, encoded = self._file.head(MANIFEST, _MAX_BYTES[MANIFEST])
        if version not in _READABLE:
            fix = "upgrade idol-deploy" if version > SCHEMA_VERSION else "export it again"
            raise BundleError(
                f"{self.path} has bundle schema {version}, this idol-deploy reads {SCHEMA_VERSION}; {fix}"
            )
        manifest = _decode(encoded, Manifest, self.path, older.manifest if version < 5 else bytes)
        if {MANIFEST, *manifest.members} != set(names):
            raise self._broken(f"the manifest lists {sorted(manifest.members)}")
        for name, info in manifest.precisions.items():
            if info.precision != name.partition("-")[0]:  # it decides on which processors certificates count
                raise self._broken(f"the manifest describes the {name} graph as {info.precision}")
        return manifest

    def _read_certificates(self, older: OlderBundle) -> Certificates:
        upgrade = older.certificates if self.manifest.schema_version < 5 else bytes
        certificates = _decode(self.member(CERTIFICATES), Certificates, self.path, upgrade)
        fp32 = certificates.by_graph()
        certified = [*fp32, *certificates.precisions]
        graphs = set(GRAPHS.values()) & set(self.manifest.members)
        if {GRAPHS[name] for name in certified} != graphs or len(set(certified)) < len(certified):
            listed, held = ", ".join(certified), ", ".join(sorted(graphs))
            raise self._broken(f"{CERTIFICATES} lists {listed}, the bundle holds {held}")
        described = sorted(self.manifest.precisions)
        if sorted(certificates.precisions) != described:
            raise self._broken(
                f"the manifest describes {described}, {CERTIFICATES} {sorted(certificates.precisions)}"
            )
        for name, certificate in fp32.items():
            if not certificate.passed:
                raise BundleError(
                    f"{self.path}: the {name} graph did not pass its parity check "
                    f"(failed: {', '.join(certificate.failures) or 'nothing tested'}); export it again"
                )
        for graph, info in self.manifest.precisions.items():
            if (recipe := older.recipes.get(graph)) is not None:
                self.manifest.precisions[graph] = msgspec.structs.replace(info, recipe=recipe)
        return certificates

    def _broken(self, fault: str) -> BundleError:
        return BundleError(f"{self.path}: {fault}; {_BROKEN}")


_T = TypeVar("_T")


def _decode(data: bytes, kind: type[_T], path: Path, upgrade: Callable[[bytes], bytes]) -> _T:
    what = kind.__name__.lower()
    try:
        data = upgrade(data)
        value = msgspec.json.decode(data, type=kind)
        unknown = _unknown(msgspec.json.decode(data), msgspec.to_builtins(value))
    except (*JSON_ERRORS, ConfigError) as error:
        raise BundleError(f"{path}: {what} is not valid ({error}); {_BROKEN}") from error
    if unknown is not None:
        raise BundleError(f"{path}: {what} is not valid (unknown field {unknown!r}); {_BROKEN}")
    return value


def _unknown(given: object, known: object) -> str | None:
    """Return a key of `given` that `known` lacks: msgspec does not forbid them in plain dataclasses."""
    if isinstance(given, dict) and isinstance(known, dict):
        extra = next((key for key in given if key not in known), None)
        return extra or next(filter(None, (_unknown(given[key], known[key]) for key in given)), None)
    if isinstance(given, list) and isinstance(known, list | tuple):
        return next(filter(None, map(_unknown, given, known)), None)
    return None
