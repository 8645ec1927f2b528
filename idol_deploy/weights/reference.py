"""Reference weights and videos that can be regenerated anywhere, for parity checks without a weight file.

Every tensor is determined by its published key (the rule "W1"), and every video by its size and a seed, so that
implementations can be compared by their arrays. The values keep activations in range, and masks are blobs around their
reference points; the detections are meaningless.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

    from idol_deploy.config import IdolConfig
    from idol_deploy.model.idol import Idol

__all__ = [
    "make_video",
    "reference_model",
    "reference_state",
    "reference_tensor",
]

_Shape: TypeAlias = tuple[int, ...]
_Value: TypeAlias = "float | npt.NDArray[np.float64]"
_Rule: TypeAlias = "tuple[str, Callable[[str, _Shape], tuple[_Value, _Value]]]"

_ALIAS = "detr.detr.transformer.decoder.bbox_embed."
_CANONICAL = "detr.detr.bbox_embed."


def _fan(shape: _Shape) -> int:
    return math.prod(shape[1:])


def _fixed(scale: float, offset: float = 0.0) -> Callable[[str, _Shape], tuple[_Value, _Value]]:
    return lambda _, __: (offset, scale)


def _by_fan(gain: float) -> Callable[[str, _Shape], tuple[_Value, _Value]]:
    return lambda _, shape: (0.0, gain / math.sqrt(_fan(shape)))


def _he(_: str, shape: _Shape) -> tuple[_Value, _Value]:
    return 0.0, math.sqrt(2.0 / _fan(shape))


def _offsets_bias(_: str, __: _Shape) -> tuple[_Value, _Value]:
    """Return the initial offsets of Deformable DETR: head h looks in direction h, its point p at distance p."""
    angle = np.arange(8) * (2 * np.pi / 8)
    direction = np.stack([np.cos(angle), np.sin(angle)], -1)
    direction = direction / np.abs(direction).max(-1, keepdims=True)
    ring = direction[:, None, None, :] * np.arange(1, 5)[None, None, :, None] * np.ones((8, 4, 4, 2))
    return ring.reshape(-1), 0.1


def _class_embed(key: str, shape: _Shape) -> tuple[_Value, _Value]:
    return (-6.6, 0.3) if key.endswith("bias") else (0.0, 2.0 / math.sqrt(_fan(shape)))


def _box_output(key: str, shape: _Shape) -> tuple[_Value, _Value]:
    if key.endswith("weight"):
        return 0.0, 0.5 / math.sqrt(_fan(shape))
    return (np.array([0, 0, -1.5, -1.5]) if "bbox_embed.0." in key else 0.0), 0.1


def _controller_bias(_: str, __: _Shape) -> tuple[_Value, _Value]:
    """Return the biases of a mask network that is positive in an octagon around the query's reference point."""
    side = np.arange(8)
    offset = np.zeros(169)
    offset[10 * side] = np.cos(2 * np.pi * side / 8) / 32
    offset[10 * side + 1] = np.sin(2 * np.pi * side / 8) / 32
    offset[80 + 9 * side] = 1
    offset[144:152] = -1
    offset[168] = 5
    return offset, 0.02


def _controller_weight(_: str, shape: _Shape) -> tuple[_Value, _Value]:
    row = np.arange(169)
    scale = np.where((row < 80) & (row % 10 < 2), 0.02, 0.3)[:, None] / math.sqrt(_fan(shape))
    return 0.0, scale


