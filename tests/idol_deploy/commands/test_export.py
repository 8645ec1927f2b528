"""Tests of `idol-deploy export`."""

from __future__ import annotations

import os
import pickle
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from idol_export.precision.node_groups import PARTS
from idol_export.verify import reference_graph
from idol_export.verify.reference_graph import ReferenceGraph
from idol_runtime.bundle.bundle import Bundle
from idol_runtime.pipeline import Pipeline

if TYPE_CHECKING:
    from tests.conftest import Toy
    from tests.idol_deploy.conftest import Command


@pytest.mark.usefixtures("toy_preset")
def test_export_writes_a_bundle_and_prints_its_certificate(
    idol: Command, toy_weights: Path, tmp_path: Path
) -> None:
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


@pytest.mark.parametrize("read", ["weights", "verify", "calibrate", "annotations"])
def test_an_input_is_not_replaced(refused: Callable[..., str], tmp_path: Path, read: str) -> None:
    mine = tmp_path / "mine.png"
    mine.write_text("mine")
    message = refused(*_export(**{read: mine, "output": mine}))
    assert "mine.png is an input as well; give the output another name" in message


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
    assert "download it again" in message or "pass a published IDOL .pth" in message


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
    [
        ("missing/o.idol", "create it first"),
        (".", "give a file name"),
        ("/dev/null", "another file name"),
        ("o.onnx", "the name of a bundle ends in .idol; rename it"),
    ],
)
def test_a_bundle_that_cannot_be_written_is_reported_first(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, fix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fix in refused(*_export(weights="not-looked-at.pth", output=output))


@pytest.mark.usefixtures("toy_preset")
@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"frame_size": "0x0"}, "frame size must be positive"),
        ({"frame_size": "100000x100000"}, "at most 8192 a side, got 100000x100000"),
        ({"opset": "16"}, "use --opset 18 or newer"),
        ({"opset": "27"}, "opset 27 is newer than what can be exported; use --opset 18 to "),
        ({"target": "qdq"}, "--target applies to int8 only; pass --precision int8 or --auto as well"),
        ({"target": "ort", "precision": "fp16"}, "--target applies to int8 only"),
        ({"calibrate": "a.mp4", "precision": "fp16"}, "--calibrate applies to int8 only"),
        (
            {"annotations": "a.json", "frames": "a", "precision": "fp32"},
            "--annotations applies to reduced-precision graphs only",
        ),
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


@pytest.mark.parametrize("options", [{"opset": "27"}, {"frame_size": "100000x100000"}, {"keep": "neck"}])
def test_wrong_options_are_reported_before_the_checkpoint_is_read(
    refused: Callable[..., str], tmp_path: Path, options: dict[str, str]
) -> None:
    assert "not-there" not in refused(
        *_export(weights="not-there.pth", output=tmp_path / "o.idol", **options)
    )


@pytest.mark.usefixtures("toy_preset")
def test_a_wrong_graph_names_its_stage_and_leaves_no_file(
    refused: Callable[..., str], toy_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from idol_export.verify import parity

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


@pytest.mark.usefixtures("toy_preset")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_the_finished_graphs_and_names_the_command_for_the_others(
    idol: Command,
    toy_weights: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    """The signal comes before the second precision's tracks are compared; the named command then adds its graph."""
    monkeypatch.setattr(reference_graph, "_INSTANCE_FRAMES", 10)
    out = tmp_path / "toy.idol"
    weights = ("--weights", toy_weights, "--preset", "toy")
    precisions = ("--precision", "fp16", "--precision", "int8", "--calibrate", images)
    precisions += tuple(f"--keep={part}" for part in PARTS)
    agreement = ReferenceGraph.agreement

    def interrupted(reference: ReferenceGraph, candidate: Any, limit: float, **options: Any) -> Any:
        if candidate.name == "int8-ort":
            signal.raise_signal(number)
        return agreement(reference, candidate, limit, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ReferenceGraph, "agreement", interrupted)
        done = idol("export", *weights, "--frame-size", "72x104", "--verify", images, *precisions, "-o", out)
    assert (done.status, done.err) == (130, "idol-deploy: interrupted\n")
    note = next(line for line in done.out.splitlines() if line.startswith("note: "))
    assert note.startswith(
        f"note: {out} is complete except for int8-ort; to add: idol-deploy export --into={out} "
    )
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".idol"] == ["toy.idol"]
    with Bundle.open(out) as bundle:
        assert list(bundle.certificates.precisions) == ["fp16"]
        before = {name: bundle.member(name) for name in bundle.manifest.members}
    for graph in ("portable", "fp16"):
        Pipeline.open(out, graph=graph).close()

    done = idol(*shlex.split(note.partition(": idol-deploy ")[2]))
    assert (done.status, done.err) == (0, ""), done.out
    assert "id agreement 100.00%" in done.out
    with Bundle.open(out) as bundle:
        assert sorted(bundle.certificates.precisions) == ["fp16", "int8-ort"]
        after = {name: bundle.member(name) for name in bundle.manifest.members}
    kept = before.keys() - {"parity.json"}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert after.keys() - before.keys() == {"int8-ort.onnx"}


@pytest.mark.usefixtures("toy_preset")
def test_graphs_are_added_only_to_a_bundle_of_the_same_network(
    refused: Callable[..., str], toy: Toy, toy_weights: Path, tmp_path: Path
) -> None:
    """The error names the property that differs, and the bundle is unchanged."""
    bundle, other = tmp_path / "toy.idol", tmp_path / "other.pth"
    bundle.write_bytes(toy.path.read_bytes())
    state = torch.load(toy_weights)["model"]
    name = next(name for name in state if name.endswith("class_embed.0.bias"))
    torch.save({"model": {**state, name: state[name] + 1}}, other)
    options: dict[str, object] = {
        "into": bundle,
        "weights": toy_weights,
        "preset": "toy",
        "note": toy.exported.manifest.note,
    }
    options |= {"precision": "fp16"}
    for changed, told in (
        ({"weights": other}, "has weights with SHA-256"),
        ({"frame-size": "144x208"}, "has frame size 72x104, got 144x208"),
        ({"short-side": 96}, "has network input 72x104, got 96x139"),
        ({"store": "fp16"}, "has storage of the weights fp32, got fp16"),
        ({"opset": 19}, "has ONNX opset 18, got 19"),
        ({"note": "other"}, "has note"),
    ):
        message = refused("export", *(f"--{key}={value}" for key, value in (options | changed).items()))
        assert told in message
        assert "export a new one with --output" in message
    del options["precision"]
    message = refused("export", *(f"--{key}={value}" for key, value in options.items()))
    assert "--into adds reduced-precision graphs; pass --precision or --auto" in message


def test_a_new_bundle_needs_a_frame_size(refused: Callable[..., str], tmp_path: Path) -> None:
    message = refused("export", "--weights=w.pth", "--preset=ytvis19_r50", "-o", tmp_path / "o.idol")
    assert "--frame-size is missing" in message
