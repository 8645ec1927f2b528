"""The TensorRT plugin used as TensorRT would: the build for the CPU, broken builds, and the build for a device."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from idol_plugins.build import SOURCES, build, compiler, cuda_compiler
from idol_plugins.cases import TOLERANCES, make_cases, pack
from idol_plugins.errors import PluginError
from idol_plugins.headers import TENSORRT, find_headers
from idol_plugins.memory import CudaMemory, HostMemory
from idol_plugins.trt import trt_library
from idol_plugins.trt.calls import make_fields
from idol_plugins.trt.conformance import examine, main
from idol_plugins.trt.harness import Phase, PluginLibrary, Tensor, TensorType

TRT_SOURCES = ("trt_plugin.cpp", "trt_attributes.cpp", "trt_log.cpp")


@pytest.fixture(scope="session")
def host_plugin(trt_harness: Path) -> Path:
    return trt_harness.with_name("libidol_deform_attn_trt_host.so")


def test_the_plugin_conforms(
    host_plugin: Path, trt_harness: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(host_plugin), "--harness", str(trt_harness)]) == 0
    printed = capsys.readouterr().out
    assert "host pointers" in printed
    assert printed.count("ok ") == 9


def includes() -> list[str]:
    folders = [os.environ.get("TENSORRT_INCLUDE_DIR"), "/usr/local/cuda/include"]
    return [f"-isystem{folder}" for folder in folders if folder]


# By the check that must find the fault: original text and faulty text.
FAULTS = {
    "formats": ("type == DataType::kHALF && value == DataType::kHALF", "type == DataType::kHALF"),
    "types": ("outputs[0] = inputs[kValue];", "outputs[0] = DataType::kFLOAT;"),
    "shapes": ("DimensionOperation::kPROD", "DimensionOperation::kSUM"),
    "refusals": ("return misfit == nullptr ? 0 : refuse(misfit);", "return 0;"),
    "serialisation": (
        "getTimingCacheID() noexcept override",
        'getTimingCacheID() noexcept override { return "1"; }\n  const char *unused()',
    ),
    "outputs": ("call->reference_images = reference.d[0]", "call->reference_images = 1"),
    "probes": ("return refuse(misfit);\n  call.value", "return 0;\n  call.value"),
}
IDENTITY = {"interfaces": ('kPluginNamespace = "idol_deploy"', 'kPluginNamespace = ""')}


@pytest.mark.parametrize("faults", [FAULTS, IDENTITY], ids=["behaviour", "identity"])
def test_what_is_broken_is_found(
    faults: dict[str, tuple[str, str]], libraries: Path, trt_harness: Path, tmp_path: Path
) -> None:
    texts = {name: (SOURCES / name).read_text() for name in ("trt_plugin.cpp", "trt_plugin.h")}
    for right, wrong in faults.values():
        assert sum(text.count(right) > 0 for text in texts.values()) == 1, right
        texts = {name: text.replace(right, wrong) for name, text in texts.items()}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    sources = [str((tmp_path if name in texts else SOURCES) / name) for name in TRT_SOURCES]
    flags = ["-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden", "-DIDOL_TRT_HOST", f"-I{SOURCES}"]
    broken, kernel = tmp_path / "libbroken.so", libraries / "libidol_deform_attn_cpu.so"
    command = [
        compiler(),
        *flags,
        *includes(),
        *sources,
        str(kernel),
        f"-Wl,-rpath,{libraries}",
        "-ldl",
        "-o",
        str(broken),
    ]
    subprocess.run(command, check=True)
    with PluginLibrary(broken, harness=trt_harness) as library:
        failed = {check.name for check in examine(library, HostMemory()) if check.failures}
    assert failed == set(faults)


@pytest.fixture(scope="session")
def device_plugin(trt_harness: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the plugin for the device of this machine."""
    try:
        cuda_compiler()
    except PluginError as error:
        pytest.skip(str(error))
    headers = find_headers(TENSORRT)
    folder = tmp_path_factory.mktemp("trt")
    build(
        folder, cuda_architectures="native", tensorrt_include=headers, strict=True, jobs=os.cpu_count() or 2
    )
    return trt_library(folder)


@pytest.mark.gpu
def test_the_plugin_conforms_on_a_device(device_plugin: Path, trt_harness: Path) -> None:
    with CudaMemory() as memory, PluginLibrary(device_plugin, harness=trt_harness) as library:
        checks = examine(library, memory)
    assert len(checks) == 9
    assert {check.name: check.failures for check in checks if check.failures} == {}


@pytest.mark.gpu
def test_a_device_computes_in_the_stream_and_in_a_graph(device_plugin: Path, trt_harness: Path) -> None:
    torch = pytest.importorskip("torch", reason="streams and graphs come from torch")
    case = make_cases(count=0)[0]
    arrays = [pack(case.value, case.dtype), pack(case.merged, case.merged_dtype), case.reference]
    given = [torch.from_numpy(array).cuda() for array in arrays]
    out = torch.full(case.output_shape, torch.nan, device="cuda")
    tensors = [Tensor(TensorType.FLOAT, tuple(tensor.shape)) for tensor in (*given, out)]
    pointers = [tensor.data_ptr() for tensor in given]
    fields = make_fields(case.value.shape[2], case.points, case.shapes)
    with PluginLibrary(device_plugin, harness=trt_harness) as library:
        plugin = library.create(fields, Phase.BUILD)
        assert plugin is not None
        with plugin:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                stream = torch.cuda.current_stream().cuda_stream
                assert plugin.enqueue(tensors, pointers, [out.data_ptr()], stream) == 0
            torch.cuda.synchronize()
            assert out.isnan().all()  # captured, not run
            graph.replay()
            torch.cuda.synchronize()
    error = np.linalg.norm(out.cpu().numpy() - case.expected) / np.linalg.norm(case.expected)
    assert error <= TOLERANCES["float32"]
