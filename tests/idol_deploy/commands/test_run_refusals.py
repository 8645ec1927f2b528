"""Inputs, bundles, outputs and options that `idol-deploy run` refuses, in one line each."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from idol_runtime.streams import Streams
from samples.run_outputs import check_outputs, output_options, read_lines
from samples.waiting import LIMIT_S

if TYPE_CHECKING:
    from tests.conftest import Toy
    from tests.idol_deploy.conftest import Start, Unchanged


def test_a_file_has_no_latest_frame(
    refused: Callable[..., str], toy: Toy, clip: Path, tmp_path: Path
) -> None:
    message = refused("run", toy.path, "--source", clip, "--latest", "--jsonl", tmp_path / "a.jsonl")
    assert "leave --queue or --latest out" in message


def test_a_camera_that_is_not_waited_for(refused: Callable[..., str], toy: Toy, tmp_path: Path) -> None:
    command = "run", toy.path, "--source", "rtsp://user:hunter2@127.0.0.1:9/live", "--jsonl", tmp_path / "a"
    message = refused(*command, "--reconnect", "off", "--read-timeout", LIMIT_S)
    assert "cannot open rtsp://***@127.0.0.1:9/live: Connection refused" in message
    assert "--read-timeout must be greater than 0 s, got 0.0" in refused(*command, "--read-timeout", 0)


@pytest.mark.parametrize(
    ("setting", "fix"),
    [
        ("temporal=paper", "write association.KEY=VALUE"),
        ("association.temporal", "write association.KEY=VALUE"),
        ("association.temporol=paper", "choose one of select_score"),
        ("association.temporal=latest", "temporal"),
        ("association.max_age=soon", "association.max_age=soon"),
        ("association.select_score=2", "between 0 and 1"),
        ("preprocessing.short_side=3", "write association.KEY=VALUE"),
    ],
)
def test_bad_settings(
    refused: Callable[..., str], toy: Toy, clip: Path, tmp_path: Path, setting: str, fix: str
) -> None:
    arguments = "run", toy.path, "--source", clip, "--jsonl", tmp_path / "a.jsonl", "--set", setting
    assert fix in refused(*arguments)


def _broken_sources(folder: Path) -> dict[str, tuple[Path, str]]:
    text = folder / "notes.mp4"
    text.write_text("This is no video.\n" * 99)
    empty = folder / "empty.mp4"
    empty.write_bytes(b"")
    nothing = folder / "nothing"
    nothing.mkdir()
    deep = folder / "deep"
    deep.mkdir()
    Image.fromarray(np.full((72, 104), 40000, np.uint16)).save(deep / "0.png")
    return {
        "no video": (text, "check that a video player plays it"),
        "empty": (empty, "copy it again"),
        "missing": (folder / "gone.mp4", "check the path"),
        "no match": (folder / "*.jpg", "check the pattern"),
        "no image": (nothing, "images end in"),
        "16 bits": (deep, "convert it to 8 bit"),
    }


@pytest.mark.parametrize("what", ["no video", "empty", "missing", "no match", "no image", "16 bits"])
def test_bad_sources(
    refused: Callable[..., str], toy: Toy, tmp_path: Path, outputs: dict[str, Path], what: str
) -> None:
    source, fix = _broken_sources(tmp_path)[what]
    assert fix in refused("run", toy.path, "--source", source, *output_options(outputs))


def _truncate(path: Path, toy: Toy) -> None:
    path.write_bytes(path.read_bytes()[:200])


def _widen(path: Path, toy: Toy) -> None:
    Image.fromarray(toy.video(1, size=(72, 110))[0]).save(path)


def _deepen(path: Path, toy: Toy) -> None:
    Image.fromarray(np.full(toy.size, 40000, np.uint16)).save(path)


@pytest.mark.parametrize(
    ("spoil", "fix"),
    [
        (_truncate, "replace or remove the file"),
        (_widen, "give frames of one size"),
        (_deepen, "convert it to 8 bit"),
    ],
)
def test_a_bad_frame_in_mid_stream_keeps_those_before_it(
    refused: Callable[..., str],
    toy: Toy,
    images: Path,
    outputs: dict[str, Path],
    spoil: Callable[..., None],
    fix: str,
) -> None:
    spoil(images / "frame3.png", toy)
    message = refused(
        "run", toy.path, "--source", images, *output_options(outputs), beyond=outputs["masks"].parent
    )
    assert fix in message
    assert "frame3.png (frame 3)" in message
    check_outputs(outputs, 3)


def test_a_video_cut_short_keeps_its_good_part(
    refused: Callable[..., str],
    toy: Toy,
    tmp_path: Path,
    write_video: Callable[..., Path],
    outputs: dict[str, Path],
) -> None:
    whole = write_video(tmp_path / "whole.avi", toy.video(40))
    data = whole.read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(data[: len(data) // 2])
    out = outputs["masks"].parent
    message = refused("run", toy.path, "--source", cut, "--jsonl", outputs["a.jsonl"], beyond=out)
    assert "cut.avi" in message
    assert 3 < len(read_lines(outputs["a.jsonl"])) < 40


def _tampered(path: Path, data: bytes) -> str:
    changed = bytearray(data)
    changed[len(data) // 3] ^= 0x10
    path.write_bytes(changed)
    return "export it again, or download it again"


def _newer(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    _rewrite(path, lambda manifest: {**manifest, "schema_version": 99, "surprise": 1})
    return "upgrade idol-deploy"


def _never_passed(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    _rewrite(
        path,
        lambda manifest: manifest,
        lambda parity: {**parity, "portable": {**parity["portable"], "stages": []}},
    )
    return "did not pass its parity check"


def _escaping(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../evil.txt", "evil")
    return "unexpected or missing ['../../evil.txt']"


def _cut(path: Path, data: bytes) -> str:
    path.write_bytes(data[: len(data) // 2])
    return "is not a complete .idol bundle: File is not a zip file"


def _missing(path: Path, data: bytes) -> str:
    return "write one with: idol-deploy export"


def _rewrite(
    path: Path,
    manifest: Callable[[dict], dict],
    parity: Callable[[dict], dict] = lambda parity: parity,
) -> None:
    """Write a bundle with another manifest and other certificates, and with correct hashes."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["parity.json"] = json.dumps(parity(json.loads(members["parity.json"]))).encode()
    listing = manifest(json.loads(members["manifest.json"]))
    listing["members"]["parity.json"] = {
        "bytes": len(members["parity.json"]),
        "sha256": hashlib.sha256(members["parity.json"]).hexdigest(),
    }
    members["manifest.json"] = json.dumps(listing).encode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = hashlib.sha256(members["manifest.json"]).hexdigest().encode()
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("spoil", [_tampered, _newer, _never_passed, _escaping, _cut, _missing])
@pytest.mark.parametrize("command", ["run", "inspect"])
def test_bad_bundles(
    refused: Callable[..., str],
    toy: Toy,
    clip: Path,
    tmp_path: Path,
    command: str,
    spoil: Callable[[Path, bytes], str],
) -> None:
    path = tmp_path / "bad.idol"
    why = spoil(path, toy.path.read_bytes())
    more = ["--source", clip, "--jsonl", tmp_path / "a.jsonl"] if command == "run" else []
    message = refused(command, path, *more)
    if command == "inspect" and spoil is _missing:
        why = "no such file: "
    assert why in message
    assert "bad.idol" in message


