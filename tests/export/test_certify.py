"""Certificates for this machine, on the toy's fp32 graph under the names of reduced-precision graphs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from PIL import Image

from idol_deploy.cli import main
from idol_export import certify as module
from idol_export.certify import CertifyOptions, certify
from idol_export.contents import BundleContents
from idol_export.verify import reference_graph
from idol_runtime.backends.opening import backend_class, require_graph
from idol_runtime.bundle.bundle import GRAPHS, OUTPUT_NAMES, Bundle
from idol_runtime.bundle.certificates import GraphInfo, IdAgreement, PrecisionCertificate, StageError
from idol_runtime.bundle.engine_file import graph_hash
from idol_runtime.errors import BackendError, ConfigError, SourceError
from idol_runtime.processor import decisive_features, processor_features

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Toy

ELSEWHERE = PrecisionCertificate(
    (StageError("logits", 0.0, 1.0),),
    2,
    "onnxruntime",
    ("another",),
    IdAgreement(0.995, 600, 60, 0.98, 500, "made up"),
    dict.fromkeys(OUTPUT_NAMES, 0.1),
)
INFOS = {
    "int8-ort": GraphInfo("int8", ("onnxruntime",), False, True),
    "int8-qdq": GraphInfo("int8", ("openvino", "tensorrt"), False, True),
    "bf16": GraphInfo("bf16", ("openvino", "tensorrt"), False, True),
}


@pytest.fixture
def clip(toy: Toy, tmp_path: Path) -> str:
    folder = tmp_path / "clip"
    folder.mkdir()
    for index, frame in enumerate(toy.video(4)):
        Image.fromarray(frame).save(folder / f"{index}.png")
    return str(folder)


@pytest.fixture
def bundle(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that writes a bundle with these graphs, each a copy of the portable one."""
    monkeypatch.setattr(reference_graph, "_INSTANCE_FRAMES", 10)

    def write(*names: Any, portable: bytes | None = None) -> Path:
        contents = BundleContents.read(toy.path)
        part = contents.members[GRAPHS["portable"]] if portable is None else portable
        for name in names:
            info = msgspec.structs.replace(INFOS[name], shares_weights=portable is None)
            contents = contents.with_graph(name, part, info, ELSEWHERE)
        path = tmp_path / "toy.idol"
        contents.write(path, ())
        return path

    return write


def test_a_graph_is_certified_in_the_engines_of_this_machine(bundle: Callable[..., Path], clip: str) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    path = bundle("int8-ort", "int8-qdq")
    with Bundle.open(path) as before:
        hashes = [graph_hash(before, graph) for graph in ("int8-ort", "int8-qdq")]
        with pytest.raises(BackendError, match=f"verify it here: idol-deploy certify {path}"):
            require_graph(before, "int8-qdq", backend_class("openvino"))
    main(["certify", str(path), "--verify", clip, "--verify-frames", "2"])
    with Bundle.open(path) as after:
        assert [graph_hash(after, graph) for graph in ("int8-ort", "int8-qdq")] == hashes
        require_graph(after, "int8-ort", backend_class("onnxruntime"))
        for graph, engine in (("int8-ort", "onnxruntime"), ("int8-qdq", "openvino")):
            first, here = after.certificates.precisions[graph]
            assert first == ELSEWHERE
            assert (here.engine, here.emulated, here.frames) == (engine, False, 2)
            assert here.processor == decisive_features("int8", processor_features())
            assert (here.agreement.idf1, here.agreement.limit) == (1, 0.98), "the limit of the export"
            assert [stage.stage for stage in here.stages] == list(OUTPUT_NAMES)
            assert here.stages[0].error < 1e-5
            assert here.golden_tolerances["logits"] == 1e-3
    assert main(["certify", str(path), "--verify", clip, "--graph", "int8-ort"]) == 0
    with Bundle.open(path) as again:
        assert len(again.certificates.precisions["int8-ort"]) == 2, "it replaces that of this machine"


def test_a_graph_that_fails_is_recorded_and_refused(
    toy: Toy, bundle: Callable[..., Path], clip: str, sabotage: Callable[..., bytes]
) -> None:
    path = bundle("int8-ort", portable=sabotage(toy.graph, "model.mask_head.lay3.weight", 0.0))
    assert main(["certify", str(path), "--verify", clip]) == 1
    with Bundle.open(path) as opened:
        found = opened.certificate("int8-ort", "onnxruntime")
        assert found is not None
        assert found.failures[0] == "mask_features"
        with pytest.raises(BackendError, match="not verified"):
            require_graph(opened, "int8-ort", backend_class("onnxruntime"))


def test_an_interrupt_leaves_the_finished_certificates(
    bundle: Callable[..., Path], clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, measure = bundle("int8-ort", "int8-qdq"), module._measure

    def interrupted(graph: Any, *arguments: Any) -> PrecisionCertificate:
        if graph.name == "int8-qdq":
            raise KeyboardInterrupt
        return measure(graph, *arguments)

    monkeypatch.setattr(module, "_measure", interrupted)
    monkeypatch.setattr(module, "_obstacle", lambda *_: "")
    with pytest.raises(KeyboardInterrupt):
        certify(path, CertifyOptions(verify_source=clip))
    with Bundle.open(path) as opened:
        certificates = opened.certificates.precisions
        assert [len(certificates[name]) for name in ("int8-ort", "int8-qdq")] == [2, 1]
    assert not [entry for entry in path.parent.iterdir() if entry.name not in ("toy.idol", "clip")]


def test_it_needs_neither_torch_nor_onnx_nor_other_engines(bundle: Callable[..., Path], clip: str) -> None:
    path = bundle("int8-ort", "int8-qdq")
    blocked = ("torch", "onnx", "onnxscript", "ml_dtypes", "openvino")
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "from idol_export.verify import reference_graph\n"
        "reference_graph._INSTANCE_FRAMES = 10\n"
        "from idol_deploy.cli import main\n"
        f"sys.exit(main(['certify', {str(path)!r}, '--verify', {clip!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "int8-ort in onnxruntime" in done.stdout
    assert "note: the int8-qdq graph is not verified in OpenVINO: " in done.stdout


def test_what_cannot_be_certified_is_said_before_any_measurement(
    bundle: Callable[..., Path], clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundle("bf16")
    written = path.read_bytes()
    monkeypatch.setattr(module, "processor_features", lambda: ("avx2",))
    monkeypatch.setattr(reference_graph, "_INSTANCE_FRAMES", 500)  # found later
    with pytest.raises(BackendError, match="OpenVINO: this processor does not compute in bf16"):
        certify(path, CertifyOptions(verify_source=clip))
    with pytest.raises(ConfigError, match=r"no reduced-precision graph 'fp16'; choose one of: bf16$"):
        certify(path, CertifyOptions(("fp16",)))
    monkeypatch.setattr(module, "_obstacle", lambda *_: "")
    with pytest.raises(SourceError, match=r"clip has \d+ instance-frames, at least 500 are needed"):
        certify(path, CertifyOptions(verify_source=clip))
    assert path.read_bytes() == written
    with pytest.raises(ConfigError, match=r"has no reduced-precision graph; add one with: .* export --into"):
        certify(bundle(), CertifyOptions())
