"""Tests of the cost against values counted by hand, and of the lowest time."""

import numpy as np
import pytest

from idol_runtime.bench.roofline import GraphCost, Peaks, count_cost, measure_peaks

onnx = pytest.importorskip("onnx")


def test_work_of_a_graph_equals_the_count_by_hand() -> None:
    from onnx import TensorProto, helper, numpy_helper

    weights = {
        "kernel": np.zeros((6, 2, 3, 3), np.float32),  # 4 channels in two groups
        "left": np.zeros((7, 6), np.float32),
        "gemm": np.zeros((9, 10), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["c"], group=2, pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["f"]),
        helper.make_node("MatMul", ["left", "f"], ["m"]),
        helper.make_node("Gemm", ["m", "gemm"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "hand",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 4, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            *(numpy_helper.from_array(array, name) for name, array in weights.items()),
            numpy_helper.from_array(np.array([6, 10]), "shape"),
        ],
    )
    work = count_cost(helper.make_model(graph).SerializeToString())
    convolution = 2 * (6 * 2 * 5) * (2 * 3 * 3)
    products = 2 * (7 * 10) * 6 + 2 * (7 * 9) * 10
    assert work.flops == convolution + products
    moved = (4 * 4 * 10 + 6 * 2 * 9 + 60) + (42 + 60 + 70) + (70 + 90 + 63)
    assert work.bytes == 4 * moved


def test_the_floor_is_the_slower_of_the_two() -> None:
    peaks = Peaks(flops=1e9, bytes=1e9)
    assert peaks.floor_ms(GraphCost(flops=10**7, bytes=10**6)) == pytest.approx(10)
    assert peaks.floor_ms(GraphCost(flops=10**6, bytes=10**8)) == pytest.approx(100)


def test_peaks_are_those_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idol_runtime.bench.roofline._SIDE", 128)
    monkeypatch.setattr("idol_runtime.bench.roofline._COPY_BYTES", 2**22)
    peaks = measure_peaks()
    assert 1e7 < peaks.flops < 1e15
    assert 1e7 < peaks.bytes < 1e14
