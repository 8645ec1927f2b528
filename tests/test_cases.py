"""Users' files that failed once, as one table: each case and what it must give (`pytest -m cases`).

The files are in ../shared/cases or in the folder that IDOL_CASES names; they are generated, see the README there. Each
kind of fault has its own tests in the folder of its code.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from idol_deploy.cli import main
from idol_runtime.bundle.engine_file import read_info
from idol_runtime.errors import BackendError
from idol_runtime.sources.opening import open_source
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


@dataclass(frozen=True)
class Video:
    """The expected reading of a video case.

    Attributes:
        file: path in the folder of cases.
        frames: number of frames.
        last_s: time of the last frame.
        note: part of the note that the reading ends with; empty for no note.
    """

    file: str
    frames: int
    last_s: float
    note: str = ""


VIDEOS = [
    Video("video/clip.mp4", 40, 1.56),
    Video("video/il_x264.mp4", 40, 1.56),
    Video("video/cut_copy.mp4", 22, 0.84, "has 22 frames, its container states 28"),
    Video("video/long_audio.mkv", 40, 1.56, "has 40 frames, its container states about 66"),
    Video("video/njl.webm", 40, 1.293),
    Video("video/plain.ts", 40, 1.56),
    Video("video/anim.webp", 40, 1.56),
    Video("video/hflip.mp4", 40, 1.56),
]


@pytest.mark.parametrize("case", VIDEOS, ids=lambda case: case.file)
def test_a_video_gives_all_its_frames_at_their_times(case: Video, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("av")
    with open_source(CASES / "video/clip.mp4") as source:
        clip = [frame.image.astype(np.int16) for frame in source]
    with open_source(CASES / case.file) as source:
        frames = list(source)
    assert len(frames) == case.frames
    assert frames[-1].time_s == pytest.approx(case.last_s, abs=1e-3)
    assert case.note in caplog.text
    assert bool(case.note) == bool(caplog.text)
    # All show the clip, some of them compressed again, mirrored, or from its middle on.
    for frame in frames:
        image = frame.image[:, ::-1] if "hflip" in case.file else frame.image
        assert min(np.abs(picture - image).mean() for picture in clip) < 8


def test_a_pipe_gives_all_frames(tmp_path: Path) -> None:
    pytest.importorskip("av")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = (CASES / "video/plain.ts").read_bytes()
    threading.Thread(target=lambda: pipe.write_bytes(data), daemon=True).start()
    with open_source(pipe) as source:
        assert len(list(source)) == 40
