"""Small bundles for engine builds."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idol_runtime.bundle.bundle import OUTPUT_NAMES, GoldenFrame, TensorInfo

# The runtime's fixture, loaded by path, because tests are not importable with every way to start pytest.
_spec = importlib.util.spec_from_file_location(
    "runtime_conftest", Path(__file__).parents[2] / "runtime" / "conftest.py"
)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
kit = _module.kit

# Bytes of a protobuf that make the fake require the plugin.
PLUGIN_NOTE = b"\x32\x0aDeformAttn"


def golden(graph: bytes, frame: np.ndarray) -> GoldenFrame:
    """Return ONNX Runtime's outputs for a frame."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    arrays = session.run(list(OUTPUT_NAMES), {"image": frame[None]})
    return GoldenFrame(frame, {name: array[0] for name, array in zip(OUTPUT_NAMES, arrays, strict=True)})


@pytest.fixture
def engine_bundle(kit: Any, tmp_path: Path) -> Path:
    """A bundle with both graphs for one frame at a time."""
    golden_frame = golden(kit.tiny_graph, kit.golden_frame().frame).to_bytes()
    members = kit.members(
        graph=kit.tiny_graph, plugin=kit.tiny_graph + PLUGIN_NOTE, golden_frame=golden_frame
    )
    return kit.write(tmp_path / "model.idol", members=members)


@pytest.fixture
def batch_bundle(kit: Any, tmp_path: Path) -> Path:
    """A bundle with both graphs for any number of frames; the logits depend on the frame."""
    graph = _dynamic(kit)
    golden_frame = golden(graph, kit.golden_frame().frame).to_bytes()
    members = kit.members(graph=graph, plugin=graph + PLUGIN_NOTE, golden_frame=golden_frame)
    manifest = kit.manifest()
    free = {
        kind: tuple(
            TensorInfo(tensor.name, tensor.dtype, (-1, *tensor.shape[1:]))
            for tensor in getattr(manifest, kind)
        )
        for kind in ("inputs", "outputs")
    }
    return kit.write(tmp_path / "batch.idol", kit.manifest(dynamic_batch=True, **free), members)


def _dynamic(kit: Any) -> bytes:
    onnx = pytest.importorskip("onnx", reason="needs onnx to make a graph with a dynamic batch")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    model = onnx.load_from_string(kit.tiny_graph)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2, 3], keepdims=0),
    ]
    for name in OUTPUT_NAMES:
        axes = [-1] + [1] * (constants[f"c_{name}"].ndim - 1)
        constants[f"axes_{name}"] = np.array(axes, np.int64)
        constants[f"scale_{name}"] = np.float32(1 / 255 if name == "logits" else 0)
        nodes += [
            helper.make_node("Reshape", ["mean", f"axes_{name}"], [f"mean_{name}"]),
            helper.make_node("Mul", [f"mean_{name}", f"scale_{name}"], [f"part_{name}"]),
            helper.make_node("Add", [f"c_{name}", f"part_{name}"], [name]),
        ]
    graph = helper.make_graph(
        nodes,
        "batch",
        [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["N", *kit.size, 3])],
        [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", *kit.shapes[name]])
            for name in OUTPUT_NAMES
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 13)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return data
