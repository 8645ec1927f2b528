"""Tests of engine files: reading, detection of changes, and explanation of mismatches."""

import tracemalloc
import zipfile
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest

from idol_runtime.bundle.bundle import Bundle, StageError
from idol_runtime.bundle.engine_file import (
    ENGINE_SCHEMA,
    EngineInfo,
    EngineKey,
    describe_mismatch,
    engine_folder,
    engine_path,
    engines_of,
    read_info,
    read_layers,
    read_plan,
    write_engine,
)
from idol_runtime.bundle.sealed_zip import sha256
from idol_runtime.errors import BackendError, OutputError

PLAN = bytes(range(256)) * 4
KEY = EngineKey(
    graph="plugin",
    graph_sha256="a" * 64,
    precision="fp32",
    batch=(1, 1, 1),
    plugin_sha256="b" * 64,
    tensorrt="10.13.0.35",
    gpu="NVIDIA H100 80GB HBM3",
    capability="9.0",
    driver="13.0 (580.159.04)",
)


def make_info(**changes: Any) -> EngineInfo:
    golden = (StageError("boxes", 1e-6, 1e-3),)
    info = EngineInfo(ENGINE_SCHEMA, KEY, sha256(PLAN), len(PLAN), golden, "2026-01-01", 2.5, (1.0, 1.5))
    return msgspec.structs.replace(info, **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_engine(tmp_path / "x.engine", make_info(), PLAN, '{"Layers": []}')
    return tmp_path / "x.engine"


def test_what_is_written_is_read(path: Path) -> None:
    assert read_info(path) == make_info()
    assert read_plan(path, make_info()) == PLAN
    assert read_layers(path) == '{"Layers": []}'


def test_every_changed_byte_is_found_or_harmless(path: Path) -> None:
    """For example, a broken disk or an incomplete copy."""
    whole = path.read_bytes()
    said = []
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            info = read_info(path)
            assert (info, read_plan(path, info)) == (make_info(), PLAN)
        except BackendError as error:
            said.append(str(error))
    assert all("is corrupted" in words and "\n" not in words for words in said)
    assert len(said) > len(whole) // 7 // 2
    for end in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(BackendError, match="is corrupted"):
            read_info(path)


@pytest.mark.parametrize("name", ["engine.json", "plan", "layers.json"])
def test_a_compressed_member_is_refused_unread(path: Path, name: str) -> None:
    plan = bytes(32 << 20)
    write_engine(path, make_info(plan_sha256=sha256(plan), plan_bytes=len(plan)), plan, " " * (32 << 20))
    with zipfile.ZipFile(path) as archive:
        comment, members = archive.comment, {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = comment
        for member, data in members.items():
            archive.writestr(member, data, zipfile.ZIP_DEFLATED if member == name else zipfile.ZIP_STORED)
    del members, plan
    tracemalloc.start()
    with pytest.raises(BackendError, match=f"is corrupted.*{name} is compressed"):
        read_layers(path) if name == "layers.json" else read_plan(path, read_info(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_another_schema(path: Path) -> None:
    write_engine(path, make_info(schema_version=9), PLAN, "")
    with pytest.raises(BackendError, match="has engine schema 9, this idol-deploy reads 1"):
        read_info(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"graph_sha256": "c" * 64}, "from another graph, or weights aaaaaaaaaaaa, this is cccccccccccc"),
        ({"precision": "fp16"}, "in precision fp32, this is fp16"),
        ({"plugin_sha256": ""}, "with another build of the plugin bbbbbbbbbbbb, this is none"),
        ({"tensorrt": "10.14.1"}, "with TensorRT 10.13.0.35, this is 10.14.1"),
        ({"gpu": "Orin"}, "on NVIDIA H100 80GB HBM3, this is Orin"),
        ({"driver": "13.1"}, "with driver 13.0 (580.159.04), this is 13.1"),
    ],
)
def test_what_does_not_fit_is_said(change: dict[str, Any], reason: str) -> None:
    assert describe_mismatch(KEY, KEY) == ""
    assert describe_mismatch(KEY, msgspec.structs.replace(KEY, **change)) == f"it was built {reason}"


@pytest.mark.parametrize(
    ("built", "here", "fits"),
    [
        ({"version_compat": True}, {"tensorrt": "10.14.0"}, True),
        ({"version_compat": True}, {"tensorrt": "10.9.0"}, False),
        ({"version_compat": True}, {"tensorrt": "11.0.0"}, False),
        ({"version_compat": True}, {"gpu": "L4", "capability": "8.9"}, False),
        ({"hardware_compat": "ampere_plus"}, {"gpu": "L4", "capability": "8.9", "driver": "12"}, True),
        ({"hardware_compat": "ampere_plus"}, {"gpu": "T4", "capability": "7.5"}, False),
        ({"hardware_compat": "ampere_plus"}, {"gpu": "Thor", "capability": "11.0"}, True),
        ({"hardware_compat": "same_compute_capability"}, {"gpu": "H200", "capability": "9.0"}, True),
        ({"hardware_compat": "same_compute_capability"}, {"gpu": "L4", "capability": "8.9"}, False),
        ({"hardware_compat": "ampere_plus"}, {"tensorrt": "10.14.0"}, False),
    ],
)
def test_what_travels(built: dict[str, Any], here: dict[str, Any], fits: bool) -> None:
    replace = msgspec.structs.replace
    assert (describe_mismatch(replace(KEY, **built), replace(KEY, **here)) == "") is fits


def test_a_file_for_each_graph_device_and_batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("IDOL_ENGINES", raising=False)
    assert engine_folder() == tmp_path / "idol_deploy" / "engines"
    path = engine_path(KEY)
    assert path == engine_folder() / f"{'a' * 16}-nvidia-h100-80gb-hbm3-batch1-1-1.engine"
    for change in (
        {"batch": (1, 4, 4)},
        {"gpu": "Orin"},
        {"graph_sha256": "c" * 64},
        {"version_compat": True},
    ):
        assert engine_path(msgspec.structs.replace(KEY, **change)) != path
    options = product(("none", "ampere_plus", "same_compute_capability"), (False, True))
    replace = msgspec.structs.replace
    assert len({engine_path(replace(KEY, hardware_compat=h, version_compat=v)) for h, v in options}) == 6
    for change in ({"tensorrt": "11.0"}, {"driver": "1"}, {"plugin_sha256": ""}):
        assert engine_path(msgspec.structs.replace(KEY, **change)) == path


@pytest.mark.usefixtures("homeless")
def test_without_a_home_there_are_no_engines_and_none_can_be_stored(kit: Any, tmp_path: Path) -> None:
    with Bundle.open(kit.write(tmp_path / "tiny.idol")) as bundle:
        assert engines_of(bundle, "portable") == []
        assert engines_of(bundle, "portable", tmp_path) == []
    with pytest.raises(OutputError, match="no home folder; set HOME or XDG_CACHE_HOME"):
        engine_folder()


def test_a_description_that_is_not_utf8(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        head = archive.read("engine.json").replace(b'"graph"', b'"g\xa2aph"')
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("engine.json", head)
        archive.comment = sha256(head).encode()
    with pytest.raises(BackendError, match=r"engine\.json is not valid"):
        read_info(path)
