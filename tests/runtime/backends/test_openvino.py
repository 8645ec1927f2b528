"""Tests of OpenVINO on the CPU against numpy, on graphs of a few kilobytes."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from idol_plugins.cases import Case
from idol_plugins.errors import PluginError
from idol_plugins.libraries import user_cache
from idol_runtime.backends import OpenOptions, open_backend, openvino
from idol_runtime.backends.openvino import OpenVinoBackend
from idol_runtime.bundle.bundle import CERTIFICATES, GRAPHS, OUTPUT_NAMES, Bundle, Certificates, GoldenFrame
from idol_runtime.bundle.certificates import (
    GraphInfo,
    GraphName,
    IdAgreement,
    Precision,
    PrecisionCertificate,
    ReducedName,
    StageError,
)
from idol_runtime.errors import BackendError, MissingDependencyError
from idol_runtime.pipeline import Pipeline
from idol_runtime.processor import decisive_features, processor_features
from idol_runtime.streams import Streams
from tests.runtime.test_backends import tiny_answer

pytest.importorskip("openvino", reason="needs openvino")

_AGREEMENT = IdAgreement(1.0, 600, 60, 0.99, 500, "made up")
_CASE = Case(
    "embeddings",
    "float32",
    "float32",
    shapes=((2, 3),),
    points=2,
    value=np.random.default_rng(0).normal(size=(1, 6, 2, 2)).astype(np.float32),
    merged=np.random.default_rng(1).normal(size=(1, 3, 12)).astype(np.float32),
    reference=np.random.default_rng(2).uniform(size=(1, 3, 1, 2)).astype(np.float32),
)


def write(kit: Any, path: Path, **graphs: bytes) -> Path:
    """Write a bundle with the tiny graph's outputs on its golden frame."""
    frame = kit.golden_frame().frame
    golden_frame = GoldenFrame(frame, tiny_answer(frame, kit.shapes)).to_bytes()
    return Path(kit.write(path, members=kit.members(golden_frame=golden_frame, **graphs)))


def write_reduced(kit: Any, path: Path, name: ReducedName, precision: Precision, graph: bytes) -> Path:
    """Write a bundle with a reduced-precision graph that was verified in OpenVINO on this processor."""
    features = decisive_features(precision, processor_features())
    tolerances = dict.fromkeys(OUTPUT_NAMES, 1.0)
    stages = (StageError("logits", 0.0, 1.0),)
    certificate = PrecisionCertificate(stages, 2, "openvino", features, _AGREEMENT, tolerances)
    certificates = msgspec.json.decode(kit.certificates(), type=Certificates)
    certificates = msgspec.structs.replace(certificates, precisions={name: (certificate,)})
    members = {
        **kit.members(graph=kit.tiny_graph),
        GRAPHS[name]: graph,
        CERTIFICATES: msgspec.json.encode(certificates),
    }
    return Path(
        kit.write(path, kit.manifest(precisions={name: GraphInfo(precision, ("openvino",), False)}), members)
    )


