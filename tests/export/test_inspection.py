"""Descriptions of files by their content; a bundle is described without torch and onnx."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import onnx
import pytest
import torch
from msgspec.structs import replace

from idol_deploy.config import preset
from idol_deploy.weights.checkpoint import save_checkpoint
from idol_deploy.weights.layout import published_state, weights_hash
from idol_deploy.weights.reference import reference_state
from idol_export.inspection import describe
from idol_runtime.bundle.bundle import CERTIFICATES, GRAPHS, Bundle, write_bundle
from idol_runtime.bundle.certificates import (
    AnnotationScores,
    GraphInfo,
    IdAgreement,
    PrecisionCertificate,
    Recipe,
    StageError,
)
from idol_runtime.errors import BundleError, CheckpointError, ConfigError, IdolError, MissingDependencyError

if TYPE_CHECKING:
    from tests.conftest import Toy


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_a_bundle(toy: Toy) -> None:
    found = describe(toy.path)
    assert found["kind"] == "idol bundle, schema 5"
    assert (found["preset"], found["note"]) == ("toy", "untrained weights")
    assert (found["frame size"], found["padded input"], found["batch"]) == ("72x104", "96x128", "1")
    assert str(found["classes"]).startswith("40: person, ")
    assert found["inputs"] == {"image": "uint8 [1, 72, 104, 3]"}
    assert set(found["portable graph"]) > {"backbone", "logits", "masks", "track ids"}
    assert "3 frames" in found["portable graph"]["verified on"]
    assert "plugin graph" not in found
    assert found["association"]["temporal"] == "published"
    assert found["weights sha256"] == weights_hash(published_state(toy.model))
    json.dumps(found)


def _with_graphs(toy: Toy, path: Path, **certificates: tuple[PrecisionCertificate, ...]) -> Path:
    """The toy's bundle with manifest entries and certificates of reduced-precision graphs."""
    with Bundle.open(toy.path) as bundle:
        members = {name: bundle.member(name) for name in bundle.manifest.members}
        manifest, parity = bundle.manifest, bundle.certificates
    named = {name.replace("_", "-"): certificate for name, certificate in certificates.items()}
    infos = {
        "int8-ort": GraphInfo(
            "int8", ("onnxruntime",), False, recipe=Recipe(("decoder", "backbone/4"), 0.67)
        ),
        "int8-qdq": GraphInfo("int8", ("openvino", "tensorrt"), False),
        "fp16": GraphInfo("fp16", ("onnxruntime", "tensorrt"), False),
    }
    infos = {name: infos[name] for name in named}
    members |= {GRAPHS[name]: b"graph" for name in named}
    members[CERTIFICATES] = msgspec.json.encode(msgspec.structs.replace(parity, precisions=named))
    write_bundle(path, msgspec.structs.replace(manifest, precisions=infos), members)
    return path


def test_graphs_of_fewer_bits(toy: Toy, tmp_path: Path) -> None:
    stages = (StageError("logits", 0.02, 0.3),)
    good = PrecisionCertificate(
        stages,
        4,
        "onnxruntime",
        ("avx2", "vnni"),
        IdAgreement(0.992, 6866, 1440, 0.99, 500, "held-out videos"),
        {},
        annotation_scores=AnnotationScores(0.291, 0.294, 0.701, 0.705, 0.01, "val.json"),
    )
    bad = replace(good, agreement=IdAgreement(0.5, 10, 4, 0.99, 500, "generated video"), emulated=True)
    bad = replace(bad, annotation_scores=None)
    path = _with_graphs(toy, tmp_path / "toy.idol", int8_ort=(good,), fp16=(bad,), int8_qdq=())
    found = describe(path)
    assert found["int8-ort graph"] == {
        "made for": "ONNX Runtime",
        "in integers": "67% of the multiplications",
        "kept in fp32": "decoder, backbone/4",
    }
    assert found["int8-ort in onnxruntime, avx2 vnni"] == {
        "verified": "yes",
        "id agreement": "99.20% with fp32 (allowed 99.00%) on 6866 instance-frames of held-out videos",
        "AP": "29.1% (fp32 29.4%) on val.json",
        "IDF1": "70.1% (fp32 70.5%) on val.json",
        "logits": "2.0e-02 (allowed 3e-01)",
        "stages compared on": "4 frames",
    }
    failed = found["fp16 in onnxruntime, emulated"]
    assert failed["verified"] == "NO, failed: id agreement; run refuses it"
    assert "AP" not in failed
    assert found["int8-qdq graph"] == {
        "made for": "OpenVINO and TensorRT",
        "verified": "NO, not measured yet; verify it with: idol-deploy certify",
    }
    changed = bytearray(path.read_bytes())
    changed[changed.index(b"fp16.onnxgraph") + len("fp16.onnx")] ^= 1
    path.write_bytes(changed)
    with pytest.raises(BundleError, match=r"fp16\.onnx .*; export it again"):
        describe(path)


