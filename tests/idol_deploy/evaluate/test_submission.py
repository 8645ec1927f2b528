"""The archive holds the results and nothing else."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from idol_deploy.evaluate.submission import write_submission
from idol_runtime.errors import DataError


def test_results_under_the_servers_name(tmp_path: Path) -> None:
    results, first, second = (tmp_path / name for name in ("mine.json", "a.zip", "b.zip"))
    results.write_text("[1]" * 10**5)
    for path in (first, second):
        write_submission(path, results)
    with zipfile.ZipFile(first) as archive:
        assert archive.namelist() == ["results.json"]
        assert archive.read("results.json") == results.read_bytes()
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < results.stat().st_size / 10


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        write_submission(tmp_path / "a.zip", tmp_path / "gone.json")
    assert not list(tmp_path.iterdir())
