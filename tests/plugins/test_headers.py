"""The search for headers."""

from dataclasses import replace
from pathlib import Path

import pytest

from idol_plugins.headers import ONNXRUNTIME, find_headers


def test_the_variable_comes_first_if_it_holds_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(ONNXRUNTIME.variable, raising=False)
    system = find_headers(ONNXRUNTIME)
    monkeypatch.setenv(ONNXRUNTIME.variable, str(tmp_path))
    assert find_headers(ONNXRUNTIME) == system
    (tmp_path / ONNXRUNTIME.file).touch()
    assert find_headers(ONNXRUNTIME) == tmp_path


@pytest.mark.usefixtures("homeless")
def test_without_a_home_none_were_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(ONNXRUNTIME.variable, str(tmp_path))
    (tmp_path / ONNXRUNTIME.file).touch()
    assert find_headers(ONNXRUNTIME) == tmp_path
    assert find_headers(replace(ONNXRUNTIME, file="missing.h")) is None
