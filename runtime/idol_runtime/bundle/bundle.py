"""The `.idol` bundle: one zip file with the graphs and everything needed to run and to trust them.

    manifest.json   what it is: schema version, preset, classes, preprocessing, thresholds, shapes, hashes
    weights.onnx    what graphs share
    portable.onnx   the network in standard operators
    plugin.onnx     the network with our deformable attention as one operator; may be left out
    fp16.onnx …     the network in fewer bits, where asked for: fp16, bf16, int8-ort, int8-trt
    canary.npz      a golden frame and what PyTorch answers to it
    parity.json     a certificate for each graph: PyTorch against it, stage by stage, down to track ids

A graph is its file behind `weights.onnx`, byte after byte: protobuf messages merge when joined. The SHA-256 of
the manifest is the zip's comment; the manifest holds those of the others. Nothing is unpickled and nothing is
extracted to disk. docs/bundle.md describes the format.
"""

import io
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from idol_runtime.bundle.certificates import (
    Certificate,
    Certificates,
    GraphInfo,
    GraphName,
    ReducedName,
    StageError,
)
from idol_runtime.bundle.sealed_zip import SealedZip, sha256, write_sealed
from idol_runtime.config import StreamConfig
from idol_runtime.errors import BundleError, ConfigError

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

SCHEMA_VERSION = 4
_READABLE = (3, SCHEMA_VERSION)  # in 3, no reduced-precision graph shares weights
MANIFEST, WEIGHTS, GOLDEN_FRAME, CERTIFICATES = "manifest.json", "weights.onnx", "canary.npz", "parity.json"
GRAPHS: Mapping[GraphName, str] = {
    "portable": "portable.onnx",
    "plugin": "plugin.onnx",
    "fp16": "fp16.onnx",
    "bf16": "bf16.onnx",
    "int8-ort": "int8-ort.onnx",
    "int8-trt": "int8-trt.onnx",
}
OUTPUT_NAMES = ("logits", "boxes", "embeddings", "mask_features", "mask_params", "mask_reference")

_MIB = 2**20
# A protobuf cannot pass 2 GiB; the others are far below these in any bundle that we write.
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
    """An input or output of the graph; a dimension of -1 is the batch, free at run time."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a bundle is.

    Attributes:
        schema_version: of the bundle format.
        preset: the configuration that the weights belong to.
        stream: categories, preprocessing, thresholds and association.
        frame_size: (H, W) of the source that the graph was made for, in pixels.
        network_size: (h, w) of its input before padding.
        padded_size: (h, w) that the network sees.
        dynamic_batch: whether several frames can go in at once.
        precision: of the arithmetic of the portable and the plugin graph, which the others are judged by.
        inputs: of each graph.
        outputs: of each graph.
        weights_sha256: hash of the weights, equal for every container that holds the same.
        members: the other files in the bundle.
        versions: of the packages that made it.
        created: time of export, ISO 8601, UTC.
        note: shown as a caption on annotated videos; `untrained weights`, for instance.
        storage: how the weights are held in the file; of fp16, rounded before anything was compared, the graphs make
            fp32 again.
        precisions: the graphs of fewer bits, by name.
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
        if any(set(info.golden_tolerances) != set(OUTPUT_NAMES) for info in self.precisions.values()):
            raise ConfigError("a graph of fewer bits needs a canary tolerance for each output")
        if min(*self.frame_size, *self.network_size, *self.padded_size) < 1:
            raise ConfigError("frame, network and padded sizes must be positive")


@dataclass(frozen=True)
class GoldenFrame:
    """A golden frame and PyTorch's answer to it.

    Attributes:
        frame: [H, W, 3] uint8 RGB.
        outputs: by name, without the batch dimension.
    """

    frame: NDArray[np.uint8]
    outputs: Mapping[str, NDArray[np.float32]]

    def to_bytes(self) -> bytes:
        """As an npz archive."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {"frame": self.frame, **self.outputs}
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> "GoldenFrame":
        """Read what `to_bytes` wrote; never unpickles, and never inflates beyond a bundle's limit."""
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size, limit = sum(info.file_size for info in archive.infolist()), _MAX_BYTES[GOLDEN_FRAME]
        if size > limit:
            raise BundleError(f"it is larger than {limit // _MIB} MiB")
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            outputs = {name: np.asarray(archive[name], np.float32) for name in OUTPUT_NAMES}
            return GoldenFrame(frame=np.asarray(archive["frame"], np.uint8), outputs=outputs)


def write_bundle(path: str | Path, manifest: Manifest, members: Mapping[str, bytes]) -> Manifest:
    """Write a bundle, whole or not at all.

    Args:
        path: where to.
        manifest: its `members` are filled in here.
        members: the bytes of the other files.

    Returns:
        The manifest as written.

    Raises:
        OutputError: the place cannot be written.
    """
    listing = {name: Member(bytes=len(data), sha256=sha256(data)) for name, data in members.items()}
    manifest = msgspec.structs.replace(manifest, members=listing)
    write_sealed(path, MANIFEST, manifest, members)
    return manifest


