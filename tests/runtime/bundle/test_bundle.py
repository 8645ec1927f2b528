"""Tests of the bundle: it is read as written, or refused in one line with its name and the fix."""

import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idol_runtime.bundle import bundle as module
from idol_runtime.bundle.bundle import (
    CERTIFICATES,
    GOLDEN_FRAME,
    GRAPHS,
    WEIGHTS,
    Bundle,
    Certificates,
    write_bundle,
)
from idol_runtime.errors import BundleError, OutputError

MANIFEST = "manifest.json"
GRAPH, PLUGIN = GRAPHS["portable"], GRAPHS["plugin"]
NAMES = (MANIFEST, WEIGHTS, GRAPH, GOLDEN_FRAME, CERTIFICATES)


@pytest.fixture
def good(kit: Any, tmp_path: Path) -> Path:
    return kit.write(tmp_path / "good.idol")


def change_header(path: Path, offset: int, value: bytes) -> None:
    """Change both zip headers of the first member, the manifest; the offset is that of the directory."""
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir
    data = bytearray(path.read_bytes())
    for at in (directory + offset, offset - 2):
        data[at : at + len(value)] = value
    path.write_bytes(data)


def test_round_trip(kit: Any, good: Path) -> None:
    with Bundle.open(good) as bundle:
        golden_frame, expected = bundle.golden_frame(), kit.golden_frame()
        assert bundle.graph() == kit.shared + kit.members()[GRAPH]
        assert np.array_equal(golden_frame.frame, expected.frame)
        assert golden_frame.frame.dtype == np.uint8
        assert set(golden_frame.outputs) == set(expected.outputs)
        for name, array in expected.outputs.items():
            assert np.array_equal(golden_frame.outputs[name], array)
            assert golden_frame.outputs[name].dtype == np.float32
        assert bundle.certificates == msgspec.json.decode(kit.certificates(), type=Certificates)
        assert msgspec.structs.replace(bundle.manifest, members={}) == kit.manifest()


def test_writing_twice_gives_the_manifest_as_written(kit: Any, tmp_path: Path) -> None:
    manifest = write_bundle(tmp_path / "a.idol", kit.manifest(), kit.members())
    with Bundle.open(tmp_path / "a.idol") as bundle:
        assert bundle.manifest == manifest
    assert {name: member.bytes for name, member in manifest.members.items()} == {
        name: len(data) for name, data in kit.members().items()
    }


def test_a_second_graph_behind_the_same_weights(kit: Any, tmp_path: Path) -> None:
    with Bundle.open(kit.write(tmp_path / "two.idol", members=kit.members(plugin=b"another"))) as bundle:
        assert bundle.graph("plugin") == kit.shared + b"another"
        assert bundle.graph() == kit.shared + kit.members()[GRAPH]
        assert set(bundle.certificates.by_graph()) == {"portable", "plugin"}


@pytest.mark.parametrize("certified", [False, True])
def test_a_graph_without_a_certificate_or_the_reverse(kit: Any, tmp_path: Path, certified: bool) -> None:
    members = kit.members(
        plugin=None if certified else b"another", certificates=kit.certificates(plugin=certified)
    )
    assert "parity.json lists portable" in kit.refusal(kit.write(tmp_path / "odd.idol", members=members))


