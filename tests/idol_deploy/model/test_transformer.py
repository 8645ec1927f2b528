import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from idol_deploy.config import ModelConfig
from idol_deploy.model.geometry import Geometry, build_geometry
from idol_deploy.model.transformer import SelfAttention, Transformer, inverse_sigmoid

SMALL = ModelConfig(
    hidden_dim=32, queries=5, heads=2, ffn_dim=16, encoder_layers=2, decoder_layers=3, dropout=0.5
)


def _geometry() -> Geometry:
    padding = torch.ones(1, 64, 96, dtype=torch.bool)
    padding[:, :60, :80] = False
    return build_geometry(padding, SMALL.hidden_dim)


def _sources(images: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    return tuple(torch.randn(images, 32, h, w) for h, w in _geometry().shapes)


def test_the_inverse_sigmoid_agrees_with_the_published_one(reference: Path) -> None:
    unit = np.load(reference / "unit_pos.npz")
    inverse = inverse_sigmoid(torch.from_numpy(unit["inv_sigmoid_in"]))
    np.testing.assert_allclose(inverse, unit["inv_sigmoid_out"], rtol=1e-6)


def test_self_attention_is_torch_s_own() -> None:
    torch.manual_seed(0)
    ours = SelfAttention(dim=32, heads=4, dropout=0.0)
    theirs = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    x, position = torch.randn(2, 7, 32), torch.randn(7, 32)
    wanted, _ = theirs(x + position, x + position, x)
    torch.testing.assert_close(ours(x, position), wanted)


def test_one_image_s_geometry_serves_a_batch() -> None:
    transformer = Transformer(SMALL).eval()
    one, sources = _geometry(), _sources(3)
    assert one.padding is not None
    three = Geometry(
        one.shapes,
        one.padding.repeat(3, 1),
        one.position.repeat(3, 1, 1),
        one.encoder_reference.repeat(3, 1, 1, 1),
        one.valid_ratios.repeat(3, 1, 1),
    )
    with torch.inference_mode():
        memory = transformer.encode(sources, one)
        assert torch.equal(memory, transformer.encode(sources, three))
        first, second = transformer.decode(memory, one), transformer.decode(memory, three)
    assert torch.equal(first.boxes, second.boxes)
    assert first.states.shape == (3, 3, 5, 32)


def test_each_layer_refines_the_box_that_the_one_before_it_predicted() -> None:
    transformer = Transformer(SMALL).eval()
    geometry = _geometry()
    output = transformer.decode(transformer.encode(_sources(2), geometry), geometry)
    assert [tuple(reference.shape) for reference in output.references] == [(2, 5, 2), (2, 5, 4), (2, 5, 4)]
    for reference, box in zip(output.references[1:], output.boxes, strict=False):
        assert torch.equal(reference, box)
        assert not reference.requires_grad
    assert output.references[0].requires_grad
    assert output.boxes.requires_grad


def test_at_first_boxes_are_small_and_centred_on_their_points() -> None:
    transformer = Transformer(SMALL).eval()
    geometry = _geometry()
    output = transformer.decode(transformer.encode(_sources(1), geometry), geometry)
    torch.testing.assert_close(output.boxes[0, ..., :2], output.references[0])
    side = 1 / (1 + math.exp(2))
    assert output.boxes[-1, ..., 2:].flatten().tolist() == pytest.approx([side] * 10, rel=1e-4)


def test_dropout_is_for_training_only() -> None:
    transformer = Transformer(SMALL)
    geometry, sources = _geometry(), _sources(1)
    with torch.inference_mode():
        assert not torch.equal(transformer.encode(sources, geometry), transformer.encode(sources, geometry))
        memory = transformer.eval().encode(sources, geometry)
        assert torch.equal(memory, transformer.encode(sources, geometry))
        assert torch.equal(
            transformer.decode(memory, geometry).states, transformer.decode(memory, geometry).states
        )


def test_every_parameter_is_trained_by_boxes_and_states() -> None:
    transformer = Transformer(replace(SMALL, dropout=0.0))
    for parameter in transformer.parameters():
        # Initial weights of zero would hide the gradients behind them.
        torch.nn.init.normal_(parameter, std=0.1)
    geometry = _geometry()
    output = transformer.decode(transformer.encode(_sources(1), geometry), geometry)
    (output.boxes.sum() + output.states.square().sum()).backward()
    for name, parameter in transformer.named_parameters():
        assert parameter.grad is not None, name
        # Softmax does not depend on a constant that all keys share.
        if not name.endswith("in_proj_bias"):
            assert parameter.grad.any(), name


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_points_and_boxes_keep_their_width_under_autocast(narrow: torch.dtype) -> None:
    torch.manual_seed(0)
    transformer, geometry = Transformer(replace(SMALL, dropout=0.0)), _geometry()
    memory = torch.randn(1, sum(h * w for h, w in geometry.shapes), SMALL.hidden_dim)
    wide = transformer.decode(memory, geometry)
    with torch.autocast("cpu", narrow):
        found = transformer.decode(memory, geometry)
    assert torch.equal(found.references[0], wide.references[0])
    assert {tensor.dtype for tensor in (*found.references, found.boxes)} == {torch.float32}
    found.references[0].sum().backward()
    assert transformer.reference_points.weight.grad.any()
