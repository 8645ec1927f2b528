"""Which of a bundle's graphs a backend runs: of those that were verified, in a dialect that it has, the fastest."""

from collections.abc import Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from idol_runtime.backends.base import Backend
from idol_runtime.bundle.bundle import Bundle
from idol_runtime.bundle.certificates import GraphInfo, ReducedName
from idol_runtime.errors import BackendError
from idol_runtime.preprocess import resize
from idol_runtime.timing import interleaved

__all__ = ["fastest", "require_graph", "verified_graphs"]

_GAIN = 1.1  # less is noise, and no reason to leave fp32
_LEAST_ROUNDS, _MOST_ROUNDS, _BUDGET_MS = 3, 15, 1000.0


def verified_graphs(bundle: Bundle, targets: Sequence[str]) -> list[ReducedName]:
    """The graphs of fewer bits that a backend of these dialects may run."""
    return [
        name
        for name, info in bundle.manifest.precisions.items()
        if info.target in targets and bundle.certificates.precisions[name].passed
    ]


def require_graph(bundle: Bundle, name: ReducedName, targets: Sequence[str], backend: str) -> GraphInfo:
    """What a graph of fewer bits is, if a backend may run it.

    Raises:
        BackendError: the bundle lacks it, it is in another dialect, or it was never shown to keep identities.
    """
    info = bundle.manifest.precisions.get(name)
    if info is None:
        precision, _, target = name.partition("-")
        wanted = f"--precision {precision}" + (f" --target {target}" if target else "")
        raise BackendError(f"the bundle has no {name} graph; export it with {wanted}")
    if info.target not in targets:
        raise BackendError(
            f"the {name} graph is made for {info.made_for}, which {backend} is not; leave --graph out, or "
            "use --graph plugin"
        )
    failures = bundle.certificates.precisions[name].failures
    if failures:
        raise BackendError(
            f"the {name} graph was never shown to track as fp32 does (failed: {', '.join(failures)}); use "
            "another graph, or export it again without --unverified"
        )
    return info


_B = TypeVar("_B", bound=Backend)


def fastest(exact: _B, others: Sequence[_B], bundle: Bundle) -> tuple[_B, str]:
    """The backend that answers the golden frame soonest, and why it is the one; the others are closed.

    Args:
        exact: runs a graph of fp32, and is taken where no other gains a tenth.
        others: run verified graphs of fewer bits.
        bundle: theirs.
    """
    image = resize(bundle.golden_frame().frame, bundle.manifest.network_size)[None]
    runs = [partial(backend.infer, image) for backend in (exact, *others)]
    times = interleaved(runs, _LEAST_ROUNDS)
    more = min(_MOST_ROUNDS, int(_BUDGET_MS / np.median(times.sum(axis=1)))) - len(times)
    if more > 0:  # a small network's times differ by more than it gains
        times = np.concatenate([times, interleaved(runs, more, first=0)])
    gains = np.median(times[:, :1] / times[:, 1:], axis=0)
    best = int(gains.argmax())
    gain = float(gains[best])
    chosen = others[best] if gain >= _GAIN else exact
    for backend in (exact, *others):
        if backend is not chosen:
            backend.close()
    if chosen is exact:
        return exact, f"this is fp32, for {others[best].graph} is hardly faster here ({gain:.2f} times)"
    return chosen, f"{chosen.graph} is {gain:.1f} times as fast as {exact.graph} on the golden frame"
