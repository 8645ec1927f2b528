"""Reduced-precision graphs in a bundle: verified, refused, or written unverified and then refused by the runtime."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from idol_export import export as export_module
from idol_export.export import Exported, ExportOptions, export
from idol_export.precision import int8, integer_graphs
from idol_export.precision.base import ReduceOptions
from idol_export.precision.calibration import observe
from idol_export.precision.editor import Editor
from idol_export.precision.folding import folded
from idol_export.precision.node_groups import PARTS
from idol_export.precision.quantizer import Observed
from idol_export.precision.registry import PRECISIONS
from idol_export.verify import reference_graph
from idol_plugins.errors import PluginError
from idol_runtime.backends import OpenOptions, open_backend
from idol_runtime.backends import onnxruntime as backend_module
from idol_runtime.backends.onnxruntime import OnnxRuntimeBackend
from idol_runtime.bundle.bundle import OUTPUT_NAMES, Bundle
from idol_runtime.bundle.certificates import SearchStep
from idol_runtime.errors import BackendError, ConfigError, ParityError
from idol_runtime.pipeline import Pipeline
from idol_runtime.processor import decisive_features, processor_features

if TYPE_CHECKING:
    from tests.conftest import Toy


@pytest.fixture(scope="module")
def clip(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    for index, frame in enumerate(toy.video(4)):
        Image.fromarray(frame).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def exported(toy: Toy, clip: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Exported]:
    """Return a function that exports the toy with a stored probe and a minimum of ten instance-frames."""
    monkeypatch.setattr(export_module, "probe_to_onnx", lambda graph, **options: toy.probe)
    monkeypatch.setattr(
        export_module, "with_half_weights", lambda model: model
    )  # the stored probe is not rounded either
    monkeypatch.setattr(reference_graph, "_INSTANCE_FRAMES", 10)

    def run(out: Path, *names: Any, store: Any = "fp32", **changes: Any) -> Exported:
        precisions = tuple(PRECISIONS[name] for name in names)
        calibrate = str(clip) if any(precision.calibrated for precision in precisions) else None
        reduce = replace(ReduceOptions(precisions, calibrate=calibrate, calibrate_frames=2), **changes)
        options = ExportOptions(
            toy.size, portable=True, verify_source=str(clip), verify_frames=1, reduce=reduce, store=store
        )
        return export(toy.model, toy.config, out, options)

    return run


def test_a_graph_that_tracks_as_fp32_does_is_verified_and_chosen_if_it_is_faster(
    toy: Toy, tmp_path: Path, exported: Callable[..., Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "toy.idol"
    step = SearchStep(PARTS[:-1], 0.2, 0.01, 1.0, held=True)
    monkeypatch.setattr(int8, "search", lambda *_: (step,))
    found = exported(out, "int8-ort", "fp16", auto=0.02)
    (certificate,) = found.certificates.precisions["int8-ort"]
    assert certificate.passed
    assert (certificate.engine, certificate.emulated) == ("onnxruntime", False)
    assert certificate.processor == decisive_features("int8", processor_features())
    assert certificate.agreement.limit == 0.98
    assert certificate.agreement.instance_frames >= 10
    stages = {stage.stage: stage.error for stage in certificate.stages}
    assert stages["decoder"] < 1e-5 < stages["mask_features"], "all but the heads was kept"
    info = found.manifest.precisions["int8-ort"]
    assert (info.precision, info.engines, info.operator) == ("int8", ("onnxruntime",), False)
    assert info.recipe is not None
    assert (info.recipe.kept, info.recipe.search) == (PARTS[:-1], (step,))
    with Bundle.open(out) as bundle:
        assert {node.op_type for node in Editor(bundle.graph("int8-ort")).graph.node} > {"QuantizeLinear"}
        tolerances = bundle.tolerances("int8-ort", "onnxruntime")
        assert tolerances is not None
        assert set(tolerances) == set(OUTPUT_NAMES)
        assert min(tolerances.values()) >= 1e-3 < tolerances["mask_features"] < 0.2
        assert bundle.tolerances("portable", "onnxruntime") is None
    monkeypatch.setattr("idol_runtime.backends.choice.load_choice", lambda *_: None)
    for portable_ms, graph, reason in (
        (2.0, "int8-ort", ": 2.0 times as fast as portable on ONNX Runtime, the next best"),
        (1.0, "portable", ": within the noise as fast as int8-ort on ONNX Runtime, the next best"),
    ):
        times = np.array([[portable_ms, 1.0]])
        monkeypatch.setattr("idol_runtime.backends.choice.interleaved", lambda *_, times=times, **__: times)
        with Pipeline.open(out, backend="onnxruntime") as pipeline:
            assert pipeline.backend.name == f"onnxruntime (cpu, {graph} graph)"
            assert reason in pipeline.backend.reason
    with Pipeline.open(out, backend="onnxruntime", graph="fp32") as pipeline:
        assert (pipeline.backend.graph, pipeline.backend.reason.count("int8")) == ("portable", 0)
    with Pipeline.open(out, graph="int8-ort") as pipeline:
        assert len(pipeline.step(toy.video(1)[0])) >= 3

    load = OnnxRuntimeBackend.from_bundle

    def refuse(bundle: Bundle, graph: str, options: OpenOptions) -> OnnxRuntimeBackend:
        if graph == "int8-ort":
            raise BackendError("no kernel for it")
        return load(bundle, graph, options)

    monkeypatch.setattr(OnnxRuntimeBackend, "from_bundle", refuse)
    with Pipeline.open(out, backend="onnxruntime") as pipeline:
        assert pipeline.backend.graph == "portable"


def test_a_reduced_precision_graph_shares_weights(tmp_path: Path, exported: Callable[..., Exported]) -> None:
    out = tmp_path / "toy.idol"
    exported(out, "int8-ort", "bf16", keep=PARTS[:-1], unverified=True)
    with Bundle.open(out) as bundle:
        assert {name: info.shares_weights for name, info in bundle.manifest.precisions.items()} == {
            "int8-ort": True,
            "bf16": True,
        }
        graph = bundle.graph("int8-ort")
    with zipfile.ZipFile(out) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert graph == members["weights.onnx"] + members["int8-ort.onnx"]
    assert len(members["int8-ort.onnx"]) < len(graph) / 2


def _wrong(*arguments: Any, **options: Any) -> dict[str, Observed]:
    return {
        name: replace(found, low=0.0, high=1e-3) for name, found in observe(*arguments, **options).items()
    }


def test_a_graph_that_fails_names_the_stage_and_leaves_the_fp32_graphs(
    tmp_path: Path, exported: Callable[..., Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integer_graphs, "observe", _wrong)
    with pytest.raises(ParityError, match=r"int8-ort graph fails at stage 'mask_features'.*--keep") as caught:
        exported(tmp_path / "toy.idol", "fp16", "int8-ort", keep=("backbone",))
    assert caught.value.stage == "mask_features"
    assert [path.name for path in tmp_path.iterdir()] == ["toy.idol"]
    with Bundle.open(tmp_path / "toy.idol") as bundle:
        assert list(bundle.certificates.precisions) == list(bundle.manifest.precisions) == ["fp16"]
    Pipeline.open(tmp_path / "toy.idol", graph="fp16").close()


def test_unverified_is_written_marked_and_refused(
    tmp_path: Path, exported: Callable[..., Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integer_graphs, "observe", _wrong)
    out = tmp_path / "toy.idol"
    found = exported(out, "int8-ort", keep=("backbone",), unverified=True)
    assert not found.certificates.precisions["int8-ort"][0].passed
    with pytest.raises(BackendError, match=r"not verified \(failed: mask_features.*--unverified"):
        Pipeline.open(out, graph="int8-ort")
    with Pipeline.open(out) as pipeline:
        assert pipeline.backend.graph == "portable"


def test_too_little_to_compare_is_no_agreement(
    tmp_path: Path, exported: Callable[..., Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_graph, "_INSTANCE_FRAMES", 500)
    with pytest.raises(
        ParityError, match=r"'id agreement'.*has \d+ instance-frames, at least 500 are needed"
    ):
        exported(tmp_path / "toy.idol", "int8-ort", keep=PARTS)


def test_the_other_target_is_refused(tmp_path: Path, exported: Callable[..., Exported]) -> None:
    out = tmp_path / "toy.idol"
    exported(out, "int8-qdq", "bf16", keep=PARTS, unverified=True, store="fp16")
    for graph in ("int8-qdq", "bf16"):
        with pytest.raises(BackendError, match=f"the {graph} graph, which is made for OpenVINO and TensorRT"):
            Pipeline.open(out, backend="onnxruntime", graph=graph)
    with pytest.raises(BackendError, match=r"no fp16 graph; add it with: .* --into .* --precision fp16"):
        Pipeline.open(out, backend="onnxruntime", graph="fp16")


def test_a_golden_frame_off_by_more_than_the_graph_may_be_is_refused(
    tmp_path: Path, exported: Callable[..., Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "toy.idol"
    exported(out, "int8-ort", keep=PARTS)
    answer = Bundle.golden_frame

    def other(bundle: Bundle) -> Any:
        golden_frame = answer(bundle)
        return replace(
            golden_frame,
            outputs={**golden_frame.outputs, "boxes": golden_frame.outputs["boxes"] * np.float32(1.01)},
        )

    monkeypatch.setattr(Bundle, "golden_frame", other)
    with pytest.raises(BackendError, match="boxes differs from PyTorch by"):
        Pipeline.open(out, graph="int8-ort")


def test_without_the_operator_its_graphs_are_passed_over(
    tmp_path: Path, exported: Callable[..., Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The portable graph runs, and its reason names the missing operator."""
    out = tmp_path / "toy.idol"
    exported(out, "int8-ort")

    def missing(*_: object) -> None:
        raise PluginError("it is not built; build it with: idol-deploy plugins build")

    monkeypatch.setattr(backend_module, "_operator", missing)
    with Bundle.open(out) as bundle:
        info = msgspec.structs.replace(bundle.manifest.precisions["int8-ort"], operator=True)
        bundle.manifest = msgspec.structs.replace(bundle.manifest, precisions={"int8-ort": info})
        backend = open_backend(bundle, OpenOptions("onnxruntime"))
        assert backend.graph == "portable"
        assert "not running int8-ort on ONNX Runtime, which may be faster: it is not built" in backend.reason
        with pytest.raises(PluginError):
            open_backend(bundle, OpenOptions("onnxruntime", graph="int8-ort"))
        backend.close()


