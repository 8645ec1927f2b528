"""Which values a network's activations take, on frames like those to come."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from idol_export.precision.int8 import Observed
from idol_export.precision.patches import Patches
from idol_export.precision.rounding import least_squares_range
from idol_runtime.backends.onnxruntime import open_session, run_session
from idol_runtime.errors import ConfigError

__all__ = ["observe", "open_values"]

_BINS = 2048
_SAMPLED = 2**14  # values of each activation and frame, for its histogram
_ROWS = 2**14  # of patches over all frames, several times as many as the widest has entries


def observe(
    graph: bytes,
    axes: Mapping[str, int],
    frames: Sequence[NDArray[np.uint8]],  # [h, w, 3] each, resized
    libraries: Sequence[Path] = (),
    symmetric: bool = False,
    patches: Collection[Patches] = (),
) -> dict[str, Observed]:
    """The range that rounds each activation best, means of its channels and covariances of patches, over all frames.

    Args:
        graph: an ONNX file.
        axes: of each activation, which of its axes is that of channels.
        frames: what it sees.
        libraries: of operators that are not ONNX Runtime's own.
        symmetric: ranges reach as far below zero as above.
        patches: of these activations.

    Raises:
        ConfigError: no frame.
        BackendError: ONNX Runtime refuses the graph.
    """
    if not axes:
        return {}
    if not len(frames):
        raise ConfigError("there is no frame to calibrate on; give --calibrate a video of what is to come")
    names = list(axes)
    session = open_values(graph, names, libraries)
    low, high = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    means: dict[str, NDArray[np.float64]] = {}
    for frame in frames:
        for name, values in run_session(session, names, frame[None]).items():
            low[name] = min(low[name], float(values.min()))
            high[name] = max(high[name], float(values.max()))
            others = tuple(i for i in range(values.ndim) if i != axes[name] % values.ndim)
            means[name] = means.get(name, np.zeros(1)) + values.mean(others, np.float64) / len(frames)
    counts = {name: np.zeros(_BINS) for name in names}
    moments = {read: _Moments(means[read.value]) for read in patches}
    rng = np.random.default_rng(0)
    for frame in frames:
        found = run_session(session, names, frame[None])
        for name, values in found.items():
            sample = values.reshape(-1)[rng.integers(0, values.size, min(values.size, _SAMPLED))]
            counts[name] += np.histogram(sample, _BINS, (low[name], max(high[name], low[name] + 1e-8)))[0]
        for read, moment in moments.items():
            moment.add(read.sample(found[read.value], -(-_ROWS // len(frames)), rng))
    observed = {}
    for name in names:
        limits = least_squares_range(counts[name], low[name], high[name], symmetric)
        covariances = {read: moments.pop(read).covariance for read in patches if read.value == name}
        observed[name] = Observed(*limits, means[name].astype(np.float32), covariances)
    return observed


class _Moments:
    """Sums over rows, and over their products, less the mean: with it products may be far greater than they differ."""

    def __init__(self, mean: NDArray[np.float64]) -> None:
        """`mean` of each channel that rows are of."""
        self._mean = mean.astype(np.float32)
        self._count = 0
        self._sum: NDArray[np.float64] = np.zeros(1)
        self._products: NDArray[np.float64] = np.zeros((1, 1))

    def add(self, rows: NDArray[np.float32]) -> None:
        centred = rows - np.repeat(self._mean, rows.shape[1] // len(self._mean))
        self._count += len(rows)
        self._sum = self._sum + centred.sum(axis=0, dtype=np.float64)
        self._products = self._products + centred.T @ centred

    @property
    def covariance(self) -> NDArray[np.float32]:
        mean = self._sum / self._count
        return (self._products / self._count - np.outer(mean, mean)).astype(np.float32)


def open_values(graph: bytes, names: Sequence[str], libraries: Sequence[Path] = ()) -> Any:
    """A session of a graph that gives these float32 values of its inside, and no output besides.

    Raises:
        BackendError: ONNX Runtime refuses the graph.
    """
    model = onnx.load_model_from_string(graph)
    del model.graph.output[:]
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return open_session(model.SerializeToString(), libraries=libraries)
