"""Which rows a bundle has."""

from pathlib import Path

import pytest

from idol_runtime.bench.rows import bundle_rows


def test_a_row_for_every_graph(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    (row,) = bundle_rows(tiny_bundle)
    assert row.name == "onnxruntime, portable"
    assert row.parity is not None
    assert 0 <= row.parity <= 1
    names = [row.name for row in bundle_rows(tiny_bundle, "cuda")]
    assert names == ["onnxruntime, portable", "tensorrt, portable"]


def test_openvino_is_of_a_cpu(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    assert [row.name for row in bundle_rows(tiny_bundle)][-1] == "openvino, portable"
    assert "openvino, portable" not in [row.name for row in bundle_rows(tiny_bundle, "cuda")]
