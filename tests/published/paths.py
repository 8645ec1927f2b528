"""The two compared paths: PyTorch, and the exported graph in ONNX Runtime.

Each function returns the accessible tensors of one frame under the names that `published.arrays.cuts` uses.
"""

from contextlib import ExitStack
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from idol_deploy.model.geometry import Geometry, build_geometry, padding_mask, sine_position
from idol_deploy.model.idol import Idol
from idol_export.graph.adapter import STAGES, ExportGraph
from idol_export.verify.parity import torch_stages
from idol_runtime.backends.onnxruntime import run_session
from idol_runtime.bundle.bundle import OUTPUT_NAMES
from idol_runtime.tracking.detection import NetworkOutput, decode_queries
from published.arrays import Array

__all__ = ["FrameTensors", "onnx_frame", "torch_frame"]

FrameTensors: TypeAlias = tuple[dict[str, Array], NetworkOutput]


@torch.inference_mode()
def torch_frame(
    model: Idol,
    image: NDArray[np.uint8],  # [h, w, 3]
) -> FrameTensors:
    """Return all tensors of one frame in PyTorch; hooks read those inside the backbone and transformer."""
    layers: list[torch.Tensor] = []
    seen: dict[str, Any] = {}
    with ExitStack() as hooks:
        for layer in model.transformer.encoder.layers:
            hooks.enter_context(layer.register_forward_hook(lambda _m, _i, out: layers.append(out[0])))
        for name, module in (("backbone", model.backbone), ("decoder", model.transformer.decoder)):
            hook = module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
            hooks.enter_context(hook)
        tensors: dict[str, Array] = dict(torch_stages(model, image))
    output = NetworkOutput(**{name: tensors[name] for name in OUTPUT_NAMES})
    height, width = tensors["preprocess"].shape[1:]
    mask = padding_mask((image.shape[0], image.shape[1]), (height, width))
    geometry = build_geometry(mask, model.config.model.hidden_dim)
    tensors |= {f"res{k}": tensor[0].numpy() for k, tensor in enumerate(seen["backbone"], start=2)}
    tensors |= _split_levels(tensors["neck"], geometry) | _positions(geometry)
    decoder = seen["decoder"]
    tensors |= {
        "memory": tensors["encoder"],
        "encoder_layers": torch.stack(layers).numpy(),
        "states": decoder.states[:, 0].numpy(),
        "states_last": tensors["decoder"],
        "references": decoder.boxes[:, 0].numpy(),
        "init_reference": decoder.references[0][0].numpy(),
    }
    parts = (output.mask_features, output.mask_params, output.mask_reference)
    tensors["masks"] = model.mask_head.decode(*(torch.from_numpy(part)[None] for part in parts))[0].numpy()
    return tensors, output


def onnx_frame(
    graph: ExportGraph,
    session: Any,
    image: NDArray[np.uint8],  # [h, w, 3]
) -> FrameTensors:
    """Return the tensors of the exported probe, and the masks that the host decodes."""
    outputs = run_session(session, (*STAGES, *OUTPUT_NAMES), image[None])
    tensors: dict[str, Array] = {name: array[0] for name, array in outputs.items()}
    tensors |= _split_levels(tensors["neck"], graph.geometry)
    tensors |= {"res5": tensors["backbone"], "memory": tensors["encoder"], "states_last": tensors["decoder"]}
    output = NetworkOutput(**{name: outputs[name][0] for name in OUTPUT_NAMES})
    tensors["masks"] = decode_queries(output, np.arange(len(output.logits)))
    return tensors, output


def _split_levels(neck: Array, geometry: Geometry) -> dict[str, Array]:
    parts = np.split(neck, np.cumsum([h * w for h, w in geometry.shapes])[:-1], axis=1)
    return {
        f"src{level}": part.reshape(-1, h, w)
        for level, (part, (h, w)) in enumerate(zip(parts, geometry.shapes, strict=True))
    }


def _positions(geometry: Geometry) -> dict[str, Array]:
    """Return padding masks and position codes per level; those of the backbone's levels have two names."""
    positions: dict[str, Array] = {}
    sizes = [h * w for h, w in geometry.shapes]
    padding = torch.zeros(1, sum(sizes), dtype=torch.bool) if geometry.padding is None else geometry.padding
    levels = zip(torch.split(padding, sizes, 1), geometry.shapes, strict=True)
    for level, (flat, (h, w)) in enumerate(levels):
        mask = flat.reshape(1, h, w)
        code = sine_position(mask, geometry.position.shape[-1])[0].numpy()
        positions |= {f"mask{level}": mask[0].numpy(), f"position{level}": code}
        if level < 3:
            positions |= {f"res{level + 3}_mask": mask[0].numpy(), f"res{level + 3}_position": code}
    return positions
