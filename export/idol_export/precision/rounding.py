"""Rounding with the least error: ranges of activations, integer weights, and the mean error of rounded weights."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["integers", "least_squares_range", "shift"]

_LIMIT = 127
_PAIR_LIMIT = 128
_DAMPING = 0.01  # share of the mean variance, because the calibration frames are only a sample
_BLOCK = 128  # inputs whose errors are passed to later inputs in one product
_SHARES = np.linspace(0.3, 1, 29)  # tried ends of a range, as shares of the largest value


def integers(
    weight: NDArray[np.float32],
    axis: int,
    *,
    paired: bool,
    least: NDArray[np.float32] | None = None,
    covariance: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round weights to symmetric 8-bit integers with one scale per output channel.

    Args:
        weight: [M, C, h, w] weight of a convolution, or matrix [C, M].
        axis: axis of the output channels.
        paired: limit the sum of two neighbouring integers to 128, because processors without dot-product instructions
            add the products of two weights with unsigned activations in 16 bits.
        least: [M] lowest scales.
        covariance: [K, K] covariance of the inputs, in the order of one channel's weights; with it, integers are
            rounded such that the output error on these inputs is smallest (GPTQ), else to the nearest.

    Returns:
        The integers in the shape of `weight`, and the scales [M].
    """
    rows = np.moveaxis(weight, axis, 0)
    flat = rows.reshape(len(rows), -1)
    places = np.arange(flat.shape[1]).reshape(rows.shape[1:])
    # Runtimes sum over one channel's weights with the channels first or last.
    orders = [places.reshape(-1), np.moveaxis(places, 0, -1).reshape(-1)] if paired else []
    scale = np.abs(flat).max(axis=1)
    for order in orders:
        # The limit is 128 and not 127: rounding adds up to half a step to each of the two.
        right, left = flat[:, order[1:]], flat[:, order[:-1]]
        sums = np.abs(right + left) * (right * left > 0)
        scale = np.maximum(scale, sums.max(axis=1, initial=0.0))
    scale = np.maximum(scale, 1e-8) / np.float32(_LIMIT)
    if least is not None:
        scale = np.maximum(scale, least)
    scale = scale.astype(np.float32)
    steps = flat / scale[:, None]
    nearest = np.clip(np.rint(steps), -_LIMIT, _LIMIT)
    rounded = nearest if covariance is None else _compensated(steps, covariance, orders)
    return np.moveaxis(rounded.astype(np.int8).reshape(rows.shape), 0, axis), scale


def _compensated(
    steps: NDArray[np.float32],  # [M, K]
    covariance: NDArray[np.float32],  # [K, K]
    orders: list[NDArray[np.intp]],  # [K] each; sums of neighbours are limited
) -> NDArray[np.float64]:
    """Round one input after the other and pass its error to later inputs (GPTQ, Frantar et al. 2023); return [M, K]."""
    count, channels = steps.shape[1], len(steps)
    rest = steps.T.astype(np.float64)
    exact = covariance.astype(np.float64)
    exact[np.diag_indices(count)] += max(_DAMPING * float(np.mean(np.diag(exact))), 1e-12)
    upper = np.linalg.cholesky(np.linalg.inv(exact)).T
    near = np.full((count, 2 * len(orders)), count)
    for index, order in enumerate(orders):
        near[order[1:], 2 * index] = order[:-1]
        near[order[:-1], 2 * index + 1] = order[1:]
    rounded = np.zeros((count + 1, channels))  # the last row stands for missing neighbours
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        errors = np.empty((stop - start, channels))
        for k in range(start, stop):
            neighbours = rounded[near[k]]
            highest = np.minimum(_LIMIT, _PAIR_LIMIT - neighbours.max(axis=0, initial=0.0))
            lowest = np.maximum(-_LIMIT, -_PAIR_LIMIT - neighbours.min(axis=0, initial=0.0))
            rounded[k] = np.clip(np.rint(rest[k]), lowest, highest)
            errors[k - start] = (rest[k] - rounded[k]) / upper[k, k]
            rest[k + 1 : stop] -= np.outer(upper[k, k + 1 : stop], errors[k - start])
        rest[stop:] -= upper[start:stop, stop:].T @ errors
    return rounded[:count].T


def least_squares_range(
    counts: NDArray[np.float64],  # [bins]
    low: float,
    high: float,
    symmetric: bool,
) -> tuple[float, float]:
    """Return the range of 256 levels with the least squared error of rounding and clipping.

    Args:
        counts: histogram of the values from `low` to `high`.
        low: lowest value, 0 or less.
        high: highest value, 0 or more.
        symmetric: make the range symmetric about zero.
    """
    width = (high - low) / len(counts)
    values = low + (np.arange(len(counts)) + 0.5) * width
    share = counts / max(counts.sum(), 1)
    # Zeros, which most rectifiers produce, are rounded without an error.
    rounded = np.where(np.abs(values) > width, share, 0.0).cumsum()

    def cut(limit: float, beyond: NDArray[np.bool_]) -> float:
        return float(np.sum(share[beyond] * (values[beyond] - limit) ** 2))

    if symmetric:
        low, high = -max(-low, high), max(-low, high)
    lows = [(low * s, cut(low * s, values < low * s)) for s in (_SHARES if low < 0 else _SHARES[-1:])]
    highs = [(high * s, cut(high * s, values > high * s)) for s in (_SHARES if high > 0 else _SHARES[-1:])]
    pairs = zip(lows, highs, strict=True) if symmetric else ((a, b) for a in lows for b in highs)
    best = (np.inf, low, high)
    for (a, below), (b, above) in pairs:
        first, last = np.searchsorted(values, (a, b))
        inside = rounded[min(last, len(rounded) - 1)] - (rounded[first - 1] if first else 0.0)
        best = min(best, (below + above + inside * ((b - a) / 255) ** 2 / 12, a, b))
    return best[1], best[2]


def shift(
    weight: NDArray[np.float32],  # [M, C / groups, h, w], or [C, M]
    rounded: NDArray[np.float32],  # as weight
    mean: NDArray[np.float32],  # [C]
) -> NDArray[np.float32]:
    """Return the mean error [M] of each output channel that rounded weights cause (Nagel et al. 2019).

    Args:
        weight: exact weights.
        rounded: rounded weights.
        mean: mean of each input channel.
    """
    error = rounded - weight
    if error.ndim == 2:
        return (mean @ error).astype(np.float32)
    taps = error.reshape(*error.shape[:2], -1).sum(axis=2)
    groups = len(mean) // taps.shape[1]
    by_group = taps.reshape(groups, -1, taps.shape[1])
    errors: NDArray[np.float32] = np.einsum("gmc,gc->gm", by_group, mean.reshape(groups, -1)).reshape(-1)
    return errors.astype(np.float32)
