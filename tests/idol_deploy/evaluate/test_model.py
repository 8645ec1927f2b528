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
        ({"weights": Path("w"), "preset": "p", "threads": 2**31}, "threads must lie between 1 and 1024"),
        ({"weights": Path("w"), "preset": "p", "graph": "plugin"}, "are of a bundle; leave them out"),
        ({"weights": Path("w"), "preset": "p", "backend": "onnxruntime"}, "are of a bundle; leave them out"),
    ],
)
def test_one_model(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelChoice(**given)