def test_a_group_is_measured_alone_wherever_it_is(toy: Toy, clip: Path) -> None:
    """Nodes that read sampled values are in encoder and decoder, whose other nodes stay fp32."""
    graphs = integer_graphs.IntegerGraphs(folded(toy.probe), toy.size, (), "ort", str(clip), 2)
    kinds = [node.op_type for node in Editor(graphs.alone("sampled")).graph.node]
    layers = toy.config.model.encoder_layers + toy.config.model.decoder_layers
    assert 1 <= kinds.count("DynamicQuantizeMatMul") <= layers
    assert "QuantizeLinear" not in kinds


def test_what_is_missing_is_told() -> None:
    with pytest.raises(ConfigError, match="--calibrate"):
        ReduceOptions((PRECISIONS["int8-ort"],))
    with pytest.raises(ConfigError, match="--annotations and --frames go together"):
        ReduceOptions(annotations=Path("instances.json"))


def test_what_cannot_be_is_told_beforehand() -> None:
    fp16 = (PRECISIONS["fp16"],)
    for changes, message in (
        ({"calibrate": "a.mp4"}, "--calibrate applies to int8 only; pass --precision int8 or --auto as well"),
        (
            {"precisions": fp16, "keep": ("neck",)},
            "--keep applies to int8 only; pass --precision int8",
        ),
        (
            {"unverified": True},
            "--unverified applies to reduced-precision graphs only; pass --precision or --auto",
        ),
        (
            {"annotations": Path("a.json"), "annotation_frames": Path("a")},
            "--annotations applies to reduced-precision graphs only; pass",
        ),
        ({"keep": ("bones",)}, "unknown part for --keep: 'bones'; pass one of backbone, neck,"),
        ({"keep": ("neck",), "auto": 0.01}, "leave out --keep"),
        ({"auto": 1.5}, "--auto must be 0 to 99 percent of id agreement, got 150"),
    ):
        with pytest.raises(ConfigError, match=message):
            ReduceOptions(**changes)  # type: ignore[arg-type]
