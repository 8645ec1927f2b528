"""Which rows a bundle has."""

import sys
from pathlib import Path

import pytest

from idol_runtime.bench.rows import bundle_rows
from idol_runtime.errors import BackendError


def test_a_row_for_every_graph_in_every_backend_of_the_device(tiny_bundle: Path) -> None:
    first, *others = bundle_rows(tiny_bundle)
    assert first.name == "onnxruntime, portable"
    assert first.parity is not None
    assert 0 <= first.parity <= 1
    assert [row.name for row in others] == ["openvino, portable"], "TensorRT has no CPU"
    for device in ("cuda", "cuda:1"):  # of which OpenVINO has none
        names = [row.name for row in bundle_rows(tiny_bundle, device)]
        assert names == ["onnxruntime, portable", "tensorrt, portable"]


def test_openvino_says_that_it_is_not_installed(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    row = bundle_rows(tiny_bundle)[-1]
    with pytest.raises(BackendError, match=r"OpenVINO is not installed; .*pip install openvino$"):
        row.open()