def test_missing_file_and_folder(kit: Any, tmp_path: Path) -> None:
    for path in (tmp_path / "none.idol", tmp_path, tmp_path / ("x" * 300), tmp_path / "a\0b"):
        told = kit.refusal(path)
        assert "idol-deploy export" in told
        assert ("is a folder; give the .idol file" in told) == (path == tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK", b"text" * 1000, b"\x00" * 5000], ids=len)
def test_not_a_zip(kit: Any, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "no.idol"
    path.write_bytes(content)
    assert "is not a complete .idol bundle" in kit.refusal(path)


def test_truncated_anywhere(kit: Any, good: Path) -> None:
    data = good.read_bytes()
    for length in [*range(0, len(data), 97), *range(len(data) - 120, len(data))]:
        good.write_bytes(data[:length])
        kit.refusal(good)


@pytest.mark.parametrize("name", NAMES)
def test_a_member_rewritten_under_the_same_comment(kit: Any, good: Path, name: str) -> None:
    def change(members: dict[str, bytes]) -> None:
        members[name] = members[name][:-1] + bytes([members[name][-1] ^ 1])

    assert f"{name} was changed after it was written" in kit.refusal(kit.rewrite(good, change))


@pytest.mark.parametrize("name", NAMES)
def test_a_member_with_one_byte_flipped_in_place(kit: Any, good: Path, name: str) -> None:
    data, content = bytearray(good.read_bytes()), kit.members_of(good)[name]
    at = data.find(content)
    for offset in (0, len(content) // 2, len(content) - 1):
        data[at + offset] ^= 0x40
        good.write_bytes(data)
        assert name in kit.refusal(good)
        data[at + offset] ^= 0x40


def test_a_comment_that_was_removed(kit: Any, good: Path) -> None:
    with zipfile.ZipFile(good, "a") as archive:
        archive.comment = b""
    assert "manifest.json was changed" in kit.refusal(good)


@pytest.mark.parametrize("name", [*NAMES, PLUGIN])
def test_a_missing_member(kit: Any, tmp_path: Path, name: str) -> None:
    path = kit.write(tmp_path / "both.idol", members=kit.members(plugin=b"another"))
    message = kit.refusal(kit.rewrite(path, lambda members: members.pop(name)))
    assert name in message or "the manifest lists" in message


@pytest.mark.parametrize("name", ["extra.txt", "../x", "/etc/passwd", "..\\x", "a/", "model.onnx "])
def test_a_member_that_does_not_belong(kit: Any, good: Path, tmp_path: Path, name: str) -> None:
    before = sorted(tmp_path.iterdir())
    message = kit.refusal(kit.rewrite(good, lambda members: members.update({name: b"x"})))
    assert "unexpected or missing" in message
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", NAMES)
def test_a_member_that_stands_twice(kit: Any, good: Path, name: str) -> None:
    content = kit.members_of(good)[name]
    with zipfile.ZipFile(good, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(name, content)
    assert name in kit.refusal(good)


@pytest.mark.parametrize("name", NAMES)
def test_a_compressed_member_is_refused_unread(kit: Any, good: Path, tmp_path: Path, name: str) -> None:
    """A compressed member is not read, even within its limit and with the correct hash."""
    bomb = kit.members_of(good)[name] + b" " * (32 << 20)
    path = kit.write(
        tmp_path / "bomb.idol", members={**kit.members(), **({} if name == MANIFEST else {name: bomb})}
    )
    members = kit.members_of(path)
    if name == MANIFEST:
        members[MANIFEST] = bomb
    kit.write_zip(path, members, compressed={name})
    assert path.stat().st_size < 1 << 17
    tracemalloc.start()
    message = kit.refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert f"{name} is compressed" in message
    assert peak < 1 << 20


def test_an_oversized_manifest_is_named(kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module._MAX_BYTES, MANIFEST, 1 << 20)
    path = kit.write_raw(tmp_path / "bomb.idol", b" " * (2 << 20))
    assert "manifest.json is larger than 1 MiB" in kit.refusal(path)


def test_an_oversized_graph_is_named(kit: Any, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module._MAX_BYTES, GRAPH, 5)
    assert "portable.onnx is larger than" in kit.refusal(good)


@pytest.mark.parametrize("size", [0, 1, 10**6, 2**32 - 1])
def test_a_header_that_lies_about_size(kit: Any, good: Path, size: int) -> None:
    expected = kit.read_all(good)
    change_header(good, 24, size.to_bytes(4, "little"))
    if size > 10**5:  # there are no more bytes to read than before
        assert kit.read_all(good) == expected
    else:
        kit.refusal(good)


@pytest.mark.parametrize("flag", [0x1, 0x20, 0x40], ids=["encrypted", "patched", "strongly encrypted"])
def test_flags_that_zipfile_cannot_read(kit: Any, good: Path, flag: int) -> None:
    change_header(good, 8, bytes([flag]))
    assert "manifest.json cannot be read" in kit.refusal(good)


@pytest.mark.parametrize("method", [1, 6, 9, 12, 14, 93, 99])
def test_compression_that_was_never_written(kit: Any, good: Path, method: int) -> None:
    change_header(good, 10, bytes([method]))
    assert "manifest.json is compressed" in kit.refusal(good)


def test_a_zip_of_a_version_to_come(kit: Any, good: Path) -> None:
    change_header(good, 6, bytes([99]))
    assert "zip file version" in kit.refusal(good)


def test_writing_to_a_place_that_cannot_be(kit: Any, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "x.idol"):
        with pytest.raises(OutputError):
            kit.write(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_interrupted_writing_leaves_what_was_there(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool, error: type[BaseException]
) -> None:
    path = tmp_path / "model.idol"
    if existing:
        path.write_bytes(b"before")
    written = []
    original = zipfile.ZipFile.writestr

    def writestr(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
        if written:
            raise error("in the middle")
        written.append(name)
        original(archive, name, data)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", writestr)
    with pytest.raises(OutputError if error is OSError else error):
        kit.write(path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([b"before"] if existing else [])


def test_a_refused_file_is_not_held_open(kit: Any, good: Path) -> None:
    kit.rewrite(good, lambda members: members.pop(GRAPH))
    kit.refusal(good)  # an open file would be a ResourceWarning, and warnings are errors


@pytest.fixture(scope="module")
def valid(kit: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, tuple[Any, ...]]:
    path = kit.write(tmp_path_factory.mktemp("mutated") / "m.idol")
    return path, path.read_bytes(), kit.read_all(path)


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_mutated_bytes_are_refused_or_do_not_matter(
    kit: Any, valid: tuple[Path, bytes, tuple[Any, ...]], data: st.DataObject
) -> None:
    path, content, expected = valid
    # Half of the changes are in the zip's own records, which are a small part of the bytes.
    records = [i for i in range(len(content)) if content.startswith(b"PK", i)]
    place = st.one_of(
        st.integers(0, len(content) - 1),
        st.builds(
            lambda at, by: min(at + by, len(content) - 1), st.sampled_from(records), st.integers(0, 60)
        ),
    )
    mutated = bytearray(content)
    for at, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=4)):
        mutated[at] = value
    path.write_bytes(mutated)
    try:
        found = kit.read_all(path)
    except BundleError:
        kit.refusal(path)
    else:
        assert found == expected