@pytest.mark.parametrize(
    ("flags", "fix"),
    [
        (["--save", "missing/a.mp4"], "create it first"),
        (["--save", "a.gif"], "rename it"),
        (["--save", "."], "rename it"),
        (["--jsonl", "missing/a.jsonl"], "create it first"),
        (["--jsonl", "."], "give a file name"),
        (["--results", "missing/a.json"], "create it first"),
        (["--masks", "missing/masks"], "create it first"),
        (["--masks", "taken.txt"], "give a folder"),
        (["--jsonl", "a", "--results", "a"], "give each its own"),
        (["--jsonl", "a", "--results", "./pngs/../a"], "give each its own"),
        ([], "give --save, --jsonl, --results, --masks, --display, --events, --mqtt or --webhook"),
        (["--jsonl", "good.jsonl", "--masks", "taken.txt"], "give a folder"),
        (["--save", "good.mp4", "--results", "missing/a.json"], "create it first"),
        (["--save", "clip.mp4"], "clip.mp4 is an input as well; give the output another name"),
        (["--save", "{source}.mp4"], "clip.mp4 is an input as well"),
        (["--jsonl", "a.idol"], "a.idol is an input as well"),
        (["--jsonl", "a", "--events", "a.idol"], "a.idol is an input as well"),
        (["--jsonl", "a", "--events", "clip.mp4"], "clip.mp4 is an input as well"),
        (["--jsonl", "a", "--events", "./a"], "give each its own"),
        (["--source", "b.mp4", "--jsonl", "a"], "write {source} or {number}"),
        (["--jsonl", "a", "--retain", "7d"], "add --rotate 1h"),
        (["--jsonl", "a", "--rotate", "daily"], "give a time or a size such as 1h"),
        (["--jsonl", "a", "--score", "2"], "between 0 and 1"),
        (["--jsonl", "a", "--score", "nan"], "between 0 and 1"),
        (["--jsonl", "a", "--device", "tpu"], "use cpu, cuda, cuda:N, gpu, gpu:N or npu"),
        (["--jsonl", "a", "--backend", "magic"], "onnxruntime"),
    ],
)
def test_bad_outputs_and_options_are_reported_before_the_first_frame(
    refused: Callable[..., str],
    toy: Toy,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    fix: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.txt").write_text("mine")
    (tmp_path / "pngs").mkdir()
    (tmp_path / "pngs" / "old.png").write_bytes(b"mine")
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "a.idol").write_bytes(toy.path.read_bytes())
    monkeypatch.setattr(Streams, "track", lambda *_: pytest.fail("a frame was processed"))
    assert fix in refused("run", "a.idol", "--source", "clip.mp4", *flags)


