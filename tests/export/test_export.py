"""Export of a network to a bundle: its contents, and no file after a failure."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from idol_deploy.config import preset
from idol_deploy.weights.half import with_half_weights
from idol_deploy.weights.layout import published_state, weights_hash
from idol_deploy.weights.reference import make_video, reference_model
from idol_export import export as module
from idol_export.export import ExportOptions, export
from idol_export.graph.tracing import describe_io
from idol_export.graph.weights import part_weights
from idol_export.precision.base import ReduceOptions
from idol_export.precision.registry import PRECISIONS
from idol_export.verify.parity import FP32_TOLERANCES
from idol_runtime.bundle.bundle import Bundle
from idol_runtime.errors import (
    BackendError,
    ConfigError,
    DataError,
    FrameError,
    IdolError,
    MissingDependencyError,
    OutputError,
    ParityError,
    SourceError,
)
from idol_runtime.pipeline import Pipeline
from idol_runtime.streams import AT_ONCE, Streams

if TYPE_CHECKING:
    from tests.conftest import Toy


@pytest.fixture
def traced(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace tracing by a stored probe and record each call."""
    seen: list[str] = []

    def probe(graph: object, **options: object) -> bytes:
        seen.append("traced")
        return toy.probe

    monkeypatch.setattr(module, "probe_to_onnx", probe)
    return seen


def _refused(
    toy: Toy, out: Path, options: ExportOptions, kind: type[IdolError], **changes: object
) -> IdolError:
    """Return the error of an export that leaves its folder unchanged."""
    before = {path: path.read_bytes() for path in out.parent.iterdir() if path.is_file()}
    with pytest.raises(kind) as caught:
        export(toy.model, replace(toy.config, **changes), out, options)
    assert {path: path.read_bytes() for path in out.parent.iterdir() if path.is_file()} == before
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_bundle_says_what_it_is(toy: Toy) -> None:
    with Bundle.open(toy.path) as bundle:
        manifest = bundle.manifest
        weights, parts = part_weights([toy.graph])
        assert [bundle.graph()] == [weights + part for part in parts]
        assert bundle.certificates == toy.exported.certificates
    assert manifest == toy.exported.manifest
    assert (manifest.preset, manifest.note, manifest.precision) == ("toy", "untrained weights", "fp32")
    assert manifest.stream == toy.config.stream
    assert (manifest.frame_size, manifest.network_size, manifest.padded_size) == (
        (72, 104),
        (72, 104),
        (96, 128),
    )
    assert not manifest.dynamic_batch
    assert (manifest.inputs, manifest.outputs) == describe_io(toy.graph)
    assert manifest.weights_sha256 == weights_hash(published_state(toy.model))
    assert manifest.versions.keys() >= {"idol-deploy", "torch", "onnx", "onnxruntime", "opset", "python"}
    assert manifest.versions["opset"] == "18"
    assert manifest.created.endswith("+00:00")


def test_the_certificate_says_what_was_compared(toy: Toy) -> None:
    certificate = toy.exported.certificates.portable
    assert certificate.passed
    assert {stage.stage for stage in certificate.stages} > set(FP32_TOLERANCES)
    assert (certificate.frames, certificate.source) == (3, "generated video")
    assert certificate.identities >= 3
    assert certificate.backend == "onnxruntime (cpu)"


def test_the_graph_with_our_operator_comes_first(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ort_operator: Path
) -> None:
    """Both graphs are certified on the same frames; the runtime selects the faster one; both track alike."""
    monkeypatch.setenv("IDOL_PLUGINS", str(ort_operator.parent))
    out = tmp_path / "toy.idol"
    exported = export(toy.model, toy.config, out, ExportOptions(toy.size, verify_frames=3))
    assert exported.reason == ""
    portable, plugin = exported.certificates.portable, exported.certificates.plugin
    assert portable == toy.exported.certificates.portable
    assert plugin is not None
    assert plugin.passed
    assert [stage.stage for stage in plugin.stages] == [stage.stage for stage in portable.stages]
    assert plugin.identities == portable.identities
    assert 0 < out.stat().st_size - toy.path.stat().st_size < 0.1 * toy.path.stat().st_size, (
        "weights are shared"
    )
    ids = {}
    for graph in ("auto", "portable", "tensorrt"):
        with Pipeline.open(out, backend="onnxruntime", graph=graph) as pipeline:
            ids[pipeline.backend.name] = [pipeline.step(frame).ids.tolist() for frame in toy.video(3)]
    assert list(ids) == [f"onnxruntime (cpu, {graph} graph)" for graph in ("plugin", "portable", "tensorrt")]
    assert len({str(found) for found in ids.values()}) == 1


