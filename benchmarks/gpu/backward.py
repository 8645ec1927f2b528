"""Gradients by our operator: whether they are right, and how fast they come next to torch's autograd of grid_sample.

Calls of the attention are judged by float64 on the same rounded inputs. Queries with a sample too near to a cell's
centre, where the slope jumps, send no gradient: rounding would choose their side. A whole network has no such choice;
its gradients may be twice as far from float64 as those that torch finds in fp32.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.attention import TYPES, Call, network_call
from benchmarks.gpu.checks import TOLERANCES, short
from benchmarks.gpu.common import Options, Report, Save, say, turns
from benchmarks.gpu.frames import Network, frame_of, network_config
from idol_deploy.model.deform_attn import AttentionCore, deformable_attention
from idol_deploy.model.deform_op import deform_attn, operator_problem, use_core
from idol_deploy.weights.reference import reference_model

__all__ = ["call_errors", "run"]

SIZE, QUICK_SIZE = (384, 640), (64, 96)
CORES: dict[str, AttentionCore] = {"torch": deformable_attention, "operator": deform_attn}
MARGIN = 1e-4  # cells; fp32 locations on the largest map are off by a tenth of it
FURTHER = 2.0  # than torch in fp32, of a network


def smooth(call: Call) -> Tensor:
    """Queries without a sample near a cell's centre, [N, Q]."""
    offsets = call.split()[0].double()
    sides = torch.tensor([[w, h] for h, w in call.shapes], device=offsets.device, dtype=torch.float64)[
        :, None
    ]
    reference = call.reference.double()[:, :, None, :, None]
    step = reference[..., 2:] * sides * 0.5 / call.points if reference.shape[-1] == 4 else 1.0
    at = reference[..., :2] * sides - 0.5 + offsets * step
    return ((at - at.round()).abs() > MARGIN).flatten(2).all(-1)


def leaves_of(call: Call, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Value, merged and reference, to be differentiated by."""
    held = (call.value, call.merged, call.reference)
    return [tensor.detach().to(dtype or tensor.dtype).clone().requires_grad_() for tensor in held]


def answer(core: AttentionCore, call: Call, leaves: list[Tensor], grad: Tensor) -> list[Tensor]:
    """Output and gradients."""
    out = core(leaves[0], call.shapes, leaves[1], leaves[2])
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(out.dtype))]


def call_errors(core: AttentionCore, call: Call) -> dict[str, float]:
    """Relative errors of the output and of the gradients, against float64."""
    random = torch.Generator(call.value.device).manual_seed(9)
    shape = call.empty_out().shape
    grad = torch.randn(shape, generator=random, device=call.value.device).to(call.value.dtype)
    grad = grad * smooth(call)[..., None]
    found = answer(core, call, leaves_of(call), grad)
    expected = answer(deformable_attention, call, leaves_of(call, torch.float64), grad)
    names = ("out", "value", "merged", "reference")
    return {
        name: float((a.double() - b).norm() / b.norm())
        for name, a, b in zip(names, found, expected, strict=True)
    }


def attention_step(core: AttentionCore, call: Call) -> Callable[[], object]:
    """A call of the attention forward and backward, as a layer of the encoder makes it: its reference is fixed."""
    value, merged, reference = leaves_of(call)
    grad = torch.ones_like(call.empty_out())

    def step() -> object:
        out = core(value, call.shapes, merged, reference.detach())
        return torch.autograd.grad(out, (value, merged), grad)

    return step


def network_gradients(network: Network, images: Tensor) -> list[Tensor]:
    """Of all its outputs' sum, by its parameters."""
    total = torch.stack([output.sum() for output in network(images)]).sum()
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return list(torch.autograd.grad(total, parameters, materialize_grads=True))


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """Relative error of all parameters' gradients together."""
    off = torch.stack([(a.double() - b).norm() for a, b in zip(found, expected, strict=True)]).norm()
    return float(off / torch.stack([gradient.norm() for gradient in expected]).norm())


def check_calls(size: tuple[int, int], options: Options) -> tuple[Report, list[str]]:
    """Errors of every call in every type; those beyond what is allowed."""
    errors: Report = {}
    failed: list[str] = []
    for decoder in (False, True):
        for types in TYPES:
            call = network_call(size, decoder, types, 0, options.device)
            name = f"{'decoder' if decoder else 'encoder'}, {short(types[0])} of {short(types[1])}"
            errors[name] = call_errors(deform_attn, call)
            allowed = TOLERANCES[types[0]]
            failed += [
                f"{name}: {what} {error:.1e}" for what, error in errors[name].items() if not error <= allowed
            ]
    return errors, failed


def compared(calls: Mapping[str, Callable[[], object]], options: Options) -> Report:
    """Times of both in turns, and what the operator gains."""
    times = turns(calls, options)
    gain = times["torch"]["median"] / times["operator"]["median"]
    return {"ms": times, "gain": round(gain, 2)}


def check_network(size: tuple[int, int], options: Options) -> Report:
    """A whole network, one frame."""
    model = reference_model(network_config(options))
    images = frame_of(model, size).to(options.device)
    networks = {}
    for name, core in CORES.items():
        networks[name] = Network(copy.deepcopy(model).to(options.device), size, half=False).eval()
        use_core(networks[name], core)
    exact = Network(model.to(options.device), size, half=False).eval().double()
    expected = network_gradients(exact, images.double())
    errors = {
        name: distance(network_gradients(network, images), expected) for name, network in networks.items()
    }
    steps = {name: partial(network_gradients, network, images) for name, network in networks.items()}
    return {"size": list(size), "relative_error": errors, **compared(steps, options)}


def run(options: Options, report: Report, save: Save) -> None:
    """Right first, then how fast, in fp32: an encoder call, and a network of one frame."""
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
    if not errors["operator"] <= FURTHER * errors["torch"]:
        report["failed"].append(f"the network's gradients: {errors}")
    report["passed"] = not report["failed"]
    gains = {what: report[what]["gain"] for what in ("encoder", "network")}
    say(f"forward and backward, torch over operator: {gains}")