@pytest.mark.parametrize(
    ("module", "flag", "name", "extra"),
    [
        ("cv2", "--save", "opencv-python", "video"),
        ("av", "--jsonl", "av", "video"),
        ("onnxruntime", "--masks", "onnxruntime or openvino", "cpu"),
    ],
)
def test_run_names_a_missing_package(
    refused: Callable[..., str],
    toy: Toy,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    flag: str,
    name: str,
    extra: str,
) -> None:
    for missing in (module, "openvino"):
        monkeypatch.setitem(sys.modules, missing, None)
    message = refused("run", toy.path, "--source", clip, flag, tmp_path / "a.mp4")
    assert f"needs {name}, which is not installed" in message
    assert f"pip install 'idol-deploy[{extra}]'" in message
    if module == "onnxruntime":
        cuda = refused("run", toy.path, "--source", clip, flag, tmp_path / "a", "--device", "cuda")
        assert "on cuda needs onnxruntime" in cuda
        assert "'idol-deploy[gpu]'" in cuda


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "gone.idol", "--source", "0", "--jsonl", "a.jsonl"],
        ["inspect", "gone.idol"],
        ["export", "--weights=gone.pth", "--preset=ytvis19_r50", "--frame-size=72x104", "-o", "o.idol"],
        ["inspect", "noise.pth"],
        ["run", "{toy}", "--source", "noise.mp4", "--jsonl", "a.jsonl"],
        ["run", "{toy}", "--source", "cut.mp4", "--save", "a.mp4"],
    ],
)
def test_errors_of_a_process_of_its_own(
    toy: Toy, clip: Path, start: Start, unchanged: Unchanged, tmp_path: Path, arguments: list[str]
) -> None:
    for name in ("noise.pth", "noise.mp4"):
        (tmp_path / name).write_bytes(b"\0noise" * 99)
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:-200])
    arguments = [argument.format(toy=toy.path) for argument in arguments]
    with unchanged():
        process = start(*arguments, cwd=tmp_path)
        out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 2, err
    assert err.startswith("idol-deploy: error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in out
