"""Limits of output files: texts that are read, and limits that contradict each other."""

import math

import pytest

from idol_runtime.errors import ConfigError
from idol_runtime.sinks.policy import FilePolicy, Limit


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("1h", Limit(3600)),
        ("90 min", Limit(5400)),
        ("7D", Limit(7 * 86400)),
        ("0.5s", Limit(0.5)),
        ("500MB", Limit(size=500e6)),
        ("20gb", Limit(size=20e9)),
        ("7d,20GB", Limit(7 * 86400, 20e9)),
    ],
)
def test_limits_that_are_read(text: str, limit: Limit) -> None:
    assert Limit.parse(text, "--rotate") == limit


@pytest.mark.parametrize("text", ["", "5", "1x", "0h", "-1h", "1h 500MB", "1h,", "nan h", "1e3s"])
def test_limits_that_are_not_read(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--retain is not a limit: .*; give a time or a size such as 1h"):
        Limit.parse(text, "--retain")


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"retain": "7d"}, "needs --rotate; add --rotate 1h"),
        ({"rotate": "2d", "retain": "1d"}, "lower --rotate"),
        ({"rotate": "2GB,1h", "retain": "1GB"}, "lower --rotate"),
        ({"sync": "-1"}, "give 1"),
        ({"sync": "nan"}, "give 1"),
        ({"sync": "often"}, "give 1, or off"),
    ],
)
def test_policies_that_are_refused(options: dict[str, str], fix: str) -> None:
    with pytest.raises(ConfigError, match=fix):
        FilePolicy.parse(**options)


def test_a_policy() -> None:
    assert FilePolicy.parse() == FilePolicy()
    policy = FilePolicy.parse(rotate="1h", retain="20GB", sync="off")
    assert (policy.rotates, policy.sync_s) == (True, math.inf)
    assert not FilePolicy().rotates
