import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from idol_deploy.config import IdolConfig
from idol_deploy.model.geometry import Geometry, build_geometry
from idol_deploy.model.idol import Idol, IdolOutput
from idol_deploy.weights.reference import make_video

RelativeError = Callable[[npt.ArrayLike, npt.ArrayLike], float]
Arrays = dict[str, npt.NDArray[np.float32]]

# Rounding of float32 sums in another order: measured 2e-7 to 2e-6.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Run:
    images: Tensor
    mask: Tensor
    pixels: Tensor
    geometry: Geometry
    features: tuple[Tensor, ...]
    sources: tuple[Tensor, ...]
    memory: Tensor
    output: IdolOutput


def _run(model: Idol, frames: int, height: int, width: int, seed: int) -> Run:
    preprocessing = model.config.preprocessing
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    images = (torch.from_numpy(make_video(frames, height, width, seed)).float() - mean) / std
    padded_height, padded_width = preprocessing.padded_size(height, width)
    images = F.pad(images, (0, padded_width - width, 0, padded_height - height))
    mask = torch.ones(frames, padded_height, padded_width, dtype=torch.bool)
    mask[:, :height, :width] = False
    with torch.inference_mode():
        geometry = build_geometry(mask)
        features = model.backbone(images)
        sources = model.neck(features)
        memory = model.transformer.encode(sources, geometry)
        output = model.predict(memory, model.transformer.decode(memory, geometry), geometry)
    pixels = torch.tensor([width, height])
    return Run(images, mask, pixels, geometry, features, sources, memory, output)


def _arrays(reference: Path, name: str) -> Arrays:
    return dict(np.load(reference / f"{name}.npz"))


@pytest.fixture(scope="module")
def small(model: Idol, reference: Path) -> Run:
    return _run(model, *json.loads((reference / "meta.json").read_text())["small"]["video"])


@pytest.fixture(scope="module")
def pad(model: Idol, reference: Path) -> Run:
    return _run(model, *json.loads((reference / "meta.json").read_text())["pad"]["video"])


def test_the_backbone_agrees(small: Run, reference: Path, relative_error: RelativeError) -> None:
    wanted = _arrays(reference, "ref_small_backbone")
    for feature, name in zip(small.features, ("res2", "res3", "res4", "res5"), strict=True):
        assert feature.shape == tuple(wanted[f"{name}_shape"])
        assert relative_error(feature[:, ::8], wanted[f"{name}_slice"]) < TOLERANCE
        assert relative_error(feature.mean((2, 3)), wanted[f"{name}_channel_mean"]) < TOLERANCE


def test_position_codes_agree(small: Run, reference: Path, relative_error: RelativeError) -> None:
    backbone, transformer = (_arrays(reference, f"ref_small_{part}") for part in ("backbone", "transformer"))
    sizes = [h * w for h, w in small.geometry.shapes]
    codes = [
        part[0].T.reshape(-1, h, w)
        for part, (h, w) in zip(small.geometry.position.split(sizes, 1), small.geometry.shapes, strict=True)
    ]
    for code, name in zip(codes[:3], ("res3", "res4", "res5"), strict=True):
        assert relative_error(code[::8, ::2, ::2], backbone[f"{name}_pos_slice"]) < TOLERANCE
    assert relative_error(codes[3], transformer["pos3"]) < TOLERANCE


def test_the_neck_and_the_encoder_agree(
    small: Run, model: Idol, reference: Path, relative_error: RelativeError
) -> None:
    wanted = _arrays(reference, "ref_small_transformer")
    assert [list(shape) for shape in small.geometry.shapes] == wanted["spatial_shapes"].tolist()
    for level, source in enumerate(small.sources):
        assert relative_error(source[:, ::2], wanted[f"src{level}_slice"]) < TOLERANCE
    assert relative_error(small.memory, wanted["memory"]) < TOLERANCE
    layers: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda *call: layers.append(call[2]))
        for layer in model.transformer.encoder.layers
    ]
    with torch.inference_mode():
        model.transformer.encode(
            tuple(source[:1] for source in small.sources), build_geometry(small.mask[:1])
        )
    for hook in hooks:
        hook.remove()
    for layer, array in zip(layers, wanted["enc_layers_frame0"], strict=True):
        assert relative_error(layer[0, :, ::4], array) < TOLERANCE


