"""The CUDA kernels against the reference implementation in float64, and their gradients against torch's autograd.

Every test runs on a CUDA device, and on the CPU with the kernels compiled against `tests/fakes/cuda_host`.
"""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idol_plugins import selftest as selftest_module
from idol_plugins.build import SOURCES, compiler
from idol_plugins.cuda import CudaLibrary, CudaVariant, DeviceArray
from idol_plugins.errors import PluginError
from idol_plugins.memory import HostMemory
from idol_plugins.reference import Shapes, deformable_attention
from idol_plugins.selftest import TARGETS, Status, selftest

torch = pytest.importorskip("torch", reason="device memory comes from torch")
pure_form = pytest.importorskip("idol_deploy.model.deform_attn").deformable_attention

SHAPES: Shapes = ((19, 24), (10, 12), (5, 6), (1, 1))
N, S = 2, 607
M, L, P = 8, len(SHAPES), 4
FAKES = Path(__file__).parents[1] / "fakes" / "cuda_host"
# The kernels of heads of 32 channels, and the kernel of other widths.
VARIANTS = [(32, variant) for variant in CudaVariant] + [(width, CudaVariant.AUTO) for width in (16, 5)]


@dataclass(frozen=True)
class Device:
    """A device that runs the kernels.

    Attributes:
        name: torch's name of the memory.
        path: Path of the kernels' library.
        queries: Number of queries in a test; not a multiple of a warp.
    """

    name: str
    path: Path
    queries: int

    def library(self, variant: CudaVariant = CudaVariant.AUTO) -> CudaLibrary:
        """Return the library with one of its kernels."""
        return CudaLibrary(self.path, variant)

    def wait(self) -> None:
        """Wait for the device."""
        if self.name == "cuda":
            torch.cuda.synchronize()


