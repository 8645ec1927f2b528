"""Which parts of a network to compute in integers: the fastest choice among those that lose no more than allowed."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from idol_export.graph.tracing import shipped
from idol_export.precision.integer_graphs import IntegerGraphs
from idol_runtime.backends.onnxruntime import open_session, run_session
from idol_runtime.bundle.bundle import OUTPUT_NAMES
from idol_runtime.bundle.certificates import IdAgreement, SearchStep
from idol_runtime.timing import interleaved

__all__ = ["output_error", "search", "speeds"]

_ROUNDS = 15


def search(
    graphs: IntegerGraphs,
    usual: Sequence[str],
    error: Callable[[bytes], float],
    agreement: Callable[[bytes], IdAgreement],
    scores_hold: Callable[[bytes], bool],
    measure: Callable[[Sequence[bytes]], Sequence[float | None]],
    announce: Callable[[str], None],
) -> tuple[SearchStep, ...]:
    """Measure each group alone, then bisect for how many hold together, in the order of what they gain for their loss.

    Alone they are told apart by their outputs' errors: one identity that happens to change hides what a group costs.
    It may end a bisection too soon as well, so what is usual is tried too, where it has more in integers.

    Args:
        graphs: makes what is tried.
        usual: groups that are kept without a search.
        error: of a shipped graph's outputs.
        agreement: of its tracks.
        scores_hold: whether a graph's scores against ground truth do.
        measure: how many times as fast as fp32 each graph is; None: nobody here can tell.
        announce: called with each step's name.

    Returns:
        All that was tried, groups alone first, then what was bisected, the best at the end; without any that held,
        the end is one that did not.
    """
    shares = graphs.shares
    alone = []
    for index, group in enumerate(shares):
        announce(f"measuring what {group} loses in int8, {index + 1} of {len(shares)}")
        others = tuple(other for other in shares if other != group)
        found = error(shipped(graphs.alone(group)))
        # Independent errors add by their squares.
        alone.append((found**2 / shares[group], group, SearchStep(others, shares[group], found)))
    order = [group for _, group, _ in sorted(alone, key=lambda entry: entry[0])]
    together: list[tuple[SearchStep, bytes]] = []

    def holds(kept: tuple[str, ...]) -> bool:
        announce(f"comparing tracks with {len(kept)} of {len(order)} groups kept in fp32")
        graph = shipped(graphs.probe(kept))
        found_ids = agreement(graph)
        held = found_ids.passed and scores_hold(graph)
        step = SearchStep(kept, graphs.share(kept), error(graph), found_ids.idf1, held)
        together.append((step, graph))
        return held

    most, least = len(order), 0
    while least < most:
        count = (least + most + 1) // 2
        least, most = (count, most) if holds(tuple(order[count:])) else (least, count - 1)
    known = tuple(group for group in order if group in usual)
    tried = [set(step.kept) for step, _ in together]
    if graphs.share(known) > graphs.share(order[least:]) and set(known) not in tried:
        holds(known)
    announce("timing what holds, in turns with fp32")
    return (*(step for _, _, step in alone), *_timed(together, measure))


def _timed(
    tried: Sequence[tuple[SearchStep, bytes]], measure: Callable[[Sequence[bytes]], Sequence[float | None]]
) -> list[SearchStep]:
    """With their speeds where they hold, from the worst to the best; by multiplications where none can be timed."""
    held = [entry for entry in tried if entry[0].held]
    timed = [
        msgspec.structs.replace(step, speed=speed)
        for (step, _), speed in zip(held, measure([graph for _, graph in held]), strict=True)
    ]
    failed = [step for step, _ in tried if not step.held]
    return failed + sorted(timed, key=lambda step: (step.speed or 0.0, step.integer_share))


def speeds(
    fp32: bytes,
    graphs: Sequence[bytes],
    image: NDArray[np.uint8],  # [h, w, 3]
    libraries: Sequence[Path],
) -> list[float]:
    """How many times as fast as fp32 each graph is on this processor: medians of runs in turns."""
    sessions = [open_session(graph, libraries=libraries) for graph in (fp32, *graphs)]
    times = interleaved(
        [partial(run_session, session, OUTPUT_NAMES, image[None]) for session in sessions], _ROUNDS
    )
    return [float(ratio) for ratio in np.median(times[:, :1] / times[:, 1:], axis=0)]


def output_error(
    session: Any,
    expected: Sequence[Mapping[str, NDArray[np.float32]]],
    images: Sequence[NDArray[np.uint8]],  # [h, w, 3] each
) -> float:
    """Of a session's outputs against these: norm of the difference over norm, the mean of all outputs."""
    off, whole = np.zeros(len(OUTPUT_NAMES)), np.zeros(len(OUTPUT_NAMES))
    for image, exact in zip(images, expected, strict=True):
        found = run_session(session, OUTPUT_NAMES, image[None])
        off += [np.sum((found[name] - exact[name]) ** 2) for name in OUTPUT_NAMES]
        whole += [np.sum(exact[name] ** 2) for name in OUTPUT_NAMES]
    return float(np.mean(np.sqrt(off / np.maximum(whole, 1e-12))))
