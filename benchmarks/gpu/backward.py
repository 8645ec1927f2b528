"""Accuracy and speed of the operator's gradients against torch's autograd of grid_sample.

Gradients of single attention calls are compared with float64 on the same rounded inputs. Queries with a sample close to
a cell's centre are left out, because the slope jumps there and rounding decides the side. A network cannot leave them
out; its gradients may differ from float64 twice as much as those of torch in fp32.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.attention import TYPES, Call, network_call
from benchmarks.gpu.checks import TOLERANCES, short
from benchmarks.gpu.common import Options, Report, Save, interleaved_ms, say
from benchmarks.gpu.network import Network, frame_of, network_config
from idol_deploy.model.deform_attn import AttentionCore, deformable_attention
from idol_deploy.model.deform_op import deform_attn, operator_problem, use_core
from idol_deploy.weights.reference import reference_model

__all__ = ["call_errors", "run"]

SIZE, QUICK_SIZE = (384, 640), (64, 96)
CORES: dict[str, AttentionCore] = {"torch": deformable_attention, "operator": deform_attn}
MARGIN = 1e-4  # cells; ten times the rounding error of fp32 locations on the largest map
NETWORK_FACTOR = 2.0  # allowed error of a network's gradients, relative to torch in fp32


def smooth(call: Call) -> Tensor:
    """Mark the queries without a sample near a cell's centre, [N, Q]."""
    offsets = call.split()[0].double()
    sides = torch.tensor([[w, h] for h, w in call.shapes], device=offsets.device, dtype=torch.float64)[
        :, None
    ]
    reference = call.reference.double()[:, :, None, :, None]
    step = reference[..., 2:] * sides * 0.5 / call.points if reference.shape[-1] == 4 else 1.0
    at = reference[..., :2] * sides - 0.5 + offsets * step
    return ((at - at.round()).abs() > MARGIN).flatten(2).all(-1)


def leaves_of(call: Call, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Return copies of value, merged and reference that require gradients."""
    inputs = (call.value, call.merged, call.reference)
    return [tensor.detach().to(dtype or tensor.dtype).clone().requires_grad_() for tensor in inputs]


def output_and_gradients(core: AttentionCore, call: Call, leaves: list[Tensor], grad: Tensor) -> list[Tensor]:
    """Return the output and the gradients of `leaves`."""
    out = core(leaves[0], call.shapes, leaves[1], leaves[2])
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(out.dtype))]


def call_errors(core: AttentionCore, call: Call) -> dict[str, float]:
    """Return the relative errors of the output and the gradients against float64."""
    random = torch.Generator(call.value.device).manual_seed(9)
    shape = call.empty_out().shape
    grad = torch.randn(shape, generator=random, device=call.value.device).to(call.value.dtype)
    grad = grad * smooth(call)[..., None]
    outputs = output_and_gradients(core, call, leaves_of(call), grad)
    expected = output_and_gradients(deformable_attention, call, leaves_of(call, torch.float64), grad)
    names = ("out", "value", "merged", "reference")
    return {
        name: float((a.double() - b).norm() / b.norm())
        for name, a, b in zip(names, outputs, expected, strict=True)
    }


def attention_step(core: AttentionCore, call: Call) -> Callable[[], object]:
    """Return forward and backward pass of a call as in an encoder layer, whose reference needs no gradient."""
    value, merged, reference = leaves_of(call)
    grad = torch.ones_like(call.empty_out())

    def step() -> object:
        out = core(value, call.shapes, merged, reference.detach())
        return torch.autograd.grad(out, (value, merged), grad)

    return step


def network_gradients(network: Network, images: Tensor) -> list[Tensor]:
    """Return the gradients of the sum of all outputs with respect to the parameters."""
    total = torch.stack([output.sum() for output in network(images)]).sum()
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return list(torch.autograd.grad(total, parameters, materialize_grads=True))


def relative_error(gradients: list[Tensor], expected: list[Tensor]) -> float:
    """Return the relative error of all gradients together."""
    error = torch.stack([(a.double() - b).norm() for a, b in zip(gradients, expected, strict=True)]).norm()
    return float(error / torch.stack([gradient.norm() for gradient in expected]).norm())


def check_calls(size: tuple[int, int], options: Options) -> tuple[Report, list[str]]:
    """Return the errors of every call in every type, and descriptions of those beyond their tolerance."""
    errors: Report = {}
    failed: list[str] = []
    for decoder in (False, True):
        for types in TYPES:
            call = network_call(size, decoder, types, 0, options.device)
            name = f"{'decoder' if decoder else 'encoder'}, {short(types[0])} of {short(types[1])}"
            errors[name] = call_errors(deform_attn, call)
            allowed = TOLERANCES[types[0]]
            failed += [
                f"{name}: {array} {error:.1e}"
                for array, error in errors[name].items()
                if not error <= allowed
            ]
    return errors, failed


def compared(calls: Mapping[str, Callable[[], object]], options: Options) -> Report:
    """Return interleaved times of both cores, and torch's time divided by the operator's."""
    times = interleaved_ms(calls, options)
    gain = times["torch"]["median"] / times["operator"]["median"]
    return {"ms": times, "gain": round(gain, 2)}


def check_network(size: tuple[int, int], options: Options) -> Report:
    """Compare gradients and times of a network on one frame."""
    model = reference_model(network_config(options))
    images = frame_of(model, size).to(options.device)
    networks = {}
    for name, core in CORES.items():
        networks[name] = Network(copy.deepcopy(model).to(options.device), size).eval()
        use_core(networks[name], core)
    exact = Network(model.to(options.device), size).eval().double()
    expected = network_gradients(exact, images.double())
    errors = {
        name: relative_error(network_gradients(network, images), expected)
        for name, network in networks.items()
    }
    steps = {name: partial(network_gradients, network, images) for name, network in networks.items()}
    return {"size": list(size), "relative_error": errors, **compared(steps, options)}


def run(options: Options, report: Report, save: Save) -> None:
    """Check gradients, then time an encoder call and a network on one frame in fp32."""
    problem = operator_problem(options.device)
    if problem is not None:
        report["error"] = problem
        return
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("highest")
    size = QUICK_SIZE if options.quick else SIZE
    report["size"] = list(size)
    report["errors"], report["failed"] = check_calls(size, options)
    save()
    call = network_call(size, False, TYPES[0], 0, options.device)
    report["encoder"] = compared({name: attention_step(core, call) for name, core in CORES.items()}, options)
    save()
    report["network"] = check_network(size, options)
    errors = report["network"]["relative_error"]
    if not errors["operator"] <= NETWORK_FACTOR * errors["torch"]:
        report["failed"].append(f"the network's gradients: {errors}")
    report["passed"] = not report["failed"]
    gains = {part: report[part]["gain"] for part in ("encoder", "network")}
    say(f"forward and backward, time of torch / operator: {gains}")
