from pathlib import Path

import pytest

from idol_deploy.evaluate.model import ModelChoice
from idol_runtime.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to run, or two things"),
        ({"bundle": Path("b"), "weights": Path("w"), "preset": "p"}, "nothing to run, or two things"),
        ({"weights": Path("w")}, "go together"),
        ({"bundle": Path("b"), "preset": "p"}, "go together"),
    ],
)
def test_one_model(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelChoice(**given)