def test_a_bundle_of_another_name_is_still_one(toy: Toy, tmp_path: Path) -> None:
    copy = tmp_path / "model.bin"
    copy.write_bytes(toy.path.read_bytes())
    assert describe(copy)["kind"] == "idol bundle, schema 5"


def test_a_bundle_needs_neither_torch_nor_onnx(toy: Toy) -> None:
    blocked = ("torch", "onnx", "onnxscript", "onnxruntime", "cv2", "safetensors", "pycocotools")
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "from idol_deploy.cli import main\n"
        f"sys.exit(main(['inspect', {str(toy.path)!r}, '--json']))\n"
    )
    done = _run("-W", "error", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["preset"] == "toy"


def test_a_changed_bundle_is_not_described(toy: Toy, tmp_path: Path) -> None:
    changed = bytearray(toy.path.read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / "toy.idol").write_bytes(changed)
    with pytest.raises(BundleError, match=r"weights\.onnx .*; export it again"):
        describe(tmp_path / "toy.idol")


def test_an_onnx_file(toy: Toy, tmp_path: Path) -> None:
    path = tmp_path / "toy.onnx"
    path.write_bytes(toy.graph)
    found = describe(path)
    assert found["kind"] == "ONNX graph"
    assert found["opset"] == {"ai.onnx": 18}
    assert found["outputs"]["boxes"] == "float32 [1, 40, 4]"
    assert found["operators"]["Gather"] > 0
    assert sum(found["operators"].values()) == found["nodes"]
    json.dumps(found)


def test_a_tensor_type_of_a_later_onnx(tmp_path: Path) -> None:
    model = onnx.load(Path(__file__).parents[1] / "data" / "tiny.onnx")
    model.graph.output[0].type.tensor_type.elem_type = 64
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(BundleError, match=r"invalid ONNX file: .*odd\.onnx .*; export it again"):
        describe(tmp_path / "odd.onnx")


def test_checkpoints_of_both_kinds(toy: Toy, tmp_path: Path) -> None:
    published, ours = tmp_path / "toy.pth", tmp_path / "toy.safetensors"
    torch.save({"model": reference_state(toy.config)}, published)
    save_checkpoint(ours, toy.model, toy.config)
    first, second = describe(published), describe(ours)
    assert (first["kind"], second["kind"]) == ("checkpoint (torch)", "checkpoint (safetensors)")
    for name in ("classes", "tensors", "parameters", "weights sha256"):
        assert first[name] == second[name]
    assert first["weights sha256"] == describe(toy.path)["weights sha256"], "the same in all three"
    assert first["presets"] == "none fits"
    assert second["metadata"]["config"] == "toy"
    json.dumps([first, second])


def test_a_published_checkpoint_names_its_preset(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"model": reference_state(preset("ytvis19_r50"))}, path)
    assert "ytvis19_r50" in describe(path)["presets"]


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('ran', 'w')",)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("noise.idol", b"\x00noise" * 50, BundleError),
        ("empty.idol", b"", BundleError),
        ("noise.onnx", b"\x00noise" * 50, BundleError),
        ("empty.onnx", b"", BundleError),
        ("noise.pth", b"\x00noise" * 50, CheckpointError),
        ("noise.safetensors", b"\x00noise" * 50, CheckpointError),
        ("empty.pth", b"", CheckpointError),
        ("notes.txt", b"to do", CheckpointError),
        ("evil.pth", pickle.dumps(_Evil()), CheckpointError),
    ],
)
def test_what_is_none_of_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, kind: type[IdolError]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(kind) as caught:
        describe(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("what", ["missing", "folder", "NUL"])
def test_what_is_no_file(tmp_path: Path, what: str) -> None:
    path = {"missing": str(tmp_path / "gone.idol"), "folder": str(tmp_path), "NUL": "a\0b"}[what]
    with pytest.raises(ConfigError, match="check the path"):
        describe(path)


@pytest.mark.parametrize(("package", "name"), [("onnx", "toy.onnx"), ("torch", "toy.pth")])
def test_a_missing_package_is_named(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str
) -> None:
    (tmp_path / name).write_bytes(toy.graph)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"{package}.*idol-deploy\[export\]"):
        describe(tmp_path / name)


def test_a_zip_file_of_a_version_that_is_not_is_a_broken_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"")
    contents = bytearray(path.read_bytes())
    contents[contents.index(b"PK\x01\x02") + 6] = 0xFF
    path.write_bytes(contents)
    with pytest.raises(CheckpointError, match="broken or truncated"):
        describe(path)
