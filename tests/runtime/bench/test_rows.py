"""Tests of the rows of a bundle."""

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from idol_runtime.bench.rows import bundle_rows
from idol_runtime.bundle.bundle import CERTIFICATES, GRAPHS, OUTPUT_NAMES, Certificates
from idol_runtime.bundle.certificates import GraphInfo, IdAgreement, PrecisionCertificate, StageError
from idol_runtime.errors import BackendError, MissingDependencyError


def test_a_row_for_every_graph_in_every_backend_of_the_device(tiny_bundle: Path) -> None:
    first, *others = bundle_rows(tiny_bundle)
    assert first.name == "onnxruntime, portable"
    assert first.tolerance_share is not None
    assert 0 <= first.tolerance_share <= 1
    assert [row.name for row in others] == ["openvino, portable"], "TensorRT has no CPU"
    assert [row.name for row in bundle_rows(tiny_bundle, "gpu:1")] == ["openvino, portable"]
    for device in ("cuda", "cuda:1"):
        names = [row.name for row in bundle_rows(tiny_bundle, device)]
        assert names == ["onnxruntime, portable", "tensorrt, portable"]


def test_no_row_for_a_graph_in_a_backend_for_another_target(kit: Any, tmp_path: Path) -> None:
    agreement = IdAgreement(1.0, 600, 60, 0.99, 500, "made up")
    certificate = PrecisionCertificate(
        (StageError("logits", 0.0, 1.0),), 2, "onnxruntime", None, agreement, dict.fromkeys(OUTPUT_NAMES, 1.0)
    )
    infos = {
        name: GraphInfo(name.partition("-")[0], engines, False)
        for name, engines in (
            ("fp16", ("onnxruntime", "tensorrt")),
            ("int8-ort", ("onnxruntime",)),
            ("int8-qdq", ("openvino", "tensorrt")),
        )
    }
    certificates = msgspec.structs.replace(
        msgspec.json.decode(kit.certificates(), type=Certificates),
        precisions=dict.fromkeys(infos, (certificate,)),
    )
    members = kit.members() | dict.fromkeys((GRAPHS[name] for name in infos), b"graph")
    members[CERTIFICATES] = msgspec.json.encode(certificates)
    path = kit.write(tmp_path / "b.idol", kit.manifest(precisions=infos), members)
    assert [row.name for row in bundle_rows(path, "cuda")] == [
        "onnxruntime, portable",
        "onnxruntime, fp16",
        "onnxruntime, int8-ort",
        "tensorrt, portable",
        "tensorrt, fp16",
        "tensorrt, int8-qdq",
    ]


@pytest.mark.parametrize("device", ["foo", "cpu:1", "cuda:x", ""])
def test_a_device_that_is_none_has_no_rows(tiny_bundle: Path, device: str) -> None:
    with pytest.raises(
        BackendError, match=f"unknown device '{device}'; use cpu, cuda, cuda:N, gpu, gpu:N or npu"
    ):
        bundle_rows(tiny_bundle, device)


def test_openvino_says_that_it_is_not_installed(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    row = bundle_rows(tiny_bundle)[-1]
    with pytest.raises(
        MissingDependencyError, match=r"needs openvino, .*pip install 'idol-deploy\[openvino\]'$"
    ):
        row.open()
