"""`idol-deploy plugins`: the deformable-attention kernel, to build, to look for and to test."""

import argparse
import contextlib
import json
import sys
from pathlib import Path

from idol_deploy.commands.common import steps, whole

__all__ = ["add_arguments"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of this command."""
    parser.description = "The deformable-attention kernel for the CPU, ONNX Runtime, CUDA and TensorRT."
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_build(commands.add_parser("build", help="compile the libraries for this machine"))
    _add_info(commands.add_parser("info", help="what is here, what is missing and why"))
    _add_selftest(commands.add_parser("selftest", help="compare all that is here with numpy"))


def _add_build(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compile the libraries for this machine, from the sources that are installed with the package. "
        "Needs a C++17 compiler and CMake."
    )
    parser.set_defaults(command=_build)
    add = parser.add_argument
    add("--into", type=Path, metavar="DIR", help="folder for the libraries; default: the user's cache")
    add(
        "--ort-include",
        type=Path,
        metavar="DIR",
        help="ONNX Runtime's C headers; default: the system's, if there",
    )
    add(
        "--fetch-headers",
        action="store_true",
        help="get ONNX Runtime's headers with apt-get download, if they are not here",
    )
    add(
        "--tensorrt-include",
        type=Path,
        metavar="DIR",
        help="TensorRT's C++ headers, for its plugin with --cuda; default: the system's",
    )
    add(
        "--cuda",
        nargs="?",
        const="native",
        metavar="ARCH",
        help="also for CUDA devices: the one that is here, or those named: 87, '80;90'",
    )


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Say which libraries are here, which file each is, why others are not and what mends it, "
        "and what there is to build with."
    )
    parser.set_defaults(command=_info)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_selftest(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compare all that is here with numpy, on ordinary and adversarial inputs; exit status 1 if not equal."
    )
    parser.set_defaults(command=_selftest)
    add = parser.add_argument
    add("--json", action="store_true", help="print JSON")
    add("--seed", type=whole, default=0, metavar="N", help="of the inputs (default: 0)")
    add(
        "--cases",
        type=whole,
        default=24,
        metavar="N",
        help="inputs of random sizes, besides the special ones (default: 24)",
    )


def _build(options: argparse.Namespace) -> int:
    from idol_plugins.build import build
    from idol_plugins.fetch import fetch_onnxruntime
    from idol_plugins.headers import ONNXRUNTIME, TENSORRT, find_headers

    with steps() as announce:
        ort_include = options.ort_include or find_headers(ONNXRUNTIME)
        if options.fetch_headers and ort_include is None:
            announce("getting ONNX Runtime's headers")
            ort_include = fetch_onnxruntime()
        announce("compiling")
        built = build(
            options.into,
            ort_include=ort_include,
            cuda_architectures=options.cuda,
            tensorrt_include=options.tensorrt_include or find_headers(TENSORRT),
        )
    for library in built:
        print(f"wrote {library}")
    if ort_include is None:
        print("left out the operator for ONNX Runtime: its headers are not here; give --fetch-headers")
    return 0


def _info(options: argparse.Namespace) -> int:
    from idol_deploy.torch_home import TorchHome
    from idol_plugins.homes import ImageHome, all_homes
    from idol_plugins.info import collect

    found = collect([*all_homes(), TorchHome(), ImageHome()])
    print(json.dumps(found.as_dict(), indent=2) if options.json else found.table())
    return 0


def _selftest(options: argparse.Namespace) -> int:
    from idol_deploy.torch_home import TorchHome
    from idol_plugins.homes import all_homes
    from idol_plugins.selftest import selftest

    homes = [*all_homes(), TorchHome()]
    # JSON stands alone on stdout.
    with contextlib.nullcontext(lambda _: None) if options.json else steps() as announce:
        report = selftest(homes, seed=options.seed, cases=options.cases, announce=announce)
    print(json.dumps(report.as_dict(), indent=2) if options.json else report.table())
    for failure in report.failures:
        print(f"idol-deploy: selftest: {failure}", file=sys.stderr)
    return 1 if report.failures else 0
