"""Tests of `idol-deploy inspect`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Toy
    from tests.idol_deploy.conftest import Command


def test_inspect_shows_a_bundle(idol: Command, toy: Toy) -> None:
    done = idol("inspect", toy.path)
    assert (done.status, done.err) == (0, "")
    for text in ("idol bundle, schema 5", "untrained weights", "72x104", "person", "sha256"):
        assert text in done.out


def test_inspect_speaks_json(idol: Command, toy: Toy, toy_weights: Path) -> None:
    for path in (toy.path, toy_weights):
        done = idol("inspect", path, "--json")
        assert (done.status, done.err) == (0, "")
        assert "sha256" in json.loads(done.out)


def test_inspect_refuses_what_it_does_not_know(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("to do")
    assert "notes.txt" in refused("inspect", path)
