"""The homes of the kernel, each of which may be there or not, and runs the same cases; and of the resize, beside them.

None needs PyTorch.
"""

import ctypes
import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from idol_plugins.abi import DeviceArray
from idol_plugins.cases import Case, pack, unpack
from idol_plugins.cpu import CpuLibrary, Isa
from idol_plugins.cuda import CudaLibrary
from idol_plugins.cuda_memory import CudaMemory
from idol_plugins.errors import PluginError
from idol_plugins.headers import ONNXRUNTIME, TENSORRT, find_headers
from idol_plugins.home import BUILD, Home, Status, Variant
from idol_plugins.image import ImageLibrary
from idol_plugins.libraries import Library, find_library
from idol_plugins.ort import DOMAIN, OPERATOR, VERSION, ort_library, serves_cuda

__all__ = ["CpuHome", "CudaHome", "ImageHome", "OrtHome", "TensorRtHome", "all_homes"]

Array: TypeAlias = NDArray[Any]

_THREADS = 2
_NOT_BUILT = "not built"
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def all_homes() -> list[Home]:
    """Those of this package."""
    return [CpuHome(), OrtHome(), CudaHome(), TensorRtHome()]


def _find(library: Library) -> Path | None:
    try:
        return find_library(library)
    except PluginError:
        return None


def _why(error: PluginError) -> str:
    """Without the fix, which a status says apart."""
    return str(error).partition("; ")[0]


class CpuHome:
    """The kernel's C interface on the CPU.

    Args:
        library: of the file; None: where `find_library` finds it.
    """

    name = "cpu"
    title = "CPU kernel"

    def __init__(self, library: Path | None = None) -> None:
        self._path = library

    def status(self) -> Status:
        path = self._path or _find("idol_deform_attn_cpu")
        if path is None:
            return Status(why=_NOT_BUILT, fix=BUILD)
        try:
            library = CpuLibrary(path)
        except PluginError as error:
            return Status(path, why=_why(error), fix=BUILD)
        return Status(library.path, ", ".join(isa.name.lower() for isa in self._isas(library)))

    @staticmethod
    def _isas(library: CpuLibrary) -> list[Isa]:
        return [isa for isa in Isa if isa is not Isa.AUTO and library.offers(isa)]

    def variants(self) -> list[Variant]:
        library = CpuLibrary(self._path)

        def fused(isa: Isa, case: Case) -> Array | None:
            value, merged = pack(case.value, case.dtype), pack(case.merged, case.merged_dtype)
            if not library.offers(isa, value.shape[3]):
                return None
            out = library.deformable_attention(
                value, case.shapes, merged, case.reference, isa=isa, threads=_THREADS
            )
            return unpack(out, case.dtype)

        def classic(isa: Isa, case: Case) -> Array | None:
            value = pack(case.value, case.dtype)
            if not library.offers(isa, value.shape[3]):
                return None
            return unpack(
                library.ms_deform_attn(value, case.shapes, *case.classic, isa=isa, threads=_THREADS),
                case.dtype,
            )

        found = []
        for isa in (Isa.AUTO, *self._isas(library)):
            name = isa.name.lower()
            found += [
                Variant(name, partial(fused, isa)),
                Variant(f"{name} classic", partial(classic, isa), classic=True),
            ]
        return found