def with_nodes(graph: bytes, output: str, nodes: Sequence[Any], constants: Sequence[Any]) -> bytes:
    """Replace the node of an output by other nodes."""
    import onnx

    model = onnx.load_model_from_string(graph)
    (replaced,) = (node for node in model.graph.node if output in node.output)
    model.graph.node.remove(replaced)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    model.opset_import.add(domain="idol_deploy", version=1)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def operator_graph(kit: Any) -> bytes:
    """The tiny graph whose embeddings are those of `_CASE`, times the mean of the image."""
    helper = pytest.importorskip("onnx", reason="needs onnx to make the graph").helper
    from onnx import numpy_helper

    arrays = {"value": _CASE.value, "merged": _CASE.merged, "reference": _CASE.reference}
    attributes = {"heads": 2, "points": _CASE.points, "shapes": [2, 3]}
    nodes = [
        helper.make_node("Mul", ["value", "mean"], ["scaled"]),
        helper.make_node(
            "DeformAttn",
            ["scaled", "merged", "reference"],
            ["embeddings"],
            domain="idol_deploy",
            **attributes,
        ),
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    return with_nodes(kit.tiny_graph, "embeddings", nodes, constants)


@pytest.fixture
def bundle_path(kit: Any, tmp_path: Path) -> Path:
    return write(kit, tmp_path / "tiny.idol", graph=kit.tiny_graph)


def open_graph(path: Path, graph: GraphName = "portable", **options: Any) -> OpenVinoBackend:
    with Bundle.open(path) as bundle:
        backend = open_backend(bundle, OpenOptions("openvino", graph=graph, **options))
    assert isinstance(backend, OpenVinoBackend)
    return backend


def executed(backend: OpenVinoBackend) -> Counter[tuple[str, str]]:
    """Count the kinds of executed layers by their precision."""
    model = backend._single.get_compiled_model().get_runtime_model()
    infos = [node.get_rt_info() for node in model.get_ops()]
    return Counter((info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in infos)


def random_frames(kit: Any, count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (count, *kit.size, 3), dtype=np.uint8)


def test_outputs_are_those_of_numpy(kit: Any, bundle_path: Path) -> None:
    backend = open_graph(bundle_path)
    assert backend.name == "openvino (cpu, portable graph)"
    assert backend.network_size == kit.size
    for frame in random_frames(kit, 2):
        (output,) = backend.infer(frame[None])
        for name, expected in tiny_answer(frame, kit.shapes).items():
            np.testing.assert_allclose(getattr(output, name), expected, rtol=1e-5, err_msg=name)
            assert getattr(output, name).dtype == np.float32


def test_outputs_do_not_depend_on_other_frames(kit: Any, bundle_path: Path) -> None:
    """Outputs are kept while later frames run, in other batches and on other threads."""
    backend, frames = open_graph(bundle_path, threads=2), random_frames(kit, 7)
    assert backend.batch.most is None, "the bundle's graphs take one frame at a time"
    alone = [backend.infer(frame[None])[0] for frame in frames]
    together = [output for part in (frames[:2], frames[2:7]) for output in backend.infer(part)]
    reverse = backend.infer(frames[::-1])[::-1]
    for frame, *outputs in zip(frames, alone, together, reverse, strict=True):
        expected = tiny_answer(frame, kit.shapes)["logits"]
        for output in outputs:
            np.testing.assert_allclose(output.logits, expected, rtol=1e-5)


def test_a_graph_with_a_free_batch_takes_single_frames(kit: Any, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs onnx to make the graph")
    model = onnx.load_model_from_string(kit.tiny_graph)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    backend = open_graph(write(kit, tmp_path / "free.idol", graph=model.SerializeToString()))
    frames = random_frames(kit, 3)
    for frame, output in zip(frames, backend.infer(frames), strict=True):
        np.testing.assert_allclose(output.logits, tiny_answer(frame, kit.shapes)["logits"], rtol=1e-5)


def test_streams_are_those_of_single_pipelines(kit: Any, bundle_path: Path) -> None:
    frames = random_frames(kit, 6)
    with Pipeline.open(bundle_path, backend="openvino") as pipeline:
        alone = [pipeline.step(frame) for frame in frames]
    with Streams.open(bundle_path, backend="openvino", at_once=4) as streams:
        assert (streams.at_once, streams.reason) == (4, "")
        for frame, expected in zip(frames, alone, strict=True):
            for result in streams.step(dict.fromkeys("abc", frame)).values():
                assert result.ids.tolist() == expected.ids.tolist() == [0, 1]
                np.testing.assert_allclose(result.scores, expected.scores, rtol=1e-5)


def test_the_operator_runs_as_an_extension(
    kit: Any, tmp_path: Path, operator_graph: bytes, libraries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(kit, tmp_path / "two.idol", graph=kit.tiny_graph, plugin=operator_graph)
    with pytest.raises(PluginError, match="is not built; build it with: idol-deploy plugins build"):
        open_graph(path, "plugin")
    monkeypatch.setenv("IDOL_PLUGINS", str(libraries))
    backend = open_graph(path, "fp32")
    assert backend.name == "openvino (cpu, plugin graph)"
    frames = random_frames(kit, 3)
    for frame, output in zip(frames, backend.infer(frames), strict=True):
        np.testing.assert_allclose(
            output.embeddings, _CASE.expected[0] * frame.mean() / 255, rtol=1e-4, atol=1e-6
        )


def test_without_the_operator_the_portable_graph_runs_and_says_why(
    kit: Any, tmp_path: Path, operator_graph: bytes
) -> None:
    path = write(kit, tmp_path / "two.idol", graph=kit.tiny_graph, plugin=operator_graph)
    backend = open_graph(path, "fp32")
    assert backend.name == "openvino (cpu, portable graph)"
    assert "not running plugin on OpenVINO, which may be faster: the operator for" in backend.reason
    assert backend.reason.endswith("is not built; build it with: idol-deploy plugins build")


def test_bfloat16_is_where_the_graph_has_it(kit: Any, tmp_path: Path) -> None:
    """By default, OpenVINO rounds all values to bfloat16 on processors that are fast with it."""
    helper = pytest.importorskip("onnx", reason="needs onnx to make the graph").helper
    from onnx import TensorProto, numpy_helper

    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(16, 3, 3, 3)).astype(np.float32)
    rounded = helper.make_tensor("kernel", TensorProto.BFLOAT16, kernel.shape, kernel.ravel())
    constants = [
        rounded,
        numpy_helper.from_array(np.ones(16, np.float32), "scale"),
        numpy_helper.from_array(np.zeros(16, np.float32), "shift"),
    ]
    nodes = [
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["half"], to=TensorProto.BFLOAT16),
        helper.make_node("Conv", ["half", "kernel"], ["convolved"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Cast", ["convolved"], ["island"], to=TensorProto.FLOAT),
        helper.make_node("InstanceNormalization", ["island", "scale", "shift"], ["normed"]),
        helper.make_node("ReduceMax", ["normed"], ["largest"], keepdims=0),
        helper.make_node("Add", ["c_logits", "largest"], ["logits"]),
    ]
    graph = with_nodes(kit.tiny_graph, "logits", nodes, constants)
    backend = open_graph(write_reduced(kit, tmp_path / "bf16.idol", "bf16", "bf16", graph), "bf16")
    layers = executed(backend)
    has_bf16 = "BF16" in backend.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert layers["Convolution", "bf16" if has_bf16 else "f32"] == 1
    assert layers["MVN", "f32"] == 1
    default = backend.core.compile_model(backend.model, "CPU").get_property("INFERENCE_PRECISION_HINT")
    assert has_bf16 == (default.get_type_name() == "bf16"), "the settings are needed"


def test_integers_are_where_the_graph_has_them(kit: Any, tmp_path: Path) -> None:
    helper = pytest.importorskip("onnx", reason="needs onnx to make the graph").helper
    from onnx import numpy_helper

    rng = np.random.default_rng(0)
    arrays = {
        "kernel": rng.integers(-127, 128, (16, 3, 3, 3), dtype=np.int8),
        "other": rng.normal(size=(16, 16, 1, 1)).astype(np.float32),
        "step": np.float32(2),
        "steps": rng.uniform(0.001, 0.01, 16).astype(np.float32),
        "zero": np.int8(0),
        "zeros": np.zeros(16, np.int8),
    }
    nodes = [
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("QuantizeLinear", ["planes", "step", "zero"], ["integers"]),
        helper.make_node("DequantizeLinear", ["integers", "step", "zero"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["kernel", "steps", "zeros"], ["weights"], axis=0),
        helper.make_node("Conv", ["rounded", "weights"], ["convolved"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["convolved"], ["positive"]),
        helper.make_node("Conv", ["positive", "other"], ["mixed"], kernel_shape=[1, 1]),
        helper.make_node("ReduceMax", ["mixed"], ["largest"], keepdims=0),
        helper.make_node("Add", ["c_logits", "largest"], ["logits"]),
    ]
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    graph = with_nodes(kit.tiny_graph, "logits", nodes, constants)
    backend = open_graph(write_reduced(kit, tmp_path / "int8.idol", "int8-qdq", "int8", graph), "int8-qdq")
    convolutions = {precision for layer, precision in executed(backend) if layer == "Convolution"}
    assert len(convolutions - {"f32"}) == 1, convolutions
    assert convolutions - {"f32"} <= {"i8", "u8"}
    assert "f32" in convolutions, "the other convolution is not bfloat16"


def test_threads(kit: Any, bundle_path: Path) -> None:
    for threads in (1, 2):
        backend = open_graph(bundle_path, threads=threads)
        compiled = backend._single.get_compiled_model()
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
        assert compiled.get_property("ENABLE_CPU_PINNING") is False
    backend.infer(random_frames(kit, 2))
    before = time.process_time()
    time.sleep(0.1)
    assert time.process_time() - before < 0.02, "its threads rest between frames"


def test_the_golden_check_names_a_new_export(kit: Any, tmp_path: Path) -> None:
    """OpenVINO computes the Resize nodes of bundles from older releases wrongly."""
    weight = tiny_answer(random_frames(kit, 1)[0], kit.shapes)["mask_features"].tobytes()
    assert kit.tiny_graph.count(weight) == 1
    spoiled = kit.tiny_graph.replace(weight, (np.frombuffer(weight, np.float32) * np.float32(1.5)).tobytes())
    path = write(kit, tmp_path / "old.idol", graph=spoiled)
    fault = (
        r"openvino \(cpu, portable graph\) fails the golden check: mask_features .*; export a bundle .* again"
    )
    with pytest.raises(BackendError, match=fault):
        Pipeline.open(path, backend="openvino")


def test_a_missing_package_names_the_extra(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"OpenVINO needs openvino.*'idol-deploy\[openvino\]'"):
        open_graph(bundle_path, "fp32")


@pytest.mark.parametrize(
    ("found", "device", "name"),
    [
        (["CPU"], "cpu", "CPU"),
        (["CPU", "GPU"], "gpu", "GPU"),
        (["CPU", "GPU"], "gpu:0", "GPU.0"),
        (["CPU", "GPU.0", "GPU.1"], "gpu", "GPU"),
        (["CPU", "GPU.0", "GPU.1"], "gpu:1", "GPU.1"),
        (["CPU", "NPU"], "npu", "NPU"),
        (["CPU", "GPU"], "gpu:1", None),
        (["CPU"], "npu", None),
    ],
)
def test_devices(found: list[str], device: str, name: str | None) -> None:
    core = SimpleNamespace(available_devices=found)
    if name is not None:
        assert openvino._device(core, device) == name
    else:
        with pytest.raises(BackendError, match=f"finds no {device}, only CPU.*; install the device's driver"):
            openvino._device(core, device)


def test_a_device_that_is_missing(
    kit: Any, tmp_path: Path, operator_graph: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(kit, tmp_path / "two.idol", graph=kit.tiny_graph, plugin=operator_graph)
    with pytest.raises(BackendError, match="OpenVINO finds no npu"):
        open_graph(path, "fp32", device="npu")
    with pytest.raises(BackendError, match="OpenVINO finds no gpu"):
        open_graph(path, "plugin", device="gpu")
    monkeypatch.setattr(openvino, "_device", lambda *_: "GPU")
    with pytest.raises(BackendError, match="operator for OpenVINO does not run on gpu; use --graph portable"):
        open_graph(path, "plugin", device="gpu")
    with pytest.raises(BackendError, match="OpenVINO does not run on cuda"):
        open_graph(path, "fp32", device="cuda")


def test_compiled_graphs_are_cached_for_slow_devices(
    kit: Any, bundle_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder, frames = user_cache() / "openvino", random_frames(kit, 1)
    uncached = open_graph(bundle_path)
    assert not folder.exists()
    monkeypatch.setattr(openvino, "_CACHED", ("cpu",))
    for loaded in (False, True):
        backend = open_graph(bundle_path)
        assert backend._single.get_compiled_model().get_property("LOADED_FROM_CACHE") is loaded
        np.testing.assert_array_equal(backend.infer(frames)[0].logits, uncached.infer(frames)[0].logits)
    (blob,) = folder.iterdir()
    newer = folder / "newer.blob"
    newer.write_bytes(b"0" * 1000)
    monkeypatch.setattr(openvino, "_CACHE_BYTES", 1000 + blob.stat().st_size)
    openvino._cache()
    assert blob.exists()
    monkeypatch.setattr(openvino, "_CACHE_BYTES", 1000)
    assert openvino._cache() == {"CACHE_DIR": str(folder)}
    assert list(folder.iterdir()) == [newer], "the oldest goes first"
    monkeypatch.setenv("XDG_CACHE_HOME", str(newer))
    assert openvino._cache() == {}, "no folder can be made there"


@pytest.mark.parametrize("graph", [b"", b"garbage", b"\x00" * 100], ids=["none", "text", "zero"])
def test_a_graph_that_is_none_is_refused_in_one_line(kit: Any, tmp_path: Path, graph: bytes) -> None:
    with pytest.raises(BackendError, match=r"^OpenVINO [\d.]+ refuses the graph: .+; use another") as caught:
        open_graph(write(kit, tmp_path / "bad.idol", graph=graph))
    assert "\n" not in str(caught.value)


def test_an_operator_that_is_unknown_is_named(kit: Any, tmp_path: Path, operator_graph: bytes) -> None:
    with pytest.raises(BackendError, match=r"refuses the graph: .*DeformAttn"):
        open_graph(write(kit, tmp_path / "odd.idol", graph=operator_graph))


def test_another_size_is_an_error(bundle_path: Path) -> None:
    backend = open_graph(bundle_path)
    for frames in (1, 2):
        with pytest.raises(BackendError, match=r"^OpenVINO failed: .+$") as caught:
            backend.infer(np.zeros((frames, 8, 8, 3), np.uint8))
        assert "\n" not in str(caught.value)


def test_a_closed_backend_has_released_its_network(kit: Any, bundle_path: Path) -> None:
    backend = open_graph(bundle_path)
    backend.infer(random_frames(kit, 2))
    backend.close()
    backend.close()
    assert backend._single is backend.core is None
    for frames in (1, 2):
        with pytest.raises(BackendError):
            backend.infer(random_frames(kit, frames))
