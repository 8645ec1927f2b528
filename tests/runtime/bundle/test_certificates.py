"""Certificates of reduced-precision graphs: the engines and processors that they count on, also of older bundles."""

import json
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from idol_runtime.backends.base import OpenOptions
from idol_runtime.bundle import bundle as module
from idol_runtime.bundle.bundle import CERTIFICATES, GRAPHS, OUTPUT_NAMES, Bundle, Certificates
from idol_runtime.bundle.certificates import GraphInfo, IdAgreement, PrecisionCertificate, StageError
from idol_runtime.bundle.engine_file import graph_hash
from idol_runtime.bundle.sealed_zip import sha256

OLDER = Path(__file__).parents[2] / "data" / "schema4.json"
AGREEMENT = IdAgreement(0.995, 600, 60, 0.99, 500, "made up")


def certificate(engine: str, processor: tuple[str, ...] | None, **changes: Any) -> PrecisionCertificate:
    made = PrecisionCertificate(
        (StageError("logits", 0.0, 1.0),), 2, engine, processor, AGREEMENT, dict.fromkeys(OUTPUT_NAMES, 0.1)
    )
    return msgspec.structs.replace(made, **changes)


@pytest.mark.parametrize(
    ("measured", "counting"),
    [
        (certificate("onnxruntime", ("vnni",)), {"onnxruntime vnni", "tensorrt", "tensorrt vnni"}),
        (certificate("onnxruntime", ()), {"onnxruntime", "tensorrt", "tensorrt vnni"}),
        (certificate("openvino", ("vnni",)), {"openvino vnni"}),
        (certificate("openvino", ()), {"openvino"}),
        (certificate("onnxruntime", ("vnni",), emulated=True), {"tensorrt", "tensorrt vnni"}),
        (certificate("tensorrt", ()), {"tensorrt", "tensorrt vnni"}),
        (
            certificate("onnxruntime", None),
            {"onnxruntime", "onnxruntime vnni", "tensorrt", "tensorrt vnni"},
        ),
    ],
    ids=lambda value: getattr(value, "measured_in", ""),
)
def test_a_certificate_counts_where_it_was_measured(
    measured: PrecisionCertificate, counting: set[str]
) -> None:
    places = [
        (engine, processor)
        for engine in ("onnxruntime", "openvino", "tensorrt")
        for processor in ((), ("vnni",))
    ]
    assert {
        " ".join((engine, *processor))
        for engine, processor in places
        if measured.counts_on(engine, processor)
    } == counting


def test_the_one_measured_here_comes_before_one_of_an_unknown_processor(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = msgspec.structs.replace(AGREEMENT, idf1=0.5)
    checks = (certificate("onnxruntime", None), certificate("onnxruntime", ("vnni",), agreement=failed))
    parity = msgspec.json.decode(kit.certificates(), type=Certificates)
    members = {
        **kit.members(),
        GRAPHS["int8-qdq"]: b"graph",
        CERTIFICATES: msgspec.json.encode(msgspec.structs.replace(parity, precisions={"int8-qdq": checks})),
    }
    infos = {"int8-qdq": GraphInfo("int8", ("openvino", "tensorrt"), False)}
    path = kit.write(tmp_path / "b.idol", kit.manifest(precisions=infos), members)
    with Bundle.open(path) as bundle:
        for features, passed in ((("avx2", "vnni"), False), (("avx2",), True)):
            monkeypatch.setattr(module, "processor_features", lambda features=features: features)
            found = bundle.certificate("int8-qdq", "onnxruntime")
            assert found is not None
            assert found.passed == passed
        assert bundle.certificate("int8-qdq", "openvino") is None
        assert bundle.certificate("portable", "onnxruntime") is None


@pytest.mark.parametrize("precision", ["fp32", "fp16"])  # fp16's certificates would count on every processor
def test_a_graph_of_another_precision_than_its_name_is_refused(
    kit: Any, tmp_path: Path, precision: Any
) -> None:
    parity = msgspec.json.decode(kit.certificates(), type=Certificates)
    parity = msgspec.structs.replace(parity, precisions={"int8-ort": (certificate("onnxruntime", ()),)})
    members = {
        **kit.members(),
        GRAPHS["int8-ort"]: b"graph",
        CERTIFICATES: msgspec.json.encode(parity),
    }
    infos = {"int8-ort": GraphInfo(precision, ("onnxruntime",), False)}
    path = kit.write(tmp_path / "b.idol", kit.manifest(precisions=infos), members)
    assert f"the manifest describes the int8-ort graph as {precision}" in kit.refusal(path)


def test_an_older_bundle_counts_where_it_counted_before(kit: Any, tmp_path: Path) -> None:
    """The descriptions are those of a bundle of schema 4; it had the golden tolerances in the manifest."""
    older = json.loads(OLDER.read_text())
    graphs = {f"{name}.onnx": name.encode() for name in older["precisions"]}
    parity = json.loads(kit.certificates())
    parity["precisions"] = older["certificates"]
    members = {**kit.members(certificates=json.dumps(parity).encode()), **graphs}
    manifest = json.loads(msgspec.json.encode(kit.manifest(schema_version=4)))
    manifest["precisions"] = older["precisions"]
    manifest["members"] = {
        name: {"bytes": len(data), "sha256": sha256(data)} for name, data in members.items()
    }
    path = kit.write_raw(tmp_path / "older.idol", json.dumps(manifest).encode(), members)
    with zipfile.ZipFile(path) as archive:
        assert "int8-trt.onnx" in archive.namelist()
    with Bundle.open(path) as bundle:
        assert bundle.manifest.schema_version == 4
        assert bundle.graph("int8-qdq") == kit.shared + b"int8-trt"
        assert bundle.graph("bf16") == b"bf16", "in schema 3, no graph shares weights"
        assert graph_hash(bundle, "int8-qdq") == sha256(
            f"{sha256(kit.shared)} {sha256(b'int8-trt')}".encode()
        )
        for graph, engine in (("int8-ort", "onnxruntime"), ("int8-qdq", "tensorrt")):
            assert bundle.tolerances(graph, engine) == {
                "logits": 0.0031252009684375583,
                "boxes": 0.002054029290127873,
                "embeddings": 0.011083977175313101,
                "mask_features": 0.009085995388678096,
                "mask_params": 0.0025477481174993708,
                "mask_reference": 0.0014872290868929237,
            }
        for graph, engines in (
            ("fp16", {"onnxruntime", "tensorrt"}),
            ("bf16", {"tensorrt"}),
            ("int8-ort", {"onnxruntime"}),
            ("int8-qdq", {"tensorrt"}),
        ):
            info = bundle.manifest.precisions[graph]
            assert {e for e in info.engines if bundle.certificate(graph, e) is not None} == engines, graph
        recipe = bundle.manifest.precisions["int8-ort"].recipe
        assert recipe is not None
        assert "decoder" in recipe.kept
        scores = bundle.certificates.precisions["int8-ort"][0].annotation_scores
        assert scores is not None
        assert scores.ap == 0.30945998535542885
    assert OpenOptions(graph="int8-trt").graph == "int8-qdq"


def test_an_older_bundle_that_is_broken_is_refused(kit: Any, tmp_path: Path) -> None:
    for precisions in (None, [], {"fp16": 3}, {"int8-trt": {}}, {"fp16": {"precision": "fp16"}}):
        manifest = json.loads(msgspec.json.encode(kit.manifest(schema_version=4)))
        manifest["precisions"] = precisions
        path = kit.write_raw(tmp_path / "older.idol", json.dumps(manifest).encode())
        assert "manifest is not valid" in kit.refusal(path)
