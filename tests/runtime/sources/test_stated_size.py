"""The size that a container states: at most the file's if it is whole, more if it is cut short."""

from pathlib import Path

import pytest

from idol_runtime.sources.stated_size import stated_size
from samples.captures import write_stream, write_video


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_a_file_that_is_cut_short_states_more_than_it_has(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"a{suffix}", noise=True)
    data = path.read_bytes()
    assert len(data) - 8 <= stated_size(path) <= len(data)
    path.write_bytes(data[: len(data) // 2])
    assert stated_size(path) > len(data) // 2


@pytest.mark.parametrize("trailer", [b"\0" * 100, b"Camera model 7, serial 12345678"])
def test_data_after_the_last_box_is_no_cut(tmp_path: Path, trailer: bytes) -> None:
    path = write_video(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes() + trailer)
    assert stated_size(path) <= path.stat().st_size


@pytest.mark.parametrize(
    "data", [write_stream([0.0, 0.1]), b"", b"RIFF", b"\x1a\x45\xdf\xa3", b"\0\0\0\x20ftyp", b"no video"]
)
def test_other_files_state_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    assert stated_size(tmp_path / "a") == 0
