"""The kernel targets, their state on this machine, and a comparison of each with the reference implementation."""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from idol_plugins.abi import DeviceArray
from idol_plugins.cases import TOLERANCES, Case, make_cases, pack, unpack
from idol_plugins.cpu import CpuLibrary, Isa
from idol_plugins.cuda import CudaLibrary, CudaVariant
from idol_plugins.errors import PluginError
from idol_plugins.headers import ONNXRUNTIME, TENSORRT, find_headers, openvino_release
from idol_plugins.image import ImageLibrary
from idol_plugins.libraries import BUILD, find_library, load_library
from idol_plugins.memory import CudaMemory
from idol_plugins.openvino import core_with_operator, openvino_library
from idol_plugins.openvino import run_case as run_openvino_case
from idol_plugins.ort import ort_library, run_case, serves_cuda, session_options
from idol_plugins.reference import Array

__all__ = ["IMAGE", "TARGETS", "Outcome", "Report", "Status", "Target", "Variant", "difference", "selftest"]

_THREADS = 2


@dataclass(frozen=True)
class Status:
    """State of a target on this machine.

    Attributes:
        file: Path of its library; None: not built.
        detail: What the library offers, for example instruction sets.
        why: Reason why the target cannot be used; empty if it can.
        fix: Command or instruction that makes it usable.
    """

    file: Path | None = None
    detail: str = ""
    why: str = ""
    fix: str = ""

    @property
    def ready(self) -> bool:
        """True if the target can be used."""
        return not self.why


@dataclass(frozen=True)
class Variant:
    """One way to run a target.

    Attributes:
        name: Name, for example of the instruction set.
        run: Function that returns a case's output [N, Q, M * D] float32; None if the variant does not support the case.
        classic: True if it computes the classic form, `Case.classic`, instead of the fused form.
    """

    name: str
    run: Callable[[Case], Array | None]
    classic: bool = False


@dataclass(frozen=True)
class Target:
    """A kernel target: an engine or interface that runs the kernel.

    Attributes:
        name: Name, one word.
        title: Name for people.
        status: Function that returns the state; it loads the library and builds nothing.
        variants: Function that returns all ways to run the target; raises PluginError if it cannot run here.
    """

    name: str
    title: str
    status: Callable[[], Status]
    variants: Callable[[], list[Variant]] = list


def _library_status(library: str, fix: str, load: Callable[[Path], str]) -> Status:
    """Return the state of a library.

    Args:
        library: Name for `find_library`.
        fix: Command that builds the library.
        load: Function that loads the library and returns the detail; raises PluginError if it is unusable.
    """
    try:
        path = find_library(library)
    except PluginError:
        return Status(why="not built", fix=fix)
    try:
        return Status(path, load(path))
    except PluginError as error:
        why, _, fix = str(error).partition("; ")
        return Status(path, why=why, fix=fix)


def _cpu_isas(library: CpuLibrary) -> list[Isa]:
    return [isa for isa in Isa if isa is not Isa.AUTO and library.offers(isa)]


def _cpu_status() -> Status:
    return _library_status(
        "idol_deform_attn_cpu",
        BUILD,
        lambda path: ", ".join(isa.name.lower() for isa in _cpu_isas(CpuLibrary(path))),
    )


def _cpu_variants() -> list[Variant]:
    library = CpuLibrary()

    def run(isa: Isa, classic: bool, case: Case) -> Array | None:
        value, merged = pack(case.value, case.dtype), pack(case.merged, case.merged_dtype)
        if not library.offers(isa, value.shape[3]):
            return None
        arrays = case.classic if classic else (merged, case.reference)
        compute = library.ms_deform_attn if classic else library.deformable_attention
        return unpack(compute(value, case.shapes, *arrays, isa=isa, threads=_THREADS), case.dtype)

    return [
        Variant(isa.name.lower() + (" classic" if classic else ""), partial(run, isa, classic), classic)
        for isa in (Isa.AUTO, *_cpu_isas(library))
        for classic in (False, True)
    ]


def _ort_status() -> Status:
    def load(path: Path) -> str:
        if importlib.util.find_spec("onnxruntime") is None:
            raise PluginError("onnxruntime is not installed; pip install 'idol-deploy[cpu]'")
        session_options(path)
        return f"onnxruntime {importlib.import_module('onnxruntime').__version__}"

    fix = BUILD if find_headers(ONNXRUNTIME) else f"{BUILD} --fetch-headers"
    return _library_status("idol_deform_attn_ort", fix, load)


