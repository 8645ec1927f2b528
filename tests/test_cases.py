"""Users' files that failed once, as one table: each case, the command, and what it must say (`pytest -m cases`).

The files are in ../shared/cases or in the folder that IDOL_CASES names.
"""

import os
from pathlib import Path

import pytest

from idol_deploy.cli import main
from idol_runtime.bundle.engine_file import read_info
from idol_runtime.errors import BackendError
from published.units import compare_units

CASES = Path(os.environ.get("IDOL_CASES") or Path(__file__).parents[2] / "shared" / "cases")

pytestmark = [
    pytest.mark.cases,
    pytest.mark.skipif(
        not CASES.is_dir(), reason=f"cases not found: {CASES}; set IDOL_CASES to their folder"
    ),
]

_TRAIN = ("train", "--preset", "edge_synth", "--own-classes", "--frames", "{frames}", "-o", "{out}/run")
_TRAIN += ("--set", "train.iterations=1", "--set", "train.batch_pairs=1", "--set", "train.min_sizes=64")
_TRAIN += ("--set", "data.workers=0", "--annotations", "{case}")
_STILLS = ("--set", "train.still_images=true")
_PAIRS = ("figure", "pairs", "--preset", "edge_synth", "--frames", "{frames}", "-o", "{out}/pairs.png")
_PAIRS += ("--own-classes", "--annotations", "{case}")
_CONVERT = ("convert", "--weights", "none.pth", "-o", "{out}/none.safetensors", "--preset", "{case}")
_SIDES = "Expected `int` <= 65535 - at `$.videos[0]."

# Case; command; exit status; text in its output.
ROWS: tuple[tuple[str, tuple[str, ...], int, str], ...] = (
    ("annotations/base.json", _PAIRS, 0, "wrote"),
    ("annotations/allcrowd.json", _PAIRS, 2, "no instance is left to train on; 17 x crowd, first"),
    (
        "annotations/c_allcrowd.json",
        (*_TRAIN, *_STILLS),
        2,
        "no instance is left to train on; 30 x crowd, first",
    ),
    ("annotations/c_darwin.json", (*_PAIRS, *_STILLS), 0, "wrote"),
    ("annotations/bom.json", _PAIRS, 0, "wrote"),
    ("annotations/nan_area.json", _PAIRS, 2, "annotations[0].areas[0] is NaN; write a finite number or null"),
    ("annotations/backslash.json", _PAIRS, 0, "wrote"),
    ("annotations/roboroot.json", _TRAIN, 0, "4 of 9 classes have no instance to train on (things, "),
    ("parsers/min-poly-far-2^27.json", _PAIRS, 2, _SIDES + "height`"),
    ("parsers/min-poly-w1e6.json", _PAIRS, 2, _SIDES + "width`"),
    ("parsers/min-poly-w2^40-far.json", _PAIRS, 2, _SIDES + "width`"),
    ("parsers/min-rle-10^30.json", _PAIRS, 2, _SIDES + "width`"),
    ("parsers/min-rle-2^33.json", _PAIRS, 2, _SIDES + "width`"),
    ("parsers/settings-heads-0.json", _CONVERT, 2, "model.heads must lie between 1 and 4096, got 0"),
)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frames that the annotations name."""
    folder = tmp_path_factory.mktemp("synth")
    options = ["--split", "val", "--seed", "1", "--videos", "3", "--frames", "40"]
    assert main(["synth", *options, "-o", str(folder / "val")]) == 0
    return folder / "val" / "JPEGImages"


@pytest.mark.parametrize(("case", "command", "status", "text"), ROWS, ids=[row[0] for row in ROWS])
def test_a_case(
    frames: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    case: str,
    command: tuple[str, ...],
    status: int,
    text: str,
) -> None:
    places = {"case": CASES / case, "frames": frames, "out": tmp_path}
    arguments = [part.format(**places) for part in command]
    capsys.readouterr()
    assert main(arguments) == status
    out, err = capsys.readouterr()
    assert text in out + err
    assert not status or err.startswith("idol-deploy: error: ")


def test_an_item_that_is_positive_and_negative() -> None:
    rows = list(compare_units(CASES / "loss_overlap"))
    assert len(rows) == 7
    assert not [row for row in rows if not row.passed]


def test_an_engine_file_that_is_not_utf8() -> None:
    with pytest.raises(BackendError, match=r"is corrupted: engine\.json is not valid"):
        read_info(CASES / "parsers" / "crash-engine-UnicodeDecodeError-engine_file.py-204")
