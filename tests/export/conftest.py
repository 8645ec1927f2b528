"""What the tests of the export room share besides the toy network of the whole suite."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper


@pytest.fixture(scope="session")
def sabotage() -> Callable[..., bytes]:
    """Makes a graph of which half a weight is off by a twentieth of its greatest, or is this value."""

    def change(graph: bytes, name: str, value: float | None = None) -> bytes:
        model = onnx.load_model_from_string(graph)
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        array = numpy_helper.to_array(tensor).copy()
        # Every other value: a normalisation takes out what is added to all of a group.
        half = array.reshape(-1)[::2]
        half[...] = half + np.float32(0.05) * np.abs(array).max() if value is None else value
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        changed: bytes = model.SerializeToString()
        return changed

    return change
