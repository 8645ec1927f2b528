"""Tests of `scripts/guards.py`, which checks the language and the sizes of the repository."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def guards(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("guards")


@pytest.mark.parametrize("word", ["Of", "What", "Whether", "How", "That", "Which", "All", "Those"])
def test_docstring_that_begins_with_a_clause(guards: Any, word: str) -> None:
    text = f'import os\n\n\nclass A:\n    def f(self):\n        """{word} it is."""\n'
    ((line, message),) = guards.check_docstrings("a.py", text)
    assert line == 6
    assert f"begins with {word!r}; begin with a verb" in message


def test_docstring_that_begins_with_a_noun_or_a_verb(guards: Any) -> None:
    text = '"""Ofenrohr."""\n\n\ndef f():\n    """Allocate what fits."""\n'
    assert not list(guards.check_docstrings("a.py", text))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\na graph of fewer bits\n", 2),
        ("# a graph of fewer\n# bits\n", 1),
        ("x = RememberingBackend()\n", 1),
        ("def test_each_dialect_differs():\n", 1),
        ("the model in the\nbox\n", 1),
    ],
)
def test_phrases_are_found(guards: Any, text: str, line: int) -> None:
    assert [number for number, _ in guards.check_phrases(text)] == [line]


@pytest.mark.parametrize(
    "text",
    [
        'add("--dialect", help=argparse.SUPPRESS)',
        'target: str = field(name="dialect")',
        "the member `canary.npz`",
        "the calls run in turn",
        "fewer arbitrary bits",
    ],
)
def test_other_words_and_compatible_names_pass(guards: Any, text: str) -> None:
    assert not list(guards.check_phrases(text))


def test_lengths(guards: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "LONG", {"tests/long.py": "reason", "tests/gone.py": "reason"})
    monkeypatch.setattr(
        guards, "SHORT", {"idol_deploy/small_*.py": "reason", "idol_deploy/grown.py": "reason"}
    )
    lines = {"tests/long.py": 401, "tests/longer.py": 401, "tests/short.py": 3, "idol_deploy/__init__.py": 1}
    lines |= {"idol_deploy/small_1.py": 5, "idol_deploy/tiny.py": 39, "idol_deploy/grown.py": 40}
    assert list(guards.check_lengths(lines)) == [
        ("tests/longer.py", "401 lines, at most 400; split the file"),
        ("scripts/guards.py", "obsolete exception in LONG: tests/gone.py; remove it"),
        ("idol_deploy/tiny.py", "39 lines, at least 40; merge the module into a neighbour"),
        ("scripts/guards.py", "obsolete exception in SHORT: idol_deploy/grown.py; remove it"),
    ]


def test_size(guards: Any) -> None:
    assert not list(guards.check_size({"a": guards.MOST_BYTES}))
    ((path, message),) = guards.check_size({"a": 1, "b": guards.MOST_BYTES})
    assert path == "b"
    assert f"b ({guards.MOST_BYTES / 1e6:.1f} MB)" in message
