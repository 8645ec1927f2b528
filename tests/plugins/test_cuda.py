"""The CUDA kernel against the reference implementation in float64, and its gradients against torch's autograd."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idol_plugins.build import SOURCES
from idol_plugins.cuda import CudaLibrary, DeviceArray
from idol_plugins.errors import PluginError
from idol_plugins.reference import Shapes, deformable_attention

torch = pytest.importorskip("torch", reason="device memory comes from torch")
pure_form = pytest.importorskip("idol_deploy.model.deform_attn").deformable_attention

SHAPES: Shapes = ((19, 24), (10, 12), (5, 6), (1, 1))
N, S, Q = 2, 607, 301
M, L, P = 8, len(SHAPES), 4


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> CudaLibrary:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc to compile the kernel with")
    path = tmp_path_factory.mktemp("cuda") / "libidol_deform_attn_cuda.so"
    source = str(SOURCES / "cuda_launch.cu")
    flags = ["-std=c++17", "-O3", "-arch=native", "-shared", "-Xcompiler=-fPIC"]
    subprocess.run([nvcc, *flags, source, "-o", str(path)], check=True)
    return CudaLibrary(path)


def on_device(tensor: "torch.Tensor") -> DeviceArray:
    return DeviceArray(tensor.data_ptr(), tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def inputs(dtype: str, merged_dtype: str, width: int, box: bool, poison: float) -> "list[torch.Tensor]":
    """Return value, merged and reference on the CPU."""
    rng = np.random.default_rng(width)
    value = torch.from_numpy(rng.standard_normal((N, S, M, width), np.float32)).to(getattr(torch, dtype))
    raw = (3 * rng.standard_normal((N, Q, 3 * M * L * P))).astype(np.float32)
    if poison:
        raw.reshape(-1)[rng.integers(0, raw.size, 200)] = poison
    merged = torch.from_numpy(raw).to(getattr(torch, merged_dtype))
    reference = torch.from_numpy(rng.uniform(-0.1, 1.1, (1, Q, L, 4 if box else 2)).astype(np.float32))
    return [value, merged, reference]


def run(library: CudaLibrary, dtype: str, merged_dtype: str, width: int, box: bool, poison: float) -> tuple:
    """Return the outputs of the kernel and of the reference implementation."""
    value, merged, reference = inputs(dtype, merged_dtype, width, box, poison)
    out = torch.full((N, Q, M * width), 7.0, dtype=value.dtype, device="cuda")
    held = [tensor.cuda() for tensor in (value, merged, reference)]
    arrays = [on_device(tensor) for tensor in held]
    library.deformable_attention(arrays[0], SHAPES, arrays[1], arrays[2], on_device(out))
    torch.cuda.synchronize()
    offsets, logits = np.split(merged.double().numpy(), [2 * M * L * P], -1)
    with np.errstate(all="ignore"):
        expected = deformable_attention(
            value.double().numpy(),
            SHAPES,
            offsets.reshape(N, Q, M, L, P, 2),
            logits.reshape(N, Q, M, L * P),
            reference.double().numpy(),
        )
    return out.double().cpu().numpy(), expected


def gradients(
    library: CudaLibrary, grad: "torch.Tensor", inputs: "list[torch.Tensor]"
) -> "list[torch.Tensor]":
    """Return the gradients of value, merged and reference, computed in memory that is not zero."""
    held = [tensor.cuda() for tensor in (grad, *inputs)]
    found = [torch.full(tensor.shape, 7.0, device="cuda") for tensor in inputs]
    arrays = [on_device(tensor) for tensor in held]
    library.deformable_attention_backward(
        *arrays[:2], SHAPES, *arrays[2:], [on_device(tensor) for tensor in found]
    )
    torch.cuda.synchronize()
    return [tensor.cpu() for tensor in found]


@pytest.mark.gpu
@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("width", [32, 16, 5])
@pytest.mark.parametrize(
    ("dtype", "merged_dtype", "tolerance"),
    [
        ("float32", "float32", 1e-5),
        ("float16", "float16", 1e-3),  # half a step of the output's type: 2.4e-4, of bfloat16 2e-3
        ("float16", "float32", 1e-3),
        ("bfloat16", "float32", 1e-2),
    ],
)
def test_equals_the_reference(
    library: CudaLibrary,
    relative_error: Callable[..., float],
    dtype: str,
    merged_dtype: str,
    tolerance: float,
    width: int,
    box: bool,
) -> None:
    assert relative_error(*run(library, dtype, merged_dtype, width, box, 0.0)) <= tolerance


@pytest.mark.gpu
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38])
def test_hostile_projections_do_as_in_the_reference(library: CudaLibrary, poison: float) -> None:
    found, expected = run(library, "float32", "float32", 32, False, poison)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("width", [32, 16, 5, 64])
@pytest.mark.parametrize(
    ("dtype", "merged_dtype"),
    [("float32", "float32"), ("float16", "float16"), ("float16", "float32"), ("bfloat16", "float32")],
)
def test_gradients_equal_autograd_of_the_pure_form(
    library: CudaLibrary,
    relative_error: Callable[..., float],
    smooth: Callable[..., Any],
    dtype: str,
    merged_dtype: str,
    width: int,
    box: bool,
) -> None:
    given = inputs(dtype, merged_dtype, width, box, 0.0)
    kept = torch.from_numpy(smooth(SHAPES, *given[1:], M))
    assert kept.sum() > N * Q / 2
    grad = torch.randn(N, Q, M * width, generator=torch.Generator().manual_seed(0)).to(given[0].dtype)
    grad *= kept[..., None]
    leaves = [tensor.double().requires_grad_() for tensor in given]
    pure_form(leaves[0], SHAPES, leaves[1], leaves[2]).backward(grad.double())
    for found, leaf in zip(gradients(library, grad, given), leaves, strict=True):
        # Given the same rounded inputs: everything after them is fp32 for every type.
        assert relative_error(found, leaf.grad) <= 1e-5


@pytest.mark.gpu
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38])
def test_hostile_projections_spoil_no_other_query(library: CudaLibrary, poison: float) -> None:
    given = inputs("float32", "float32", 32, False, poison)
    found = gradients(library, torch.ones(N, Q, M * 32), given)
    whole = given[1].isfinite().all(-1) & (given[1].abs() < 1e38).all(-1)
    assert 0 < int(whole.sum()) < whole.numel()
    assert found[1][whole].isfinite().all()


@pytest.mark.gpu
def test_gradients_of_no_query_are_zero(library: CudaLibrary) -> None:
    value, merged, reference = inputs("float32", "float32", 32, False, 0.0)
    found = gradients(library, torch.ones(N, 0, M * 32), [value, merged[:, :0], reference[:, :0]])
    assert not found[0].any()


def test_a_library_that_is_none_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "libidol_deform_attn_cuda.so"
    broken.write_bytes(b"nothing")
    with pytest.raises(PluginError, match="cannot be loaded"):
        CudaLibrary(broken)
