"""PyTorch behind `Pipeline.step`: the published result of a video, one frame at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from idol_deploy.backend import TorchBackend, torch_device
from idol_deploy.config import preset
from idol_deploy.weights.reference import make_video
from idol_runtime.backends.base import Backend
from idol_runtime.bundle.bundle import OUTPUT_NAMES
from idol_runtime.config import Preprocessing, StreamConfig
from idol_runtime.errors import ConfigError
from idol_runtime.pipeline import Pipeline
from idol_runtime.tracking.association import NO_TRACK
from idol_runtime.tracking.results import FrameResult, VideoResult
from idol_runtime.tracking.rle import decode_rle

if TYPE_CHECKING:
    from idol_deploy.model.idol import Idol
    from tests.conftest import Toy


@pytest.fixture(scope="module")
def final(reference: Path) -> dict[str, np.ndarray]:
    """The published result of the video `small`."""
    with np.load(reference / "ref_small_tracker_final.npz") as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def stream() -> StreamConfig:
    config = preset("ytvis19_r50").stream
    return StreamConfig(config.categories, Preprocessing(short_side=None), config.association, config.video)


@pytest.fixture(scope="module")
def steps(model: Idol, stream: StreamConfig) -> list[FrameResult]:
    video = np.ascontiguousarray(make_video(4, 128, 192, 7).transpose(0, 2, 3, 1))
    with Pipeline(TorchBackend(model), stream) as pipeline:
        return [pipeline.step(frame) for frame in video]


def test_every_step_gives_the_published_instances(
    steps: list[FrameResult], final: dict[str, np.ndarray], relative_error: Callable[..., float]
) -> None:
    for t, result in enumerate(steps):
        n = int(final["n"][t])
        tracked = final["ids"][t, :n] > NO_TRACK
        assert np.array_equal(result.ids, final["ids"][t, :n][tracked])
        assert np.array_equal(result.labels, final["labels"][t, :n][tracked])
        assert relative_error(result.scores, final["scores"][t, :n][tracked]) < 1e-4
    assert len({track for result in steps for track in result.ids.tolist()}) > 20


def test_the_steps_add_up_to_the_published_video(
    steps: list[FrameResult], stream: StreamConfig, final: dict[str, np.ndarray]
) -> None:
    video = VideoResult(stream.video)
    for result in steps:
        video.add(result)
    rows = {track: row for row, track in enumerate(video.tracks)}
    instances = video.instances()
    assert [rows[instance.track] for instance in instances] == final["result_row"].tolist()
    assert [instance.label for instance in instances] == final["pred_labels"].tolist()
    scores = np.array([instance.score for instance in instances])
    assert np.abs(scores - final["pred_scores"]).max() < 1e-5
    shape = final["row_masks_shape"]
    masks = np.unpackbits(final["row_masks_packed"], axis=-1, count=shape[-1]).astype(np.bool_)
    differing = pixels = 0
    for row, track in enumerate(video.tracks.values()):
        assert {t for t in range(4) if final["row_mask_sums"][row, t] >= 0} == set(track)
        for t, rle in track.items():
            differing += int((decode_rle(rle) != masks[row, t]).sum())
            pixels += int(masks[row, t].sum())
    assert pixels > 10_000
    assert differing <= 1e-3 * pixels


def test_it_is_a_backend(toy: Toy) -> None:
    backend: Backend = TorchBackend(toy.model)
    assert backend.name == "pytorch (cpu)"
    assert backend.network_size is None, "any"


def test_it_answers_for_every_frame(toy: Toy, relative_error: Callable[..., float]) -> None:
    video = toy.video(2)
    backend = TorchBackend(toy.model)
    together = backend.infer(video)
    assert len(together) == 2
    for image, output in zip(video, together, strict=True):
        alone = backend.infer(image[None])[0]
        for name in OUTPUT_NAMES:
            assert getattr(output, name).dtype == np.float32
            assert relative_error(getattr(output, name), getattr(alone, name)) < 1e-5, name


def test_it_puts_the_network_into_evaluation_mode(tiny: Idol) -> None:
    tiny.train()
    TorchBackend(tiny)
    assert not tiny.training


def test_closing_it_leaves_the_model_to_its_owner(toy: Toy) -> None:
    backend = TorchBackend(toy.model)
    backend.close()
    assert backend.infer(toy.video(1))


def test_its_reference_points_are_in_pixels(toy: Toy) -> None:
    reference = TorchBackend(toy.model).infer(toy.video(1))[0].mask_reference
    assert (reference >= 0).all()
    assert (reference <= [104, 72]).all()
    assert reference.max() > 72


@pytest.mark.parametrize("fit", [False, True])
def test_the_exported_network_tracks_alike(toy: Toy, fit: bool) -> None:
    """A bundle gives PyTorch's ids, classes, scores and masks, also for frames of another shape."""
    size = (80, 80) if fit else toy.size
    backend = TorchBackend(toy.model, toy.size if fit else None)
    with Pipeline.open(toy.path, fit=fit) as exported:
        live = Pipeline(backend, toy.config.stream, fit=fit)
        seen = set()
        for frame in toy.video(6, size=size):
            ours, theirs = exported.step(frame), live.step(frame)
            assert ours.ids.tolist() == theirs.ids.tolist()
            assert ours.labels.tolist() == theirs.labels.tolist()
            assert np.abs(ours.scores - theirs.scores).max(initial=0) < 1e-4
            assert np.abs(ours.boxes_xyxy - theirs.boxes_xyxy).max(initial=0) < 0.01
            assert (ours.masks != theirs.masks).sum() <= 1e-3 * theirs.masks.sum()
            seen |= set(ours.ids.tolist())
        assert len(seen) >= 2


def test_a_processor_works() -> None:
    assert torch_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("device", ["nonsense", "cuda:x", ""])
def test_what_is_no_device_is_told_in_one_sentence(device: str) -> None:
    with pytest.raises(ConfigError, match=f"^PyTorch cannot use device {device}; use cpu, cuda or cuda:N$"):
        torch_device(device)


def test_a_device_that_is_not_here_is_told_with_the_reason() -> None:
    with pytest.raises(
        ConfigError, match=r"^PyTorch cannot use device cuda:99: .+; use another, such as cpu$"
    ):
        torch_device("cuda:99")
