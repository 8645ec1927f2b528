"""`idol-deploy plugins`: build, list and test the deformable-attention kernel."""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import sys
from functools import partial
from typing import TYPE_CHECKING

from idol_deploy.commands.common import whole
from idol_deploy.progress import steps

if TYPE_CHECKING:
    from idol_plugins.cases import Case
    from idol_plugins.reference import Array
    from idol_plugins.selftest import Status, Target

__all__ = ["add_arguments", "torch_target"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `idol-deploy plugins`."""
    parser.description = (
        "Build, list and test the deformable-attention kernel for the CPU, ONNX Runtime, OpenVINO, "
        "CUDA and TensorRT."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_build(commands.add_parser("build", help="compile the libraries for this machine"))
    _add_info(commands.add_parser("info", help="list the libraries, and the reasons why others are missing"))
    _add_selftest(commands.add_parser("selftest", help="compare every library with numpy"))


def _add_build(parser: argparse.ArgumentParser) -> None:
    from idol_plugins.build import add_arguments as add_build_arguments

    parser.description = (
        "Compile the libraries for this machine, from the sources that are installed with the package. "
        "Needs a C++17 compiler and CMake."
    )
    parser.set_defaults(command=_build)
    add_build_arguments(parser)
    parser.add_argument(
        "--fetch-headers",
        action="store_true",
        help="fetch ONNX Runtime's headers with apt-get download if the system has none",
    )


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "List the libraries, why others are missing and how to get them, and the build tools."
    )
    parser.set_defaults(command=_info)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_selftest(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compare every library with numpy, on ordinary and adversarial inputs; exit status 1 if one differs."
    )
    parser.set_defaults(command=_selftest)
    add = parser.add_argument
    add("--json", action="store_true", help="print JSON")
    add("--seed", type=whole, default=0, metavar="N", help="seed of the random inputs (default: 0)")
    add(
        "--cases",
        type=whole,
        default=24,
        metavar="N",
        help="test N inputs of random sizes, in addition to the special ones (default: 24)",
    )


def _build(options: argparse.Namespace) -> int:
    from idol_plugins.build import build
    from idol_plugins.errors import PluginError
    from idol_plugins.fetch import fetch_onnxruntime
    from idol_plugins.headers import ONNXRUNTIME, TENSORRT, find_headers, openvino_cmake

    with steps() as announce:
        ort_include = options.ort_include or find_headers(ONNXRUNTIME)
        if options.fetch_headers and ort_include is None:
            announce("fetching ONNX Runtime's headers")
            ort_include = fetch_onnxruntime()
        announce("compiling")
        libraries = build(
            options.into,
            ort_include=ort_include,
            cuda_architectures=options.cuda_architectures,
            tensorrt_include=options.tensorrt_include or find_headers(TENSORRT),
        )
    for library in libraries:
        print(f"wrote {library}")
    if ort_include is None:
        print(
            "note: the operator for ONNX Runtime is not built: its headers are missing; add --fetch-headers"
        )
    try:
        openvino_cmake()
    except PluginError as error:
        print(f"note: the operator for OpenVINO is not built: {error}")
    return 0


def _info(options: argparse.Namespace) -> int:
    from idol_plugins.info import collect
    from idol_plugins.selftest import IMAGE, TARGETS

    info = collect([*TARGETS, torch_target(), IMAGE])
    print(json.dumps(info.as_dict(), indent=2) if options.json else info.table())
    return 0


def _selftest(options: argparse.Namespace) -> int:
    from idol_plugins.selftest import TARGETS, selftest

    # With --json, stdout has the JSON and nothing else.
    with contextlib.nullcontext(lambda _: None) if options.json else steps() as announce:
        report = selftest(
            [*TARGETS, torch_target()], seed=options.seed, cases=options.cases, announce=announce
        )
    print(json.dumps(report.as_dict(), indent=2) if options.json else report.table())
    for failure in report.failures:
        print(f"idol-deploy: selftest: {failure}", file=sys.stderr)
    return 1 if report.failures else 0


def torch_target() -> "Target":
    """Return the kernel target of the operator `idol_deploy::deform_attn`, on every device that has its library."""
    from idol_plugins.selftest import Target, Variant

    return Target(
        "torch",
        "PyTorch operator",
        _torch_status,
        lambda: [Variant(device, partial(_run_torch, device)) for device in _torch_devices()],
    )


def _torch_devices() -> list[str]:
    import torch

    from idol_deploy.model.deform_op import operator_problem

    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return [device for device in devices if operator_problem(device) is None]


def _torch_status() -> "Status":
    from idol_plugins.libraries import BUILD, find_library
    from idol_plugins.selftest import Status

    if importlib.util.find_spec("torch") is None:
        return Status(why="torch is not installed", fix="pip install 'idol-deploy[train]'")
    from idol_deploy.model.deform_op import operator_problem

    devices = _torch_devices()
    if not devices:
        return Status(why=str(operator_problem("cpu")).partition("; ")[0], fix=BUILD)
    library = find_library(f"idol_deform_attn_{devices[0]}")
    return Status(library, f"torch {importlib.metadata.version('torch')}, {', '.join(devices)}")


def _run_torch(device: str, case: "Case") -> "Array":
    import numpy as np
    import torch

    from idol_deploy.model.deform_op import deform_attn

    arrays = (case.value, case.merged, case.reference)
    value, merged, reference = (
        torch.from_numpy(array.copy()).to(device, getattr(torch, dtype))
        for array, dtype in zip(arrays, (case.dtype, case.merged_dtype, "float32"), strict=True)
    )
    with torch.no_grad():
        out = deform_attn(value, case.shapes, merged, reference)
    return np.asarray(out.float().cpu().numpy(), np.float32)