def compile_for_cpu(source: Path, path: Path) -> None:
    """Compile a CUDA source against the fakes, with checks of undefined behaviour; a small grid makes kernels loop."""
    try:
        command = [compiler(), "-std=c++17", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    except PluginError as error:
        pytest.skip(f"the kernel cannot be compiled: {error}")
    command += ["-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE", "-DIDOL_CUDA_MOST_BLOCKS=3", f"-I{FAKES}"]
    command += ["-fsanitize=undefined,float-cast-overflow", "-fno-sanitize-recover=all", f"-I{SOURCES}"]
    subprocess.run([*command, "-x", "c++", str(source), "-o", str(path)], check=True)


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Device:
    path = tmp_path_factory.mktemp("emulated") / "libidol_deform_attn_cuda.so"
    compile_for_cpu(SOURCES / "cuda_launch.cu", path)
    return Device("cpu", path, 37)


@pytest.fixture(scope="session", params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Device:
    if request.param == "emulated":
        emulated: Device = request.getfixturevalue("emulated")
        return emulated
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("there is no nvcc to compile the kernel with")
    path = tmp_path_factory.mktemp("cuda") / "libidol_deform_attn_cuda.so"
    source = str(SOURCES / "cuda_launch.cu")
    flags = ["-std=c++17", "-O3", "-arch=native", "-shared", "-Xcompiler=-fPIC"]
    subprocess.run([nvcc, *flags, source, "-o", str(path)], check=True)
    return Device("cuda", path, 301)


def on_device(tensor: "torch.Tensor") -> DeviceArray:
    return DeviceArray(tensor.data_ptr(), tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def inputs(
    Q: int, dtype: str, merged_dtype: str, width: int, box: bool, poison: float
) -> "list[torch.Tensor]":
    """Return value, merged and reference on the CPU."""
    rng = np.random.default_rng(width)
    value = torch.from_numpy(rng.standard_normal((N, S, M, width), np.float32)).to(getattr(torch, dtype))
    raw = (3 * rng.standard_normal((N, Q, 3 * M * L * P))).astype(np.float32)
    if poison:
        raw.reshape(-1)[rng.integers(0, raw.size, 200)] = poison
    merged = torch.from_numpy(raw).to(getattr(torch, merged_dtype))
    reference = torch.from_numpy(rng.uniform(-0.1, 1.1, (1, Q, L, 4 if box else 2)).astype(np.float32))
    return [value, merged, reference]


def reference_output(
    value: "torch.Tensor", shapes: Shapes, merged: "torch.Tensor", reference: "torch.Tensor"
) -> Any:
    """Return the output of the reference implementation."""
    images, queries, row = merged.shape
    heads, points = value.shape[2], row // (3 * value.shape[2] * len(shapes))
    offsets, logits = np.split(merged.double().numpy(), [2 * row // 3], -1)
    with np.errstate(all="ignore"):
        return deformable_attention(
            value.double().numpy(),
            shapes,
            offsets.reshape(images, queries, heads, len(shapes), points, 2),
            logits.reshape(images, queries, heads, -1),
            reference.double().numpy(),
        )


def run(device: Device, variant: CudaVariant, given: "list[torch.Tensor]") -> tuple:
    """Return the outputs of the kernel and of the reference implementation."""
    value, merged, reference = given
    out = torch.full((*merged.shape[:2], M * value.shape[3]), 7.0, dtype=value.dtype, device=device.name)
    held = [tensor.to(device.name) for tensor in given]
    arrays = [on_device(tensor) for tensor in held]
    device.library(variant).deformable_attention(arrays[0], SHAPES, arrays[1], arrays[2], on_device(out))
    device.wait()
    return out.double().cpu().numpy(), reference_output(value, SHAPES, merged, reference)


def gradients(device: Device, grad: "torch.Tensor", inputs: "list[torch.Tensor]") -> "list[torch.Tensor]":
    """Return the gradients of value, merged and reference, computed in memory that is not zero."""
    held = [tensor.to(device.name) for tensor in (grad, *inputs)]
    found = [torch.full(tensor.shape, 7.0, device=device.name) for tensor in inputs]
    arrays = [on_device(tensor) for tensor in held]
    device.library().deformable_attention_backward(
        *arrays[:2], SHAPES, *arrays[2:], [on_device(tensor) for tensor in found]
    )
    device.wait()
    return [tensor.cpu() for tensor in found]


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize(("width", "variant"), VARIANTS)
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
    device: Device,
    relative_error: Callable[..., float],
    dtype: str,
    merged_dtype: str,
    tolerance: float,
    width: int,
    variant: CudaVariant,
    box: bool,
) -> None:
    given = inputs(device.queries, dtype, merged_dtype, width, box, 0.0)
    assert relative_error(*run(device, variant, given)) <= tolerance


@pytest.mark.parametrize("variant", CudaVariant)
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38])
def test_hostile_projections_do_as_in_the_reference(
    device: Device, poison: float, variant: CudaVariant
) -> None:
    given = inputs(device.queries, "float32", "float32", 32, False, poison)
    found, expected = run(device, variant, given)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize("width", [32, 16, 5, 64])
@pytest.mark.parametrize(
    ("dtype", "merged_dtype"),
    [("float32", "float32"), ("float16", "float16"), ("float16", "float32"), ("bfloat16", "float32")],
)
def test_gradients_equal_autograd_of_the_pure_form(
    device: Device,
    relative_error: Callable[..., float],
    smooth: Callable[..., Any],
    dtype: str,
    merged_dtype: str,
    width: int,
    box: bool,
) -> None:
    Q = device.queries
    given = inputs(Q, dtype, merged_dtype, width, box, 0.0)
    kept = torch.from_numpy(smooth(SHAPES, *given[1:], M))
    assert kept.sum() > N * Q / 2
    grad = torch.randn(N, Q, M * width, generator=torch.Generator().manual_seed(0)).to(given[0].dtype)
    grad *= kept[..., None]
    leaves = [tensor.double().requires_grad_() for tensor in given]
    pure_form(leaves[0], SHAPES, leaves[1], leaves[2]).backward(grad.double())
    for found, leaf in zip(gradients(device, grad, given), leaves, strict=True):
        # Given the same rounded inputs: everything after them is fp32 for every type.
        assert relative_error(found, leaf.grad) <= 1e-5


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38])
def test_hostile_projections_spoil_no_other_query(device: Device, poison: float) -> None:
    given = inputs(device.queries, "float32", "float32", 32, False, poison)
    found = gradients(device, torch.ones(N, device.queries, M * 32), given)
    whole = given[1].isfinite().all(-1) & (given[1].abs() < 1e38).all(-1)
    assert 0 < int(whole.sum()) < whole.numel()
    assert found[1][whole].isfinite().all()


def test_gradients_of_no_query_are_zero(device: Device) -> None:
    value, merged, reference = inputs(1, "float32", "float32", 32, False, 0.0)
    found = gradients(device, torch.ones(N, 0, M * 32), [value, merged[:, :0], reference[:, :0]])
    assert not found[0].any()


def in_nan(tensor: "torch.Tensor") -> "torch.Tensor":
    """Return a copy with NaN before and after it, whose address is a multiple of 16."""
    margin = 4096
    storage = torch.full((tensor.numel() + 2 * margin,), float("nan"), dtype=tensor.dtype)
    copy = storage[margin : margin + tensor.numel()].view(tensor.shape)
    assert copy.data_ptr() % 16 == 0
    return copy.copy_(tensor)


