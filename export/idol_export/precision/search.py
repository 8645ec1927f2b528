"""Search for the fastest int8 configuration within the limits."""

from collections.abc import Sequence
from functools import partial

import msgspec
import numpy as np

from idol_deploy.progress import Announce, counted
from idol_export.precision.base import Precision, ReduceOptions
from idol_export.precision.integer_graphs import IntegerGraphs
from idol_export.verify.candidate import Candidate
from idol_export.verify.clips import spread_frames
from idol_export.verify.reference_graph import ReferenceGraph
from idol_runtime.backends.onnxruntime import run_session
from idol_runtime.bundle.bundle import OUTPUT_NAMES
from idol_runtime.bundle.certificates import IdAgreement, SearchStep
from idol_runtime.preprocess import resize
from idol_runtime.timing import interleaved

__all__ = ["Evaluation", "search"]

_ERROR_FRAMES = 4
_ROUNDS = 15


class Evaluation:
    """Measurements of int8 graphs against the fp32 graph: output error, tracks, annotation scores and speed."""

    def __init__(self, precision: Precision, reference: ReferenceGraph, options: ReduceOptions) -> None:
        assert options.calibrate is not None
        self._precision, self._reference, self._limit = precision, reference, options.id_limit
        frames = spread_frames(options.calibrate, _ERROR_FRAMES)
        self._images = [resize(frame, reference.network_size)[None] for frame in frames]
        session = reference.candidate.open_graph()
        self._expected = [run_session(session, OUTPUT_NAMES, image) for image in self._images]

    def candidate(self, probe: bytes) -> Candidate:
        """Return the graph of an int8 probe."""
        return self._precision.candidate(self._reference.candidate, probe)

    def error(self, candidate: Candidate) -> float:
        """Return the norm of the output error over the norm of the fp32 output, the mean of all outputs."""
        session = candidate.open_graph()
        errors, norms = np.zeros(len(OUTPUT_NAMES)), np.zeros(len(OUTPUT_NAMES))
        for image, expected in zip(self._images, self._expected, strict=True):
            outputs = run_session(session, OUTPUT_NAMES, image)
            errors += [np.sum((outputs[name] - expected[name]) ** 2) for name in OUTPUT_NAMES]
            norms += [np.sum(expected[name] ** 2) for name in OUTPUT_NAMES]
        return float(np.mean(np.sqrt(errors / np.maximum(norms, 1e-12))))

    def agreement(self, candidate: Candidate) -> IdAgreement:
        """Compare the graph's tracks with those of fp32."""
        return self._reference.agreement(candidate, self._limit)

    def scores_pass(self, candidate: Candidate) -> bool:
        """Return whether the annotation scores are close to those of fp32; True without annotations."""
        scores = self._reference.annotation_scores(candidate)
        return scores is None or scores.passed

    def speeds(self, candidates: Sequence[Candidate]) -> Sequence[float | None]:
        """Return the speed of each graph on this processor as a multiple of the fp32 speed.

        The speeds are medians of interleaved runs, and None if no CPU computes as the quantization target does.
        """
        if not self._precision.integers:
            return [None] * len(candidates)
        image = resize(self._reference.golden_frame.frame, self._reference.network_size)[None]
        sessions = [candidate.open_graph() for candidate in (self._reference.candidate, *candidates)]
        times = interleaved(
            [partial(run_session, session, OUTPUT_NAMES, image) for session in sessions], _ROUNDS
        )
        return [float(ratio) for ratio in np.median(times[:, :1] / times[:, 1:], axis=0)]


def search(
    graphs: IntegerGraphs, default: Sequence[str], evaluation: Evaluation, announce: Announce
) -> tuple[SearchStep, ...]:
    """Measure each group alone, then bisect the number of groups in int8.

    Groups enter int8 in the order of their squared output error per share of multiplications. The error of the outputs
    ranks single groups, because one identity that changes by chance would hide what a group costs. Such an identity
    may also end the bisection too early, so the default configuration is tried as well if it has more nodes in int8.

    Args:
        graphs: maker of the int8 graphs.
        default: groups that stay fp32 without a search.
        evaluation: measurements of a graph.
        announce: called with each step and its finished groups.

    Returns:
        All steps: single groups, then the bisection with the best configuration last. If no configuration is within
        the limits, the last step is one that fails.
    """
    shares = graphs.shares
    alone = []
    for group in counted(shares, announce, "measuring the int8 error of each group", len(shares), "groups"):
        kept = tuple(other for other in shares if other != group)
        error = evaluation.error(evaluation.candidate(graphs.alone(group)))
        # Independent errors add up by their squares.
        alone.append((error**2 / shares[group], group, SearchStep(kept, shares[group], error)))
    order = [group for _, group, _ in sorted(alone, key=lambda entry: entry[0])]
    tried: list[tuple[SearchStep, Candidate]] = []

    def passes(kept: tuple[str, ...]) -> bool:
        announce(f"quantizing with {len(kept)} of {len(order)} groups in fp32")
        candidate = evaluation.candidate(graphs.probe(kept))
        agreement = evaluation.agreement(candidate)
        passed = agreement.passed and evaluation.scores_pass(candidate)
        error = evaluation.error(candidate)
        tried.append((SearchStep(kept, graphs.share(kept), error, agreement.idf1, passed), candidate))
        return passed

    most, least = len(order), 0
    while least < most:
        count = (least + most + 1) // 2
        least, most = (count, most) if passes(tuple(order[count:])) else (least, count - 1)
    known = tuple(group for group in order if group in default)
    if graphs.share(known) > graphs.share(order[least:]) and set(known) not in [
        set(s.kept) for s, _ in tried
    ]:
        passes(known)
    announce("timing the configurations within the limits, interleaved with fp32")
    return (*(step for _, _, step in alone), *_timed(tried, evaluation))


def _timed(tried: Sequence[tuple[SearchStep, Candidate]], evaluation: Evaluation) -> list[SearchStep]:
    """Return the steps from worst to best: by speed, or by the share of multiplications if none can be timed."""
    passed = [entry for entry in tried if entry[0].held]
    timed = [
        msgspec.structs.replace(step, speed=speed)
        for (step, _), speed in zip(passed, evaluation.speeds([graph for _, graph in passed]), strict=True)
    ]
    failed = [step for step, _ in tried if not step.held]
    return failed + sorted(timed, key=lambda step: (step.speed or 0.0, step.integer_share))
