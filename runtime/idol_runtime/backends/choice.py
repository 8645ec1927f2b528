"""The choice of the fastest candidate of a bundle: right on the golden frame, timed on it, and remembered."""

import contextlib
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from idol_plugins.errors import PluginError
from idol_runtime.backends.base import BundleBackend, OpenOptions, device_kind
from idol_runtime.backends.opening import Candidate, list_candidates
from idol_runtime.backends.remembered import Choice, load_choice, store_choice
from idol_runtime.bundle.bundle import GRAPHS, Bundle
from idol_runtime.bundle.engine_file import engines_of
from idol_runtime.errors import IdolError, MissingDependencyError
from idol_runtime.preprocess import resize
from idol_runtime.timing import interleaved, paired_ratio

__all__ = ["Check", "explain", "open_backend"]

Check = Callable[[BundleBackend], object]

_MIN_ROUNDS, _MAX_ROUNDS, _BUDGET_MS = 5, 15, 2000.0
_CLEAR = 2.0  # ratio of two times that more rounds would not change


def open_backend(
    bundle: Bundle,
    options: OpenOptions | None = None,
    check: Check = lambda _: None,
    announce: Callable[[str], object] = lambda _: None,
) -> BundleBackend:
    """Load the graph of the bundle that runs fastest on this machine, in the engine and on the device where it does.

    The choice is remembered in the user's cache until something that it depends on changes.

    Args:
        bundle: bundle of the graph.
        options: limits of the choice, and the number of threads; None: the defaults.
        check: function that raises a `BackendError` if the outputs of a backend are wrong.
        announce: function that receives the step, while candidates are timed.

    Returns:
        The backend. `reason` has the choice and, in a second line, how to get a faster one; it is empty if the options
        left no choice.

    Raises:
        ConfigError: the backend is unknown.
        MissingDependencyError: no inference engine is installed, or not the named one.
        PluginError: the plugin graph was asked for, and its library is not built.
        BackendError: no candidate runs; the message is that of the last one.
    """
    options = options or OpenOptions()
    choice = load_choice(bundle, options)
    if choice is not None:
        with contextlib.suppress(IdolError):
            for candidate in list_candidates(bundle, replace(options, backend=choice.backend)):
                if (candidate.device, candidate.graph) == (choice.device, choice.graph):
                    return _explained(_open(candidate, bundle, options, check), choice)
    candidates = list_candidates(bundle, options)
    best, backend = _fastest(bundle, options, check, announce, candidates)
    if best is None or backend is None:
        raise _failure(candidates)
    if len(candidates) > 1:
        _explained(backend, _store(bundle, options, best, candidates))
    return backend


def explain(
    bundle: Bundle, options: OpenOptions, check: Check, announce: Callable[[str], object] = lambda _: None
) -> tuple[list[Candidate], Choice | None]:
    """Try every candidate and remember the fastest; return all with their results, and the choice if one runs.

    Arguments and errors of the options are those of `open_backend`.
    """
    candidates = list_candidates(bundle, options)
    best, backend = _fastest(bundle, options, check, announce, candidates)
    if best is None or backend is None:
        return candidates, None
    with contextlib.closing(backend):
        if best.ms is None:  # it had no rival
            best.ms = float(np.median(interleaved([partial(backend.infer, _image(bundle))], _MIN_ROUNDS)))
    return candidates, _store(bundle, options, best, candidates)


def _fastest(
    bundle: Bundle,
    options: OpenOptions,
    check: Check,
    announce: Callable[[str], object],
    candidates: Sequence[Candidate],
) -> tuple[Candidate, BundleBackend] | tuple[None, None]:
    """Load, check and time the candidates; return the fastest, with its backend.

    A candidate that cannot run, or whose outputs are wrong, is passed over. At most two are open at a time: the fastest
    so far, and its rival.
    """
    image = _image(bundle)
    best: Candidate | None = None
    backend: BundleBackend | None = None
    # The stack closes the backends after an interrupt; a backend may be closed twice.
    with contextlib.ExitStack() as stack:
        for candidate in candidates:
            _pass_over_fallback(candidate, candidates)
            if candidate.why_not:
                continue
            announce(f"trying {candidate} ({candidate.device})")
            try:
                rival = _open(candidate, bundle, options, check)
            except IdolError as error:
                candidate.refuse(error)
                continue
            stack.callback(rival.close)
            if best is None or backend is None:
                best, backend, candidate.speed = candidate, rival, 1.0
            elif _is_faster(candidate, best, _times(rival, backend, image)):
                backend.close()
                best, backend = candidate, rival
            else:
                rival.close()
        stack.pop_all()
    if best is None or backend is None:
        return None, None
    fastest = best.speed
    for candidate in candidates:
        candidate.speed /= fastest
        if candidate.ms is not None and best.ms is not None:
            candidate.ms = best.ms / candidate.speed  # as in the same minute
    return best, backend


def _image(bundle: Bundle) -> NDArray[np.uint8]:
    """Return the golden frame as the network takes it, [1, h, w, 3]."""
    return resize(bundle.golden_frame().frame, bundle.manifest.network_size)[None]


