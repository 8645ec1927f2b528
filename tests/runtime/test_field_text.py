from dataclasses import dataclass, field
from typing import Literal

import pytest

from idol_runtime.errors import ConfigError
from idol_runtime.field_text import read_setting


@dataclass(frozen=True)
class _Inner:
    depth: int = 1


@dataclass(frozen=True)
class _Settings:
    rate: float = 0.5
    sizes: tuple[int, ...] = (1, 2)
    range: tuple[float, float] = (0.0, 1.0)
    limit: int | None = 3
    kind: Literal["a", "b"] = "a"
    on: bool = False
    inner: _Inner = field(default_factory=_Inner)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("rate", "2e-4", 2e-4),
        ("sizes", "(3, 4)", (3, 4)),
        ("sizes", "5", (5,)),
        ("limit", "None", None),
        ("limit", "7", 7),
        ("kind", "b", "b"),
        ("on", "true", True),
    ],
)
def test_a_field_is_what_was_written(key: str, text: str, value: object) -> None:
    assert read_setting(_Settings(), key, text, f"run.{key}={text}") == value


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        (
            "speed",
            "1",
            "run.speed=1: unknown key 'speed'; choose one of rate, sizes, range, limit, kind, on$",
        ),
        ("inner", "1", "unknown key 'inner'"),
        ("rate", "fast", "^run.rate=fast: rate takes a number$"),
        ("sizes", "1,x", "^run.sizes=1,x: sizes takes whole numbers separated by commas$"),
        ("rate", "none", "^run.rate=none: rate takes a number$"),
        ("limit", "1.5", "^run.limit=1.5: limit takes a whole number or none$"),
        ("range", "1", "^run.range=1: range takes 2 numbers separated by commas$"),
        ("kind", "c", "^run.kind=c: kind takes one of a, b$"),
        ("on", "maybe", "^run.on=maybe: on takes true or false$"),
    ],
)
def test_what_cannot_be(key: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_setting(_Settings(), key, text, f"run.{key}={text}")
