"""The attention cores of the fp32 graphs: one node of our operator, or plain operators."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from idol_deploy.model.deform_attn import AttentionCore, Shapes
from idol_deploy.model.deform_op import use_core
from idol_deploy.model.idol import Idol
from idol_export.graph.gather import gather_and_multiply, gather_and_sum
from idol_plugins.ort import DOMAIN, OPERATOR, VERSION
from idol_plugins.trt import NODE_ATTRIBUTES
from idol_runtime.bundle.certificates import Fp32Name

__all__ = ["CORES", "fused_node", "with_core"]


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


# In the order of their verification; the second is left out where our operator's library is missing.
CORES: Mapping[Fp32Name, AttentionCore] = {
    "portable": gather_and_multiply,
    "plugin": fused_node,
    "tensorrt": gather_and_sum,
}


def with_core(model: Idol, core: AttentionCore) -> Idol:
    """Return a copy of the network with this attention core; it shares all parameters."""
    shared: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    network = copy.deepcopy(model, shared)
    use_core(network, core)
    return network
