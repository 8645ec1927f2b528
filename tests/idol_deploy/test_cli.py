"""The command as a user meets it: what it writes, and that every error is one line that names the fix."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from idol_deploy import config as config_module
from idol_deploy.cli import build_parser, main
from idol_deploy.config import PRESETS
from idol_deploy.data.synthetic import MadeDataset, make_videos
from idol_deploy.reference import write_reference_checkpoint
from idol_runtime.bundle import Bundle
from idol_runtime.optional import load_cv2
from idol_runtime.pipeline import Pipeline
from idol_runtime.rle import decode_rle

if TYPE_CHECKING:
    from tests.conftest import Toy

FRAMES = 6
# FFmpeg asks how loud it may be when the first video of a process is opened, and these tests open one before.
cv2 = load_cv2("making videos to test with")


class Done(NamedTuple):
    """What a command left behind."""

    status: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def idol(capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in this process."""

    def run(*arguments: object) -> Done:
        capfd.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        return Done(status, *capfd.readouterr())

    return run


@pytest.fixture
def refused(idol: Command, tmp_path: Path) -> Callable[..., str]:
    """The one line of a command that fails and leaves `tmp_path` as it was, but for `beyond`."""

    def run(*arguments: object, beyond: Path | None = None) -> str:
        before = _contents(tmp_path, beyond)
        done = idol(*arguments)
        assert done.status == 2, done
        assert done.err.startswith("idol-deploy: error: ")
        assert done.err.count("\n") == 1, done.err
        assert done.err.endswith("\n")
        assert _contents(tmp_path, beyond) == before
        return done.err

    return run


def _contents(folder: Path, beyond: Path | None = None) -> dict[Path, bytes | None]:
    paths = (path for path in folder.rglob("*") if beyond is None or beyond not in (path, *path.parents))
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def _process(*arguments: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-m", "idol_deploy.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def _write_video(path: Path, frames: npt.NDArray[np.uint8]) -> Path:
    size = frames.shape[2], frames.shape[1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 25.0, size)
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def _write_images(folder: Path, frames: npt.NDArray[np.uint8]) -> Path:
    folder.mkdir()
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame{i}.png")
    return folder


@pytest.fixture(scope="session")
def clip(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of the toy's size."""
    return _write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", toy.video(FRAMES))


@pytest.fixture
def images(toy: Toy, tmp_path: Path) -> Path:
    """The same frames as files."""
    return _write_images(tmp_path / "images", toy.video(FRAMES))


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _length(path: Path) -> int:
    video = cv2.VideoCapture(str(path))
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    video.release()
    return count


# Help --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["export"],
        ["train"],
        ["run"],
        ["evaluate"],
        ["inspect"],
        ["plugins"],
        *(["plugins", c] for c in ("build", "info", "selftest")),
    ],
)
def test_help_of_every_command(idol: Command, command: list[str]) -> None:
    done = idol(*command, "--help")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(" ".join(["usage: idol-deploy", *command]))


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that does something, by all its words."""
    for action in parser._actions:
        for name, command in action.choices.items() if isinstance(action.choices, dict) else ():
            inner = [(f"{name} {words}", below) for words, below in _commands(command)]
            yield from inner or [(name, command)]


def test_every_option_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    for name, parser in _commands(build_parser()):
        section = page.partition(f"## idol-deploy {name}\n")[2].partition("\n## ")[0]
        options = {option for action in parser._actions for option in action.option_strings}
        assert len(options) > 2
        assert not [option for option in options if option not in section], name


def test_version(idol: Command) -> None:
    assert idol("--version").out.startswith("idol-deploy 0.")


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        ([], "see idol-deploy --help"),
        (["expert"], "choose from"),
        (["run"], "see idol-deploy run --help"),
        (["run", "x.idol"], "--source"),
        (["run", "x.idol", "--source", "0", "--stride", "0"], "'0' is not a positive whole number"),
        (["run", "x.idol", "--source", "0", "--score", "high"], "invalid float"),
        (["evaluate"], "--gt"),
        (["evaluate", "--gt", "g"], "give --pred, or a model: --bundle, or --weights with --preset"),
        (["evaluate", "--gt", "g", "--pred", "p", "--ious"], "--json; give both"),
        (["evaluate", "--gt", "g", "--pred", "p", "--holdout-share", "0.5"], "give --holdout SEED as well"),
        (["evaluate", "--gt", "g", "--pred", "p", "--holdout", "x"], "'x' is not a whole number"),
        (["evaluate", "--gt", "g", "--pred", "p", "--metric", "coco"], "one of ytvis, ovis"),
        (["evaluate", "--gt", "gone", "--pred", "p"], "cannot read annotation file gone: No such file"),
        (["inspect"], "see idol-deploy inspect --help"),
        (["plugins"], "see idol-deploy plugins --help"),
        (["plugins", "selftest", "--seed", "-1"], "-1"),
        (["plugins", "selftest", "--cases", "few"], "'few' is not a whole number"),
        (["export", "--weights", "w", "--preset", "p", "-o", "o"], "--frame-size"),
        (
            ["export", "--weights=w", "--preset=p", "-o", "o", "--frame-size=720"],
            "'720' is not HEIGHTxWIDTH; 720x1280, for example",
        ),
        (["export", "--weights=w", "--preset=p", "-o", "o", "--frame-size=720x-2"], "720x1280, for example"),
        (["export", "--weights=w", "--preset=p", "-o", "o", "--frame-size=x"], "720x1280, for example"),
        (["export", "--no-resize", "--short-side", "3"], "not allowed with"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(
    refused: Callable[..., str], arguments: list[str], fix: str
) -> None:
    assert fix in refused(*arguments)


# Export ------------------------------------------------------------------------------------------------------


@pytest.fixture
def toy_preset(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy is a preset, and tracing it takes no time."""
    from idol_export import export

    monkeypatch.setattr(config_module, "PRESETS", {**PRESETS, "toy": lambda: toy.config})
    monkeypatch.setattr(export, "probe_to_onnx", lambda graph, **options: toy.probe)


