"""Graphs that differ from PyTorch are refused, and the error names the first differing stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

from idol_export.graph.tracing import shipped
from idol_export.verify import decisions as agreement
from idol_export.verify import parity
from idol_export.verify.parity import FP32_TOLERANCES, Candidate, relative_error, torch_stages, verify
from idol_runtime.bundle.bundle import OUTPUT_NAMES, Certificate
from idol_runtime.errors import ParityError
from idol_runtime.tracking.association import Tracker
from idol_runtime.tracking.detection import Detections, NetworkOutput

if TYPE_CHECKING:
    from idol_deploy.model.idol import Idol
    from tests.conftest import Toy

Answer = dict[str, np.ndarray]

# Changed weight -> first differing stage.
SABOTAGES = {
    "mean": "preprocess",
    "std": "preprocess",
    "model.backbone.patch_embed.proj.bias": "backbone",
    "model.backbone.norm3.weight": "backbone",
    "model.neck.projections.0.0.bias": "neck",
    "model.neck.projections.3.0.weight": "neck",
    "model.transformer.encoder.layers.0.linear1.bias": "encoder",
    "geometry_position": "encoder",
    "model.transformer.query_embed.weight": "decoder",
    "model.transformer.decoder.layers.0.cross_attn.value_proj.bias": "decoder",
    "model.heads.class_embed.0.bias": "logits",
    "model.transformer.decoder.bbox_embed.0.layers.2.bias": "boxes",
    "model.heads.embedding.layers.2.bias": "embeddings",
    "model.mask_head.lay2.bias": "mask_features",
    "model.heads.controller.layers.2.bias": "mask_params",
    "pixels": "mask_reference",
}


@pytest.fixture(autouse=True)
def answered_once(toy: Toy, monkeypatch: pytest.MonkeyPatch, answers: dict[bytes, Answer]) -> None:
    """PyTorch runs each frame once for all tests of this module."""

    def stages(model: object, image: np.ndarray) -> Answer:
        if model is not toy.model:
            return torch_stages(model, image)
        key = image.tobytes()
        if key not in answers:
            answers[key] = torch_stages(model, image)
        return answers[key]

    monkeypatch.setattr(parity, "torch_stages", stages)


@pytest.fixture(scope="module")
def answers() -> dict[bytes, Answer]:
    return {}


def _verify(toy: Toy, probe: bytes, frames: int = 1) -> Certificate:
    return _certify(toy, toy.model, Candidate("portable", probe, shipped(probe)), toy.video(frames))


def _certify(
    toy: Toy, model: Idol, candidate: Candidate, video: npt.NDArray[np.uint8], source: str = "test"
) -> Certificate:
    (certificate,) = verify(model, [candidate], video, toy.size, toy.config.stream, source=source)
    return certificate


def test_every_stage_of_a_true_graph_holds(toy: Toy) -> None:
    candidate = Candidate("portable", toy.probe, toy.graph)
    certificate = _certify(toy, toy.model, candidate, toy.video(4), "a video")
    assert certificate.passed
    assert [stage.stage for stage in certificate.stages] == [
        *FP32_TOLERANCES,
        *("selection", "mask NMS", "labels", "track ids"),
    ]
    assert max(stage.error for stage in certificate.stages) < 1e-5
    assert (certificate.frames, certificate.source) == (4, "a video")
    assert certificate.identities >= 4, "identities were compared"
    assert certificate.detections > certificate.identities


@pytest.mark.parametrize("weight", SABOTAGES)
def test_a_changed_weight_is_refused_at_its_stage(
    toy: Toy, sabotage: Callable[..., bytes], weight: str
) -> None:
    with pytest.raises(ParityError) as caught:
        _verify(toy, sabotage(toy.probe, weight))
    stage, message = SABOTAGES[weight], str(caught.value)
    assert caught.value.stage == stage
    assert f"at stage '{stage}'" in message
    assert f"allowed {FP32_TOLERANCES[stage]:.0e}" in message
    assert "nothing was written" in message
    assert "try another version" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("weight", "value"),
    [
        *((weight, np.nan) for weight in (*list(SABOTAGES)[2::4], "pixels")),
        ("mean", np.inf),
        ("model.heads.class_embed.0.bias", -np.inf),
    ],
)
def test_a_value_that_is_not_finite_is_refused(
    toy: Toy, sabotage: Callable[..., bytes], weight: str, value: float
) -> None:
    with pytest.raises(ParityError) as caught:
        _verify(toy, sabotage(toy.probe, weight, value))
    assert list(FP32_TOLERANCES).index(caught.value.stage) >= list(FP32_TOLERANCES).index(SABOTAGES[weight])


def test_what_ships_is_what_is_compared(toy: Toy, sabotage: Callable[..., bytes]) -> None:
    """An error in the shipped file alone is found at its outputs."""
    shipping = sabotage(toy.graph, "model.backbone.norm3.weight")
    with pytest.raises(ParityError) as caught:
        _certify(toy, toy.model, Candidate("portable", toy.probe, shipping), toy.video(1))
    assert caught.value.stage in OUTPUT_NAMES


def test_another_network_is_refused(toy: Toy) -> None:
    import torch

    other = type(toy.model)(toy.config).eval()
    other.load_state_dict(toy.model.state_dict())
    with torch.no_grad():
        other.heads.class_embed[0].bias += 0.01
    with pytest.raises(ParityError) as caught:
        _certify(toy, other, Candidate("portable", toy.probe, toy.graph), toy.video(1))
    assert caught.value.stage == "logits"


def test_the_worse_of_two_graphs_is_named(toy: Toy, sabotage: Callable[..., bytes]) -> None:
    good = Candidate("portable", toy.probe, toy.graph)
    bad = Candidate("plugin", toy.probe, sabotage(toy.graph, "model.heads.class_embed.0.bias"))
    with pytest.raises(ParityError, match="the plugin graph differs from PyTorch at stage 'logits'"):
        verify(toy.model, [good, bad], toy.video(1), toy.size, toy.config.stream, source="test")
    both = verify(toy.model, [good, good], toy.video(2), toy.size, toy.config.stream, source="test")
    assert both[0] == both[1] == _certify(toy, toy.model, good, toy.video(2))


def test_no_frame_is_no_proof(toy: Toy) -> None:
    with pytest.raises(
        ParityError, match="no frame to compare on in test; pass another source with --verify"
    ):
        _verify(toy, toy.probe, frames=0)


def test_a_fault_in_a_later_frame_is_found(
    toy: Toy, sabotage: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, stages = [], parity.torch_stages

    def late(*arguments: object) -> Answer:
        calls.append(1)
        found = stages(*arguments)
        return found if len(calls) < 3 else {**found, "boxes": found["boxes"] * 1.01}

    monkeypatch.setattr(parity, "torch_stages", late)
    with pytest.raises(ParityError) as caught:
        _verify(toy, toy.probe, frames=4)
    assert (caught.value.stage, len(calls)) == ("boxes", 3)


def test_masks_that_the_host_decodes_otherwise_are_refused(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = parity.decode_queries
    monkeypatch.setattr(parity, "decode_queries", lambda output, query: decode(output, query) + 0.01)
    with pytest.raises(ParityError) as caught:
        _verify(toy, toy.probe)
    assert caught.value.stage == "masks"


def _drop_one(toy: Toy, patch: pytest.MonkeyPatch) -> None:
    select = agreement.select_queries
    patch.setattr(agreement, "select_queries", lambda *arguments: select(*arguments)[1:])


def _keep_all(toy: Toy, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(agreement, "suppress_masks", lambda masks, config: np.ones(len(masks), np.bool_))


def _relabel(toy: Toy, patch: pytest.MonkeyPatch) -> None:
    detect = parity.detect

    def other(output: NetworkOutput, config: object) -> Detections:
        found = detect(output, config)
        return replace(found, labels=(found.labels + 1) % len(toy.config.classes))

    patch.setattr(parity, "detect", other)


def _renumber(toy: Toy, patch: pytest.MonkeyPatch) -> None:
    class Other(Tracker):
        def update(self, *features: np.ndarray) -> np.ndarray:
            return super().update(*features)[::-1]

    patch.setattr(parity, "Tracker", Other)


@pytest.mark.parametrize(
    ("stage", "fault"),
    [("selection", _drop_one), ("mask NMS", _keep_all), ("labels", _relabel), ("track ids", _renumber)],
)
def test_another_decision_is_refused(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, stage: str, fault: Callable[..., None]
) -> None:
    fault(toy, monkeypatch)
    with pytest.raises(ParityError) as caught:
        _verify(toy, toy.probe, frames=2)
    assert caught.value.stage == stage
    message = str(caught.value)
    assert f"decides differently from PyTorch at stage '{stage}': frame 0: queries [" in message
    assert "nothing was written" in message


def test_torch_stages_are_those_of_the_graph(toy: Toy) -> None:
    found = torch_stages(toy.model, toy.video(1)[0])
    assert set(FP32_TOLERANCES) - {"masks"} == set(found)
    assert set(OUTPUT_NAMES) <= set(found)
    assert found["preprocess"].shape == (3, 96, 128)


@pytest.mark.parametrize(
    ("ours", "expected", "error"),
    [
        ([1, 2], [1, 2], 0.0),
        ([0, 0], [0, 0], 0.0),
        ([1, 2, 2.003], [1, 2, 2], 0.001),
        ([1, 2], [1, 2, 3], np.inf),
        ([np.nan], [1], np.inf),
        ([1], [np.nan], np.inf),
        ([np.nan], [np.nan], np.inf),
        ([np.inf], [np.inf], np.inf),
        ([1e-6], [0], 1e6),
    ],
)
def test_relative_error(ours: list[float], expected: list[float], error: float) -> None:
    found = relative_error(np.array(ours, np.float32), np.array(expected, np.float32))
    assert found == pytest.approx(error, rel=1e-3)
