"""The deformable attention as an operator of PyTorch: `idol_deploy::deform_attn`, answered by the built libraries.

`deform_attn` takes the place of `deform_attn.deformable_attention`, on a CPU and on CUDA devices, with gradients; it
can be traced, compiled and exported. Values are float32, float16 or bfloat16; locations, softmax, sums and gradients
are fp32 throughout. Letters as in `idol_deploy.model.deform_attn`.

A network keeps the pure form until it is told otherwise:

    use_operator(model)
"""

import logging
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from idol_deploy.model.deform_attn import AttentionCore, DeformableAttention, Shapes, deformable_attention
from idol_plugins.abi import DeviceArray
from idol_plugins.cpu import CpuLibrary
from idol_plugins.cuda import CudaLibrary
from idol_plugins.errors import PluginError

__all__ = ["best_core", "deform_attn", "operator_problem", "use_core", "use_operator"]

_log = logging.getLogger(__name__)


def deform_attn(
    value: Tensor,  # [N, S, M, D]
    shapes: Shapes,  # (h, w) per level
    merged: Tensor,  # [N, Q, M * L * P * 3]
    reference: Tensor,  # [N or 1, Q, L, 2 or 4]
) -> Tensor:
    """`deform_attn.deformable_attention` by the kernel; an `AttentionCore`.

    Under autocast, too: projections become float32, unless they and the values are float16, and references always.
    Gradients come in the types of the inputs. On a CUDA device, the last bits of value's differ from call to call.

    Returns:
        [N, Q, M * D], of value's type.

    Raises:
        PluginError: the library for these tensors' device is not built, or does not take the types or shapes; in a
            second derivative, which the operator has not.
    """
    if merged.dtype != value.dtype or value.dtype != torch.float16:
        merged = merged.float()
    result: Tensor = _forward(value, [side for shape in shapes for side in shape], merged, reference.float())
    return result


def operator_problem(device: torch.device | str = "cpu") -> str | None:
    """Why `deform_attn` cannot be called with tensors of this device; None if it can. Nothing is ever built."""
    return _problem(torch.device(device).type)


def best_core(device: torch.device | str = "cpu") -> AttentionCore:
    """The operator where its library for this device is built and loads; the pure form elsewhere, which is logged."""
    problem = operator_problem(device)
    if problem is None:
        return deform_attn
    _log.info("the deformable attention is computed by torch itself: %s", problem)
    return deformable_attention


def use_core(model: nn.Module, core: AttentionCore) -> None:
    """Gives every deformable attention of a network this core."""
    for module in model.modules():
        if isinstance(module, DeformableAttention):
            module.core = core


def use_operator(model: nn.Module, *, required: bool = False) -> AttentionCore:
    """Gives every deformable attention of a network the best core for the device that its parameters are on.

    Args:
        model: changed in place.
        required: raise rather than keep the pure form.

    Returns:
        The core: `deform_attn`, or `deform_attn.deformable_attention`.

    Raises:
        PluginError: the operator is required, and its library is not built or does not load.
    """
    device = next(model.parameters()).device
    problem = operator_problem(device)
    if required and problem is not None:
        raise PluginError(problem)
    core = best_core(device)
    use_core(model, core)
    return core


@cache
def _cpu_library() -> CpuLibrary:
    return CpuLibrary()


@cache
def _cuda_library() -> CudaLibrary:
    return CudaLibrary()


@cache
def _problem(device_type: str) -> str | None:
    libraries = {"cpu": _cpu_library, "cuda": _cuda_library}
    if device_type not in libraries:
        return f"there is no kernel for {device_type}; move the network to a CPU or a CUDA device"
    try:
        libraries[device_type]()
    except PluginError as error:
        return str(error)
    return None


def _levels(shapes: Sequence[int]) -> Shapes:
    return tuple(zip(shapes[::2], shapes[1::2], strict=True))