@pytest.fixture(scope="session")
def toy_weights(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "toy.pth"
    write_reference_checkpoint(path, toy.config)
    return path


@pytest.mark.usefixtures("toy_preset")
def test_export_writes_a_bundle_and_shows_its_proof(idol: Command, toy_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "toy.idol"
    done = idol("export", "--weights", toy_weights, "--preset", "toy", "--frame-size", "72x104", "-o", out)
    assert (done.status, done.err) == (0, "")
    assert f"wrote {out} (" in done.out
    for stage in ("backbone", "logits", "masks", "track ids"):
        assert f"{stage} " in done.out
    assert "FAIL" not in done.out
    assert "4 frames, " in done.out
    with Bundle.open(out) as bundle:
        assert bundle.manifest.preset == "toy"


def _export(**changed: object) -> list[object]:
    options = {"weights": "w.pth", "preset": "ytvis19_r50", "frame-size": "72x104", "output": "out.idol"}
    options |= {name.replace("_", "-"): value for name, value in changed.items()}
    return ["export", *(f"--{name}={value}" for name, value in options.items())]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("ytvis19-r50", "ytvis19_r50"), ("ovis_swinl", "ovis_swin_l"), ("YTVIS21_R101", "ytvis21_r101")],
)
def test_the_nearest_preset_is_named(
    refused: Callable[..., str], tmp_path: Path, name: str, nearest: str
) -> None:
    assert f"did you mean '{nearest}'?" in refused(*_export(preset=name, output=tmp_path / "o.idol"))


def test_a_missing_checkpoint(refused: Callable[..., str], tmp_path: Path) -> None:
    message = refused(*_export(weights=tmp_path / "gone.pth", output=tmp_path / "o.idol"))
    assert "gone.pth: No such file or directory; check the path" in message


def test_a_checkpoint_of_another_preset_names_the_right_one(
    refused: Callable[..., str], published: Path, tmp_path: Path
) -> None:
    arguments = _export(weights=published, preset="ovis_r50", output=tmp_path / "o.idol")
    assert "this file fits preset ytvis19_r50" in refused(*arguments)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_truncated_checkpoint(
    refused: Callable[..., str], toy_weights: Path, tmp_path: Path, kept: float
) -> None:
    cut = tmp_path / "cut.pth"
    data = toy_weights.read_bytes()
    cut.write_bytes(data[: int(kept * len(data))])
    message = refused(*_export(weights=cut, output=tmp_path / "o.idol"))
    assert "cut.pth" in message
    assert "fetch it again" in message or "give a published IDOL .pth" in message


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


