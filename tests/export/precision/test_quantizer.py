"""int8 graphs: rounding compared with numpy, selected nodes, and integer kernels in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from idol_export.precision.calibration import observe, open_values
from idol_export.precision.editor import Editor
from idol_export.precision.folding import folded
from idol_export.precision.quantizer import Target, candidates, observed_patches, observed_values, quantize
from idol_runtime.backends.onnxruntime import import_onnxruntime, open_session, run_session

RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


WEIGHTS = {
    "w1": (RNG.normal(size=(8, 3, 3, 3)) * RNG.uniform(0.1, 3, (8, 1, 1, 1)) / 500).astype(np.float32),
    "factor": RNG.uniform(0.5, 2, (8, 1, 1)).astype(np.float32),
    "shift": RNG.normal(size=(8, 1, 1)).astype(np.float32),
    "w2": (RNG.normal(size=(8, 8, 1, 1)) / 3).astype(np.float32),
    "b2": RNG.normal(size=8).astype(np.float32),
    "m": (RNG.normal(size=(8, 16)) / 3).astype(np.float32),
    "mb": RNG.normal(size=16).astype(np.float32),
    "tiny": RNG.normal(size=(16, 1)).astype(np.float32),
}


def _graph() -> bytes:
    """Return a graph of a normalised convolution, a convolution with a residual, and two products."""
    nodes = [
        helper.make_node("Transpose", ["image"], ["chw"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["chw"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1], name="conv1"),
        helper.make_node("Mul", ["c1", "factor"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["normed"]),
        helper.make_node("Relu", ["normed"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="conv2"),
        helper.make_node("Add", ["c2", "r1"], ["residual"]),
        helper.make_node("Relu", ["residual"], ["r2"]),
        helper.make_node("Transpose", ["r2"], ["hwc"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["hwc", "m"], ["product"], name="wide"),
        helper.make_node("Add", ["product", "mb"], ["biased"]),
        helper.make_node("Slice", ["biased", "from", "to", "axes"], ["some"]),
        helper.make_node("MatMul", ["some", "tiny"], ["y"], name="narrow"),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in WEIGHTS.items()]
    for name, values in (("from", [0, 0]), ("to", [1, 1]), ("axes", [1, 2])):
        tensors.append(numpy_helper.from_array(np.array(values), name))
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 8, 8, 3])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("biased", [1, 8, 8, 16]), ("y", [1, 1, 1, 1]))
    ]
    graph = helper.make_graph(nodes, "g", [image], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    data: bytes = onnx.shape_inference.infer_shapes(model, strict_mode=True).SerializeToString()
    return data


def _folded() -> Editor:
    return Editor(folded(_graph()))


def _run(graph: bytes, optimised: Path | None = None) -> list[np.ndarray]:
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    answers: list[np.ndarray] = session.run(None, {"image": FRAMES[:1]})
    return answers


def _quantized(target: Target, frames: np.ndarray = FRAMES, *, compensated: bool = False) -> bytes:
    editor = _folded()
    chosen = list(candidates(editor))
    axes = observed_values(editor, chosen, target)
    patches = observed_patches(editor, chosen) if compensated else []
    ranges = observe(editor.to_bytes(), axes, frames, symmetric=target == "qdq", patches=patches)
    quantize(editor, chosen, ranges, target)
    return editor.to_bytes()


def _weights(graph: bytes, node: str) -> np.ndarray:
    """Return the dequantized weights of a node."""
    editor = Editor(graph)
    found = next(n for n in editor.graph.node if n.name == node)
    inputs = list(editor.producers[found.input[1]].input) if found.domain == "" else list(found.input)[1:3]
    rounded, scales = (editor.constant(name) for name in inputs[:2])
    assert rounded is not None
    assert scales is not None
    integers, steps = rounded.astype(np.float32), scales.astype(np.float32)
    return integers * (steps[:, None, None, None] if integers.ndim == 4 else steps)


def test_norms_are_folded_and_nothing_changes() -> None:
    editor = _folded()
    assert [node.op_type for node in editor.graph.node][2:5] == ["Conv", "Relu", "Conv"]
    for ours, theirs in zip(_run(editor.to_bytes()), _run(_graph()), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_products_that_gain_nothing_are_left_out() -> None:
    shares = candidates(_folded())
    assert set(shares) == {"conv1", "conv2", "wide"}, "narrow is a thousandth"
    # 8x8 cells: 27 * 8, 8 * 8 and 8 * 16 multiplications for each, and 16 more for one.
    assert shares["conv1"] == pytest.approx(216 / (216 + 64 + 128 + 16 / 64))


@pytest.mark.parametrize("target", ["ort", "qdq"])
def test_integers_are_near_and_not_the_same(target: Target) -> None:
    ours, theirs = _run(_quantized(target))[0], _run(_graph())[0]
    assert 1e-4 < np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 0.04


@pytest.mark.parametrize("target", ["ort", "qdq"])
def test_weights_are_rounded_for_what_they_multiply(target: Target) -> None:
    """On correlated pixels, many inputs have smaller errors than with the nearest integers, few not larger ones."""
    frames = np.kron(RNG.integers(0, 256, (9, 2, 2, 1)), np.ones((1, 4, 4, 3))).astype(np.uint8)
    editor = _folded()
    chosen = list(candidates(editor))
    patches = observed_patches(editor, chosen)
    assert [read.value for read in patches] == ["x", "r1", "hwc"]
    session = open_values(editor.to_bytes(), [read.value for read in patches])
    seen = [run_session(session, [read.value for read in patches], frame[None]) for frame in frames]
    for read, name, share in zip(patches, ("conv1", "conv2", "wide"), (0.5, 1.1, 1.1), strict=True):
        rows = np.concatenate([read.sample(one[read.value], 10**6, RNG) for one in seen])
        exact = editor.constant(next(node.input[1] for node in editor.graph.node if node.name == name))
        assert exact is not None
        errors = []
        for compensated in (False, True):
            off = _weights(_quantized(target, frames, compensated=compensated), name) - exact.astype(
                np.float32
            )
            matrix = off.reshape(len(off), -1).T if off.ndim == 4 else off
            errors.append(np.linalg.norm((rows - rows.mean(axis=0)) @ matrix))
        assert errors[1] < share * errors[0]


def test_onnx_runtime_computes_in_integers(tmp_path: Path) -> None:
    """Every selected node and the sum between two of them compute in integers."""
    _run(_quantized("ort"), tmp_path / "optimised.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert [kinds.count(kind) for kind in ("QLinearConv", "QLinearAdd", "DynamicQuantizeMatMul")] == [2, 1, 1]
    assert not {"Conv", "FusedConv"} & set(kinds)


def test_what_other_runtimes_compute_does_not_overflow_here() -> None:
    """Two products of 127 and 255 overflow the 16 bits of processors without dot-product instructions."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["x8"]),
        helper.make_node("DequantizeLinear", ["x8", "one", "zero"], ["xr"]),
        helper.make_node("DequantizeLinear", ["w8", "one", "zero"], ["w"]),
        helper.make_node("Conv", ["xr", "w"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "large", "zero"], ["c8"]),
        helper.make_node("DequantizeLinear", ["c8", "large", "zero"], ["y"]),
    ]
    constants = {
        "one": np.float32(1),
        "large": np.float32(2**14),
        "zero": np.int8(0),
        "w8": np.full((8, 64, 1, 1), 127, np.int8),
    }
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, [1, 64, 4, 4])],
        [value("y", TensorProto.FLOAT, [1, 8, 4, 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = open_session(model.SerializeToString(), integers=False)
    found = session.run(["y"], {"x": np.full((1, 64, 4, 4), 127, np.float32)})[0]
    np.testing.assert_array_equal(found, 2**14 * np.rint(64 * 127 * 127 / 2**14))


def test_each_target_has_its_integers() -> None:
    """`ort`: unsigned activations, sums of two weights at most 128; `qdq`: signed, zero point 0, no dynamic range."""
    for target, kinds, limit in (("ort", {TensorProto.UINT8}, 128), ("qdq", {TensorProto.INT8}, 127)):
        editor = Editor(_quantized(target))  # type: ignore[arg-type]
        rounds = [node for node in editor.graph.node if node.op_type == "QuantizeLinear"]
        assert {editor.tensors[node.input[2]].data_type for node in rounds} == kinds
        found = editor.constant("c2_weight_int8")
        assert found is not None
        weight = found.astype(int)[:, :, 0, 0]
        if target == "ort":
            assert np.abs(weight[:, 1:] + weight[:, :-1]).max() <= limit
        else:
            assert np.abs(weight).max(axis=1).tolist() == [limit] * 8
            assert all(not np.any(editor.constant(node.input[2])) for node in rounds)
            assert {node.domain for node in editor.graph.node} == {""}


@pytest.mark.parametrize("target", ["ort", "qdq"])
def test_a_residual_connection_reads_the_rounded_value(target: Target) -> None:
    """A second, exact copy of the value would take as long to write as the convolution takes to compute."""
    editor = Editor(_quantized(target))
    sums = [node for node in editor.graph.node if node.op_type == "Add" and "r1_rounded" in node.input]
    assert len(sums) == 1


def test_weights_are_rounded_to_a_step_of_their_channel() -> None:
    editor = Editor(_quantized("qdq"))
    integers, scales = editor.constant("product_weight_int8"), editor.constant("product_weight_scales")
    assert integers is not None
    assert scales is not None
    weight = WEIGHTS["m"]
    np.testing.assert_allclose(scales, np.abs(weight).max(axis=0) / 127, rtol=1e-6)
    assert np.abs(integers * scales - weight).max() <= scales.max() / 2 * (1 + 1e-5)


@pytest.mark.parametrize("target", ["ort", "qdq"])
def test_rounded_weights_move_no_mean(target: Target) -> None:
    """A convolution has small weights, which a common scale would round to 0, and inputs with means far from zero."""
    weight = WEIGHTS["w2"].copy()
    weight[:, 0] = 3.0
    weight[:, 1:] = 0.011
    editor = _folded()
    editor.tensors["w2"].CopyFrom(numpy_helper.from_array(weight, "w2"))
    editor = Editor(editor.to_bytes())
    exact = _run(editor.to_bytes())[0]
    axes = observed_values(editor, ["conv2"], target)
    quantize(
        editor, ["conv2"], observe(editor.to_bytes(), axes, FRAMES[:1], symmetric=target == "qdq"), target
    )
    found = _run(editor.to_bytes())[0]
    off = np.abs((found - exact).mean(axis=(0, 1, 2)))
    assert off.max() < 0.02 * np.abs(exact).max()


def test_a_channel_without_weights_keeps_its_bias() -> None:
    """With very small scales its bias would exceed 32 bits."""
    editor = _folded()
    dead = WEIGHTS["w2"].copy()
    dead[3] = 0
    editor.tensors["w2"].CopyFrom(numpy_helper.from_array(dead, "w2"))
    editor = Editor(editor.to_bytes())
    exact = _run(editor.to_bytes())[0]
    chosen = ["conv1", "conv2"]
    quantize(
        editor, chosen, observe(editor.to_bytes(), observed_values(editor, chosen, "ort"), FRAMES), "ort"
    )
    found = _run(editor.to_bytes())[0]
    assert np.linalg.norm(found - exact) < 0.04 * np.linalg.norm(exact)


def test_a_convolution_that_was_kept_keeps_its_weights() -> None:
    """Between int8 nodes, ONNX Runtime would round them with one scale for all channels and lose small weights."""
    weight = np.diag([1.0, 0.001]).astype(np.float32)[:, :, None, None]
    nodes = [
        helper.make_node("Transpose", ["image"], ["chw"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["chw"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["x_int8"]),
        helper.make_node("DequantizeLinear", ["x_int8", "one", "zero"], ["rounded"]),
        helper.make_node("Conv", ["rounded", "w"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "step", "zero"], ["c_int8"]),
        helper.make_node("DequantizeLinear", ["c_int8", "step", "zero"], ["y"]),
    ]
    constants = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "step": np.float32(0.01),
        "w": weight,
    }
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 8, 8, 2])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 8, 8])
    graph = helper.make_graph(nodes, "g", [image], [output], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    frame = np.full((1, 8, 8, 2), 200, np.uint8)
    found = run_session(open_session(model.SerializeToString()), ["y"], frame)["y"]
    np.testing.assert_allclose(found[0, 1], 0.2, atol=1e-6)
