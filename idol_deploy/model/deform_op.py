"""The deformable attention as a PyTorch operator, `idol_deploy::deform_attn`, computed by the compiled libraries.

`deform_attn` replaces `deform_attn.deformable_attention` on a CPU and on CUDA devices, with gradients. It can be
traced, compiled and exported. Values are float32, float16 or bfloat16; locations, softmax, sums and gradients are
always fp32. Letters as in `idol_deploy.model.deform_attn`.

A network uses plain PyTorch until the operator is chosen:

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

__all__ = ["deform_attn", "operator_problem", "use_core", "use_operator"]

_log = logging.getLogger(__name__)


def deform_attn(
    value: Tensor,  # [N, S, M, D]
    shapes: Shapes,  # (h, w) per level
    merged: Tensor,  # [N, Q, M * L * P * 3]
    reference: Tensor,  # [N or 1, Q, L, 2 or 4]
) -> Tensor:
    """Compute `deform_attn.deformable_attention` with the compiled kernel; an `AttentionCore`.

    References become float32, and so do the projections unless they and the values are float16. Gradients have the
    types of the inputs. On a CUDA device, the last bits of the gradient of `value` differ from call to call.

    Returns:
        The attention's output, [N, Q, M * D], of the type of `value`.

    Raises:
        PluginError: the library for this device is not built or does not accept the types or shapes, or a second
            derivative is requested, which does not exist.
    """
    if merged.dtype != value.dtype or value.dtype != torch.float16:
        merged = merged.float()
    result: Tensor = _forward(value, [side for shape in shapes for side in shape], merged, reference.float())
    return result


def operator_problem(device: torch.device | str = "cpu") -> str | None:
    """Explain why `deform_attn` cannot run on this device; None if it can. Nothing is built."""
    return _problem(torch.device(device).type)


def use_core(model: nn.Module, core: AttentionCore) -> None:
    """Set the core of every deformable attention in a network."""
    for module in model.modules():
        if isinstance(module, DeformableAttention):
            module.core = core


def use_operator(model: nn.Module, *, required: bool = False) -> AttentionCore:
    """Set the operator if its library for the device of a network's parameters loads, else plain PyTorch, and log why.

    Args:
        model: network, changed in place.
        required: raise an error instead of using plain PyTorch.

    Returns:
        The core: `deform_attn` or `deform_attn.deformable_attention`.

    Raises:
        PluginError: the operator is required, and its library is not built or does not load.
    """
    core: AttentionCore = deform_attn
    problem = operator_problem(next(model.parameters()).device)
    if problem is not None:
        if required:
            raise PluginError(problem)
        _log.info("deformable attention: plain PyTorch (%s)", problem)
        core = deformable_attention
    use_core(model, core)
    return core


_cpu_library, _cuda_library = cache(CpuLibrary), cache(CudaLibrary)


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


def _dense(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors in the layout of the kernels: contiguous, aligned to 16 bytes."""
    tensors = [tensor.contiguous() for tensor in tensors]
    return [tensor if tensor.data_ptr() % 16 == 0 else tensor.clone() for tensor in tensors]


def _describe(tensor: Tensor) -> DeviceArray:
    return DeviceArray(tensor.data_ptr(), tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _empty_out(value: Tensor, merged: Tensor) -> Tensor:
    return value.new_empty((merged.shape[0], merged.shape[1], value.shape[2] * value.shape[3]))


@torch.library.custom_op("idol_deploy::deform_attn", mutates_args=(), device_types=("cpu", "cuda"))
def _forward(value: Tensor, shapes: Sequence[int], merged: Tensor, reference: Tensor) -> Tensor:
    inputs = _dense((value, merged, reference))  # kept alive while the kernel runs
    out = _empty_out(value, merged)
    of_value, of_merged, of_reference, of_out = map(_describe, (*inputs, out))
    arguments = (of_value, _levels(shapes), of_merged, of_reference, of_out)
    if value.device.type == "cpu":
        _cpu_library().fused(*arguments, threads=torch.get_num_threads())
        return out
    with torch.cuda.device(value.device):
        _cuda_library().deformable_attention(*arguments, torch.cuda.current_stream().cuda_stream)
    return out


_forward.register_fake(lambda value, shapes, merged, reference: _empty_out(value, merged))


@torch.library.custom_op("idol_deploy::deform_attn_backward", mutates_args=(), device_types=("cpu", "cuda"))
def _backward(
    grad: Tensor,
    value: Tensor,
    shapes: Sequence[int],
    merged: Tensor,
    reference: Tensor,
    needed: Sequence[bool],  # of value, merged and reference
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute gradients in float32; a gradient that is not needed is empty."""
    inputs = _dense((grad, value, merged, reference))  # kept alive while the kernel runs
    gradients: tuple[Tensor, Tensor, Tensor] = _backward_fake(grad, value, shapes, merged, reference, needed)
    outputs = [
        _describe(gradient) if is_needed else None
        for gradient, is_needed in zip(gradients, needed, strict=True)
    ]
    of_grad, of_value, of_merged, of_reference = map(_describe, inputs)
    arguments = (of_grad, of_value, _levels(shapes), of_merged, of_reference, outputs)
    if value.device.type == "cpu":
        _cpu_library().fused_backward(*arguments, threads=torch.get_num_threads())
        return gradients
    _check_determinism()
    with torch.cuda.device(value.device):
        _cuda_library().deformable_attention_backward(*arguments, torch.cuda.current_stream().cuda_stream)
    return gradients


@_backward.register_fake
def _backward_fake(
    grad: Tensor,
    value: Tensor,
    shapes: Sequence[int],
    merged: Tensor,
    reference: Tensor,
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    of_value, of_merged, of_reference = (
        tensor.new_empty(tensor.shape if is_needed else (0,), dtype=torch.float32)
        for tensor, is_needed in zip((value, merged, reference), needed, strict=True)
    )
    return of_value, of_merged, of_reference


def _check_determinism() -> None:
    """Warn or raise, as torch is configured, because the CUDA gradient adds with atomics."""
    if not torch.are_deterministic_algorithms_enabled():
        return
    message = (
        "the gradient of the deformable attention on a CUDA device is summed in no certain order; allow it with "
        "torch.use_deterministic_algorithms(True, warn_only=True)"
    )
    if not torch.is_deterministic_algorithms_warn_only_enabled():
        raise PluginError(message)
    warnings.warn(message, stacklevel=2)


def _save_inputs(ctx: Any, inputs: tuple[Tensor, Sequence[int], Tensor, Tensor], output: Tensor) -> None:
    value, shapes, merged, reference = inputs
    ctx.save_for_backward(value, merged, reference)
    ctx.shapes = shapes


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    value, merged, reference = ctx.saved_tensors
    needed = [ctx.needs_input_grad[i] for i in (0, 2, 3)]
    gradients = _backward(grad, value, ctx.shapes, merged, reference, needed)
    of_value, of_merged, of_reference = (
        gradient.to(tensor.dtype) if is_needed else None
        for gradient, tensor, is_needed in zip(gradients, (value, merged, reference), needed, strict=True)
    )
    return of_value, None, of_merged, of_reference


def _refuse(ctx: Any, *grads: Tensor) -> tuple[None, ...]:
    raise PluginError(
        "the deformable attention's operator has no second derivative; use plain PyTorch: "
        "use_core(model, deformable_attention)"
    )


_forward.register_autograd(_differentiate, setup_context=_save_inputs)
_backward.register_autograd(_refuse)
