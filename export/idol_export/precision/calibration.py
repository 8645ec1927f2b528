"""Statistics of a network's activations on calibration frames."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from idol_deploy.progress import Announce, counted, silent
from idol_export.precision.patches import Patches
from idol_export.precision.quantizer import Observed
from idol_export.precision.rounding import least_squares_range
from idol_runtime.backends.onnxruntime import open_session, run_session
from idol_runtime.errors import ConfigError

__all__ = ["observe", "open_values"]

_BINS = 2048
_SAMPLED = 2**14  # values per activation and frame for its histogram
_ROWS = 2**14  # sampled patches over all frames, several times the entries of the largest patch


def observe(
    graph: bytes,
    axes: Mapping[str, int],
    frames: Sequence[NDArray[np.uint8]],  # [h, w, 3] each, resized
    libraries: Sequence[Path] = (),
    symmetric: bool = False,
    patches: Collection[Patches] = (),
    announce: Announce = silent,
) -> dict[str, Observed]:
    """Measure the best quantization range, channel means and covariances of patches of each activation.

    Args:
        graph: ONNX file.
        axes: index of the channel axis, by name of the activation.
        frames: calibration frames in the size of the network input.
        libraries: libraries of operators that are not part of ONNX Runtime.
        symmetric: make ranges symmetric about zero.
        patches: patches whose covariances are measured.
        announce: called with each step and its finished frames.

    Raises:
        ConfigError: there is no frame.
        BackendError: ONNX Runtime cannot open the graph.
    """
    if not axes:
        return {}
    if not len(frames):
        raise ConfigError("no frame to calibrate on; pass a video like the camera's with --calibrate")
    names = list(axes)
    session = open_values(graph, names, libraries)
    low, high = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    means: dict[str, NDArray[np.float64]] = {}
    for frame in counted(frames, announce, "measuring the ranges of activations", len(frames)):
        for name, values in run_session(session, names, frame[None]).items():
            low[name] = min(low[name], float(values.min()))
            high[name] = max(high[name], float(values.max()))
            reduced = tuple(i for i in range(values.ndim) if i != axes[name] % values.ndim)
            means[name] = means.get(name, np.zeros(1)) + values.mean(reduced, np.float64) / len(frames)
    counts = {name: np.zeros(_BINS) for name in names}
    moments = {patch: _Moments(means[patch.value]) for patch in patches}
    rng = np.random.default_rng(0)
    for frame in counted(frames, announce, "measuring the statistics of activations", len(frames)):
        activations = run_session(session, names, frame[None])
        for name, values in activations.items():
            sample = values.reshape(-1)[rng.integers(0, values.size, min(values.size, _SAMPLED))]
            counts[name] += np.histogram(sample, _BINS, (low[name], max(high[name], low[name] + 1e-8)))[0]
        for patch, moment in moments.items():
            moment.add(patch.sample(activations[patch.value], -(-_ROWS // len(frames)), rng))
    observed = {}
    for name in counted(names, announce, "choosing the ranges of activations", len(names), "activations"):
        limits = least_squares_range(counts[name], low[name], high[name], symmetric)
        covariances = {patch: moments.pop(patch).covariance for patch in patches if patch.value == name}
        observed[name] = Observed(*limits, means[name].astype(np.float32), covariances)
    return observed


class _Moments:
    """Running sums of rows and of their products, centred first: a large mean would cancel most digits otherwise.

    Args:
        mean: [C] mean of each channel.
    """

    def __init__(self, mean: NDArray[np.float64]) -> None:
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
    """Open an ONNX Runtime session of a graph with these float32 values as its only outputs.

    Raises:
        BackendError: ONNX Runtime cannot open the graph.
    """
    model = onnx.load_model_from_string(graph)
    del model.graph.output[:]
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return open_session(model.SerializeToString(), libraries=libraries)
