import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from idol_deploy.config import preset
from idol_deploy.weights.layout import is_position_index
from idol_deploy.weights.reference import make_video, reference_state, reference_tensor

RelativeError = Callable[[npt.ArrayLike, npt.ArrayLike], float]


def _digest(array: npt.NDArray[np.generic]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def test_the_video_is_the_one_that_the_published_code_saw(
    reference: Path, relative_error: RelativeError
) -> None:
    frames, height, width, seed = json.loads((reference / "meta.json").read_text())["small"]["video"]
    config = preset("ytvis19_r50").preprocessing
    video = make_video(frames, height, width, seed)
    assert video.shape == (frames, 3, height, width)
    assert video.dtype == np.uint8
    mean, std = (np.array(values)[:, None, None] for values in (config.mean, config.std))
    wanted = np.load(reference / "ref_small_backbone.npz")["image_norm_slice"]
    assert relative_error(((video - mean) / std)[:, :, ::8, ::8], wanted) < 1e-6


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("detr.detr.backbone.0.backbone.res2.0.conv3.norm.weight", (256,)),
        ("detr.detr.backbone.0.backbone.res2.0.conv1.norm.running_var", (64,)),
        ("detr.detr.transformer.encoder.layers.0.self_attn.sampling_offsets.bias", (256,)),
        ("detr.controller.layers.2.bias", (169,)),
        ("detr.controller.layers.2.weight", (169, 256)),
        ("detr.reid_embed_head.layers.2.weight", (256, 256)),
    ],
)
def test_a_tensor_follows_from_its_name(key: str, shape: tuple[int, ...]) -> None:
    tensor = reference_tensor(key, shape)
    assert tensor.shape == shape
    assert tensor.dtype == np.float32
    assert np.array_equal(tensor, reference_tensor(key, shape))
    assert not np.array_equal(tensor, reference_tensor("x" + key, shape))


def test_the_rule_is_pinned() -> None:
    assert _digest(reference_tensor("detr.detr.query_embed.weight", (300, 512))) == "d50e8013ef55ce45"
    assert _digest(reference_tensor("detr.detr.class_embed.3.bias", (40,))) == "9df33c83b506a88e"
    assert _digest(make_video(3, 40, 56, seed=5)) == "0a7709a7b1f3992b"


@pytest.mark.parametrize("name", ["ytvis19_r50", "ytvis19_swin_l"])
def test_the_state_is_a_whole_checkpoint(name: str, reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "idol_deploy.weights.reference.reference_tensor", lambda _, shape: np.zeros(shape, np.float32)
    )
    suffix = {"ytvis19_r50": "", "ytvis19_swin_l": "_ytvis19_swinL"}[name]
    keys = json.loads((reference / f"state_dict_keys{suffix}.json").read_text())["keys"]
    state = reference_state(preset(name))
    dtypes = {"float32": torch.float32, "int64": torch.int64}
    assert {key: (tuple(t.shape), t.dtype) for key, t in state.items()} == {
        key: (tuple(shape), dtypes[dtype]) for key, shape, dtype in keys
    }
    assert sum(map(is_position_index, state)) == (0 if suffix == "" else 24)


def test_shared_tensors_have_two_names_and_one_value() -> None:
    suffix = "0.layers.2.bias"
    first = reference_tensor("detr.detr.bbox_embed." + suffix, (4,))
    second = reference_tensor("detr.detr.transformer.decoder.bbox_embed." + suffix, (4,))
    assert np.array_equal(first, second)
