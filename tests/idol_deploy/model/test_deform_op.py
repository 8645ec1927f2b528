"""The operator against plain PyTorch and its autograd, and under tracing, compilation and checkpointing."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from idol_deploy.model import deform_op
from idol_deploy.model.deform_attn import DeformableAttention, Shapes, deformable_attention
from idol_deploy.model.deform_op import deform_attn, operator_problem, use_core, use_operator
from idol_deploy.model.idol import Idol
from idol_plugins.errors import PluginError

RelativeError = Callable[[npt.ArrayLike, npt.ArrayLike], float]
SHAPES: Shapes = ((9, 14), (5, 7), (3, 4), (1, 1))
SIDES = [side for shape in SHAPES for side in shape]
N, S, Q, M, D, L, P = 2, 174, 37, 8, 32, 4, 4
# fp32 sums, rounded to the type of what is returned: half a step of fp16 is 2.4e-4, of bf16 2e-3.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}


def _forget() -> None:
    for cached in (deform_op._cpu_library, deform_op._cuda_library, deform_op._problem):
        cached.cache_clear()


@pytest.fixture(scope="module")
def _built(libraries: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IDOL_PLUGINS", str(libraries))
        _forget()
        yield
    _forget()


built = pytest.mark.usefixtures("_built")


def _inputs(
    box: bool = False, images: int = N, seed: int = 0, device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Return value, merged and reference."""
    random = torch.Generator().manual_seed(seed)
    value = torch.randn(N, S, M, D, generator=random)
    merged = 2 * torch.randn(N, Q, 3 * M * L * P, generator=random)
    reference = torch.rand(images, Q, L, 4 if box else 2, generator=random)
    return value.to(device), merged.to(device), reference.to(device)


def _gradients(core: Any, inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the output and the gradients of value, merged and reference."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    out = core(leaves[0], SHAPES, leaves[1], leaves[2])
    return out.detach(), torch.autograd.grad(out, leaves, grad.to(out.dtype))


def _compare(
    relative_error: RelativeError, smooth: Callable[..., Any], inputs: tuple[Tensor, ...], tolerance: float
) -> None:
    """Compare the operator with plain PyTorch in float64 on the same rounded inputs."""
    on_host = [tensor.detach().cpu() for tensor in inputs]
    kept = torch.from_numpy(smooth(SHAPES, on_host[1].double(), on_host[2], M))
    grad = kept[..., None] * torch.randn(N, Q, M * D, generator=torch.Generator().manual_seed(9))
    grad = grad.to(inputs[0].dtype)
    out, found = _gradients(deform_attn, inputs, grad.to(inputs[0].device))
    expected, gradients = _gradients(deformable_attention, tuple(t.double() for t in on_host), grad.double())
    assert out.dtype == inputs[0].dtype
    assert relative_error(out.double().cpu(), expected) <= tolerance
    for gradient, wanted, like in zip(found, gradients, inputs, strict=True):
        assert (gradient.dtype, gradient.shape) == (like.dtype, like.shape)
        assert relative_error(gradient.double().cpu(), wanted) <= tolerance


@built
@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("images", [1, N])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_equals_the_pure_form(
    relative_error: RelativeError, smooth: Callable[..., Any], box: bool, images: int, dtype: torch.dtype
) -> None:
    value, merged, reference = _inputs(box, images)
    inputs = value.to(dtype), merged.to(dtype if dtype == torch.float16 else torch.float32), reference
    _compare(relative_error, smooth, inputs, TOLERANCES[dtype])


@built
def test_inputs_of_any_layout_and_address() -> None:
    value, merged, reference = _inputs(images=1)
    expected = deform_attn(value, SHAPES, merged, reference)
    odd = torch.empty(merged.numel() + 1)[1:].view(merged.shape).copy_(merged)
    turned = value.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(deform_attn(turned, SHAPES, odd, reference.expand(N, -1, -1, -1)), expected)


@built
def test_gradients_of_some_inputs_are_those_of_all() -> None:
    inputs, grad = _inputs(box=True), torch.randn(N, Q, M * D)
    _, expected = _gradients(deform_attn, inputs, grad)
    for wanted in ((0,), (1,), (2,), (0, 2)):
        leaves = [tensor.clone().requires_grad_(i in wanted) for i, tensor in enumerate(inputs)]
        deform_attn(leaves[0], SHAPES, leaves[1], leaves[2]).backward(grad)
        for i, leaf in enumerate(leaves):
            assert (leaf.grad is None) == (i not in wanted)
            assert leaf.grad is None or torch.equal(leaf.grad, expected[i])


@built
def test_torch_finds_nothing_wrong_with_it() -> None:
    value, merged, reference = (tensor.requires_grad_() for tensor in _inputs())
    torch.library.opcheck(deform_op._forward, (value, SIDES, merged, reference))
    arguments = [tensor.detach() for tensor in (value, merged, reference)]
    grad = torch.randn(N, Q, M * D)
    torch.library.opcheck(
        deform_op._backward, (grad, arguments[0], SIDES, arguments[1], arguments[2], [True, False, True])
    )


@built
def test_a_second_derivative_is_refused() -> None:
    value, merged, reference = (tensor.requires_grad_() for tensor in _inputs())
    out = deform_attn(value, SHAPES, merged, reference)
    (first,) = torch.autograd.grad(out.square().sum(), merged, create_graph=True)
    with pytest.raises(PluginError, match="no second derivative"):
        torch.autograd.grad(first.sum(), merged)


@built
def test_numbers_that_are_not_finite_show_and_harm_nothing() -> None:
    value, merged, reference = _inputs()
    merged[0, 3, -5:] = float("nan")
    merged[1, 4, 0] = float("inf")
    out, gradients = _gradients(deform_attn, (value, merged, reference), torch.ones(N, Q, M * D))
    assert out[0, 3].isnan().any()
    assert gradients[1][0, 3].isnan().any()
    assert gradients[1][1].isfinite().all()


@built
def test_no_query_at_all() -> None:
    value, merged, reference = _inputs()
    out, gradients = _gradients(
        deform_attn, (value, merged[:, :0], reference[:, :0]), torch.ones(N, 0, M * D)
    )
    assert out.shape == (N, 0, M * D)
    assert not gradients[0].any()


@built
def test_it_can_be_compiled_whole() -> None:
    def loss(value: Tensor, merged: Tensor, reference: Tensor) -> Tensor:
        return deform_attn(2 * value, SHAPES, merged, reference).square().sum()

    inputs = [tensor.requires_grad_() for tensor in _inputs()]
    expected = torch.autograd.grad(loss(*inputs), inputs)
    found = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(*inputs), inputs)
    assert all(map(torch.equal, found, expected))


