from pathlib import Path

import pytest

from idol_deploy.evaluate.model import ModelChoice
from idol_runtime.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "expected one model"),
        ({"bundle": Path("b"), "weights": Path("w"), "preset": "p"}, "expected one model"),
        ({"weights": Path("w")}, "go together"),
        ({"bundle": Path("b"), "preset": "p"}, "go together"),
        ({"weights": Path("w"), "preset": "p", "threads": 2**31}, "threads must lie between 1 and 1024"),
        ({"weights": Path("w"), "preset": "p", "graph": "plugin"}, "apply to a bundle only; leave them out"),
        (
            {"weights": Path("w"), "preset": "p", "backend": "onnxruntime"},
            "apply to a bundle only; leave them out",
        ),
    ],
)
def test_one_model(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelChoice(**given)
