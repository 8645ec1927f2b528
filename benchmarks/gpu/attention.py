"""Calls of the deformable attention for the GPU benchmark: their inputs, and the libraries that run them.

Letters as in `idol_deploy.model.deform_attn`.
"""

import ctypes
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from idol_deploy.config import preset
from idol_deploy.model.deform_attn import DeformableAttention, Shapes
from idol_deploy.model.geometry import Geometry, build_geometry
from idol_plugins.cuda import CudaLibrary, CudaVariant, DeviceArray
from idol_plugins.libraries import find_library

__all__ = [
    "TYPES",
    "Call",
    "HostLibrary",
    "array_of",
    "libraries_of",
    "network_call",
    "raw_call",
    "run_fused",
]

# Types of `value` and `merged` that the kernel accepts.
TYPES = (
    (torch.float32, torch.float32),
    (torch.float16, torch.float16),
    (torch.float16, torch.float32),
    (torch.bfloat16, torch.float32),
)


@dataclass(frozen=True)
class Call:
    """Arguments of a fused call."""

    value: Tensor  # [N, S, M, D]
    shapes: Shapes
    merged: Tensor  # [N, Q, 3 * M * L * P]
    reference: Tensor  # [N or 1, Q, L, 2 or 4]
    points: int

    @property
    def samples(self) -> int:
        """Number of samples, N * Q * M * L * P."""
        return self.merged.numel() // 3

    @property
    def traffic(self) -> int:
        """Size of all inputs and the output in bytes."""
        inputs = (self.value, self.merged, self.reference)
        out = self.merged.shape[1] * self.value[:, 0].numel() * self.value.element_size()
        return sum(tensor.numel() * tensor.element_size() for tensor in inputs) + out

    def empty_out(self) -> Tensor:
        """Return an output array filled with NaN."""
        N, Q = self.merged.shape[:2]
        return self.value.new_full((N, Q, self.value.shape[2] * self.value.shape[3]), float("nan"))

    def split(self) -> tuple[Tensor, Tensor]:
        """Return offsets [N, Q, M, L, P, 2] and logits [N, Q, M, L * P]."""
        N, Q = self.merged.shape[:2]
        M, L, P = self.value.shape[2], len(self.shapes), self.points
        offsets, logits = torch.split(self.merged, [2 * M * L * P, M * L * P], -1)
        return offsets.reshape(N, Q, M, L, P, 2), logits.reshape(N, Q, M, L * P)


class HostLibrary(CudaLibrary):
    """The CPU kernel with the CUDA library's interface, for a dry run: host pointers, no stream."""

    def __init__(self) -> None:
        library = ctypes.CDLL(str(find_library("idol_deform_attn_cpu")))
        names = ("fused", "classic", "fused_backward")
        fused, classic, self._backward = (library[f"idol_deform_attn_{name}"] for name in names)
        for entry in (fused, classic, self._backward):
            entry.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        self._fused = lambda call, variant, stream: fused(call, stream)
        self._classic = lambda call, variant, stream: classic(call, stream)
        self._variant = CudaVariant.AUTO


def libraries_of(device: str) -> dict[str, CudaLibrary]:
    """Return the library with each of its kernels by name, `auto` first; two names for the one kernel of a CPU."""
    if device == "cuda":
        return {variant.name.lower(): CudaLibrary(variant=variant) for variant in CudaVariant}
    return {"auto": HostLibrary(), "group": HostLibrary()}


def array_of(tensor: Tensor) -> DeviceArray:
    """Return pointer, shape and type of a tensor for the library."""
    if not tensor.is_contiguous():
        raise ValueError(f"the kernel needs contiguous arrays, got strides {tensor.stride()}")
    return DeviceArray(tensor.data_ptr(), tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def run_fused(library: CudaLibrary, call: Call, out: Tensor) -> None:
    """Run the fused kernel in the current stream."""
    stream = torch.cuda.current_stream().cuda_stream if out.device.type == "cuda" else 0
    value, merged, reference, into = map(array_of, (call.value, call.merged, call.reference, out))
    library.deformable_attention(value, call.shapes, merged, reference, into, stream)


def raw_call(
    value: Tensor,
    shapes: Shapes,
    offsets: Tensor,
    logits: Tensor,
    reference: Tensor,
    types: tuple[torch.dtype, ...],
) -> Call:
    """Return a call with these inputs, rounded to the types of `value` and `merged`."""
    merged = torch.cat([offsets.flatten(2), logits.flatten(2)], -1)
    return Call(
        value.to(types[0]).contiguous(),
        shapes,
        merged.to(types[1]).contiguous(),
        reference.float().contiguous(),
        offsets.shape[-2],
    )


@cache
def geometry_of(size: tuple[int, int], width: int) -> Geometry:
    """Return the levels and reference points of a padded size (H, W)."""
    return build_geometry(torch.zeros(1, *size, dtype=torch.bool), width)


def network_call(
    size: tuple[int, int], decoder: bool, types: tuple[torch.dtype, ...], seed: int, device: str
) -> Call:
    """Return a call like a network layer's at a padded size (H, W): one query per token, or 300 boxes in the decoder.

    Offsets are those of a freshly initialised network, plus noise of half a cell.
    """
    config = preset("ytvis19_r50").model
    M, L, P = config.heads, config.levels, config.points
    geometry = geometry_of(size, config.hidden_dim)
    S = geometry.encoder_reference.shape[1]
    Q = config.queries if decoder else S
    random = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, device=device)

    module = DeformableAttention(config.hidden_dim, L, M, P)
    ring = module.sampling_offsets.bias.detach().reshape(M, L, P, 2).to(device)
    reference = geometry.encoder_reference.to(device)
    if decoder:
        boxes = torch.rand(1, Q, 1, 4, generator=random, device=device)
        reference = torch.cat([boxes[..., :2], 0.05 + 0.4 * boxes[..., 2:]], -1).expand(-1, -1, L, -1)
    return raw_call(
        normal(1, S, M, config.hidden_dim // M),
        geometry.shapes,
        ring + 0.5 * normal(1, Q, M, L, P, 2),
        normal(1, Q, M, L * P),
        reference,
        types,
    )