def test_a_malicious_checkpoint_does_not_run(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    old, new = tmp_path / "old.pth", tmp_path / "new.pth"
    old.write_bytes(pickle.dumps({"model": _Evil()}))
    torch.save({"model": _Evil()}, new)
    for path in (old, new):
        assert path.name in refused(*_export(weights=path, output=tmp_path / "o.idol"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("output", "fix"),
    [("missing/o.idol", "create it first"), (".", "give a file name"), ("/dev/null", "another file name")],
)
def test_a_bundle_that_cannot_be_written_is_told_first(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, fix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fix in refused(*_export(weights="not-looked-at.pth", output=output))


@pytest.mark.usefixtures("toy_preset")
@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"frame_size": "0x0"}, "frame size must be positive"),
        ({"frame_size": "20x3000"}, "--short-side"),
        ({"verify": "gone.mp4"}, "gone.mp4 does not exist; check the path"),
        ({"verify_frames": "0"}, "not a positive whole number"),
        ({"short_side": "16"}, "too small"),
    ],
)
def test_other_export_options(
    refused: Callable[..., str], toy_weights: Path, tmp_path: Path, options: dict[str, str], fix: str
) -> None:
    arguments = _export(weights=toy_weights, preset="toy", output=tmp_path / "o.idol", **options)
    assert fix in refused(*arguments)


def test_an_old_opset(refused: Callable[..., str], toy: Toy, toy_weights: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config_module, "PRESETS", {**PRESETS, "toy": lambda: toy.config})
        message = refused(*_export(weights=toy_weights, preset="toy", output=tmp_path / "o.idol", opset="16"))
    assert "use --opset 18 or newer" in message


