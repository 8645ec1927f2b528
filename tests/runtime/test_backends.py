"""Tests of the backends: ONNX Runtime on a graph of three kilobytes, all errors, and a bundle from file to tracks."""

import importlib.metadata
import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idol_runtime.backends import OpenOptions, open_backend
from idol_runtime.backends.onnxruntime import _batch_limit, import_onnxruntime, open_session
from idol_runtime.bundle.bundle import OUTPUT_NAMES, Bundle, GoldenFrame, TensorInfo
from idol_runtime.errors import BackendError, ConfigError, MissingDependencyError, PluginError
from idol_runtime.pipeline import Pipeline

TINY = Path(__file__).parents[1] / "data" / "tiny.onnx"
needs_onnxruntime = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="needs onnxruntime"
)


def tiny_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Return the outputs of `tiny.onnx` without the image's mean / 255 in the logits: two objects, a faint query."""
    rng = np.random.Generator(np.random.PCG64(0))
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    weights["logits"][:] = [[2, -3], [-3, 1], [-6, -6]]
    weights["boxes"][:] = [[0.2, 0.3, 0.2, 0.2], [0.7, 0.3, 0.2, 0.4], [0.5, 0.5, 0.1, 0.1]]
    weights["embeddings"][:] = 5 * np.eye(3, 4)
    # The masks are features 0 and 1: the first layers pass them through, the last reads one.
    weights["mask_features"][:] = -1
    weights["mask_features"][0, :, 0] = weights["mask_features"][1, :, 2] = 1
    weights["mask_params"][:] = 0
    for query, feature in enumerate((0, 1, 1)):
        weights["mask_params"][query, [2 + feature, 80, 144]] = 1
    weights["mask_params"][:, 168] = -0.5
    weights["mask_reference"][:] = 0
    return weights


def build_tiny(shapes: dict[str, tuple[int, ...]], size: tuple[int, int]) -> bytes:
    """Build tests/data/tiny.onnx: `TINY.write_bytes(build_tiny(SHAPES, SIZE))`."""
    from onnx import TensorProto, checker, helper

    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean4"], axes=[0, 1, 2, 3], keepdims=0),
        helper.make_node("Div", ["mean4", "full"], ["mean"]),
    ]
    constants = [helper.make_tensor("full", TensorProto.FLOAT, [], [255.0])]
    for name, value in tiny_weights(shapes).items():
        raw = value[None].tobytes()
        constants.append(helper.make_tensor(f"c_{name}", TensorProto.FLOAT, [1, *value.shape], raw, raw=True))
        if name == "logits":
            nodes.append(helper.make_node("Add", [f"c_{name}", "mean"], [name]))
        else:
            nodes.append(helper.make_node("Identity", [f"c_{name}"], [name]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, *size, 3])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, *shapes[n]]) for n in OUTPUT_NAMES],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    checker.check_model(model)
    return model.SerializeToString()