def test_the_decoder_agrees(small: Run, reference: Path, relative_error: RelativeError) -> None:
    wanted = _arrays(reference, "ref_small_transformer")
    decoder = small.output.decoder
    assert relative_error(decoder.states[-1], wanted["hs_last"]) < TOLERANCE
    assert relative_error(decoder.states[:, 0, :, ::4], wanted["hs_layers_frame0"]) < TOLERANCE
    assert relative_error(decoder.references[0][0], wanted["init_reference"]) < TOLERANCE
    assert relative_error(decoder.boxes, wanted["inter_references"]) < TOLERANCE
    assert relative_error(torch.stack(decoder.references[1:]), wanted["inter_references"][:-1]) < TOLERANCE


def test_the_heads_agree(small: Run, reference: Path, relative_error: RelativeError) -> None:
    wanted = _arrays(reference, "ref_small_heads")
    output = small.output
    assert relative_error(output.logits, wanted["pred_logits"]) < TOLERANCE
    assert relative_error(output.boxes, wanted["pred_boxes"]) < TOLERANCE
    assert relative_error(output.embeddings, wanted["pred_inst_embed"]) < TOLERANCE
    assert relative_error(output.mask_features, wanted["mask_feat"]) < TOLERANCE
    assert relative_error(output.mask_params[0], wanted["dyn_params_frame0"]) < TOLERANCE


def test_the_masks_agree(small: Run, model: Idol, reference: Path, relative_error: RelativeError) -> None:
    output = small.output
    with torch.inference_mode():
        masks = model.mask_head.decode(
            output.mask_features, output.mask_params, output.mask_reference * small.pixels
        )
    wanted = _arrays(reference, "ref_small_masks_full")["pred_masks"][:, :, 0]
    assert relative_error(masks, wanted) < TOLERANCE


def test_padded_frames_agree(pad: Run, model: Idol, reference: Path, relative_error: RelativeError) -> None:
    wanted = _arrays(reference, "ref_pad_slim")
    output = pad.output
    with torch.inference_mode():
        masks = model.mask_head.decode(
            output.mask_features[:1],
            output.mask_params[:1, ::20],
            output.mask_reference[:1, ::20] * pad.pixels,
        )
    h, w = pad.geometry.shapes[3]
    found = {
        "res5_slice": pad.features[3][:2, ::16, ::2, ::2],
        "pos3": pad.geometry.position[0, -h * w :].T.reshape(-1, h, w),
        "memory_every_7": pad.memory[:, ::7],
        "hs_last": output.decoder.states[-1, 0, :, ::4],
        "logits": output.logits[0],
        "boxes": output.boxes[0],
        "embeddings_every_4": output.embeddings[0, :, ::4],
        "mask_features": output.mask_features,
        "masks_every_20": masks[0],
    }
    for name, array in found.items():
        assert relative_error(array, wanted[name]) < TOLERANCE, name


def test_forward_is_the_composition_of_its_parts(small: Run, model: Idol) -> None:
    with torch.inference_mode():
        output = model(small.images[:1], small.mask[:1])
        again = model(small.images[:1], small.mask[:1])
    torch.testing.assert_close(output.boxes, small.output.boxes[:1], rtol=1e-4, atol=1e-6)
    assert torch.equal(output.logits, again.logits)
    assert torch.equal(output.mask_reference, output.decoder.references[-1][..., :2])


def test_padding_does_not_change_what_is_seen(pad: Run, model: Idol) -> None:
    geometry = build_geometry(pad.mask[:1])
    assert geometry.padding is not None
    with torch.inference_mode():
        memory = pad.memory[:1].clone()
        before = model.transformer.decode(memory, geometry).boxes
        memory[geometry.padding] = 100.0
        after = model.transformer.decode(memory, geometry).boxes
    assert torch.equal(before, after)


def test_a_tiny_network_trains_in_every_part(tiny: Idol, tiny_config: IdolConfig) -> None:
    torch.manual_seed(0)
    for parameter in tiny.parameters():
        # Initial weights of zero would hide the gradients behind them.
        torch.nn.init.normal_(parameter, std=0.2)
    output = tiny.train()(torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.bool))
    assert output.logits.shape == (2, tiny_config.model.queries, 2)
    masks = tiny.mask_head.decode(
        output.mask_features, output.mask_params, output.mask_reference * torch.tensor([96, 64])
    )
    total = output.boxes.sum() + output.embeddings.sum() + masks.square().mean()
    for layer, states in enumerate(output.decoder.states):
        total = total + tiny.heads.classify(states, layer).sum()
    total.backward()
    unused = [name for name, parameter in tiny.named_parameters() if parameter.grad is None]
    # res2 feeds res3, but its own output norm feeds nothing.
    assert unused == ["backbone.norm0.weight", "backbone.norm0.bias"]