@pytest.mark.usefixtures("toy_preset")
def test_a_wrong_graph_names_its_stage_and_leaves_no_file(
    refused: Callable[..., str], toy_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from idol_export import parity

    stages = parity.torch_stages
    monkeypatch.setattr(
        parity, "torch_stages", lambda *arguments: {k: 1.01 * v for k, v in stages(*arguments).items()}
    )
    arguments = _export(weights=toy_weights, preset="toy", output=tmp_path / "o.idol")
    assert "differs from PyTorch at stage 'preprocess'" in refused(*arguments)


@pytest.mark.usefixtures("toy_preset")
@pytest.mark.parametrize(
    ("package", "extra"),
    [("torch", "export"), ("onnx", "export"), ("onnxscript", "export"), ("onnxruntime", "cpu")],
)
def test_export_names_a_missing_package(
    refused: Callable[..., str],
    toy_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = refused(*_export(weights=toy_weights, preset="toy", output=tmp_path / "o.idol"))
    assert f"needs {package}, which is not installed" in message
    assert f"pip install 'idol-deploy[{extra}]'" in message


# Train -------------------------------------------------------------------------------------------------------


@pytest.fixture
def shapes(tmp_path_factory: pytest.TempPathFactory) -> MadeDataset:
    return make_videos(tmp_path_factory.mktemp("shapes"), videos=2, frames=3, size=(48, 64), shapes=2)


def _train(shapes: MadeDataset, output: Path, *more: object) -> list[object]:
    small = ("train.min_sizes=48", "train.batch_pairs=1", "train.iterations=2", "data.workers=0")
    arguments = ["--preset", "toy", "--own-classes", "--output", output, *more]
    data = ["--annotations", shapes.annotations, "--frames", shapes.frames]
    return ["train", *arguments, *data, *(part for setting in small for part in ("--set", setting))]


@pytest.mark.usefixtures("toy_preset")
def test_train_writes_weights_and_goes_on(
    idol: Command, refused: Callable[..., str], shapes: MadeDataset, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    done = idol(*_train(shapes, output, "--holdout", 0, "--global-normaliser"))
    assert (done.status, done.err) == (0, "")
    assert "training with 1 videos" in done.out
    assert done.out.endswith(f"2 iterations\nwrote {output}/final.safetensors\n")
    settings = json.loads((output / "settings.json").read_text())
    assert settings["network"]["train"]["loss"]["global_normaliser"]
    assert settings["network"]["classes"] == ["disc", "square", "triangle"]

    assert "continue it with --resume, or choose another" in refused(*_train(shapes, output))
    assert "leave --preset out, or use --set" in refused(*_train(shapes, output, "--resume"))
    resume = ["train", "--resume", "--output", output, "--set"]
    assert "another network" in refused(*resume, "model.queries=9")
    done = idol(*resume, "train.iterations=3")
    assert done.out.endswith(f"3 iterations\nwrote {output}/final.safetensors\n"), done
    assert [line["iteration"] for line in _lines(output / "log.jsonl")] == [1, 2, 3]

    described = json.loads(idol("inspect", "--json", output / "final.safetensors").out)
    assert described["classes"] == 3
    evaluate = [
        "evaluate",
        "--gt",
        shapes.annotations,
        "--frames",
        shapes.frames,
        "--results",
        tmp_path / "r.json",
    ]
    weights = ["--weights", output / "iteration-00000003.pt", "--preset", output / "settings.json"]
    assert idol(*evaluate, *weights).status == 0


@pytest.mark.parametrize(
    ("more", "fix"),
    [
        (["--set", "train.speed=1"], "train has no 'speed'"),
        (["--set", "run.evaluate_period=1"], "hold some out with data.holdout=0"),
        (["--set", "run.accumulate=2"], "set train.batch_pairs to a multiple of 2"),
        (["--weights", "gone.pth"], "gone.pth: No such file or directory; check the path"),
        (["--annotations", "gone.json"], "gone.json: No such file or directory; check the path"),
        (["--frames", "gone"], "give the folder that holds them"),
        (["--device", "cuda:99"], "PyTorch cannot use device cuda:99"),
        (["--device", "none"], "PyTorch cannot use device none"),
        (["--preset", "gone.json"], "cannot read settings gone.json"),
    ],
)
@pytest.mark.usefixtures("toy_preset")
def test_training_that_cannot_be_is_told_before_it_starts(
    refused: Callable[..., str], shapes: MadeDataset, tmp_path: Path, more: list[str], fix: str
) -> None:
    arguments = _train(shapes, tmp_path / "run")
    assert fix in refused(*arguments, *more)


@pytest.mark.parametrize("missing", ["preset", "annotations", "frames"])
def test_train_names_what_is_missing(refused: Callable[..., str], tmp_path: Path, missing: str) -> None:
    given = {"preset": "ytvis19_r50", "annotations": "a.json", "frames": "f"}
    del given[missing]
    arguments = [part for name, value in given.items() for part in (f"--{name}", value)]
    assert f"--{missing} is missing" in refused("train", "--output", tmp_path / "run", *arguments)


def test_nothing_to_resume(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "there is no snapshot in" in refused("train", "--resume", "--output", tmp_path)


@pytest.mark.parametrize("package", ["torch", "safetensors", "pycocotools"])
def test_train_names_a_missing_package(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = refused("train", "--output", tmp_path)
    assert f"needs {package}, which is not installed" in message
    assert "pip install 'idol-deploy[train]'" in message


# Run ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def outputs(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "out"
    folder.mkdir()
    return {name: folder / name for name in ("a.mp4", "a.jsonl", "a.json", "masks")}


def _to(outputs: dict[str, Path]) -> list[object]:
    flags = ("--save", "--jsonl", "--results", "--masks")
    return [part for pair in zip(flags, outputs.values(), strict=True) for part in pair]


def _check_outputs(outputs: dict[str, Path], frames: int, *, step: int = 1) -> list[dict[str, object]]:
    """All four hold the same frames, identities and masks."""
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
    assert {path.name for path in outputs["masks"].parent.iterdir()} == set(outputs), "nothing half-written"
    return lines


def _check_results(path: Path, lines: list[dict[str, object]]) -> None:
    """Every entry is a track of the JSON lines; a frame in which it was not seen has an empty mask."""
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
    assert done.err == "", "no bar where there is no terminal"
    lines = _check_outputs(outputs, FRAMES)
    identities = {instance["id"] for line in lines for instance in line["instances"]}
    assert len(identities) >= 3
    assert f"{FRAMES} frames, {len(identities)} tracks, onnxruntime (cpu, portable graph)" in done.out
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
    idol: Command, refused: Callable[..., str], toy: Toy, tmp_path: Path, outputs: dict[str, Path]
) -> None:
    source = _write_images(tmp_path / "square", toy.video(3, size=(80, 80)))
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
        ("association.temporol=paper", "it has select_score"),
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
    refused: Callable[..., str], toy: Toy, tmp_path: Path, outputs: dict[str, Path]
) -> None:
    whole = _write_video(tmp_path / "whole.avi", toy.video(40))
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
        path, lambda manifest: manifest, lambda parity: {"portable": {**parity["portable"], "stages": []}}
    )
    return "was never shown to equal PyTorch"


def _escaping(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../evil.txt", "evil")
    return "unexpected or missing ['../../evil.txt']"


def _cut(path: Path, data: bytes) -> str:
    path.write_bytes(data[: len(data) // 2])
    return "is not an .idol bundle or is cut short"


def _missing(path: Path, data: bytes) -> str:
    return "write one with: idol-deploy export"


def _rewrite(
    path: Path,
    manifest: Callable[[dict], dict],
    parity: Callable[[dict], dict] = lambda parity: parity,
) -> None:
    """The bundle with another manifest and other certificates, every hash of it right."""
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
        why = "is no file; check the path"
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
        (["--masks", "pngs"], "empty it"),
        (["--jsonl", "a", "--results", "a"], "give each its own"),
        (["--jsonl", "a", "--results", "./pngs/../a"], "give each its own"),
        ([], "give --save, --jsonl, --results, --masks or --display"),
        (["--jsonl", "good.jsonl", "--masks", "taken.txt"], "give a folder"),
        (["--save", "good.mp4", "--results", "missing/a.json"], "create it first"),
        (["--jsonl", "a", "--score", "2"], "between 0 and 1"),
        (["--jsonl", "a", "--score", "nan"], "between 0 and 1"),
        (["--jsonl", "a", "--device", "tpu"], "use cpu, cuda or cuda:N"),
        (["--jsonl", "a", "--backend", "magic"], "onnxruntime"),
    ],
)
def test_bad_outputs_and_options_are_told_before_the_first_frame(
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
    monkeypatch.setattr(Pipeline, "step", lambda *_: pytest.fail("a frame was processed"))
    assert fix in refused("run", toy.path, "--source", clip, *flags)


@pytest.mark.parametrize(
    ("module", "flag", "name", "extra"),
    [
        ("cv2", "--save", "opencv-python", "video"),
        ("cv2", "--jsonl", "opencv-python", "video"),
        ("pycocotools.mask", "--jsonl", "pycocotools", "video"),
        ("pycocotools.mask", "--results", "pycocotools", "video"),
        ("onnxruntime", "--masks", "onnxruntime", "cpu"),
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
    monkeypatch.setitem(sys.modules, module, None)
    message = refused("run", toy.path, "--source", clip, flag, tmp_path / "a.mp4")
    assert f"needs {name}, which is not installed" in message
    assert f"pip install 'idol-deploy[{extra}]'" in message


def test_masks_of_images_need_no_optional_package_but_the_engine(
    toy: Toy, images: Path, tmp_path: Path
) -> None:
    blocked = ("torch", "onnx", "cv2", "pycocotools", "tqdm", "supervision", "safetensors")
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
    step = Pipeline.step

    def interrupted(self: Pipeline, image: object) -> object:
        if self._index == frame:
            raise KeyboardInterrupt
        return step(self, image)

    monkeypatch.setattr(Pipeline, "step", interrupted)
    done = idol("run", toy.path, "--source", images, *_to(outputs))
    assert done.status == 130
    assert "Traceback" not in done.err
    if frame:
        _check_outputs(outputs, frame)
    else:
        assert not list(outputs["masks"].parent.iterdir())


def test_ctrl_c_while_loading(idol: Command, toy: Toy, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Pipeline, "open", interrupted)
    done = idol("run", toy.path, "--source", clip, "--jsonl", "a.jsonl")
    assert (done.status, done.err) == (130, "idol-deploy: interrupted\n")


@contextlib.contextmanager
def _running(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    process = _process(*arguments)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_true_ctrl_c_finishes_every_output(toy: Toy, images: Path, outputs: dict[str, Path]) -> None:
    first = images / "frame0.png"
    for i in range(FRAMES, 4000):
        os.link(first, images / f"frame{i}.png")
    with _running("run", toy.path, "--source", images, *_to(outputs)) as process:
        deadline = time.monotonic() + 60
        while not (outputs["masks"] / "000003.png").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    assert f"wrote {outputs['a.jsonl']}" in out
    frames = len(_lines(outputs["a.jsonl"]))
    assert 3 <= frames < 4000
    assert abs(len(list(outputs["masks"].glob("[0-9]*.png"))) - frames) <= 1
    assert abs(_length(outputs["a.mp4"]) - frames) <= 1
    assert json.loads(outputs["a.json"].read_text())
    assert {path.name for path in outputs["masks"].parent.iterdir()} == set(outputs), "nothing half-written"


# In a process of its own --------------------------------------------------------------------------------------


def test_a_run_in_a_process_of_its_own(toy: Toy, clip: Path, outputs: dict[str, Path]) -> None:
    process = _process("run", toy.path, "--source", clip, *_to(outputs))
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert f"{FRAMES} frames" in out
    _check_outputs(outputs, FRAMES)


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
def test_errors_of_a_process_of_its_own(toy: Toy, clip: Path, tmp_path: Path, arguments: list[str]) -> None:
    for name in ("noise.pth", "noise.mp4"):
        (tmp_path / name).write_bytes(b"\0noise" * 99)
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:-200])
    arguments = [argument.format(toy=toy.path) for argument in arguments]
    before = _contents(tmp_path)
    process = _process(*arguments, cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert err.startswith("idol-deploy: error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in out
    assert _contents(tmp_path) == before


# Evaluate ----------------------------------------------------------------------------------------------------

OFFICIAL = Path(__file__).parents[1] / "data" / "ytvis_eval"


def test_evaluate_a_results_file(idol: Command, tmp_path: Path) -> None:
    scores, archive = tmp_path / "scores.json", tmp_path / "submission.zip"
    files = "--gt", OFFICIAL / "gt.json", "--pred", OFFICIAL / "pred.json"
    done = idol("evaluate", *files, "--metric", "ovis", "--json", scores, "--ious", "--submission", archive)
    assert (done.status, done.err) == (0, "")
    assert "note: 6 videos, 32 instances, 174 results\n" in done.out
    assert f"wrote {archive}\nwrote {scores}\n" in done.out
    expected = json.loads((OFFICIAL / "ovis_result.json").read_text())
    written = json.loads(scores.read_text())
    assert written["summary"] == pytest.approx(expected["summary"], abs=1e-9)
    assert written["ious"].keys() <= expected["ious"].keys()
    with zipfile.ZipFile(archive) as submission:
        assert submission.read("results.json") == (OFFICIAL / "pred.json").read_bytes()


def test_evaluate_broken_files(refused: Callable[..., str], tmp_path: Path) -> None:
    cut = tmp_path / "cut.json"
    cut.write_bytes((OFFICIAL / "pred.json").read_bytes()[:-9])
    out = tmp_path / "scores.json"
    message = refused("evaluate", "--gt", OFFICIAL / "gt.json", "--pred", cut, "--json", out)
    assert "cut.json is not JSON" in message


@pytest.fixture
def frames_set(toy: Toy, tmp_path: Path) -> dict[str, Path]:
    """Annotations without instances for two videos, and their frames."""
    videos = []
    for seed in (1, 2):
        _write_images(tmp_path / f"video{seed}", toy.video(4, seed))
        names = [f"video{seed}/frame{t}.png" for t in range(4)]
        videos.append({"id": seed, "height": toy.size[0], "width": toy.size[1], "file_names": names})
    categories = [{"id": i, "name": name} for i, name in enumerate(toy.config.classes, 1)]
    gt = tmp_path / "gt.json"
    gt.write_text(json.dumps({"videos": videos, "categories": categories, "annotations": []}))
    return {"--gt": gt, "--frames": tmp_path}


def _pairs(options: dict[str, Path]) -> list[object]:
    return [part for pair in options.items() for part in pair]


def test_evaluate_runs_a_bundle_as_run_does(
    idol: Command, toy: Toy, frames_set: dict[str, Path], tmp_path: Path
) -> None:
    results = tmp_path / "results.json"
    done = idol("evaluate", *_pairs(frames_set), "--bundle", toy.path, "--results", results)
    assert (done.status, done.err) == (0, "")
    expected = []
    for seed in (1, 2):
        alone = tmp_path / f"{seed}.json"
        source = "--source", tmp_path / f"video{seed}", "--video-id", seed
        idol("run", toy.path, *source, "--results", alone)
        expected += json.loads(alone.read_text())
    assert expected
    assert json.loads(results.read_text()) == expected
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.usefixtures("toy_preset")
def test_evaluate_names_a_missing_frame(
    refused: Callable[..., str], toy: Toy, toy_weights: Path, frames_set: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "video2" / "frame3.png").unlink()
    results = tmp_path / "results.json"
    model = "--weights", toy_weights, "--preset", "toy", "--results", results
    message = refused("evaluate", *_pairs(frames_set), *model, beyond=tmp_path / "results.json.parts")
    assert "video2/frame3.png does not exist; give the folder" in message


# Inspect -----------------------------------------------------------------------------------------------------


def test_inspect_shows_a_bundle(idol: Command, toy: Toy) -> None:
    done = idol("inspect", toy.path)
    assert (done.status, done.err) == (0, "")
    for text in ("idol bundle, schema 2", "untrained weights", "72x104", "person", "sha256"):
        assert text in done.out


def test_inspect_speaks_json(idol: Command, toy: Toy, toy_weights: Path) -> None:
    for path in (toy.path, toy_weights):
        done = idol("inspect", path, "--json")
        assert (done.status, done.err) == (0, "")
        assert "sha256" in json.loads(done.out)


def test_inspect_refuses_what_it_does_not_know(refused: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("to do")
    assert "notes.txt" in refused("inspect", path)


@pytest.mark.clips
def test_a_real_clip_of_another_shape_runs_letterboxed(
    idol: Command, toy: Toy, clips: Path, outputs: dict[str, Path]
) -> None:
    source = clips / "bedroom.mp4"
    told = idol("run", toy.path, "--source", source, "--fit", "--max-frames", 4, *_to(outputs))
    assert told.status == 0, told.err
    _check_outputs(outputs, 4)


# Plugins -----------------------------------------------------------------------------------------------------


@pytest.fixture
def built(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The libraries, as a user finds them."""
    monkeypatch.setenv("IDOL_PLUGINS", str(libraries))
    return libraries


def test_plugins_info(idol: Command, built: Path) -> None:
    done = idol("plugins", "info")
    assert (done.status, done.err) == (0, "")
    assert f"ready     {built / 'libidol_deform_attn_cpu.so'}" in done.out
    homes = {home["name"]: home for home in json.loads(idol("plugins", "info", "--json").out)["homes"]}
    assert homes["cpu"]["ready"] is True
    assert homes["cuda"]["fix"] or homes["cuda"]["ready"]


@pytest.mark.usefixtures("built")
def test_plugins_selftest(idol: Command) -> None:
    done = idol("plugins", "selftest", "--cases", 2)
    assert (done.status, done.err) == (0, "")
    assert "cpu scalar" in done.out
    report = json.loads(idol("plugins", "selftest", "--cases", 2, "--seed", 5, "--json").out)
    assert (report["passed"], report["seed"]) == (True, 5)


@pytest.mark.usefixtures("built")
def test_plugins_selftest_names_what_disagrees(idol: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from idol_plugins.cpu import CpuLibrary

    fused = CpuLibrary.deformable_attention
    monkeypatch.setattr(CpuLibrary, "deformable_attention", lambda *a, **k: fused(*a, **k) + np.float32(1e-3))
    done = idol("plugins", "selftest", "--cases", 0)
    assert done.status == 1
    assert "idol-deploy: selftest: cpu scalar, points, float32 values" in done.err


def test_plugins_build_says_what_it_wrote(
    idol: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from idol_plugins import build

    asked: dict[str, object] = {}
    monkeypatch.setattr(
        build, "build", lambda into, **options: asked.update(options) or [into / "libidol.so"]
    )
    done = idol("plugins", "build", "--into", tmp_path, "--cuda", "87", "--tensorrt-include", "headers")
    assert (done.status, done.err) == (0, "")
    assert asked["tensorrt_include"] == Path("headers")
    assert asked["cuda_architectures"] == "87"
    assert f"wrote {tmp_path / 'libidol.so'}" in done.out


def test_plugins_build_without_its_headers(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "holds no onnxruntime_c_api.h" in refused("plugins", "build", "--ort-include", tmp_path)
