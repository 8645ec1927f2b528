"""The `idol-deploy run` command: its outputs and its options."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest

from idol_runtime.errors import ConfigError
from idol_runtime.frames import Frame
from idol_runtime.pipeline import Pipeline
from idol_runtime.sinks.base import Sink, SinkContext
from idol_runtime.sinks.opening import SINKS, SinkKind
from idol_runtime.tracking.results import FrameResult
from idol_runtime.tracking.rle import decode_rle
from samples.run_outputs import check_outputs, output_options, read_lines
from samples.waiting import LIMIT_S

if TYPE_CHECKING:
    from tests.conftest import Toy
    from tests.idol_deploy.conftest import Command, Start

FRAMES = 6  # number of frames in the clip and in the image folder


@pytest.mark.parametrize("kind", ["video", "folder", "glob"])
def test_run_writes_everything_and_all_of_it_agrees(
    idol: Command, toy: Toy, clip: Path, images: Path, outputs: dict[str, Path], kind: str
) -> None:
    source = {"video": clip, "folder": images, "glob": images / "frame*.png"}[kind]
    done = idol("run", toy.path, "--source", source, *output_options(outputs))
    assert done.status == 0
    assert done.err == "", "no progress bar without a terminal"
    lines = check_outputs(outputs, FRAMES)
    identities = {instance["id"] for line in lines for instance in line["instances"]}
    assert len(identities) >= 3
    assert f"{FRAMES} frames, {len(identities)} tracks, " in done.out
    assert "(cpu, portable graph)\n" in done.out
    for output in outputs.values():
        assert f"wrote {output}" in done.out


def test_what_run_writes_is_what_the_pipeline_finds(
    idol: Command, toy: Toy, images: Path, outputs: dict[str, Path]
) -> None:
    assert idol("run", toy.path, "--source", images, *output_options(outputs)).status == 0
    with Pipeline.open(toy.path) as pipeline:
        for line, result in zip(read_lines(outputs["a.jsonl"]), pipeline.stream(images), strict=True):
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
    assert len(read_lines(tmp_path / "1-images.jsonl")) == 4
    assert "note: the bundle's graphs take one frame at a time; export it with --dynamic-batch" in done.out
    assert f"{clip}: {FRAMES} frames, " in done.out
    assert f"{4 + FRAMES} frames, " in done.out


def test_a_few_frames_of_a_run(idol: Command, toy: Toy, images: Path, outputs: dict[str, Path]) -> None:
    done = idol(
        "run", toy.path, "--source", images, "--stride", 2, "--max-frames", 2, *output_options(outputs)
    )
    assert done.status == 0
    assert [line["frame"] for line in check_outputs(outputs, 2, step=2)] == [0, 2]


def test_a_score_hides_instances_but_not_from_the_results(
    idol: Command, toy: Toy, images: Path, outputs: dict[str, Path], tmp_path: Path
) -> None:
    assert idol("run", toy.path, "--source", images, "--score", 0.3, *output_options(outputs)).status == 0
    scores = [instance["score"] for line in read_lines(outputs["a.jsonl"]) for instance in line["instances"]]
    assert scores
    assert min(scores) >= 0.3
    everything = tmp_path / "all.json"
    assert idol("run", toy.path, "--source", images, "--results", everything).status == 0
    assert everything.read_bytes() == outputs["a.json"].read_bytes()


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
        counts.append(len(read_lines(out)[0]["instances"]))
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
    message = refused("run", toy.path, "--source", source, *output_options(outputs))
    assert "a frame of 80x80" in message
    assert "--fit" in message
    assert "export with --frame-size 80x80" in message
    assert idol("run", toy.path, "--source", source, "--fit", *output_options(outputs)).status == 0
    assert check_outputs(outputs, 3)[0]["size"] == [80, 80]


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


def test_a_run_in_a_process_of_its_own(toy: Toy, clip: Path, start: Start, outputs: dict[str, Path]) -> None:
    process = start("run", toy.path, "--source", clip, *output_options(outputs))
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, err) == (0, "")
    assert f"{FRAMES} frames" in out
    check_outputs(outputs, FRAMES)


@pytest.mark.clips
def test_a_real_clip_of_another_shape_runs_letterboxed(
    idol: Command, toy: Toy, clips: Path, outputs: dict[str, Path]
) -> None:
    source = clips / "bedroom.mp4"
    done = idol("run", toy.path, "--source", source, "--fit", "--max-frames", 4, *output_options(outputs))
    assert done.status == 0, done.err
    check_outputs(outputs, 4)
