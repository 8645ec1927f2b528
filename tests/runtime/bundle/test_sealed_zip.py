"""Tests of sealed zip files: every fault raises the error of the caller."""

import zipfile
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from idol_runtime.bundle.sealed_zip import SealedZip, sha256, write_sealed
from idol_runtime.errors import BackendError


class Head(msgspec.Struct):
    schema_version: int
    what: str = "a test"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_sealed(tmp_path / "x.zip", "head.json", Head(7), {"data": bytes(range(256))})
    return tmp_path / "x.zip"


def opened(path: Path) -> SealedZip:
    return SealedZip(path, lambda why: BackendError(f"{path.name} is broken: {why}"))


def test_what_is_written_is_read(path: Path) -> None:
    with closing(opened(path)) as file:
        assert file.names == ["head.json", "data"]
        version, head = file.head("head.json", 100)
        assert (version, msgspec.json.decode(head, type=Head)) == (7, Head(7))
        assert file.read("data", 256) == bytes(range(256))


@pytest.mark.parametrize(
    ("name", "most", "why"),
    [
        ("data", 255, r"data is larger than 0\.000\d+ MiB"),
        ("gone", 9, r"gone cannot be read \(.*no item named 'gone'"),
    ],
)
def test_what_cannot_be_read(path: Path, name: str, most: int, why: str) -> None:
    with closing(opened(path)) as file, pytest.raises(BackendError, match=rf"x\.zip is broken: {why}"):
        file.read(name, most)


def test_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no zip")
    for name, why in (("text", "File is not a zip file"), ("gone", "No such file or directory")):
        with pytest.raises(BackendError, match=f"{name} is broken: {why}$"):
            opened(tmp_path / name)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_nothing_that_could_grow_is_opened(path: Path, method: int) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("more", bytes(1000), method)
    with pytest.raises(BackendError, match=r"x\.zip is broken: more is compressed"):
        opened(path)


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (b'{"schema_version": 8}', "head.json was changed after it was written"),
        (b'{"schema_version": "8"}', r"head.json is not valid \(Expected `int`"),
        (b"\xff", "head.json is not valid"),
        (b"[" * 100_000, "head.json is not valid"),
    ],
    ids=["another", "no number", "no text", "deep"],
)
def test_a_head_that_cannot_be(path: Path, head: bytes, why: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("head.json", head)
        archive.comment = sha256(b"as it was" if "changed" in why else head).encode()
    with closing(opened(path)) as file, pytest.raises(BackendError, match=why):
        file.head("head.json", 10**6)