@built
def test_it_can_be_exported() -> None:
    attention = DeformableAttention(dim=M * D, levels=L, heads=M, points=P).eval()
    use_operator(attention, required=True)
    inputs = (torch.randn(1, Q, M * D), torch.rand(1, Q, L, 2), torch.randn(1, S, M * D), SHAPES, None)
    program = torch.export.export(attention, inputs)
    assert "idol_deploy.deform_attn.default" in program.graph_module.code
    torch.testing.assert_close(program.module()(*inputs), attention(*inputs))


@built
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast(relative_error: RelativeError, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(dim=M * D, levels=L, heads=M, points=P)
    query, reference, tokens = torch.randn(N, Q, M * D), torch.rand(1, Q, L, 2), torch.randn(N, S, M * D)
    expected = attention(query, reference, tokens, SHAPES, None)
    use_operator(attention, required=True)
    with torch.autocast("cpu", dtype):
        out = attention(query, reference, tokens, SHAPES, None)
    assert out.dtype == dtype
    # The three projections are rounded as well.
    assert relative_error(out.detach().float(), expected.detach()) <= 3 * TOLERANCES[dtype]
    out.float().sum().backward()
    for parameter in attention.parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


@built
def test_a_network_learns_as_with_the_pure_form(relative_error: RelativeError, tiny: Idol) -> None:
    torch.manual_seed(1)
    for module in tiny.modules():
        if isinstance(module, DeformableAttention):
            torch.nn.init.normal_(module.sampling_offsets.weight, std=0.1)
            module.sampling_offsets.bias.data += 0.3 * torch.randn_like(module.sampling_offsets.bias)
    images = torch.randn(2, 3, 64, 96)
    padding = torch.zeros(2, 64, 96, dtype=torch.bool)
    padding[1, :, 64:] = True

    def learn() -> tuple[Tensor, dict[str, Tensor]]:
        tiny.zero_grad()
        output = tiny(images, padding)
        output.logits.square().mean().add(output.boxes.square().mean()).backward()
        gradients = {
            name: parameter.grad.clone()
            for name, parameter in tiny.named_parameters()
            if parameter.grad is not None
        }
        return output.logits.detach(), gradients

    logits, expected = learn()
    assert use_operator(tiny, required=True) is deform_attn
    found, gradients = learn()
    assert not torch.equal(found, logits)
    assert relative_error(found, logits) <= 1e-5
    assert gradients.keys() == expected.keys()
    whole = [torch.cat([one[name].flatten() for name in expected]) for one in (gradients, expected)]
    assert relative_error(*whole) <= 1e-4


@built
def test_it_may_be_computed_again_for_the_backward_pass() -> None:
    attention = DeformableAttention(dim=M * D, levels=L, heads=M, points=P)
    use_operator(attention, required=True)
    query = torch.randn(N, Q, M * D, requires_grad=True)
    inputs = (query, torch.rand(1, Q, L, 2), torch.randn(N, S, M * D), SHAPES, None)
    grad = torch.randn(N, Q, M * D)
    (expected,) = torch.autograd.grad(attention(*inputs), query, grad)
    (found,) = torch.autograd.grad(checkpoint(attention, *inputs, use_reentrant=False), query, grad)
    assert torch.equal(found, expected)


@built
def test_what_the_kernel_cannot_do_is_refused() -> None:
    value, merged, reference = _inputs()
    with pytest.raises(PluginError, match="types"):
        deform_attn(value.double(), SHAPES, merged, reference)
    with pytest.raises(PluginError, match="sizes"):
        deform_attn(value[:, 1:], SHAPES, merged, reference)


@built
def test_the_switch_goes_both_ways() -> None:
    attention = torch.nn.Sequential(DeformableAttention(dim=8, levels=1, heads=2, points=2))
    assert attention[0].core is deformable_attention
    assert use_operator(attention) is deform_attn
    assert attention[0].core is deform_attn
    use_core(attention, deformable_attention)
    assert attention[0].core is deformable_attention


def test_without_a_library_the_pure_form_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing() -> None:
        raise PluginError("it is not built; build it")

    monkeypatch.setattr(deform_op, "_cpu_library", missing)
    deform_op._problem.cache_clear()
    attention = DeformableAttention(dim=8, levels=1, heads=2, points=2)
    with caplog.at_level("INFO"):
        assert use_operator(attention) is deformable_attention
    assert "not built" in caplog.text
    assert attention.core is deformable_attention
    assert (
        use_operator(DeformableAttention(8, levels=1, heads=2, points=2).to("meta")) is deformable_attention
    )
    assert operator_problem() == "it is not built; build it"
    with pytest.raises(PluginError, match="not built"):
        use_operator(attention, required=True)
    deform_op._problem.cache_clear()


@pytest.fixture(scope="module")
def _built_for_cuda(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    from idol_plugins.build import build, cuda_compiler

    try:
        cuda_compiler()
    except PluginError as error:
        pytest.skip(str(error))
    if not shutil.which("cmake"):
        pytest.skip("there is no cmake")
    folder = tmp_path_factory.mktemp("cuda")
    build(folder, cuda_architectures="native", jobs=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IDOL_PLUGINS", str(folder))
        _forget()
        yield
    _forget()


@pytest.mark.gpu
@pytest.mark.usefixtures("_built_for_cuda")
@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("images", [1, N])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_equals_the_pure_form_on_a_cuda_device(
    relative_error: RelativeError, smooth: Callable[..., Any], box: bool, images: int, dtype: torch.dtype
) -> None:
    value, merged, reference = _inputs(box, images, device="cuda")
    inputs = value.to(dtype), merged.to(dtype if dtype == torch.float16 else torch.float32), reference
    _compare(relative_error, smooth, inputs, TOLERANCES[dtype])


@pytest.mark.gpu
@pytest.mark.usefixtures("_built_for_cuda")
def test_a_cuda_device_computes_in_the_current_stream_and_says_what_is_not_repeatable() -> None:
    value, merged, reference = (tensor.requires_grad_() for tensor in _inputs(device="cuda"))
    expected = deform_attn(value, SHAPES, merged, reference)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        torch.cuda._sleep(10**7)
        found = deform_attn(value, SHAPES, 1.0 * merged, reference)
        assert torch.equal(found, expected)
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(PluginError, match="no certain order"):
            expected.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
