"""Numbers to integers with the least error: ranges of activations, integers of weights, and what rounding shifts."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["integers", "least_squares_range", "shift"]

_LIMIT = 127
_PAIR_LIMIT = 128
_DAMPING = 0.01  # of the mean variance: what is drawn is not all that will come
_BLOCK = 128  # of inputs, whose errors move to later ones in one product
_SHARES = np.linspace(0.3, 1, 29)  # of the largest value, that a range may end at


def integers(
    weight: NDArray[np.float32],
    axis: int,
    *,
    paired: bool,
    least: NDArray[np.float32] | None = None,
    covariance: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric integers of 8 bits with a scale for each index of `axis`, no scale below `least`.

    Args:
        weight: [M, C, h, w] of a convolution, or a matrix.
        axis: of the output channels.
        paired: neighbours in a sum of products add up to 128 at most: processors without dot-product instructions
            add their products with unsigned activations in 16 bits.
        least: [M].
        covariance: [K, K] of what is multiplied, in the order of one channel's weights: integers are then not the
            nearest, but such that errors of weights whose inputs go together take each other back.
    """
    rows = np.moveaxis(weight, axis, 0)
    flat = rows.reshape(len(rows), -1)
    orders = _orders(rows.shape[1:]) if paired else []
    scale = np.abs(flat).max(axis=1)
    for order in orders:
        # Rounding adds half a step to each of the two.
        one, other = flat[:, order[1:]], flat[:, order[:-1]]
        sums = np.abs(one + other) * (one * other > 0)
        scale = np.maximum(scale, sums.max(axis=1, initial=0.0))
    scale = np.maximum(scale, 1e-8) / np.float32(_LIMIT)
    if least is not None:
        scale = np.maximum(scale, least)
    scale = scale.astype(np.float32)
    steps = flat / scale[:, None]
    found = _nearest(steps) if covariance is None else _compensated(steps, covariance, orders)
    return np.moveaxis(found.astype(np.int8).reshape(rows.shape), 0, axis), scale


def _nearest(steps: NDArray[np.float32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.clip(np.rint(steps), -_LIMIT, _LIMIT)
    return found


def _orders(shape: tuple[int, ...]) -> list[NDArray[np.intp]]:
    """In which sums over the weights of one channel run: channels first or last."""
    places = np.arange(np.prod(shape)).reshape(shape)
    return [places.reshape(-1), np.moveaxis(places, 0, -1).reshape(-1)]


def _compensated(
    steps: NDArray[np.float32],  # [M, K]
    covariance: NDArray[np.float32],  # [K, K]
    orders: list[NDArray[np.intp]],  # [K] each; neighbours in them are kept from overflowing
) -> NDArray[np.float64]:
    """[M, K]: whole numbers with a small error of the sum, rounded one input after the other (Frantar et al. 2023)."""
    count, channels = steps.shape[1], len(steps)
    rest = steps.T.astype(np.float64)
    exact = covariance.astype(np.float64)
    exact[np.diag_indices(count)] += max(_DAMPING * float(np.mean(np.diag(exact))), 1e-12)
    upper = np.linalg.cholesky(np.linalg.inv(exact)).T
    near = np.full((count, 2 * len(orders)), count)
    for index, order in enumerate(orders):
        near[order[1:], 2 * index] = order[:-1]
        near[order[:-1], 2 * index + 1] = order[1:]
    found = np.zeros((count + 1, channels))  # the last: what has no neighbour, or none yet
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        errors = np.empty((stop - start, channels))
        for k in range(start, stop):
            beside = found[near[k]]
            highest = np.minimum(_LIMIT, _PAIR_LIMIT - beside.max(axis=0, initial=0.0))
            lowest = np.maximum(-_LIMIT, -_PAIR_LIMIT - beside.min(axis=0, initial=0.0))
            found[k] = np.clip(np.rint(rest[k]), lowest, highest)
            errors[k - start] = (rest[k] - found[k]) / upper[k, k]
            rest[k + 1 : stop] -= np.outer(upper[k, k + 1 : stop], errors[k - start])
        rest[stop:] -= upper[start:stop, stop:].T @ errors
    return found[:count].T


def least_squares_range(
    counts: NDArray[np.float64],  # [bins]
    low: float,
    high: float,
    symmetric: bool,
) -> tuple[float, float]:
    """Where 256 levels begin and end, that the squared error of what they round and cut off is least.

    Args:
        counts: histogram of the values between
        low: 0 or less, and
        high: 0 or more.
        symmetric: the range must be.
    """
    width = (high - low) / len(counts)
    values = low + (np.arange(len(counts)) + 0.5) * width
    share = counts / max(counts.sum(), 1)
    # Zeros, of a rectifier mostly, are rounded to themselves.
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
    rounded: NDArray[np.float32],  # likewise
    mean: NDArray[np.float32],  # [C]
) -> NDArray[np.float32]:
    """[M]: what rounded weights add to the mean of each output channel, of inputs of this mean (Nagel et al. 2019)."""
    error = rounded - weight
    if error.ndim == 2:
        return (mean @ error).astype(np.float32)
    taps = error.reshape(*error.shape[:2], -1).sum(axis=2)
    groups = len(mean) // taps.shape[1]
    by_group = taps.reshape(groups, -1, taps.shape[1])
    found: NDArray[np.float32] = np.einsum("gmc,gc->gm", by_group, mean.reshape(groups, -1)).reshape(-1)
    return found.astype(np.float32)