@pytest.mark.slow  # a second network to trace
def test_an_edge_preset_is_exported(tmp_path: Path) -> None:
    """MobileNet and heads of 16 channels agree with PyTorch down to tracks, with one stream and with two."""
    config = preset("edge_ytvis19")
    config = replace(config, model=replace(config.model, encoder_layers=1, decoder_layers=1))
    options = ExportOptions((72, 104), portable=True, verify_frames=3, dynamic_batch=True)
    config = replace(config, preprocessing=replace(config.preprocessing, short_side=None))
    exported = export(reference_model(config), config, tmp_path / "edge.idol", options)
    certificate = exported.certificates.portable
    assert certificate.passed
    assert certificate.identities > 0
    videos = {seed: make_video(4, 72, 104, seed).transpose(0, 2, 3, 1) for seed in (1, 2)}
    with Streams.open(tmp_path / "edge.idol") as streams:
        assert streams.at_once == AT_ONCE
        together = [streams.step({seed: video[t] for seed, video in videos.items()}) for t in range(4)]
    for seed, video in videos.items():
        with Pipeline.open(tmp_path / "edge.idol") as pipeline:
            for frame, results in zip(video, together, strict=True):
                alone, found = pipeline.step(frame), results[seed]
                assert alone.masks.shape[1:] == (72, 104)
                np.testing.assert_array_equal(found.ids, alone.ids)
                np.testing.assert_allclose(found.scores, alone.scores, rtol=1e-4)
                assert np.mean(found.masks != alone.masks) < 1e-3


def test_half_precision_storage_halves_the_bundle(toy: Toy, tmp_path: Path) -> None:
    """PyTorch is rounded as well, so that the tolerances stay the same."""
    out = tmp_path / "half.idol"
    options = ExportOptions(toy.size, portable=True, verify_frames=1, store="fp16")
    exported = export(toy.model, toy.config, out, options)
    assert (exported.manifest.precision, exported.manifest.storage) == ("fp32", "fp16")
    assert toy.exported.manifest.storage == "fp32"
    assert exported.certificates.portable.passed
    rounded = weights_hash(published_state(with_half_weights(toy.model)))
    assert exported.manifest.weights_sha256 == rounded != toy.exported.manifest.weights_sha256
    with Bundle.open(out) as half, Bundle.open(toy.path) as full:
        assert len(half.graph()) < 0.65 * len(full.graph())


def test_without_its_library_our_operator_is_left_out_and_said(
    toy: Toy, tmp_path: Path, traced: list[str]
) -> None:
    exported = export(toy.model, toy.config, tmp_path / "a.idol", ExportOptions(toy.size, verify_frames=1))
    assert exported.certificates.plugin is None
    assert "cannot be verified here" in exported.reason
    assert "idol-deploy plugins build" in exported.reason
    assert toy.exported.reason == "", "not where it was asked for"


def test_the_golden_frame_is_answered(toy: Toy) -> None:
    with Pipeline.open(toy.path) as pipeline:
        result = pipeline.step(toy.video(1)[0])
    assert len(result) >= 3
    assert result.masks.shape == (len(result), *toy.size)


def test_the_bundle_names_no_place_of_this_machine(toy: Toy) -> None:
    data = toy.path.read_bytes()
    for place in (os.getcwd(), sys.prefix, str(toy.path.parent), str(Path(__file__).parent)):
        assert place.encode() not in data


