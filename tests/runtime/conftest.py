"""Fixtures: a bundle of a few kilobytes and ways to break it, without torch and onnx; waits for other threads."""

import threading
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from idol_runtime.bundle.bundle import (
    CERTIFICATES,
    GOLDEN_FRAME,
    GRAPHS,
    OUTPUT_NAMES,
    SCHEMA_VERSION,
    WEIGHTS,
    Bundle,
    Certificate,
    Certificates,
    GoldenFrame,
    Manifest,
    StageError,
    TensorInfo,
    sha256,
    write_bundle,
)
from idol_runtime.config import Category, Preprocessing, StreamConfig
from idol_runtime.errors import BundleError
from samples.waiting import until

SIZE = (16, 24)
_FIXES = ("export it again", "upgrade idol-deploy", "idol-deploy export")
# Three queries, two classes, embeddings of four numbers, 4x4 cells of stride 8.
SHAPES = {
    "logits": (3, 2),
    "boxes": (3, 4),
    "embeddings": (3, 4),
    "mask_features": (8, 4, 4),
    "mask_params": (3, 169),
    "mask_reference": (3, 2),
}
# A separate protobuf for the shared weights, here a note.
SHARED = b"\x32\x06shared"


class BundleKit:
    """Valid parts of a bundle, and ways to write them that `write_bundle` does not have."""

    size = SIZE
    shapes = SHAPES
    shared = SHARED

    def __init__(self, tiny_graph: bytes) -> None:
        self.tiny_graph = tiny_graph

    def manifest(self, **changes: Any) -> Manifest:
        stream = StreamConfig(
            categories=(Category("cat", 3), Category("dog", 7)), preprocessing=Preprocessing(short_side=None)
        )
        outputs = tuple(TensorInfo(name, "float32", (1, *SHAPES[name])) for name in OUTPUT_NAMES)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            preset="tiny",
            stream=stream,
            frame_size=SIZE,
            network_size=SIZE,
            padded_size=(32, 32),
            dynamic_batch=False,
            precision="fp32",
            inputs=(TensorInfo("image", "uint8", (1, *SIZE, 3)),),
            outputs=outputs,
            weights_sha256="0" * 64,
            members={},
            versions={"idol-deploy": "0"},
            created="2026-01-01T00:00:00Z",
        )
        return msgspec.structs.replace(manifest, **changes)

    def golden_frame(self, seed: int = 0) -> GoldenFrame:
        rng = np.random.default_rng(seed)
        outputs = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
        return GoldenFrame(frame=rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8), outputs=outputs)

    def certificates(self, *stages: StageError, plugin: bool = False) -> bytes:
        """Return certificates with these stages for the portable graph."""
        certificate = Certificate(
            stages=stages or (StageError("logits", 1e-6, 1e-3),),
            frames=2,
            detections=3,
            identities=2,
            near_ties=0,
            source="made up",
            backend="none",
        )
        return msgspec.json.encode(Certificates(certificate, certificate if plugin else None))

    def members(self, **changes: bytes) -> dict[str, bytes]:
        """Return the members; keywords are graph, plugin, golden_frame and certificates."""
        plugin = changes.get("plugin")
        return {
            WEIGHTS: SHARED,
            GRAPHS["portable"]: changes.get("graph", b"not really a graph" * 5),
            **({} if plugin is None else {GRAPHS["plugin"]: plugin}),
            GOLDEN_FRAME: changes.get("golden_frame") or self.golden_frame().to_bytes(),
            CERTIFICATES: changes.get("certificates") or self.certificates(plugin=plugin is not None),
        }

    def write(
        self, path: Path, manifest: Manifest | None = None, members: Mapping[str, bytes] | None = None
    ) -> Path:
        write_bundle(path, manifest or self.manifest(), members or self.members())
        return path

    def write_raw(self, path: Path, manifest: bytes, members: Mapping[str, bytes] | None = None) -> Path:
        """Write any bytes as the manifest, with the correct hash."""
        return self.write_zip(path, {"manifest.json": manifest, **(members or self.members())})

    def write_zip(
        self,
        path: Path,
        members: Mapping[str, bytes],
        comment: bytes | None = None,
        compressed: Collection[str] = (),
    ) -> Path:
        with zipfile.ZipFile(path, "w") as archive:
            archive.comment = sha256(members["manifest.json"]).encode() if comment is None else comment
            for name, data in members.items():
                archive.writestr(
                    name, data, zipfile.ZIP_DEFLATED if name in compressed else zipfile.ZIP_STORED
                )
        return path

    @staticmethod
    def members_of(path: Path) -> dict[str, bytes]:
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def rewrite(self, path: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
        """Write the same zip with other members and the same comment."""
        with zipfile.ZipFile(path) as archive:
            comment = archive.comment
        members = self.members_of(path)
        change(members)
        with zipfile.ZipFile(path, "w") as archive:
            archive.comment = comment
            for name, data in members.items():
                archive.writestr(name, data)
        return path

    @staticmethod
    def read_all(path: Path) -> tuple[Any, ...]:
        """Return the complete content of a bundle, comparable with ==."""
        with Bundle.open(path) as bundle:
            golden_frame = bundle.golden_frame()
            arrays = {name: array.tobytes() for name, array in golden_frame.outputs.items()}
            return bundle.manifest, bundle.certificates, bundle.graph(), golden_frame.frame.tobytes(), arrays

    def refusal(self, path: Path) -> str:
        """Return the message of the BundleError for this file, after a check that it is one line with name and fix."""
        with pytest.raises(BundleError) as caught:
            self.read_all(path)
        message = str(caught.value)
        assert "\n" not in message
        assert str(path) in message
        assert any(fix in message for fix in _FIXES), message
        return message


@pytest.fixture(scope="session")
def kit() -> BundleKit:
    return BundleKit((Path(__file__).parents[1] / "data" / "tiny.onnx").read_bytes())


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """Wait for the end of the threads that the test has started; those of earlier tests are not its own."""
    before = {*threading.enumerate()}
    yield
    until(lambda: not [t for t in threading.enumerate() if t.name.startswith("idol-") and t not in before])