# (regular expression of "key:dimensions", offset and scale); the first rule that matches applies.
_RULES: tuple[_Rule, ...] = (
    (r"backbone\.0\..*\.conv3\.norm\.weight:", _fixed(0.03, offset=0.3)),
    (r"backbone\.0\..*\.norm\.weight:", _fixed(0.1, offset=1.0)),
    (r"backbone\.0\..*\.norm\.bias:", _fixed(0.1)),
    (r"\.running_mean:", _fixed(0.1)),
    (r"\.running_var:", _fixed(0.1, offset=1.0)),
    # MobileNet's linear layers: with He's gain, its residuals would saturate relu6.
    (r"\.(expand|project)\.weight:", _by_fan(1.0)),
    (r"backbone\.0\..*:4", _he),
    (r"sampling_offsets\.bias:", _offsets_bias),
    (r"sampling_offsets\.weight:", _by_fan(0.5)),
    (r"(level_embed|query_embed\.weight):", _fixed(1.0)),
    (r"transformer\.reference_points\.weight:", _by_fan(1.5)),
    (r"detr\.detr\.class_embed\.", _class_embed),
    (r"detr\.detr\.bbox_embed\..*\.layers\.2\.", _box_output),
    (r"controller\.layers\.2\.bias:", _controller_bias),
    (r"controller\.layers\.2\.weight:", _controller_weight),
    (r"mask_head\..*:4", _he),
    (r"reid_embed_head\.layers\.2\.weight:", _by_fan(2.0)),
    (r"reid_embed_head\.layers\..*weight:", _by_fan(1.0)),
    (r"self_attn\.out_proj\.weight:", _by_fan(0.1)),
    (r"_attn\.output_proj\.weight:", _by_fan(0.4)),
    (r"transformer\..*linear2\.weight:", _by_fan(0.4)),
    (r"decoder\.layers\..*\.norm.*bias:", _fixed(0.03)),
    (r"relative_position_bias_table:", _fixed(0.2)),
    (r"\.weight:1", _fixed(0.1, offset=1.0)),
    (r"bias:", _fixed(0.1)),
    (r"", _by_fan(1.0)),
)


def reference_tensor(key: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return the reference weights of a published key: offset + scale * noise, seeded by the key's CRC-32.

    Args:
        key: published key; both names of a shared tensor give the same values.
        shape: shape of the tensor.
    """
    if key.startswith(_ALIAS):
        key = _CANONICAL + key[len(_ALIAS) :]
    noise = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape)
    if key.endswith(".running_var"):
        noise = np.abs(noise)
    if "reid_embed_head.layers." in key and key.endswith("weight"):
        # Rows have mean zero: embeddings then differ by instance instead of sharing one large direction.
        noise = noise - noise.mean(axis=1, keepdims=True)
    text = f"{key}:{len(shape)}"
    offset, scale = next(spread for rule, spread in _RULES if re.search(rule, text))(key, shape)
    return (offset + scale * noise).astype(np.float32)


def reference_state(config: IdolConfig) -> dict[str, Tensor]:
    """Return the reference weights of a configuration in the published layout, second names included."""
    import torch

    from idol_deploy.weights.layout import alias_of, is_position_index, key_table, position_indices

    state: dict[str, Tensor] = dict(position_indices(config))
    for key, shape in key_table(config).items():
        if is_position_index(key):
            continue
        state[key] = torch.from_numpy(np.asarray(reference_tensor(key, shape)))
        alias = alias_of(key)
        if alias is not None:
            state[alias] = state[key]
    return state


def reference_model(config: IdolConfig) -> Idol:
    """Build the network of a configuration with its reference weights, in evaluation mode."""
    import torch

    from idol_deploy.model.idol import Idol
    from idol_deploy.weights.layout import published_names

    state = reference_state(config)
    with torch.device("meta"):
        model = Idol(config)
    model.load_state_dict({name: state[key] for name, key in published_names(model).items()}, assign=True)
    return model.eval()


def make_video(frames: int, height: int, width: int, seed: int) -> npt.NDArray[np.uint8]:
    """Make a video of six textured ellipses that drift, cover each other and vanish for single frames.

    Args:
        frames: number of frames.
        height: height in pixels.
        width: width in pixels.
        seed: seed of all random values.

    Returns:
        The video, RGB uint8 [frames, 3, height, width].
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    base = rng.integers(0, 64, (3, height, width))
    colours = rng.integers(64, 256, (6, 3))
    starts = rng.random((6, 2))
    velocities = rng.random((6, 2)) - 0.5
    radii = (0.05 + 0.13 * rng.random((6, 2))) * (width, height)
    y, x = np.mgrid[0:height, 0:width]
    background = base + 40 * (x >= width / 2) + 30 * (y >= height / 2)
    video = np.zeros((frames, 3, height, width), np.uint8)
    for t in range(frames):
        noise = rng.integers(0, 16, (3, height, width))
        image = background
        for k in range(6):
            if (t + 2 * k) % 7 == 3:
                continue
            centre = (starts[k] + t * 0.08 * velocities[k]) % 1.0 * (width, height)
            inside = ((x - centre[0]) / radii[k, 0]) ** 2 + ((y - centre[1]) / radii[k, 1]) ** 2 <= 1.0
            texture = 32 * ((x // 8 + y // 8 + k) % 2)
            image = np.where(inside, colours[k][:, None, None] - texture, image)
        video[t] = np.clip(image + noise, 0, 255).astype(np.uint8)
    return video
