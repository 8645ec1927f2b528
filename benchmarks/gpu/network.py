"""The networks of the GPU benchmark: one at a fixed frame size, in a precision, with a cost.

Letters: N frames, H x W padded pixels, h x w pixels before padding.
"""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.gpu.common import Options
from idol_deploy.config import IdolConfig, preset
from idol_deploy.model.backbones.mobilenet import MobileNet
from idol_deploy.model.deform_attn import AttentionCore, Shapes, deformable_attention
from idol_deploy.model.deform_op import use_core, use_operator
from idol_deploy.model.geometry import Geometry, build_geometry, padding_mask
from idol_deploy.model.idol import Idol
from idol_deploy.weights.reference import make_video, reference_model
from idol_runtime.bench.roofline import GraphCost

__all__ = [
    "COMPILED_CASE",
    "KINDS",
    "NAMES",
    "Case",
    "Kind",
    "Network",
    "Outputs",
    "compiled_kinds",
    "count_cost",
    "frame_of",
    "frames_of",
    "keep_backbone",
    "model_of",
    "network_config",
    "prepared",
    "recordable_core",
]

NAMES = ("logits", "boxes", "embeddings", "mask_features", "mask_params", "mask_reference")
Outputs: TypeAlias = tuple[Tensor, ...]


@dataclass(frozen=True)
class Kind:
    """A precision of a network.

    Attributes:
        dtype: type of autocast; float32 for none.
        tf32: round the inputs of fp32 products to TF32.
    """

    dtype: torch.dtype = torch.float32
    tf32: bool = False

    @property
    def half(self) -> bool:
        """True for a 16-bit type."""
        return self.dtype != torch.float32

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Set TF32 within the block."""
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = self.tf32
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]


KINDS = {
    "fp32": Kind(),
    "fp16": Kind(torch.float16),
    "tf32": Kind(tf32=True),
    "bf16": Kind(torch.bfloat16),
}


@dataclass(frozen=True)
class Case:
    """A network at one size.

    Attributes:
        preset: name of the network's preset.
        size: (h, w) of the frames in pixels, before padding.
        batch: number of frames.
    """

    preset: str
    size: tuple[int, int]
    batch: int = 1

    @property
    def name(self) -> str:
        """Preset, size and batch as text."""
        return f"{self.preset} {self.size[0]}x{self.size[1]} batch {self.batch}"


# By `Options.quick`.
COMPILED_CASE = (Case("ytvis19_r50", (360, 640)), Case("edge_synth", (60, 96)))


def compiled_kinds(quick: bool) -> tuple[str, ...]:
    """Return the precisions that are measured with `torch.compile`."""
    return ("fp32",) if quick else ("fp32", "fp16")


class Network(nn.Module):
    """The network at one size, with its geometry computed once and its padding inside, as in the exported graph."""

    def __init__(self, model: Idol, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype
        device = next(model.parameters()).device
        self.device_type = device.type
        height, width = model.config.preprocessing.padded_size(*size)
        self.padding = (0, width - size[1], 0, height - size[0])
        mask = padding_mask(size, (height, width)).to(device)
        self.geometry: Geometry = build_geometry(mask, model.config.model.hidden_dim)

    def forward(
        self,
        images: Tensor,  # [N, 3, h, w] normalised
    ) -> Outputs:
        """Return the six outputs."""
        with torch.autocast(self.device_type, self.dtype, enabled=self.dtype != torch.float32):
            output = self.model.forward_with_geometry(F.pad(images, self.padding), self.geometry)
        return tuple(getattr(output, name) for name in NAMES)


def network_config(options: Options, name: str = "ytvis19_r50") -> IdolConfig:
    """Return a preset's configuration; in a dry run always the demo model's, with one layer of each kind."""
    if not options.quick:
        return preset(name)
    config = preset("edge_synth")
    return replace(config, model=replace(config.model, encoder_layers=1, decoder_layers=1))


def model_of(name: str, options: Options) -> Idol:
    """Return a preset's network with reference weights on the CPU."""
    return reference_model(network_config(options, name)).eval()


def frame_of(model: Idol, size: tuple[int, int], frames: int = 1) -> Tensor:
    """Return synthetic frames, [frames, 3, h, w], normalised."""
    pixels = torch.from_numpy(make_video(frames, *size, seed=0)).float()
    settings = model.config.preprocessing
    mean, std = (torch.tensor(v)[None, :, None, None] for v in (settings.mean, settings.std))
    return (pixels - mean) / std


def frames_of(model: Idol, case: Case) -> Tensor:
    """Return the frames of a case; the last is the same in every batch size."""
    return frame_of(model, case.size, case.batch).flip(0)


def keep_backbone(model: Idol) -> None:
    """Exempt MobileNet from autocast, as the exported 16-bit graphs do: its linear blocks amplify rounding errors."""
    if isinstance(model.backbone, MobileNet):
        inner = model.backbone.forward

        def forward(images: Tensor) -> Any:
            with torch.autocast(images.device.type, enabled=False):
                return inner(images.float())

        model.backbone.__dict__["forward"] = forward


def prepared(model: Idol, case: Case, kind: Kind, options: Options, *, operator: bool = False) -> Network:
    """Return a copy of a network on the device in a precision, with torch's attention or the compiled operator.

    Weights of convolutions are stored in the 16-bit type, so that no frame casts them. All types but fp32 use the
    memory layout of tensor cores.
    """
    model = copy.deepcopy(model).to(options.device)
    if kind.half or kind.tf32:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if kind.half:
        keep_backbone(model)
        skipped = set(model.backbone.modules()) if isinstance(model.backbone, MobileNet) else set()
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module not in skipped:
                module.to(kind.dtype)
    network = Network(model, case.size, kind.dtype).eval()
    if operator:
        use_operator(model, required=True)
    else:
        use_core(model, recordable_core(network.geometry.shapes, options.device))
    return network


def recordable_core(shapes: Shapes, device: str) -> AttentionCore:
    """Return torch's attention for maps of these sizes, with its constants on the device, for a CUDA graph."""
    constant = torch.tensor([[w, h] for h, w in shapes], dtype=torch.float32, device=device)

    def core(value: Tensor, shapes: Shapes, merged: Tensor, reference: Tensor) -> Tensor:
        return deformable_attention(value, shapes, merged, reference, constant.to(merged.dtype))

    return core


class _Counter(TorchDispatchMode):
    """A counter of the operations and the fp32 bytes of convolutions and matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.flops += int(count(*args, **(kwargs or {}), out_val=out))
            tensors = [value for value in (*args, out) if isinstance(value, Tensor)]
            self.bytes += sum(4 * prod(tensor.shape) for tensor in tensors)
        return out


def count_cost(network: Network, images: Tensor) -> GraphCost:
    """Count the lowest cost of a batch; see `GraphCost`."""
    # In inference mode, the counter would see whole layers instead of their products.
    with torch.inference_mode(False), torch.no_grad(), _Counter() as counter:
        network(images)
    return GraphCost(counter.flops, counter.bytes)
