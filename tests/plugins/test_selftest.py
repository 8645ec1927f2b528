"""That the selftest passes what is right, and names what is not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from idol_plugins.cases import Case, make_cases
from idol_plugins.errors import PluginError
from idol_plugins.home import Status, Variant
from idol_plugins.homes import CpuHome
from idol_plugins.selftest import difference, selftest

Array = NDArray[np.floating]


class FakeHome:
    """Answers as the twin does, but for what `corrupt` does to it."""

    name = "fake"
    title = "a home of straw"

    def __init__(self, corrupt: Callable[[Case, Array], Array], status: Status | None = None) -> None:
        self._corrupt, self._status = corrupt, status or Status()

    def status(self) -> Status:
        return self._status

    def variants(self) -> list[Variant]:
        return [Variant("straw", lambda case: self._corrupt(case, case.expected.astype(np.float32)))]


def test_what_is_built_passes(libraries: Path) -> None:
    said: list[str] = []
    report = selftest([CpuHome(libraries / "libidol_deform_attn_cpu.so")], cases=4, announce=said.append)
    assert not report.failures
    scalar = next(outcome for outcome in report.outcomes if outcome.variant == "scalar")
    assert scalar.cases == len(make_cases(count=4))
    assert set(scalar.errors) == {"float32", "float16", "bfloat16"}
    assert 0 < scalar.errors["float32"] < 1e-5
    assert "testing CPU kernel, scalar" in said
    assert report.as_dict()["passed"] is True


@pytest.mark.parametrize("name", ["points", "cell edges", "an encoder", "NaN logits"])
def test_one_wrong_number_in_one_case_is_found(name: str) -> None:
    def corrupt(case: Case, out: Array) -> Array:
        if (case.name, case.dtype) == (name, "float32"):
            out[0, -1, 3] += 1e-3
        return out

    report = selftest([FakeHome(corrupt)], cases=0)
    (failure,) = report.failures
    assert failure.startswith(f"fake straw, {name}, float32 values, float32 projections: error ")
    assert "allowed 1e-05" in failure
    assert "1 FAILED" in report.table()
    assert report.as_dict()["passed"] is False


def test_a_number_for_a_nan_is_found() -> None:
    report = selftest([FakeHome(lambda case, out: np.nan_to_num(out))], cases=0)
    assert {failure.split(", ")[1] for failure in report.failures} >= {"NaN logits", "infinite logits"}
    assert all("the twin has nan" in failure for failure in report.failures)


def test_a_home_that_raises_fails_by_name() -> None:
    def corrupt(case: Case, out: Array) -> Array:
        if case.name == "no queries":
            raise ValueError("of nothing\ncomes nothing")
        return out

    failures = selftest([FakeHome(corrupt)], cases=0).failures
    assert len(failures) == 4
    assert failures[0].endswith("ValueError: of nothing comes nothing")


def test_a_home_that_is_not_here_is_said_and_nothing_else_hidden() -> None:
    absent = FakeHome(lambda case, out: out, Status(why="not built", fix="build it"))
    report = selftest([absent, FakeHome(lambda case, out: out)], cases=0)
    assert report.outcomes[0].untested == "not built; build it"
    assert not report.failures
    assert "not tested: not built; build it" in report.table()
    with pytest.raises(PluginError, match="idol-deploy plugins build"):
        selftest([absent], cases=0)


@pytest.mark.parametrize(
    ("found", "expected", "problem"),
    [
        ([1.0, 2.0], [1.0, 2.0], ""),
        ([1.0], [1.0, 2.0], "the output is (1,), not (2,)"),
        ([1.0, np.inf], [1.0, 2.0], "inf at [1]"),
        ([np.inf, 1.0], [-np.inf, 1.0], "twin has -inf"),
        ([0.0, 1e-9], [0.0, 0.0], "not zero"),
    ],
)
def test_difference(found: list[float], expected: list[float], problem: str) -> None:
    error, said = difference(np.array(found), np.array(expected))
    assert problem in said
    assert bool(problem) == bool(said)
    assert error == 0


def test_difference_is_relative() -> None:
    assert difference(np.array([3.0, 4.5, np.nan]), np.array([3.0, 4.0, np.nan])) == (0.1, "")
