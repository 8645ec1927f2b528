"""The PyTorch operator as the selftest runs it."""

import importlib.util
from pathlib import Path

import pytest

from idol_deploy.model import deform_op
from idol_deploy.torch_home import TorchHome
from idol_plugins.libraries import FOLDER_VARIABLE
from idol_plugins.selftest import selftest


@pytest.fixture(autouse=True)
def _asked_anew() -> None:
    """The operator asks for its libraries once a process."""
    for cached in (deform_op._problem, deform_op._cpu_library):
        cached.cache_clear()


def test_the_operator_passes_in_every_type(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(libraries))
    assert TorchHome().status().ready
    report = selftest([TorchHome()], cases=4)
    assert not report.failures
    assert set(report.outcomes[0].errors) == {"float32", "float16", "bfloat16"}


def test_without_its_library_or_torch_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("idol_plugins.libraries.library_folders", lambda: iter([tmp_path]))
    status = TorchHome().status()
    assert not status.ready
    assert status.fix == "idol-deploy plugins build"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "idol-deploy[train]" in TorchHome().status().fix