class OrtHome:
    """The operator in ONNX Runtime, on its CPU provider, and on its CUDA provider where both have it."""

    name = "onnxruntime"
    title = "ONNX Runtime operator"

    def status(self) -> Status:
        path = _find("idol_deform_attn_ort")
        if path is None:
            return Status(
                why=_NOT_BUILT,
                fix=BUILD if find_headers(ONNXRUNTIME) else f"{BUILD} --fetch-headers",
            )
        if importlib.util.find_spec("onnxruntime") is None:
            return Status(path, why="onnxruntime is not installed", fix="pip install 'idol-deploy[cpu]'")
        try:
            self._options(path)
        except PluginError as error:
            return Status(path, why=_why(error), fix=BUILD)
        return Status(path, f"onnxruntime {importlib.import_module('onnxruntime').__version__}")

    @staticmethod
    def _options(path: Path) -> Any:
        """Session options that know the operator."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _THREADS
        options.log_severity_level = 4
        try:
            options.register_custom_ops_library(str(path))
        except Exception as error:
            reason = " ".join(str(error).split())
            raise PluginError(f"ONNX Runtime refuses {path} ({reason}); build it again: {BUILD}") from error
        return options

    def variants(self) -> list[Variant]:
        path = ort_library()
        if importlib.util.find_spec("onnx") is None:
            raise PluginError("making a graph of one node needs onnx; pip install onnx")
        import onnxruntime

        def run(provider: str, case: Case) -> Array:
            options = self._options(path)
            if provider != _CPU:
                # Else what the provider cannot do would be done on the CPU, unsaid.
                options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            session = onnxruntime.InferenceSession(_one_node_graph(case), options, providers=[provider])
            fed = {"value": case.value, "merged": case.merged, "reference": case.reference}
            (out,) = session.run(None, fed)
            return np.asarray(out, np.float32)

        found = [Variant("cpu", partial(run, _CPU))]
        if _CUDA in onnxruntime.get_available_providers() and serves_cuda(path):
            found.append(Variant("cuda", partial(run, _CUDA)))
        return found


def _one_node_graph(case: Case) -> bytes:
    """Casts to the case's types, the operator, and a cast back: numpy cannot hand over every type."""
    from onnx import TensorProto, helper

    types = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
    dtypes = {"value": case.dtype, "merged": case.merged_dtype}
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, list(getattr(case, name).shape))
        for name in ("value", "merged", "reference")
    ]
    casts = [
        helper.make_node("Cast", [name], [f"{name}_cast"], to=types[dtype]) for name, dtype in dtypes.items()
    ]
    node = helper.make_node(
        OPERATOR,
        ["value_cast", "merged_cast", "reference"],
        ["mixed"],
        domain=DOMAIN,
        heads=case.value.shape[2],
        points=case.points,
        shapes=[side for shape in case.shapes for side in shape],
    )
    back = helper.make_node("Cast", ["mixed"], ["out"], to=TensorProto.FLOAT)
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, list(case.output_shape))
    graph = helper.make_graph([*casts, node, back], "one_node", inputs, [out])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    return data


class CudaHome:
    """The kernel's C interface on a CUDA device."""

    name = "cuda"
    title = "CUDA kernel"

    def status(self) -> Status:
        path = _find("idol_deform_attn_cuda")
        if path is None:
            return Status(why=_NOT_BUILT, fix=f"{BUILD} --cuda")
        try:
            CudaLibrary(path)
        except PluginError as error:
            return Status(path, why=_why(error), fix=f"{BUILD} --cuda")
        try:
            with CudaMemory() as memory:
                return Status(path, memory.device)
        except PluginError as error:
            return Status(path, why=_why(error), fix=str(error).partition("; ")[2])

    def variants(self) -> list[Variant]:
        library, memory = CudaLibrary(), CudaMemory()

        def put(array: Array, dtype: str = "float32") -> DeviceArray:
            return DeviceArray(memory.put(pack(array, dtype)), array.shape, dtype)

        def finish(case: Case, compute: Callable[[DeviceArray], None]) -> Array:
            # What is not written stays NaN.
            blank = np.full(case.output_shape, np.nan, np.float32)
            out = put(blank, case.dtype)
            compute(out)
            return unpack(memory.get(out.pointer, pack(blank, case.dtype)), case.dtype)

        def fused(case: Case) -> Array:
            with memory.held():
                value, merged = put(case.value, case.dtype), put(case.merged, case.merged_dtype)
                reference = put(case.reference)
                return finish(
                    case,
                    lambda out: library.deformable_attention(value, case.shapes, merged, reference, out),
                )

        def classic(case: Case) -> Array:
            with memory.held():
                value, (locations, weights) = put(case.value, case.dtype), map(put, case.classic)
                return finish(
                    case, lambda out: library.ms_deform_attn(value, case.shapes, locations, weights, out)
                )

        return [Variant("fused", fused), Variant("classic", classic, classic=True)]


class TensorRtHome:
    """The plugin for TensorRT."""

    name = "tensorrt"
    title = "TensorRT plugin"

    def status(self) -> Status:
        path = _find("idol_deform_attn_trt")
        if path is None:
            folder = "" if find_headers(TENSORRT) else f" {TENSORRT.option} FOLDER"
            return Status(why=_NOT_BUILT, fix=f"{BUILD} --cuda{folder}")
        try:
            ctypes.CDLL(str(path))
        except OSError as error:
            return Status(path, why=f"{path} cannot be loaded ({error})", fix=f"{BUILD} --cuda")
        # trtexec and C++ programs need no Python package.
        return Status(
            path, "" if importlib.util.find_spec("tensorrt") else "Python's tensorrt is not installed"
        )

    def variants(self) -> list[Variant]:
        raise PluginError("TensorRT runs engines, not single calls; use: python -m idol_plugins.conformance")


class ImageHome:
    """The resize of frames: no home of the kernel, and without variants of it."""

    name = "image"
    title = "image resize"

    def status(self) -> Status:
        path = _find("idol_image")
        if path is None:
            return Status(why=_NOT_BUILT, fix=BUILD)
        try:
            return Status(ImageLibrary(path).path)
        except PluginError as error:
            return Status(path, why=_why(error), fix=BUILD)
