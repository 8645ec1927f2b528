"""The network with each deformable attention as one node of our operator, for the plugin graph."""

import copy

import torch
from torch import Tensor

from idol_deploy.model.deform_attn import Shapes
from idol_deploy.model.deform_op import use_core
from idol_deploy.model.idol import Idol
from idol_plugins.ort import DOMAIN, OPERATOR, VERSION
from idol_plugins.trt import NODE_ATTRIBUTES

__all__ = ["fused_node", "with_fused_attention"]


def fused_node(value: Tensor, shapes: Shapes, merged: Tensor, reference: Tensor) -> Tensor:
    """Return one symbolic node of our operator: an `AttentionCore` for the ONNX exporter, which computes nothing."""
    heads = value.shape[2]
    result: Tensor = torch.onnx.ops.symbolic(
        f"{DOMAIN}::{OPERATOR}",
        (value, merged, reference),
        {
            "heads": heads,
            "points": merged.shape[2] // (3 * heads * len(shapes)),
            "shapes": [side for shape in shapes for side in shape],
            **NODE_ATTRIBUTES,
        },
        dtype=value.dtype,
        shape=(*merged.shape[:2], heads * value.shape[3]),
        version=VERSION,
    )
    return result


def with_fused_attention(model: Idol) -> Idol:
    """Return a copy of the network with `fused_node` as its attention core; it shares all parameters."""
    shared: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    fused = copy.deepcopy(model, shared)
    use_core(fused, fused_node)
    return fused