def _dense(tensor: Tensor) -> Tensor:
    """As the kernels read it: without gaps, from a multiple of 16 bytes on."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def _describe(tensor: Tensor) -> DeviceArray:
    return DeviceArray(tensor.data_ptr(), tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _empty_out(value: Tensor, merged: Tensor) -> Tensor:
    return value.new_empty((merged.shape[0], merged.shape[1], value.shape[2] * value.shape[3]))


@torch.library.custom_op("idol_deploy::deform_attn", mutates_args=(), device_types="cpu")
def _forward(value: Tensor, shapes: Sequence[int], merged: Tensor, reference: Tensor) -> Tensor:
    held = [_dense(tensor) for tensor in (value, merged, reference)]
    out = _empty_out(value, merged)
    of_value, of_merged, of_reference = map(_describe, held)
    threads = torch.get_num_threads()
    _cpu_library().fused(of_value, _levels(shapes), of_merged, of_reference, _describe(out), threads=threads)
    return out


@_forward.register_kernel("cuda")
def _forward_cuda(value: Tensor, shapes: Sequence[int], merged: Tensor, reference: Tensor) -> Tensor:
    held = [_dense(tensor) for tensor in (value, merged, reference)]
    out = _empty_out(value, merged)
    of_value, of_merged, of_reference = map(_describe, held)
    with torch.cuda.device(value.device):
        stream = torch.cuda.current_stream().cuda_stream
        _cuda_library().deformable_attention(
            of_value, _levels(shapes), of_merged, of_reference, _describe(out), stream
        )
    return out


@_forward.register_fake
def _forward_fake(value: Tensor, shapes: Sequence[int], merged: Tensor, reference: Tensor) -> Tensor:
    return _empty_out(value, merged)


@torch.library.custom_op("idol_deploy::deform_attn_backward", mutates_args=(), device_types="cpu")
def _backward(
    grad: Tensor,
    value: Tensor,
    shapes: Sequence[int],
    merged: Tensor,
    reference: Tensor,
    wanted: Sequence[bool],  # of value, merged and reference
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in float32; empty where not wanted."""
    held = [_dense(tensor) for tensor in (grad, value, merged, reference)]
    found = _empty_gradients(held[1:], wanted)
    arrays = [_describe(tensor) for tensor in found]
    of_grad, of_value, of_merged, of_reference = map(_describe, held)
    _cpu_library().fused_backward(
        *(of_grad, of_value, _levels(shapes), of_merged, of_reference),
        [array if is_wanted else None for array, is_wanted in zip(arrays, wanted, strict=True)],
        threads=torch.get_num_threads(),
    )
    return found


@_backward.register_kernel("cuda")
def _backward_cuda(
    grad: Tensor,
    value: Tensor,
    shapes: Sequence[int],
    merged: Tensor,
    reference: Tensor,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    _warn_of_atomics()
    held = [_dense(tensor) for tensor in (grad, value, merged, reference)]
    found = _empty_gradients(held[1:], wanted)
    arrays = [_describe(tensor) for tensor in found]
    of_grad, of_value, of_merged, of_reference = map(_describe, held)
    with torch.cuda.device(value.device):
        _cuda_library().deformable_attention_backward(
            *(of_grad, of_value, _levels(shapes), of_merged, of_reference),
            [array if is_wanted else None for array, is_wanted in zip(arrays, wanted, strict=True)],
            torch.cuda.current_stream().cuda_stream,
        )
    return found


@_backward.register_fake
def _backward_fake(
    grad: Tensor,
    value: Tensor,
    shapes: Sequence[int],
    merged: Tensor,
    reference: Tensor,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_gradients((value, merged, reference), wanted)


def _empty_gradients(inputs: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor]:
    found = [
        tensor.new_empty(tensor.shape if is_wanted else (0,), dtype=torch.float32)
        for tensor, is_wanted in zip(inputs, wanted, strict=True)
    ]
    return found[0], found[1], found[2]


def _warn_of_atomics() -> None:
    if not torch.are_deterministic_algorithms_enabled():
        return
    message = (
        "the deformable attention's gradient on a CUDA device adds in no certain order; allow it with "
        "torch.use_deterministic_algorithms(True, warn_only=True)"
    )
    if not torch.is_deterministic_algorithms_warn_only_enabled():
        raise PluginError(message)
    warnings.warn(message, stacklevel=2)


def _keep(ctx: Any, inputs: tuple[Tensor, Sequence[int], Tensor, Tensor], output: Tensor) -> None:
    value, shapes, merged, reference = inputs
    ctx.save_for_backward(value, merged, reference)
    ctx.shapes = shapes


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    value, merged, reference = ctx.saved_tensors
    needs = [ctx.needs_input_grad[i] for i in (0, 2, 3)]
    found = _backward(grad, value, ctx.shapes, merged, reference, needs)
    of_value, of_merged, of_reference = (
        gradient.to(tensor.dtype) if is_needed else None
        for gradient, tensor, is_needed in zip(found, (value, merged, reference), needs, strict=True)
    )
    return of_value, None, of_merged, of_reference


def _refuse(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
    raise PluginError(
        "the deformable attention's operator has no second derivative; use the pure form: "
        "use_core(model, deformable_attention)"
    )


_forward.register_autograd(_differentiate, setup_context=_keep)
_backward.register_autograd(_refuse)
