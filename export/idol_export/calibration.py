"""Which values a network's activations take, on frames like those to come."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from idol_export.int8 import Range
from idol_runtime.backends.onnxruntime import open_session, run_session
from idol_runtime.errors import ConfigError

__all__ = ["observe"]


def observe(
    graph: bytes,
    names: Sequence[str],
    frames: Iterable[NDArray[np.uint8]],  # [h, w, 3] each, resized
    libraries: Sequence[Path] = (),
) -> dict[str, Range]:
    """The least and the greatest value of each activation, over all frames.

    Raises:
        ConfigError: no frame.
        BackendError: ONNX Runtime refuses the graph.
    """
    if not names:
        return {}
    model = onnx.load_model_from_string(graph)
    del model.graph.output[:]
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = open_session(model.SerializeToString(), libraries=libraries)
    low, high, seen = np.full(len(names), np.inf), np.full(len(names), -np.inf), False
    for frame in frames:
        values = run_session(session, names, frame[None])
        low = np.minimum(low, [values[name].min() for name in names])
        high = np.maximum(high, [values[name].max() for name in names])
        seen = True
    if not seen:
        raise ConfigError("there is no frame to calibrate on; give --calibrate a video of what is to come")
    return {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}
