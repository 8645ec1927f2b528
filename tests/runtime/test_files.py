"""Tests of atomic writing and of checks of output paths."""

import hashlib
import os
import stat
from pathlib import Path

import pytest

from idol_runtime.errors import ConfigError, OutputError
from idol_runtime.files import file_digest, refuse_replacing, replacing, require_suffix, writable_target


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("size", [0, 5, 2**20, 2**20 + 1])
def test_a_digest_is_of_the_whole_file(tmp_path: Path, size: int) -> None:
    contents = os.urandom(size)
    (tmp_path / "a").write_bytes(contents)
    assert file_digest(tmp_path / "a") == hashlib.sha256(contents).hexdigest()


def test_the_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    with replacing(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        assert temporary.parent == tmp_path, "a rename is atomic within one file system only"
        assert temporary.suffix == ".json"
        assert temporary.name.startswith(".")
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    assert listing(tmp_path) == ["a.json"]


def test_an_existing_file_is_replaced_at_once(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("before")
    with replacing(target) as temporary:
        temporary.write_text("after")
        assert target.read_text() == "before"
    assert target.read_text() == "after"


def test_a_link_stays_one(tmp_path: Path) -> None:
    """Like /dev/stdout, which the next command reads."""
    (tmp_path / "there").mkdir()
    real, link = tmp_path / "there" / "a.json", tmp_path / "link.json"
    real.write_text("before")
    link.symlink_to(real)
    with replacing(link) as temporary:
        temporary.write_text("after")
    assert link.is_symlink()
    assert real.read_text() == link.read_text() == "after"
    assert listing(tmp_path / "there") == ["a.json"]


def write_half(path: Path, error: type[BaseException]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_keeps_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "a.json").write_text("before")
    for name in ("a.json", "b.json"):
        with pytest.raises(error):
            write_half(tmp_path / name, error)
    assert listing(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "before"


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"cannot write .*a\.json: No space left"),
        replacing(tmp_path / "a.json"),
    ):
        raise OSError(28, "No space left on device")
    assert listing(tmp_path) == []


def test_a_writer_that_removed_its_own_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a\.json"), replacing(tmp_path / "a.json") as temporary:
        temporary.unlink()
    assert listing(tmp_path) == []


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "a") as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT, 0o600))  # as safetensors does
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_the_umask_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The umask belongs to the process: a temporary change would affect files of other threads."""
    set_umask, modes = os.umask, []

    def umask(mask: int) -> int:
        before = set_umask(mask)
        (tmp_path / "other").touch()  # like another thread at this moment
        modes.append(stat.S_IMODE((tmp_path / "other").stat().st_mode))
        return before

    monkeypatch.setattr(os, "umask", umask)
    with replacing(tmp_path / "a"):
        pass
    assert [oct(mode) for mode in modes if mode & stat.S_IWOTH] == []


@pytest.mark.parametrize("name", ["a", "sub/../a", "soft", "hard", "~/a", "sub/../later"])
def test_an_output_is_no_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").touch()
    (tmp_path / "soft").symlink_to("a")
    (tmp_path / "hard").hardlink_to("a")
    output = Path(os.path.expanduser(name))
    inputs = [None, "rtsp://host/live", tmp_path / "a", tmp_path / "later"]
    with pytest.raises(ConfigError, match=f"{output} is an input as well; give the output another name"):
        refuse_replacing([None, Path("new"), output], inputs)


def test_outputs_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    inputs = [tmp_path / "a", tmp_path / "gone", tmp_path / "a" / "c", "a\0b", "x" * 5000, None]
    refuse_replacing([tmp_path / "b", tmp_path / "new", tmp_path / "a" / "c", Path("a\0b"), None], inputs)


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_a_file_that_is_replaced_gets_the_permissions_of_a_new_one(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "a"
    target.touch()
    target.chmod(mode)
    with replacing(target):
        pass
    mask = os.umask(0o022)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize(
    "name",
    ["a", "a.tar.gz", ".hidden", "ä ö.json", "x" * 250, "x" * 250 + ".json", "写" * 80, "a." + "x" * 250],
)
def test_any_name_that_the_file_system_takes(tmp_path: Path, name: str) -> None:
    with replacing(tmp_path / name) as temporary:
        temporary.write_text("x")
    assert listing(tmp_path) == [name]


def test_a_text_path_and_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with replacing("a.json") as temporary:
        temporary.write_text("x")
    assert listing(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", "is a folder; give a file name"),
        ("no/a.json", "does not exist; create it first"),
        ("file/a.json", "does not exist; create it first"),
        ("x" * 300, "cannot write"),
        ("a\0b", "cannot write"),
        ("pipe", "is not a regular file; give another file name"),
    ],
    ids=["folder", "no folder", "file as folder", "too long", "nul", "pipe"],
)
def test_places_that_cannot_be_written(tmp_path: Path, name: str, expected: str) -> None:
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match=expected):
        writable_target(tmp_path / name)
    with pytest.raises(OutputError, match=expected), replacing(tmp_path / name):
        pass
    assert listing(tmp_path) == ["file", "pipe"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="permission denied; choose another place"):
        writable_target(folder / "a.json")


def test_permission_is_asked_of_the_folder_and_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").write_text("x")
    for denied in (tmp_path, tmp_path / "a.json"):
        monkeypatch.setattr(os, "access", lambda path, mode, denied=denied: Path(path) != denied)
        with pytest.raises(OutputError, match="permission denied; choose another place"):
            writable_target(tmp_path / "a.json")


def test_a_name_that_says_what_is_in_the_file() -> None:
    assert require_suffix("a/B.MKV", "a video", ".mp4", ".mkv") == ".mkv"


@pytest.mark.parametrize("name", ["a.onnx", "a", ".mp4", "a.mp4.part"])
def test_a_name_that_says_something_else(name: str) -> None:
    with pytest.raises(
        OutputError, match=rf"^cannot write {name}: the name of a video ends in .mp4 or .mkv; rename it$"
    ):
        require_suffix(name, "a video", ".mp4", ".mkv")
