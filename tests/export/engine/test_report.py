"""TensorRT's account of an engine, in the forms that it may have."""

import json

import pytest

from idol_export.engine.report import count_layers


def test_layers_are_counted_by_type() -> None:
    layers = [{"Name": str(i), "LayerType": kind} for i, kind in enumerate(("gemm", "PluginV3", "gemm"))]
    assert list(count_layers(json.dumps({"Layers": layers})).items()) == [("gemm", 2), ("PluginV3", 1)]


@pytest.mark.parametrize("layers", ["", "no JSON", "[]", "{}", "3"])
def test_an_account_of_another_form_is_no_error(layers: str) -> None:
    assert count_layers(layers) == {}


def test_layers_without_details() -> None:
    assert count_layers('{"Layers": ["a", "b"]}') == {"unknown": 2}