@pytest.mark.parametrize("variant", CudaVariant)
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(("levels", "points"), [(1, 1), (3, 3), (4, 5), (7, 8)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_partial_warps_and_rounds(
    emulated: Device,
    relative_error: Callable[..., float],
    variant: CudaVariant,
    heads: int,
    levels: int,
    points: int,
    dtype: str,
) -> None:
    """Nothing outside the arrays is read or written for any number of samples and heads."""
    rng = np.random.default_rng(levels)
    shapes = tuple((5 + level, 9 - level) for level in range(levels))
    cells = sum(h * w for h, w in shapes)
    value = torch.from_numpy(rng.standard_normal((2, cells, heads, 32))).to(getattr(torch, dtype))
    merged = torch.from_numpy(2 * rng.standard_normal((2, 3, 3 * heads * levels * points))).float()
    reference = torch.from_numpy(rng.uniform(0, 1, (2, 3, levels, 2))).float()
    out = in_nan(torch.zeros(2, 3, heads * 32, dtype=value.dtype))
    arrays = [in_nan(tensor) for tensor in (value, merged, reference)]
    held = [on_device(tensor) for tensor in arrays]
    emulated.library(variant).deformable_attention(held[0], shapes, *held[1:], on_device(out))
    tolerance = 1e-5 if dtype == "float32" else 1e-3
    assert relative_error(out.double(), reference_output(value, shapes, merged, reference)) <= tolerance
    storage = torch.empty(0, dtype=out.dtype).set_(out.untyped_storage())
    assert int(storage.isnan().sum()) == storage.numel() - out.numel()


@pytest.mark.parametrize("variant", CudaVariant)
def test_selftest_of_each_variant(
    emulated: Device, monkeypatch: pytest.MonkeyPatch, variant: CudaVariant
) -> None:
    monkeypatch.setattr(selftest_module, "CudaMemory", HostMemory)
    monkeypatch.setattr(selftest_module, "CudaLibrary", lambda variant: emulated.library(variant))
    (cuda,) = (target for target in TARGETS if target.name == "cuda")
    names = [f"{variant.name.lower()} {form}" for form in ("fused", "classic")]
    variants = [entry for entry in cuda.variants() if entry.name in names]
    report = selftest([replace(cuda, status=Status, variants=lambda: variants)], cases=8)
    assert not report.failures
    assert [outcome.variant for outcome in report.outcomes] == names
    assert all(len(outcome.errors) == 3 for outcome in report.outcomes)


def test_variants_are_those_of_the_header(emulated: Device) -> None:
    header = (SOURCES / "idol_deform_attn_cuda.h").read_text()
    listed = re.search(r"enum idol_cuda_variant \{(.*?)\};", header, re.DOTALL)
    assert listed
    pairs = re.findall(r"IDOL_CUDA_(\w+) = (\d+)", listed[1])
    assert {name: int(number) for name, number in pairs} == {v.name: v.value for v in CudaVariant}
    value, merged, reference = (on_device(tensor) for tensor in inputs(1, "float32", "float32", 32, False, 0))
    out = torch.zeros(N, 1, M * 32)
    library = CudaLibrary(emulated.path, len(CudaVariant))  # type: ignore[arg-type]
    with pytest.raises(PluginError, match="has no kernel"):
        library.deformable_attention(value, SHAPES, merged, reference, on_device(out))


def test_the_gather_of_the_benchmark_reads_every_cell_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "gather.so"
    compile_for_cpu(FAKES.parents[2] / "benchmarks" / "gpu" / "gather.cu", path)
    gather = ctypes.CDLL(str(path)).gather_cells
    gather.argtypes = (
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int32, ctypes.c_int64),
        *(ctypes.c_void_p, ctypes.c_void_p),
    )
    memory = HostMemory()
    for shift in (2, 3):
        # Each cell adds its own power of two, so that a sum of 8 tells which cells were read.
        cells = np.repeat(np.int32(1) << (4 * np.arange(7, dtype=np.int32)), 4 << shift)
        out = np.zeros((40, 1 << shift), np.int32)
        pointer = memory.put(out)
        assert gather(memory.put(cells), 7, shift, 320, pointer, None) == 0
        sums = memory.get(pointer, out)
        assert (sums == sums[:, :1]).all(), "the lanes of a group read the same cell"
        counts = sums[:, 0, None] // 4 >> 4 * np.arange(7) & 15
        assert (counts.sum(1) == 8).all()
        assert (counts.sum(0) > 20).all(), "every cell is as likely"


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("if (threadIdx.x == 5) return; __shfl_sync(~0u, 1, 0)", "does not reach the shuffle"),
        ("__shfl_xor_sync(~0u, 1, 1, threadIdx.x < 16 ? 16 : 32)", "different shuffles"),
        ("__shfl_sync(threadIdx.x < 2 ? 1u : ~3u, 1, 0, 2)", "not in its own mask"),
        ("__shfl_sync(1u << threadIdx.x, 1, 0)", "source is not in the mask"),
    ],
)
def test_the_emulation_finds_undefined_shuffles(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], statement: str, why: str
) -> None:
    source, path = tmp_path / "wrong.cu", tmp_path / "wrong.so"
    source.write_text(
        f"""#include <cuda_runtime.h>
        __global__ void kernel(int) {{ {statement}; }}
        extern "C" int launch(unsigned blocks) {{
          cudaLaunchConfig_t config{{dim3(blocks), dim3(32)}};
          cudaLaunchKernelEx(&config, kernel, 0);
          return cudaGetLastError();
        }}"""
    )
    compile_for_cpu(source, path)
    library = ctypes.CDLL(str(path))
    assert library.launch(1) == 719  # cudaErrorLaunchFailure
    assert why in capfd.readouterr().err
    assert library.launch(0) == 9  # cudaErrorInvalidConfiguration


def test_a_library_that_is_none_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "libidol_deform_attn_cuda.so"
    broken.write_bytes(b"nothing")
    with pytest.raises(PluginError, match="cannot be loaded"):
        CudaLibrary(broken)