def _check_onnx() -> None:
    if importlib.util.find_spec("onnx") is None:
        raise PluginError("the test graph cannot be made without onnx; pip install onnx")


def _ort_variants() -> list[Variant]:
    path = ort_library()
    _check_onnx()
    available = importlib.import_module("onnxruntime").get_available_providers()
    providers = ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" in available and serves_cuda(path):
        providers.append("CUDAExecutionProvider")
    return [
        Variant(provider.removesuffix("ExecutionProvider").lower(), partial(run_case, path, provider))
        for provider in providers
    ]


def _openvino_status() -> Status:
    try:
        path = openvino_library()
        core_with_operator(path)
    except PluginError as error:
        why, _, fix = str(error).partition("; ")
        return Status(why=why, fix=fix)
    return Status(path, f"openvino {openvino_release()}")


def _openvino_variants() -> list[Variant]:
    _check_onnx()
    return [Variant("cpu", partial(run_openvino_case, core_with_operator(openvino_library())))]


def _cuda_status() -> Status:
    def load(path: Path) -> str:
        CudaLibrary(path)
        with CudaMemory() as memory:
            return memory.device

    return _library_status("idol_deform_attn_cuda", f"{BUILD} --cuda", load)


def _cuda_variants() -> list[Variant]:
    memory = CudaMemory()

    def put(array: Array, dtype: str = "float32") -> DeviceArray:
        return DeviceArray(memory.put(pack(array, dtype)), array.shape, dtype)

    def run(library: CudaLibrary, classic: bool, case: Case) -> Array:
        # Elements that the kernel does not write stay NaN.
        blank = np.full(case.output_shape, np.nan, np.float32)
        with memory.scope():
            value, out = put(case.value, case.dtype), put(blank, case.dtype)
            if classic:
                locations, weights = map(put, case.classic)
                library.ms_deform_attn(value, case.shapes, locations, weights, out)
            else:
                merged, reference = put(case.merged, case.merged_dtype), put(case.reference)
                library.deformable_attention(value, case.shapes, merged, reference, out)
            return unpack(memory.get(out.pointer, pack(blank, case.dtype)), case.dtype)

    return [
        Variant(
            f"{variant.name.lower()} {form}", partial(run, CudaLibrary(variant=variant), classic), classic
        )
        for variant in CudaVariant
        for form, classic in (("fused", False), ("classic", True))
    ]


def _trt_status() -> Status:
    def load(path: Path) -> str:
        load_library(path, build=f"{BUILD} --cuda")
        # trtexec and C++ programs need no Python package.
        return "" if importlib.util.find_spec("tensorrt") else "Python's tensorrt is not installed"

    folder = "" if find_headers(TENSORRT) else f" {TENSORRT.option} FOLDER"
    return _library_status("idol_deform_attn_trt", f"{BUILD} --cuda{folder}", load)


def _trt_variants() -> list[Variant]:
    raise PluginError("TensorRT runs engines, not single calls; use: python -m idol_plugins.trt.conformance")


def _image_status() -> Status:
    def load(path: Path) -> str:
        ImageLibrary(path)
        return ""

    return _library_status("idol_image", BUILD, load)


# The kernel targets of this package, none of which needs PyTorch.
TARGETS = (
    Target("cpu", "CPU kernel", _cpu_status, _cpu_variants),
    Target("onnxruntime", "ONNX Runtime operator", _ort_status, _ort_variants),
    Target("openvino", "OpenVINO operator", _openvino_status, _openvino_variants),
    Target("cuda", "CUDA kernel", _cuda_status, _cuda_variants),
    Target("tensorrt", "TensorRT plugin", _trt_status, _trt_variants),
)
# The resize of frames, which is built with the kernel and listed with the targets.
IMAGE = Target("image", "image resize", _image_status)


@dataclass(frozen=True)
class Outcome:
    """Result of one variant of a target.

    Attributes:
        target: Name of the target.
        variant: Name of the variant; empty if the target was not run.
        cases: Number of cases computed.
        errors: Largest relative L2 error by type of value.
        failures: Title (`case`) of each case with a wrong output, and the error or exception (`problem`).
        untested: Reason why the target was not run; empty if it was.
    """

    target: str
    variant: str
    cases: int
    errors: dict[str, float]
    failures: tuple[dict[str, str], ...]
    untested: str = ""


