"""Compares every home of the kernel that is here with the numpy twin, on ordinary and adversarial inputs."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from idol_plugins.cases import TOLERANCES, Case, make_cases
from idol_plugins.errors import PluginError
from idol_plugins.home import BUILD, Home, Variant
from idol_plugins.homes import all_homes

__all__ = ["Failure", "Outcome", "Report", "difference", "selftest"]

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Failure:
    """A case in which a home disagrees with the twin.

    Attributes:
        case: its title.
        problem: the error and what is allowed, or what the home said.
    """

    case: str
    problem: str


@dataclass(frozen=True)
class Outcome:
    """What came of one way to run a home.

    Attributes:
        home: its name.
        variant: the way's name; empty where the home could not be run.
        cases: how many it computed.
        errors: the largest relative L2 error by type of value.
        failures: cases in which it disagrees.
        untested: why it was not run; empty: it was.
    """

    home: str
    variant: str
    cases: int
    errors: dict[str, float]
    failures: tuple[Failure, ...]
    untested: str = ""


@dataclass(frozen=True)
class Report:
    """Of all homes.

    Attributes:
        seed: that made the cases.
        outcomes: one per way to run a home.
    """

    seed: int
    outcomes: tuple[Outcome, ...]

    @property
    def failures(self) -> list[str]:
        """One line each: home, case, and error."""
        return [
            f"{outcome.home} {outcome.variant}, {failure.case}: {failure.problem}"
            for outcome in self.outcomes
            for failure in outcome.failures
        ]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"passed": not self.failures, "tolerances": TOLERANCES, **asdict(self)}

    def table(self) -> str:
        """For people."""
        lines = [f"{'home':24} {'cases':>5}   largest error, allowed"]
        for outcome in self.outcomes:
            name = f"{outcome.home} {outcome.variant}".rstrip()
            if outcome.untested:
                lines.append(f"{name:24} {'-':>5}   not tested: {outcome.untested}")
                continue
            errors = ", ".join(
                f"{dtype} {error:.1e} ({TOLERANCES[dtype]:.0e})" for dtype, error in outcome.errors.items()
            )
            failed = f"   {len(outcome.failures)} FAILED" if outcome.failures else ""
            lines.append(f"{name:24} {outcome.cases:5}   {errors}{failed}")
        return "\n".join(lines)


def selftest(
    homes: Sequence[Home] | None = None,
    *,
    seed: int = 0,
    cases: int = 24,
    announce: Callable[[str], None] = lambda _: None,
) -> Report:
    """Run every home that is here.

    Args:
        homes: None: `all_homes()`.
        seed: of the cases.
        cases: how many of random sizes, besides the special ones.
        announce: told what is being tested.

    Raises:
        PluginError: there is nothing to test.
    """
    all_cases = make_cases(seed, cases)
    outcomes = []
    for home in all_homes() if homes is None else homes:
        variants, untested = _variants(home)
        if untested:
            outcomes.append(Outcome(home.name, "", 0, {}, (), untested))
        for variant in variants:
            announce(f"testing {home.title}, {variant.name}")
            outcomes.append(_test(home, variant, all_cases))
    if not any(outcome.cases for outcome in outcomes):
        raise PluginError(f"no home of the kernel is here to be tested; build one: {BUILD}")
    return Report(seed, tuple(outcomes))


def _variants(home: Home) -> tuple[list[Variant], str]:
    """All ways to run a home; or none, and why."""
    status = home.status()
    if not status.ready:
        return [], f"{status.why}; {status.fix}"
    try:
        return home.variants(), ""
    except PluginError as error:
        return [], str(error)


def _test(home: Home, variant: Variant, cases: Sequence[Case]) -> Outcome:
    errors: dict[str, float] = {}
    failures, count = [], 0
    for case in cases:
        try:
            out = variant.run(case)
        except Exception as raised:  # noqa: BLE001 - a home that raises is a home that fails
            failures.append(Failure(case.title, " ".join(f"{type(raised).__name__}: {raised}".split())))
            count += 1
            continue
        if out is None:
            continue
        count += 1
        error, problem = difference(out, case.expected_classic if variant.classic else case.expected)
        errors[case.dtype] = max(errors.get(case.dtype, 0.0), error)
        if problem or error > TOLERANCES[case.dtype]:
            failures.append(
                Failure(case.title, problem or f"error {error:.1e}, allowed {TOLERANCES[case.dtype]:.0e}")
            )
    return Outcome(home.name, variant.name, count, errors, tuple(failures))


def difference(found: Array, expected: Array) -> tuple[float, str]:
    """Relative L2 error where the expected array is finite, and what is wrong elsewhere, or empty."""
    if found.shape != expected.shape:
        return 0.0, f"the output is {found.shape}, not {expected.shape}"
    wrong = np.isnan(found) != np.isnan(expected)
    wrong |= np.isinf(expected) & (found != expected)
    finite = np.isfinite(expected)
    wrong |= finite & ~np.isfinite(found)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        return (
            0.0,
            f"{wrong.sum()} numbers such as {found[at]} at {list(at)}, where the twin has {expected[at]:.4g}",
        )
    size = float(np.linalg.norm(expected[finite]))
    error = float(np.linalg.norm(found[finite].astype(np.float64) - expected[finite]))
    if size == 0:
        return 0.0, "" if error == 0 else f"the output is not zero: {error:.1e}"
    return error / size, ""
