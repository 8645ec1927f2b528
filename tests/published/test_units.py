"""Parity of single operators with the published ones, and the command that reports it."""

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from idol_runtime.errors import ConfigError
from published.arrays import read_arrays
from published.units import TRACKER_SETTINGS, compare_units

SCRIPT = Path(__file__).parents[2] / "scripts" / "reference_parity.py"
UNITS = ("mask_head", "mask_iou", "matcher", "ms_deform", "pos", "pos_neg", "resize", "tracker", "train")


@pytest.fixture
def folder(reference: Path, tmp_path: Path) -> Path:
    """Return copies of three quick units."""
    copy = tmp_path / "units"
    copy.mkdir()
    for unit in ("mask_iou", "pos", "tracker"):
        shutil.copy(reference / f"unit_{unit}.npz", copy)
    return copy


def _spoil(folder: Path, unit: str, name: str) -> None:
    path = folder / f"unit_{unit}.npz"
    arrays = read_arrays(path)
    arrays[name] = arrays[name] + 1
    np.savez(path, **arrays)


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process; return status, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        status = runpy.run_path(str(SCRIPT))["main"]()
        return (status, *capsys.readouterr())

    return run


def test_every_row_of_the_published_units_holds(reference: Path) -> None:
    rows = list(compare_units(reference))
    assert {row.tag for row in rows} == set(UNITS)
    assert {row.stage for row in rows if row.tag == "tracker"} == set(TRACKER_SETTINGS)
    assert not [row for row in rows if not row.passed]
    assert all(row.compared for row in rows)


@pytest.mark.parametrize(
    ("unit", "name", "stages"),
    [
        ("mask_iou", "iou", {"pairs"}),
        ("mask_iou", "empty_vs_empty", {"two empty"}),
        ("pos", "pos", {"sine code"}),
        ("pos", "inv_sigmoid_out", {"inverse sigmoid"}),
        ("tracker", "ids_ytvis", {"ytvis"}),
        ("tracker", "ids_fw_only", {"fw_only"}),
    ],
)
def test_a_changed_array_fails_its_row_alone(folder: Path, unit: str, name: str, stages: set[str]) -> None:
    _spoil(folder, unit, name)
    failed = {(row.tag, row.stage) for row in compare_units(folder) if not row.passed}
    assert failed == {(unit, stage) for stage in stages}


def test_a_folder_without_units(tmp_path: Path) -> None:
    (tmp_path / "unit_of_tomorrow.npz").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"holds no unit_\*\.npz that can be compared; give a folder with"):
        list(compare_units(tmp_path))


def test_a_unit_that_lacks_an_array(folder: Path) -> None:
    np.savez(folder / "unit_pos.npz", mask=np.zeros((1, 2, 2), np.bool_))
    with pytest.raises(ConfigError, match=r"unit_pos\.npz lacks the array 'pos'"):
        list(compare_units(folder))


def test_a_broken_unit(folder: Path) -> None:
    (folder / "unit_pos.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(ConfigError, match=r"unit_pos\.npz is no readable npz file"):
        list(compare_units(folder))


def test_the_command_reports_success(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    command = [sys.executable, "-W", "error", str(SCRIPT), str(folder), "--units", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    rows = json.loads(out.read_text())
    assert all(row["passed"] for row in rows)
    assert f"{len(rows)} of {len(rows)} stages hold" in done.stdout
    assert "FAIL" not in done.stdout


def test_the_command_reports_failure(script: Command, folder: Path, tmp_path: Path) -> None:
    _spoil(folder, "mask_iou", "iou")
    out = tmp_path / "rows.json"
    status, printed, errors = script(folder, "--units", "--json", out)
    assert (status, errors) == (1, "")
    assert [row["stage"] for row in json.loads(out.read_text()) if not row["passed"]] == ["pairs"]
    assert printed.count("FAIL") == 1


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        (["{folder}"], "meta.json"),
        (["{folder}/gone", "--units"], "give a folder with"),
        (["{reference}", "--tag", "large"], "it has small"),
        (["{folder}", "--units", "--json", "{folder}/gone/rows.json"], "create it first"),
    ],
)
def test_the_command_refuses_in_one_line(
    script: Command, folder: Path, reference: Path, arguments: list[str], fix: str
) -> None:
    status, _, errors = script(
        *(argument.format(folder=folder, reference=reference) for argument in arguments)
    )
    assert status == 2
    assert errors.startswith("reference_parity: ")
    assert errors.count("\n") == 1
    assert fix in errors


def test_the_command_refuses_a_folder_without_videos(
    script: Command, reference: Path, tmp_path: Path
) -> None:
    shutil.copy(reference / "meta.json", tmp_path)
    status, printed, errors = script(tmp_path)
    assert status == 2
    assert "small: no arrays of a whole video here, not compared" in printed
    assert "no ref_*.npz in" in errors