def tiny_answer(frame: np.ndarray, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Return the outputs of the reference implementation of tiny.onnx in numpy."""
    weights = tiny_weights(shapes)
    return {**weights, "logits": weights["logits"] + np.float32(frame.mean() / 255)}


@pytest.fixture(scope="module")
def tiny_bundle(kit: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    frame = kit.golden_frame().frame
    golden_frame = GoldenFrame(frame, tiny_answer(frame, kit.shapes))
    members = kit.members(graph=kit.tiny_graph, golden_frame=golden_frame.to_bytes())
    return kit.write(tmp_path_factory.mktemp("tiny") / "tiny.idol", members=members)


def test_the_tiny_graph_is_what_its_script_makes(kit: Any) -> None:
    onnx = pytest.importorskip("onnx", reason="needs onnx to build the graph again")
    assert onnx.load_from_string(kit.tiny_graph) == onnx.load_from_string(build_tiny(kit.shapes, kit.size))


@needs_onnxruntime
def test_onnxruntime_rests_between_frames(kit: Any) -> None:
    """By default its threads spin for 40 ms, on the cores that decode masks."""
    session = open_session(TINY.read_bytes(), threads=2)

    def seconds() -> float:
        session.run(None, {"image": np.zeros((1, *kit.size, 3), np.uint8)})
        before = time.process_time()
        time.sleep(0.1)
        return time.process_time() - before

    assert any(seconds() < 0.01 for _ in range(20)), "threads of other tests may work now and then"


@pytest.mark.parametrize("threads", [0, -1, 1025, 2**31, 2**100])
def test_threads_that_cannot_be(kit: Any, tiny_bundle: Path, threads: int) -> None:
    why = f"threads must lie between 1 and 1024, got {threads}"
    with Bundle.open(tiny_bundle) as bundle, pytest.raises(ConfigError, match=why):
        open_backend(bundle, OpenOptions(threads=threads))
    with pytest.raises(ConfigError, match=why):
        open_session(kit.tiny_graph, threads=threads)


@needs_onnxruntime
def test_onnxruntime_answers_by_name(kit: Any, tiny_bundle: Path) -> None:
    with Bundle.open(tiny_bundle) as bundle:
        backend = open_backend(bundle, OpenOptions("onnxruntime", threads=1))
        assert backend.name == "onnxruntime (cpu, portable graph)"
        assert backend.network_size == kit.size
        frame = np.random.default_rng(3).integers(0, 256, (*kit.size, 3), dtype=np.uint8)
        (output,) = backend.infer(frame[None])
        for name, expected in tiny_answer(frame, kit.shapes).items():
            answer = getattr(output, name)
            assert answer.dtype == np.float32
            np.testing.assert_allclose(answer, expected, rtol=1e-5, err_msg=name)
        backend.close()


@needs_onnxruntime
def test_how_many_frames_a_graph_takes_at_once(tiny_bundle: Path) -> None:
    with Bundle.open(tiny_bundle) as bundle:
        static = open_backend(bundle, OpenOptions("onnxruntime", threads=1)).batch
    assert (static.most, static.at_most(8)) == (1, 1)
    assert "--dynamic-batch" in static.why
    free = _batch_limit(True, "plugin")
    assert (free.most, free.at_most(8), free.why) == (None, 8, "")
    ranges = _batch_limit(True, "int8-ort")
    assert ranges.most == 1, "its ranges are those of all frames"
    assert "--graph plugin" in ranges.why


@needs_onnxruntime
def test_a_pipeline_from_file_to_tracked_frames(kit: Any, tiny_bundle: Path) -> None:
    with Pipeline.open(tiny_bundle, threads=1) as pipeline:
        first = pipeline.step(np.zeros((*kit.size, 3), np.uint8))
        second = pipeline.step(np.full((*kit.size, 3), 9, np.uint8))
        assert [r.ids.tolist() for r in (first, second)] == [[0, 1], [0, 1]]
        assert first.labels.tolist() == [0, 1]
        assert first.masks.shape == (2, *kit.size)
        assert first.masks[0, :, 0].all()
        assert not first.masks[0, :, 12:].any()
        assert first.masks[1, :, 18].all()


@needs_onnxruntime
def test_a_wrong_weight_is_refused_by_the_golden_check(kit: Any, tmp_path: Path) -> None:
    frame = kit.golden_frame().frame
    answer = tiny_answer(frame, kit.shapes)
    weight = answer["boxes"].tobytes()
    assert kit.tiny_graph.count(weight) == 1
    spoiled = kit.tiny_graph.replace(weight, (answer["boxes"] * np.float32(1.01)).tobytes())
    members = kit.members(graph=spoiled, golden_frame=GoldenFrame(frame, answer).to_bytes())
    path = kit.write(tmp_path / "spoiled.idol", members=members)
    with pytest.raises(
        BackendError,
        match=r"\(cpu, portable graph\) fails the golden check: boxes differs from PyTorch by 1\.0e-02",
    ):
        Pipeline.open(path, backend="onnxruntime")
    Pipeline.open(path, backend="onnxruntime", golden_check=False).close()


@pytest.fixture
def two_graphs(kit: Any, tmp_path: Path) -> Path:
    """A bundle whose second graph replaces one with the compiled operator, and has a different constant."""
    frame = kit.golden_frame().frame
    answer = tiny_answer(frame, kit.shapes)
    weight = answer["embeddings"].tobytes()
    plugin = kit.tiny_graph.replace(weight, (answer["embeddings"] * np.float32(1.5)).tobytes())
    assert plugin != kit.tiny_graph
    members = kit.members(
        graph=kit.tiny_graph, plugin=plugin, golden_frame=GoldenFrame(frame, answer).to_bytes()
    )
    return kit.write(tmp_path / "two.idol", members=members)


@needs_onnxruntime
def test_without_its_library_the_operator_gives_way_and_says_why(two_graphs: Path) -> None:
    with Bundle.open(two_graphs) as bundle:
        backend = open_backend(bundle, OpenOptions("onnxruntime"))
        assert backend.name == "onnxruntime (cpu, portable graph)"
        choice, hint = backend.reason.split("\n")
        assert choice == "running portable on ONNX Runtime (cpu)"
        assert hint.startswith(
            "not running plugin on ONNX Runtime, which may be faster: libidol_deform_attn_ort."
        )
        assert "build it with: idol-deploy plugins build" in hint
        assert open_backend(bundle, OpenOptions("onnxruntime", graph="portable")).reason == ""
        with pytest.raises(PluginError, match="is not built"):
            open_backend(bundle, OpenOptions("onnxruntime", graph="plugin"))


@needs_onnxruntime
def test_a_library_that_cannot_be_loaded_gives_way_too(
    two_graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libidol_deform_attn_ort.so").write_bytes(b"no library")
    monkeypatch.setenv("IDOL_PLUGINS", str(tmp_path))
    with Bundle.open(two_graphs) as bundle:
        assert "ONNX Runtime cannot load" in open_backend(bundle, OpenOptions("onnxruntime")).reason
        with pytest.raises(BackendError, match="ONNX Runtime cannot load"):
            open_backend(bundle, OpenOptions("onnxruntime", graph="plugin"))


@needs_onnxruntime
def test_with_its_library_the_operator_is_used_and_checked(
    kit: Any, two_graphs: Path, ort_operator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDOL_PLUGINS", str(ort_operator.parent))
    with Bundle.open(two_graphs) as bundle:
        backend = open_backend(bundle, OpenOptions("onnxruntime"))
        assert backend.name == "onnxruntime (cpu, plugin graph)"
        assert backend.reason == "running plugin on ONNX Runtime (cpu)"
        frame = np.zeros((1, *kit.size, 3), np.uint8)
        expected = (
            open_backend(bundle, OpenOptions("onnxruntime", graph="portable")).infer(frame)[0].embeddings
        )
        np.testing.assert_allclose(backend.infer(frame)[0].embeddings, 1.5 * expected)
        with pytest.raises(
            BackendError, match="built for CPUs only; build it again: idol-deploy plugins build --cuda"
        ):
            open_backend(bundle, OpenOptions("onnxruntime", device="cuda", graph="plugin"))
    with pytest.raises(BackendError, match=r"plugin graph\) fails the golden check.* --explain lists them"):
        Pipeline.open(two_graphs, backend="onnxruntime", graph="plugin")
    with Pipeline.open(two_graphs, backend="onnxruntime") as pipeline:
        choice, hint = pipeline.backend.reason.split("\n")
    assert choice == "running portable on ONNX Runtime (cpu)"
    assert "(cpu, plugin graph) fails the golden check: embeddings differs from PyTorch by 5.0e-01" in hint


@needs_onnxruntime
def test_a_bundle_without_the_graph_that_is_asked_for(tiny_bundle: Path) -> None:
    with Bundle.open(tiny_bundle) as bundle:
        assert (
            "export it again after: idol-deploy plugins build"
            in open_backend(bundle, OpenOptions("onnxruntime")).reason
        )
        with pytest.raises(BackendError, match="has no plugin graph; export it again after"):
            open_backend(bundle, OpenOptions("onnxruntime", graph="plugin"))
        with pytest.raises(ConfigError, match="choose one of: auto, fp32, portable, plugin"):
            open_backend(bundle, OpenOptions("onnxruntime", graph="fast"))


@needs_onnxruntime
def test_a_wrong_input_is_a_backend_error(kit: Any, tiny_bundle: Path) -> None:
    with Bundle.open(tiny_bundle) as bundle, pytest.raises(BackendError, match="ONNX Runtime failed"):
        open_backend(bundle, OpenOptions("onnxruntime")).infer(np.zeros((1, 8, 8, 3), np.uint8))


def test_unknown_backend(tiny_bundle: Path) -> None:
    with (
        Bundle.open(tiny_bundle) as bundle,
        pytest.raises(ConfigError, match="choose one of: auto, onnx"),
    ):
        open_backend(bundle, OpenOptions(backend="tensorflow"))


@needs_onnxruntime
@pytest.mark.parametrize("device", ["tpu", "cpu:1", "cuda:x", "cuda:-1", "npu:0", "", "CPU "])
def test_unknown_device(kit: Any, device: str) -> None:
    with pytest.raises(BackendError, match="use cpu, cuda, cuda:N, gpu, gpu:N or npu"):
        open_session(kit.tiny_graph, device)


def test_tensorrt_is_not_for_processors(tiny_bundle: Path) -> None:
    with (
        Bundle.open(tiny_bundle) as bundle,
        pytest.raises(
            BackendError, match="TensorRT does not run on cpu; use --device cuda or cuda:N, or leave out"
        ),
    ):
        open_backend(bundle, OpenOptions("tensorrt", "cpu"))


def test_no_onnxruntime_names_the_extra(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'idol-deploy\[cpu\]'"):
        open_session(kit.tiny_graph)


@needs_onnxruntime
def test_both_distributions_in_one_folder_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folders = {"onnxruntime": tmp_path, "onnxruntime-gpu": tmp_path}
    for name in folders:
        (tmp_path / f"{name.replace('-', '_')}-1.0.dist-info").mkdir()

    def distributions(name: str) -> Any:
        return importlib.metadata.MetadataPathFinder.find_distributions(
            importlib.metadata.DistributionFinder.Context(name=name, path=[str(folders[name])])
        )

    monkeypatch.setattr(importlib.metadata, "distributions", distributions)
    with pytest.raises(BackendError, match="both installed and overwrite each other; keep one: pip"):
        import_onnxruntime()
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "onnxruntime_gpu-1.0.dist-info").rename(other / "onnxruntime_gpu-1.0.dist-info")
    folders["onnxruntime-gpu"] = other
    assert import_onnxruntime() is sys.modules["onnxruntime"]


@needs_onnxruntime
@pytest.mark.parametrize(
    "graph", [b"", b"garbage", b"\x00" * 100, b"half"], ids=["none", "text", "zero", "half"]
)
def test_a_broken_graph_is_one_line(kit: Any, graph: bytes) -> None:
    graph = kit.tiny_graph[: len(kit.tiny_graph) // 2] if graph == b"half" else graph
    with pytest.raises(BackendError, match="refuses the graph") as caught:
        open_session(graph)
    assert "\n" not in str(caught.value)


@needs_onnxruntime
@pytest.mark.parametrize("where", ["outputs", "inputs"])
def test_a_graph_other_than_promised(kit: Any, tmp_path: Path, where: str) -> None:
    promised = getattr(kit.manifest(), where)
    changed = (*promised[:-1], TensorInfo("other", "float32", (1,)))
    manifest = kit.manifest(**{where: changed})
    path = kit.write(tmp_path / "odd.idol", manifest, kit.members(graph=kit.tiny_graph))
    with Bundle.open(path) as bundle, pytest.raises(BackendError, match=r"odd\.idol.*'other'"):
        open_backend(bundle)


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs openvino")
def test_a_signal_after_two_backends_is_delivered(tiny_bundle: Path) -> None:
    """OpenVINO changes the stack for signals, and `run` closes backends in another order than it opened them."""
    script = f"""
import signal
from idol_runtime.backends import OpenOptions, open_backend
from idol_runtime.bundle.bundle import Bundle
with Bundle.open({str(tiny_bundle)!r}) as bundle:
    first, second = (open_backend(bundle, OpenOptions("openvino", graph="portable")) for _ in range(2))
for backend in (first, second):
    backend.close()
del first, second, backend
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