class Bundle:
    """An open bundle, every file of it checked against its hash before it is handed out.

    Example:
        with Bundle.open("model.idol") as bundle:
            print(bundle.manifest.preset)
    """

    def __init__(self, file: SealedZip, path: Path) -> None:
        self.path = path
        self._file = file
        self.manifest = self._read_manifest()
        self.certificates = self._read_parity()

    @staticmethod
    def open(path: str | Path) -> "Bundle":
        """Open and validate.

        Raises:
            BundleError: not a bundle, broken, tampered with, of a newer schema, or with a graph that has no
                passed certificate.
        """
        path = Path(path)
        if os.path.isdir(path):
            raise BundleError(f"{path} is a folder; give the .idol file that idol-deploy export wrote")
        if not os.path.isfile(path):  # unlike Path.is_file, False for a name that no file can have
            raise BundleError(f"{path} does not exist; write one with: idol-deploy export")
        file = SealedZip(
            path, lambda why: BundleError(f"{path} is not a whole .idol bundle: {why}; {_BROKEN}")
        )
        try:
            return Bundle(file, path)
        except BaseException:
            file.close()
            raise

    def __enter__(self) -> "Bundle":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def graph(self, name: GraphName = "portable") -> bytes:
        """A whole ONNX file; any but `portable` only where `parity` has it."""
        own = self._member(GRAPHS[name])
        info = next((info for key, info in self.manifest.precisions.items() if key == name), None)
        return self._member(WEIGHTS) + own if info is None or info.shares_weights else own

    def tolerances(self, graph: GraphName | None) -> Mapping[str, float] | None:
        """What an answer to the golden frame may be off by, for each output; None for a graph of fp32."""
        info = next((info for name, info in self.manifest.precisions.items() if name == graph), None)
        return None if info is None else info.golden_tolerances

    def golden_frame(self) -> GoldenFrame:
        """The golden frame with its expected outputs."""
        data = self._member(GOLDEN_FRAME)
        try:
            golden_frame = GoldenFrame.from_bytes(data)
        except Exception as error:  # as does numpy's: EOFError, zlib.error, tokenize.TokenError
            raise BundleError(f"{self.path}: {GOLDEN_FRAME} cannot be read ({error}); {_BROKEN}") from error
        if golden_frame.frame.shape != (*self.manifest.frame_size, 3):
            raise BundleError(f"{self.path}: the golden frame is not {self.manifest.frame_size}; {_BROKEN}")
        return golden_frame

    def _read_manifest(self) -> Manifest:
        self._check_names()
        version, encoded = self._file.head(MANIFEST, _MAX_BYTES[MANIFEST])
        if version not in _READABLE:
            fix = "upgrade idol-deploy" if version > SCHEMA_VERSION else "export it again"
            raise BundleError(
                f"{self.path} has bundle schema {version}, this idol-deploy reads {SCHEMA_VERSION}; {fix}"
            )
        manifest = _decode(encoded, Manifest, self.path)
        if {MANIFEST, *manifest.members} != set(self._file.names):
            raise BundleError(f"{self.path}: the manifest lists {sorted(manifest.members)}; {_BROKEN}")
        return manifest

    def _read_parity(self) -> Certificates:
        parity = _decode(self._member(CERTIFICATES), Certificates, self.path)
        certificates = parity.by_graph()
        spoken_of = [*certificates, *parity.precisions]
        graphs = set(GRAPHS.values()) & set(self.manifest.members)
        if {GRAPHS[name] for name in spoken_of} != graphs or len(set(spoken_of)) < len(spoken_of):
            raise BundleError(
                f"{self.path}: {CERTIFICATES} speaks of {', '.join(spoken_of)} alone; {_BROKEN}"
            )
        if set(parity.precisions) != set(self.manifest.precisions):
            raise BundleError(
                f"{self.path}: the manifest describes {sorted(self.manifest.precisions)}, {CERTIFICATES} "
                f"{sorted(parity.precisions)}; {_BROKEN}"
            )
        for name, certificate in certificates.items():
            failed = [stage.stage for stage in certificate.stages if not stage.passed]
            if not certificate.passed:
                raise BundleError(
                    f"{self.path}: the {name} graph was never shown to equal PyTorch "
                    f"(failed: {', '.join(failed) or 'nothing tested'}); export it again"
                )
        return parity

    def _check_names(self) -> None:
        names, known = self._file.names, set(_MAX_BYTES)
        if len(set(names)) < len(names) or not known - _OPTIONAL <= set(names) <= known:
            odd = sorted((set(names) - known) | (known - _OPTIONAL - set(names))) or sorted(names)
            raise BundleError(
                f"{self.path} is not an .idol bundle: unexpected or missing {odd[:5]}; {_BROKEN}"
            )

    def _member(self, name: str) -> bytes:
        data, expected = self._file.read(name, _MAX_BYTES[name]), self.manifest.members[name]
        if len(data) != expected.bytes or sha256(data) != expected.sha256:
            raise BundleError(f"{self.path}: {name} was changed after it was written; {_BROKEN}")
        return data


_T = TypeVar("_T")


def _decode(data: bytes, kind: type[_T], path: Path) -> _T:
    what = kind.__name__.lower()
    try:
        value = msgspec.json.decode(data, type=kind)
        unknown = _unknown(msgspec.json.decode(data), msgspec.to_builtins(value))
    except (msgspec.DecodeError, ConfigError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path}: {what} is not valid ({error}); {_BROKEN}") from error
    if unknown is not None:
        raise BundleError(f"{path}: {what} is not valid (unknown field {unknown!r}); {_BROKEN}")
    return value


def _unknown(given: object, known: object) -> str | None:
    """A key of `given` that `known` lacks: msgspec forbids them in structs, but not in plain dataclasses."""
    if isinstance(given, dict) and isinstance(known, dict):
        extra = next((key for key in given if key not in known), None)
        return extra or next(filter(None, (_unknown(given[key], known[key]) for key in given)), None)
    if isinstance(given, list) and isinstance(known, list | tuple):
        return next(filter(None, map(_unknown, given, known)), None)
    return None
