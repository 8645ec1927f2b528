"""The kernel on a CUDA device against its numpy twin in float64."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from idol_plugins.build import SOURCES
from idol_plugins.cuda import CudaLibrary, DeviceArray
from idol_plugins.errors import PluginError
from idol_plugins.reference import Shapes, deformable_attention

torch = pytest.importorskip("torch", reason="device memory comes from torch")

SHAPES: Shapes = ((19, 24), (10, 12), (5, 6), (1, 1))
N, S, Q = 2, 607, 301


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


def run(library: CudaLibrary, dtype: str, merged_dtype: str, width: int, box: bool, poison: float) -> tuple:
    """The kernel's answer and the twin's."""
    rng = np.random.default_rng(width)
    M, L, P = 8, len(SHAPES), 4
    value = torch.from_numpy(rng.standard_normal((N, S, M, width), np.float32)).to(getattr(torch, dtype))
    raw = (3 * rng.standard_normal((N, Q, 3 * M * L * P))).astype(np.float32)
    if poison:
        raw.reshape(-1)[rng.integers(0, raw.size, 200)] = poison
    merged = torch.from_numpy(raw).to(getattr(torch, merged_dtype))
    reference = torch.from_numpy(rng.uniform(-0.1, 1.1, (1, Q, L, 4 if box else 2)).astype(np.float32))
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
def test_equals_the_twin(
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
def test_hostile_projections_do_as_in_the_twin(library: CudaLibrary, poison: float) -> None:
    found, expected = run(library, "float32", "float32", 32, False, poison)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


def test_a_library_that_is_none_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "libidol_deform_attn_cuda.so"
    broken.write_bytes(b"nothing")
    with pytest.raises(PluginError, match="cannot be loaded"):
        CudaLibrary(broken)
