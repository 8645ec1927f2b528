from pathlib import Path

import pytest

from idol_deploy.data.faults import Fault, FaultLog, missing_files
from idol_runtime.errors import DataError


def test_counts_and_names_the_first_of_each_kind() -> None:
    log = FaultLog()
    assert log.summary() == []
    for frame in (4, 7):
        log.add(Fault("missing frame", f"video 1, frame {frame}", "copy it"))
    log.add(Fault("empty mask", "annotation 3", "remove it"))
    assert log.summary() == [
        "2 x missing frame, first video 1, frame 4: copy it",
        "1 x empty mask, first annotation 3: remove it",
    ]


def test_a_strict_log_refuses() -> None:
    with pytest.raises(DataError, match=r"^annotation 3: remove it$"):
        FaultLog(strict=True).add(Fault("empty mask", "annotation 3", "remove it"))


def test_finds_what_is_missing_in_any_folder(tmp_path: Path) -> None:
    for name in ("a/0.jpg", "b/1.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert missing_files(tmp_path, ["a/0.jpg", "a/1.jpg", "b/1.jpg", "c/0.jpg"]) == {"a/1.jpg", "c/0.jpg"}
    assert missing_files(tmp_path, []) == set()
    with pytest.raises(DataError, match=r"none of the 2 .*, for example c/0.jpg; give the folder"):
        missing_files(tmp_path, ["c/0.jpg", "c/1.jpg"])