def _store(bundle: Bundle, options: OpenOptions, best: Candidate, candidates: Sequence[Candidate]) -> Choice:
    hint = _hint(bundle, best, candidates)
    return store_choice(bundle, options, best, _sentence(best, candidates), hint)


def _open(candidate: Candidate, bundle: Bundle, options: OpenOptions, check: Check) -> BundleBackend:
    """Load the graph of a candidate and check its outputs."""
    backend = candidate.open(bundle, options)
    try:
        check(backend)
    except BaseException as error:
        candidate.wrong = isinstance(error, IdolError)
        backend.close()
        raise
    return backend


def _pass_over_fallback(candidate: Candidate, candidates: Sequence[Candidate]) -> None:
    """Pass over the portable graph where a faster fp32 graph of the same engine runs."""
    if candidate.graph != "portable" or candidate.kind.timed is None:
        return
    place = candidate.backend, candidate.device
    for other in candidates:
        if (other.backend, other.device) == place and other.exact and other.speed:
            candidate.why_not = f"slower than the {other.graph} graph, which runs here"


def _times(rival: BundleBackend, backend: BundleBackend, image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return interleaved times of two backends: two rounds if their ratio is clear, else about two seconds."""
    runs = [partial(rival.infer, image), partial(backend.infer, image)]
    times = interleaved(runs, 2)
    ratios = times[:, 0] / times[:, 1]
    if ratios.min() > _CLEAR or ratios.max() < 1 / _CLEAR:
        return times
    rounds = np.clip(_BUDGET_MS / times.sum(axis=1).mean(), _MIN_ROUNDS, _MAX_ROUNDS)
    return np.concatenate([times, interleaved(runs, int(rounds) - len(times), warmup=0)])


def _is_faster(rival: Candidate, best: Candidate, times: NDArray[np.float64]) -> bool:
    """Store the times of a comparison, [rounds, 2], and return whether the rival replaces the best candidate so far.

    The faster one of the two must be faster in three of four rounds. Otherwise the difference is within the noise: an
    fp32 graph then wins over a reduced-precision graph, and the best candidate over another rival.
    """
    rival.ms, best.ms = (float(ms) for ms in np.median(times, axis=0))
    rival.speed = best.speed * paired_ratio(times[:, 1], times[:, 0])["median"]
    low, high = np.quantile(times[:, 1] / times[:, 0], (0.25, 0.75))
    return bool(high >= 1 if rival.exact and not best.exact else low > 1)


def _failure(candidates: Sequence[Candidate]) -> IdolError:
    """Return the error of the last candidate of an installed engine."""
    errors = [candidate.error for candidate in candidates if candidate.error is not None]
    installed = [error for error in errors if not isinstance(error, MissingDependencyError)]
    if not installed and len(errors) > 1:
        if all(candidate.device.startswith("cuda") for candidate in candidates):
            return MissingDependencyError("onnxruntime", "gpu", "running the network on cuda")
        return MissingDependencyError("onnxruntime or openvino", "cpu", "running the network")
    return (installed or errors)[-1]


def _sentence(best: Candidate, candidates: Sequence[Candidate]) -> str:
    others = [candidate for candidate in candidates if candidate.speed and candidate is not best]
    if not others:
        return f"running {best} ({best.device})"
    second = max(others, key=lambda candidate: candidate.speed)
    gain = 1 / second.speed
    if gain < 1.05:
        return f"running {best} ({best.device}): within the noise as fast as {second}, the next best"
    return f"running {best} ({best.device}): {gain:.1f} times as fast as {second}, the next best"


def _hint(bundle: Bundle, best: Candidate, candidates: Sequence[Candidate]) -> str:
    """Return why a candidate does not run that may be faster, with the command that changes it; empty without one."""
    named = [(rank, c) for c in candidates if (rank := _rank(bundle, best, c)) is not None]
    if not named:
        return ""
    candidate = min(named, key=lambda entry: entry[0])[1]
    return f"not running {candidate}, which may be faster: {candidate.why_not}"


def _rank(bundle: Bundle, best: Candidate, candidate: Candidate) -> int | None:
    """Return the place of a candidate's error among those worth naming, from 0; None: no command makes it run."""
    on_cpu = device_kind(candidate.device) == "cpu"
    if candidate.error is None or (on_cpu and best.device != "cpu"):
        return None
    if candidate.wrong:
        return 4 if on_cpu else 0
    if not re.search("idol-deploy|pip install", candidate.why_not):
        return None
    if isinstance(candidate.error, PluginError):
        return 1 if _can_build() else 5
    if not isinstance(candidate.error, MissingDependencyError):
        return 3 if on_cpu else 0
    if candidate.backend == "tensorrt":
        return 0 if any(engines_of(bundle, graph) for graph in GRAPHS) else None
    recommended = candidate.backend == "openvino" and platform.machine() in ("x86_64", "AMD64")
    return 2 if recommended else None


def _can_build() -> bool:
    from idol_plugins.build import compiler

    with contextlib.suppress(PluginError):
        return bool(compiler())
    return False


def _explained(backend: BundleBackend, choice: Choice) -> BundleBackend:
    """Set the reason of a backend and return it."""
    first, *hint = choice.lines
    backend.reason = "\n".join(("; ".join(filter(None, (first, backend.reason))), *hint))
    return backend