def test_a_video_to_verify_on(toy: Toy, tmp_path: Path, traced: list[str]) -> None:
    for i, image in enumerate(toy.video(3)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    steps: list[tuple[object, ...]] = []
    out = tmp_path / "toy.idol"
    options = ExportOptions(toy.size, verify_source=str(tmp_path), verify_frames=2)
    exported = export(toy.model, toy.config, out, options, lambda *step: steps.append(step))
    assert exported.certificates.portable.frames == 2
    assert str(tmp_path.parent) not in exported.certificates.portable.source, "a name, not the place"
    assert [step[1:] for step in steps if step[0] == "comparing with PyTorch"][-3:] == [
        (done, 2, "frames") for done in range(3)
    ]
    assert out.is_file()
    assert exported.manifest.note == ""


def test_frames_are_resized_as_the_preset_says(toy: Toy, tmp_path: Path, traced: list[str]) -> None:
    """The toy's graph fits frames of 144x208 with a short side of 72."""
    config = replace(toy.config, preprocessing=replace(toy.config.preprocessing, short_side=72))
    exported = export(toy.model, config, tmp_path / "toy.idol", ExportOptions((144, 208), verify_frames=1))
    assert (exported.manifest.frame_size, exported.manifest.network_size) == ((144, 208), (72, 104))
    with Bundle.open(tmp_path / "toy.idol") as bundle:
        assert bundle.golden_frame().frame.shape == (144, 208, 3)


def test_a_source_of_another_shape_is_refused(toy: Toy, tmp_path: Path, traced: list[str]) -> None:
    (tmp_path / "frames").mkdir()
    Image.fromarray(toy.video(1, size=(72, 72))[0]).save(tmp_path / "frames" / "0.png")
    options = ExportOptions(toy.size, verify_source=str(tmp_path / "frames"))
    error = _refused(toy, tmp_path / "toy.idol", options, FrameError)
    assert "is 72x72, which preprocessing resizes to 72x72 instead of 72x104" in str(error)
    assert "verify on a source of 72x104" in str(error)
    assert not traced, "told before the work"


def test_calibration_and_annotations_are_checked_beforehand(
    toy: Toy, tmp_path: Path, traced: list[str]
) -> None:
    frames, annotations = tmp_path / "frames", tmp_path / "instances.json"
    frames.mkdir()
    Image.fromarray(toy.video(1, size=(72, 72))[0]).save(frames / "0.png")
    video = {"id": 3, "height": 72, "width": 72, "file_names": ["0.png"]}
    annotations.write_text(
        json.dumps({"videos": [video], "annotations": [], "categories": [{"id": 1, "name": "a"}]})
    )

    def scoring(path: Path) -> ReduceOptions:
        return ReduceOptions((PRECISIONS["fp16"],), annotations=path, annotation_frames=frames)

    int8 = (PRECISIONS["int8-ort"],)
    refusals: list[tuple[ReduceOptions, type[IdolError], str]] = [
        (
            ReduceOptions(int8, calibrate=str(frames)),
            FrameError,
            "calibrate on a source of 72x104",
        ),
        (ReduceOptions(int8, calibrate=str(tmp_path / "typo")), SourceError, "typo"),
        (scoring(annotations), FrameError, "video 3 of instances.json is 72x72"),
        (scoring(tmp_path / "typo.json"), DataError, "typo.json"),
    ]
    for reduce, kind, told in refusals:
        assert told in str(_refused(toy, tmp_path / "toy.idol", ExportOptions(toy.size, reduce=reduce), kind))
    assert not traced, "told before the work"


def test_a_source_that_is_not_there_is_refused(toy: Toy, tmp_path: Path, traced: list[str]) -> None:
    options = ExportOptions(toy.size, verify_source=str(tmp_path / "missing.mp4"))
    _refused(toy, tmp_path / "toy.idol", options, SourceError)
    assert not traced, "told before the work"


@pytest.mark.parametrize("older", [None, b"the bundle of yesterday"])
def test_a_wrong_graph_leaves_no_file_and_keeps_an_older_one(
    toy: Toy,
    tmp_path: Path,
    traced: list[str],
    monkeypatch: pytest.MonkeyPatch,
    sabotage: Callable[..., bytes],
    older: bytes | None,
) -> None:
    out = tmp_path / "toy.idol"
    if older:
        out.write_bytes(older)
    monkeypatch.setattr(
        module, "shipped", lambda probe: sabotage(toy.graph, "model.heads.class_embed.0.bias")
    )
    error = _refused(toy, out, ExportOptions(toy.size, verify_frames=1), ParityError)
    assert error.stage == "logits"
    assert out.exists() == (older is not None)


def test_a_golden_frame_answered_wrongly_leaves_no_file(
    toy: Toy, tmp_path: Path, traced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last check runs after the file is written under its temporary name."""
    stages = module.torch_stages

    def wrong(*arguments: object) -> dict[str, np.ndarray]:
        found = stages(*arguments)
        return {**found, "boxes": found["boxes"] * 1.1}

    monkeypatch.setattr(module, "torch_stages", wrong)
    (tmp_path / "toy.idol").write_bytes(b"older")
    error = _refused(toy, tmp_path / "toy.idol", ExportOptions(toy.size, verify_frames=1), BackendError)
    assert "boxes differs from PyTorch by" in str(error)


@pytest.mark.parametrize("place", ["missing/toy.idol", "."])
def test_a_place_that_cannot_be_written_is_told_before_the_work(
    toy: Toy, tmp_path: Path, traced: list[str], place: str
) -> None:
    with pytest.raises(OutputError):
        export(toy.model, toy.config, tmp_path / place, ExportOptions(toy.size))
    assert not traced
    assert not list(tmp_path.iterdir())


def test_no_onnx_runtime_is_told_before_the_work(
    toy: Toy, tmp_path: Path, traced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    error = _refused(toy, tmp_path / "toy.idol", ExportOptions(toy.size), MissingDependencyError)
    assert "pip install 'idol-deploy[cpu]'" in str(error)
    assert not traced


class Installed:
    """An installed distribution."""

    def locate_file(self, path: str) -> Path:
        """Return the place of one of its files."""
        return Path("/usr/lib/python3/dist-packages", path)


def test_two_onnx_runtimes_are_told_before_the_work(
    toy: Toy, tmp_path: Path, traced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "distributions", lambda **_: [Installed()])
    error = _refused(toy, tmp_path / "toy.idol", ExportOptions(toy.size), BackendError)
    assert "pip uninstall onnxruntime onnxruntime-gpu" in str(error)
    assert not traced


@pytest.mark.parametrize(
    ("size", "short_side", "what"),
    [
        ((16, 200), None, "16x200 is too small"),
        ((480, 640), 24, "24x32 is too small"),
        ((20, 4000), 480, "too small"),
    ],
)
def test_a_network_input_that_is_too_small(
    toy: Toy, tmp_path: Path, traced: list[str], size: tuple[int, int], short_side: int | None, what: str
) -> None:
    preprocessing = replace(toy.config.preprocessing, short_side=short_side)
    error = _refused(
        toy, tmp_path / "toy.idol", ExportOptions(size), ConfigError, preprocessing=preprocessing
    )
    assert what in str(error)
    assert "--short-side" in str(error)
    assert not traced


@pytest.mark.parametrize("size", [(0, 640), (480, 0), (-1, 5)])
def test_a_frame_size_that_cannot_be(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=r"frame size must be positive.*720x1280"):
        ExportOptions(size)


def test_a_proof_on_no_frame_is_refused() -> None:
    with pytest.raises(ConfigError, match="--verify-frames must be at least 1, got 0"):
        ExportOptions((72, 104), verify_frames=0)


def test_the_manifest_is_readable_json(toy: Toy) -> None:
    import zipfile

    with zipfile.ZipFile(toy.path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    assert manifest["stream"]["categories"][0] == {"name": "person", "dataset_id": 1}