@dataclass(frozen=True)
class Report:
    """Results of all targets.

    Attributes:
        seed: Seed of the cases.
        outcomes: Result of each variant.
    """

    seed: int
    outcomes: tuple[Outcome, ...]

    @property
    def failures(self) -> list[str]:
        """Line with target, case and error of each failure."""
        return [
            f"{outcome.target} {outcome.variant}, {failure['case']}: {failure['problem']}"
            for outcome in self.outcomes
            for failure in outcome.failures
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON; the key of a target's name is `home`."""
        outcomes = [{"home": outcome.target, **asdict(outcome)} for outcome in self.outcomes]
        for outcome in outcomes:
            del outcome["target"]
        passed = not self.failures
        return {"passed": passed, "tolerances": TOLERANCES, "seed": self.seed, "outcomes": outcomes}

    def table(self) -> str:
        """Return the report as text."""
        lines = [f"{'target':24} {'cases':>5}   largest error (tolerance)"]
        for outcome in self.outcomes:
            name = f"{outcome.target} {outcome.variant}".rstrip()
            if outcome.untested:
                lines.append(f"{name:24} {'-':>5}   not tested: {outcome.untested}")
                continue
            errors = ", ".join(
                f"{dtype} {error:.1e} ({TOLERANCES[dtype]:.0e})" for dtype, error in outcome.errors.items()
            )
            failed = f"   {len(outcome.failures)} FAILED" if outcome.failures else ""
            lines.append(f"{name:24} {outcome.cases:5}   {errors}{failed}")
        return "\n".join(lines)


def selftest(
    targets: Sequence[Target] = TARGETS,
    *,
    seed: int = 0,
    cases: int = 24,
    announce: Callable[[str], None] = lambda _: None,
) -> Report:
    """Compare every available target with the reference implementation.

    Args:
        targets: Kernel targets to test.
        seed: Seed of the cases.
        cases: Number of cases of random sizes, in addition to the special ones.
        announce: Called with a line before each variant.

    Raises:
        PluginError: No target is available.
    """
    all_cases = make_cases(seed, cases)
    outcomes = []
    for target in targets:
        try:
            status = target.status()
            variants = target.variants() if status.ready else []
            untested = f"{status.why}; {status.fix}" if not status.ready else ""
        except PluginError as error:
            variants, untested = [], str(error)
        if untested:
            outcomes.append(Outcome(target.name, "", 0, {}, (), untested))
        for variant in variants:
            announce(f"testing {target.title}, {variant.name}")
            outcomes.append(_test(target, variant, all_cases))
    if not any(outcome.cases for outcome in outcomes):
        raise PluginError(f"no kernel target is available to test; build one: {BUILD}")
    return Report(seed, tuple(outcomes))


def _test(target: Target, variant: Variant, cases: Sequence[Case]) -> Outcome:
    errors: dict[str, float] = {}
    failures, count = [], 0
    for case in cases:
        error, tolerance = 0.0, TOLERANCES[case.dtype]
        try:
            out = variant.run(case)
            if out is None:
                continue
            error, problem = difference(out, case.expected_classic if variant.classic else case.expected)
            errors[case.dtype] = max(errors.get(case.dtype, 0.0), error)
        except Exception as raised:  # noqa: BLE001 - any exception counts as a failure of the target
            problem = " ".join(f"{type(raised).__name__}: {raised}".split())
        count += 1
        if problem or error > tolerance:
            problem = problem or f"error {error:.1e}, allowed {tolerance:.0e}"
            failures.append({"case": case.title, "problem": problem})
    return Outcome(target.name, variant.name, count, errors, tuple(failures))


def difference(output: Array, expected: Array) -> tuple[float, str]:
    """Compare an output with the expected one.

    Returns:
        Relative L2 error over the finite expected elements, and a description of any other difference (shape, NaN,
        infinity), which is empty if there is none.
    """
    if output.shape != expected.shape:
        return 0.0, f"the output is {output.shape}, not {expected.shape}"
    finite = np.isfinite(expected)
    wrong = np.isnan(output) != np.isnan(expected)
    wrong |= np.isinf(expected) & (output != expected)
    wrong |= finite & ~np.isfinite(output)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        example = f"{output[at]} at {list(at)}, where the reference has {expected[at]:.4g}"
        return 0.0, f"{wrong.sum()} wrong elements, for example {example}"
    size = float(np.linalg.norm(expected[finite]))
    error = float(np.linalg.norm(output[finite].astype(np.float64) - expected[finite]))
    if size == 0:
        return 0.0, "" if error == 0 else f"the output is not zero: {error:.1e}"
    return error / size, ""
