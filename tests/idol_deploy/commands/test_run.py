"""The `idol-deploy run` command: outputs, refused inputs, and interruption."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest
from PIL import Image

from idol_runtime.errors import ConfigError
from idol_runtime.frames import Frame
from idol_runtime.optional import load_cv2
from idol_runtime.pipeline import Pipeline
from idol_runtime.sinks.base import Sink, SinkContext
from idol_runtime.sinks.opening import SINKS, SinkKind
from idol_runtime.stream import Prepared
from idol_runtime.streams import Streams
from idol_runtime.tracking.results import FrameResult
from idol_runtime.tracking.rle import decode_rle
from samples.waiting import LIMIT_S, until

if TYPE_CHECKING:
    from tests.conftest import Toy
    from tests.idol_deploy.conftest import Command, Start, Unchanged

FRAMES = 6  # number of frames in the clip and in the image folder
# FFmpeg reads its log level when the first video of a process is opened, and these tests open one before the command.
cv2 = load_cv2("making videos to test with")


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _length(path: Path) -> int:
    video = cv2.VideoCapture(str(path))
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    video.release()
    return count


def _to(outputs: dict[str, Path]) -> list[object]:
    flags = ("--save", "--jsonl", "--results", "--masks")
    return [part for pair in zip(flags, outputs.values(), strict=True) for part in pair]


def _check_outputs(outputs: dict[str, Path], frames: int, *, step: int = 1) -> list[dict[str, object]]:
    """Check that all four outputs contain the same frames, identities and masks."""
    lines = _lines(outputs["a.jsonl"])
    assert [line["frame"] for line in lines] == list(range(0, frames * step, step))
    assert _length(outputs["a.mp4"]) == frames
    pngs = sorted(outputs["masks"].iterdir())
    assert [path.name for path in pngs] == [f"{line['frame']:06d}.png" for line in lines]
    for line, png in zip(lines, pngs, strict=True):
        painted = np.asarray(Image.open(png)).astype(np.int64)
        expected = np.zeros(line["size"], np.int64)
        for instance in sorted(line["instances"], key=lambda instance: instance["score"]):
            expected[decode_rle(instance["mask"])] = instance["id"] + 1
        assert np.array_equal(painted, expected)
    _check_results(outputs["a.json"], lines)
    assert {path.name for path in outputs["masks"].parent.iterdir()} == set(outputs), "no partial file"
    return lines


def _check_results(path: Path, lines: list[dict[str, object]]) -> None:
    """Check that every entry is a track of the JSON lines, with an empty mask for frames where it was not seen."""
    entries = json.loads(path.read_text())
    identities = {instance["id"] for line in lines for instance in line["instances"]}
    tracks = []
    for identity in identities:
        found = [[i["mask"] for i in line["instances"] if i["id"] == identity] for line in lines]
        tracks.append([masks[0] if masks else None for masks in found])
    assert entries
    for entry in entries:
        assert entry.keys() == {"video_id", "score", "category_id", "segmentations"}
        assert 0 < entry["score"] <= 1
        assert 1 <= entry["category_id"] <= 40
        masks = entry["segmentations"]
        assert any(
            all(
                ours == theirs if theirs else not decode_rle(ours).any()
                for ours, theirs in zip(masks, track, strict=True)
            )
            for track in tracks
        )


@pytest.mark.parametrize("kind", ["video", "folder", "glob"])
def test_run_writes_everything_and_all_of_it_agrees(
    idol: Command, toy: Toy, clip: Path, images: Path, outputs: dict[str, Path], kind: str
) -> None:
    source = {"video": clip, "folder": images, "glob": images / "frame*.png"}[kind]
    done = idol("run", toy.path, "--source", source, *_to(outputs))
    assert done.status == 0
    assert done.err == "", "no progress bar without a terminal"
    lines = _check_outputs(outputs, FRAMES)
    identities = {instance["id"] for line in lines for instance in line["instances"]}
    assert len(identities) >= 3
    assert f"{FRAMES} frames, {len(identities)} tracks, " in done.out
    assert "(cpu, portable graph)\n" in done.out
    for output in outputs.values():
        assert f"wrote {output}" in done.out


def test_what_run_writes_is_what_the_pipeline_finds(
    idol: Command, toy: Toy, images: Path, outputs: dict[str, Path]
) -> None:
    assert idol("run", toy.path, "--source", images, *_to(outputs)).status == 0
    with Pipeline.open(toy.path) as pipeline:
        for line, result in zip(_lines(outputs["a.jsonl"]), pipeline.stream(images), strict=True):
            assert [instance["id"] for instance in line["instances"]] == result.ids.tolist()
            assert [instance["label"] for instance in line["instances"]] == result.labels.tolist()
            for instance, mask in zip(line["instances"], result.masks, strict=True):
                assert np.array_equal(decode_rle(instance["mask"]), mask)


def test_several_sources(idol: Command, toy: Toy, clip: Path, images: Path, tmp_path: Path) -> None:
    """Each source has its own outputs, and an error of one source does not end the others."""
    alone = tmp_path / "alone.jsonl"
    command = ("run", toy.path, "--backend", "onnxruntime")  # whose graphs limit the batch
    assert idol(*command, "--source", clip, "--jsonl", alone).status == 0
    (images / "frame4.png").write_bytes(b"no image")
    pattern = tmp_path / "{number}-{source}.jsonl"
    done = idol(*command, "--source", images, "--source", clip, "--jsonl", pattern)
    assert done.status == 2
    told, at_the_end = done.err.splitlines()
    assert f" {images}: ended early: " in told
    assert at_the_end.startswith(f"idol-deploy: error: {images} ended early: ")
    assert "frame4.png" in told
    assert "frame4.png" in at_the_end
    assert (tmp_path / "2-clip.jsonl").read_bytes() == alone.read_bytes()
    assert len(_lines(tmp_path / "1-images.jsonl")) == 4
    assert "note: the bundle's graphs take one frame at a time; export it with --dynamic-batch" in done.out
    assert f"{clip}: {FRAMES} frames, " in done.out
    assert f"{4 + FRAMES} frames, " in done.out


def test_a_few_frames_of_a_run(idol: Command, toy: Toy, images: Path, outputs: dict[str, Path]) -> None:
    done = idol("run", toy.path, "--source", images, "--stride", 2, "--max-frames", 2, *_to(outputs))
    assert done.status == 0
    assert [line["frame"] for line in _check_outputs(outputs, 2, step=2)] == [0, 2]


def test_a_score_hides_instances_but_not_from_the_results(
    idol: Command, toy: Toy, images: Path, outputs: dict[str, Path], tmp_path: Path
) -> None:
    assert idol("run", toy.path, "--source", images, "--score", 0.3, *_to(outputs)).status == 0
    scores = [instance["score"] for line in _lines(outputs["a.jsonl"]) for instance in line["instances"]]
    assert scores
    assert min(scores) >= 0.3
    everything = tmp_path / "all.json"
    assert idol("run", toy.path, "--source", images, "--results", everything).status == 0
    assert everything.read_bytes() == outputs["a.json"].read_bytes()


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


class PublishSink(Sink):
    """A sink whose target is an address, not a path."""

    is_path = False
    published: ClassVar[list[tuple[str, int]]] = []

    def __init__(self, target: str | Path, context: SinkContext) -> None:
        super().__init__(target, context)
        self.target = str(target)

    @classmethod
    def check(cls, target: str) -> None:
        if "://" not in target:
            raise ConfigError(f"not an address: {target}; give mqtt://HOST/TOPIC")

    def _write(self, frame: Frame, result: FrameResult) -> None:
        self.published.append((self.target, frame.index))

    def close(self) -> None:
        """Do nothing."""


def test_a_kind_of_sink_is_one_module_and_one_line_of_the_registry(
    idol: Command, toy: Toy, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("idol_runtime.sinks.publish")
    module.PublishSink = PublishSink  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    kind = SinkKind("publish", "URL", "publish every result", "publish:PublishSink")
    SINKS.append(kind)
    try:
        assert "--publish URL" in idol("run", "--help").out
        arguments = "run", toy.path, "--source", images, "--source", images, "--publish"
        done = idol(*arguments, "tcp")
        assert (done.status, done.err) == (
            2,
            "idol-deploy: error: not an address: tcp; give mqtt://HOST/TOPIC\n",
        )
        assert PublishSink.published == []
        assert idol(*arguments, "mqtt://host/{source}/{number}").status == 0
        message = idol("run", toy.path, "--source", images).err
        assert "give --save, --jsonl, --results, --masks, --display, --publish, --events," in message
    finally:
        SINKS.remove(kind)
    topics = [f"mqtt://host/images/{number}" for number in (1, 2)]
    assert sorted(PublishSink.published) == [(topic, i) for topic in topics for i in range(FRAMES)]


def test_settings_reach_the_tracker(idol: Command, toy: Toy, images: Path, tmp_path: Path) -> None:
    counts = []
    for i, settings in enumerate(([], ["association.temporal=paper", "association.init_score=0.5"])):
        out = tmp_path / f"{i}.jsonl"
        flags = [part for setting in settings for part in ("--set", setting)]
        assert idol("run", toy.path, "--source", images, "--jsonl", out, *flags).status == 0
        counts.append(len(_lines(out)[0]["instances"]))
    assert counts[0] > counts[1] > 0


def test_a_video_id(idol: Command, toy: Toy, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    assert idol("run", toy.path, "--source", images, "--results", out, "--video-id", 7).status == 0
    assert {entry["video_id"] for entry in json.loads(out.read_text())} == {7}


def test_another_shape_is_refused_and_with_fit_letterboxed(
    idol: Command,
    refused: Callable[..., str],
    toy: Toy,
    tmp_path: Path,
    write_images: Callable[..., Path],
    outputs: dict[str, Path],
) -> None:
    source = write_images(tmp_path / "square", toy.video(3, size=(80, 80)))
    message = refused("run", toy.path, "--source", source, *_to(outputs))
    assert "a frame of 80x80" in message
    assert "--fit" in message
    assert "export with --frame-size 80x80" in message
    assert idol("run", toy.path, "--source", source, "--fit", *_to(outputs)).status == 0
    assert _check_outputs(outputs, 3)[0]["size"] == [80, 80]


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
    assert fix in refused("run", toy.path, "--source", source, *_to(outputs))


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
    message = refused("run", toy.path, "--source", images, *_to(outputs), beyond=outputs["masks"].parent)
    assert fix in message
    assert "frame3.png (frame 3)" in message
    _check_outputs(outputs, 3)


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
    assert 3 < len(_lines(outputs["a.jsonl"])) < 40


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


def test_run_explains_its_choice_without_a_source(
    idol: Command, toy: Toy, refused: Callable[..., str]
) -> None:
    done = idol("run", toy.path, "--explain", "--backend", "onnxruntime")
    assert done.status == 0
    head, *rows, choice, hint = (line for line in done.out.splitlines() if not line.startswith("trying "))
    assert head.split() == ["engine", "device", "graph", "ms", "speed"]
    assert [row.split()[:4] for row in rows] == [
        ["ONNX", "Runtime", "cpu", graph] for graph in ("plugin", "portable")
    ]
    assert "the bundle has no plugin graph; export it again after: idol-deploy plugins build" in rows[0]
    assert rows[1].endswith("1.00  used")
    assert choice == "note: running portable on ONNX Runtime (cpu)"
    assert hint.startswith("note: not running plugin on ONNX Runtime, which may be faster: ")
    none = refused("run", toy.path, "--explain", "--backend", "onnxruntime", "--graph", "plugin")
    assert none == "idol-deploy: error: no candidate runs; the table has the reasons\n"
    assert "--source is missing" in refused("run", toy.path)
    # Before the bundle is loaded.
    assert "gone.mp4 does not exist" in refused(
        "run", "gone.idol", "--source", "gone.mp4", "--jsonl", "a.jsonl"
    )


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


def test_masks_of_images_need_no_optional_package_but_the_engine(
    toy: Toy, images: Path, tmp_path: Path
) -> None:
    blocked = ("torch", "onnx", "av", "cv2", "pycocotools", "tqdm", "supervision", "safetensors")
    arguments = ["run", str(toy.path), "--source", str(images), "--masks", str(tmp_path / "masks")]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"
        f"from idol_deploy.cli import main; sys.exit(main({arguments!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "masks").iterdir())) == FRAMES


@pytest.mark.parametrize("frame", [0, 3])
def test_ctrl_c_finishes_every_output(
    idol: Command,
    toy: Toy,
    images: Path,
    outputs: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    frame: int,
) -> None:
    track = Streams.track

    def interrupted(self: Streams, prepared: Mapping[int, Prepared], times: Mapping[int, float]) -> object:
        if self.join(0)._index == frame:
            signal.raise_signal(signal.SIGINT)
            if not frame:
                signal.raise_signal(signal.SIGINT)  # the second one drops what is not written
        return track(self, prepared, times)

    monkeypatch.setattr(Streams, "track", interrupted)
    done = idol("run", toy.path, "--source", images, *_to(outputs))
    assert done.status == 130
    assert "Traceback" not in done.err
    if frame:
        _check_outputs(outputs, frame + 1)
    else:
        assert not list(outputs["masks"].parent.iterdir())


def test_ctrl_c_while_loading(idol: Command, toy: Toy, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Streams, "open", interrupted)
    done = idol("run", toy.path, "--source", clip, "--jsonl", "a.jsonl")
    assert (done.status, done.err) == (130, "idol-deploy: interrupted\n")


def test_a_log_rotation_while_loading_does_not_end_the_run(
    idol: Command, toy: Toy, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Streams.open

    def hang_up(*arguments: object, **options: object) -> Streams:
        signal.raise_signal(signal.SIGHUP)
        return load(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Streams, "open", hang_up)
    arguments = "run", toy.path, "--source", images, "--jsonl", tmp_path / "a.jsonl"
    assert idol(*arguments).status == 130
    assert idol(*arguments, "--rotate", "1h").status == 0


@contextlib.contextmanager
def _running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_true_signal_finishes_every_output(
    toy: Toy, images: Path, start: Start, outputs: dict[str, Path], number: signal.Signals
) -> None:
    first = images / "frame0.png"
    for i in range(FRAMES, 4000):
        os.link(first, images / f"frame{i}.png")
    with _running(start("run", toy.path, "--source", images, *_to(outputs))) as process:
        until((outputs["masks"] / "000003.png").exists, process)
        process.send_signal(number)
        out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, err) == (130, "")
    assert f"wrote {outputs['a.jsonl']}" in out
    frames = len(_lines(outputs["a.jsonl"]))
    assert 3 <= frames < 4000
    assert abs(len(list(outputs["masks"].glob("[0-9]*.png"))) - frames) <= 1
    assert abs(_length(outputs["a.mp4"]) - frames) <= 1
    assert json.loads(outputs["a.json"].read_text())
    assert {path.name for path in outputs["masks"].parent.iterdir()} == set(outputs), "no partial file"


def test_a_lost_source_is_told_at_once_and_decides_the_exit_status(
    toy: Toy, images: Path, clip: Path, start: Start, tmp_path: Path
) -> None:
    """Two cameras, one of which goes, a broken file, and SIGTERM."""
    from servers.mjpeg import MjpegServer

    (images / "frame4.png").write_bytes(b"no image")
    events, listing = tmp_path / "events.jsonl", tmp_path / "streams.json"
    events.write_bytes(b'{"kind": "ad')  # cut by a kill

    def told(kind: str, source: str) -> list[str]:
        lines = events.read_text().split("\n")[1:-1]  # the last one may not be whole yet
        return [e["message"] for e in map(json.loads, lines) if (e["kind"], e["source"]) == (kind, source)]

    with MjpegServer(toy.size, 10) as stays, MjpegServer(toy.size, 10) as goes:
        sources = {"stays": stays.url, "goes": goes.url, "file": str(images)}
        listing.write_text(
            json.dumps({"streams": [{"name": name, "source": url} for name, url in sources.items()]})
        )
        command = (
            "run",
            toy.path,
            "--streams",
            listing,
            "--events",
            events,
            "--jsonl",
            tmp_path / "{source}.jsonl",
        )
        with _running(start(*command, "--no-golden-check")) as process:
            until(lambda: told("connected", "goes") and told("ended", "file"), process)
            until((tmp_path / "stays.jsonl").exists, process)
            goes.stop()
            until(lambda: told("lost", "goes"), process)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=LIMIT_S)
            goes.start()
    assert process.returncode == 2
    assert err.count("file: ended early: ") == 1
    assert err.splitlines()[-1].startswith("idol-deploy: error: file ended early: cannot read image")
    assert len([line for line in err.splitlines() if line.split()[2] == "goes:"]) >= 2, "connected and lost"
    assert "note: stays: frame age " in out
    assert [line["frame"] for line in _lines(tmp_path / "file.jsonl")] == [0, 1, 2, 3]
    assert len(_lines(tmp_path / "stays.jsonl")) > 0


def test_a_run_in_a_process_of_its_own(toy: Toy, clip: Path, start: Start, outputs: dict[str, Path]) -> None:
    with _running(start("run", toy.path, "--source", clip, *_to(outputs))) as process:
        out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, err) == (0, "")
    assert f"{FRAMES} frames" in out
    _check_outputs(outputs, FRAMES)


@pytest.mark.clips
def test_a_real_clip_of_another_shape_runs_letterboxed(
    idol: Command, toy: Toy, clips: Path, outputs: dict[str, Path]
) -> None:
    source = clips / "bedroom.mp4"
    done = idol("run", toy.path, "--source", source, "--fit", "--max-frames", 4, *_to(outputs))
    assert done.status == 0, done.err
    _check_outputs(outputs, 4)


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
    with unchanged(), _running(start(*arguments, cwd=tmp_path)) as process:
        out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 2, err
    assert err.startswith("idol-deploy: error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in out
