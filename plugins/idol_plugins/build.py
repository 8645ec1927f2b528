"""Builds the kernel's libraries from `csrc/`: a command of its own, never called on import.

python -m idol_plugins.build [--into FOLDER] [--ort-include FOLDER] [--cuda [ARCHITECTURES]]
                             [--tensorrt-include FOLDER]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from idol_plugins.errors import PluginError
from idol_plugins.libraries import build_folder

__all__ = ["SOURCES", "build", "compiler", "cuda_compiler", "main"]

SOURCES = Path(__file__).parent / "csrc"


def build(
    into: Path | None = None,
    *,
    ort_include: Path | None = None,
    cuda_architectures: str | None = None,
    tensorrt_include: Path | None = None,
    tensorrt_host: bool = False,
    strict: bool = False,
    sanitize: str = "",
    jobs: int = 2,
) -> list[Path]:
    """Compile the libraries for this machine.

    Args:
        into: folder for the libraries; None: `libraries.build_folder()`.
        ort_include: folder of ONNX Runtime's C headers; None: the system's, and without them no operator.
        cuda_architectures: devices to build the CUDA kernel for, as CMake names them: "native" for the one that is
            here, "87" for an Orin, "80;90" for two; None: no CUDA kernel.
        tensorrt_include: folder of TensorRT's C++ headers; None: the system's, and without them, or without CUDA's,
            neither plugin nor harness.
        tensorrt_host: build the plugin for tests, too, which computes on the CPU.
        strict: warnings are errors.
        sanitize: sanitizers to build with, `address,undefined` for instance.
        jobs: how many compilers at once.

    Returns:
        The libraries.

    Raises:
        PluginError: CMake, a compiler or CUDA's compiler is missing, the headers are not where they were said to
            be, the folder cannot be written, or a compiler fails.
    """
    cmake = _tool("cmake", "install it with your system's package manager, or: pip install cmake")
    compiler()
    for folder, header in ((ort_include, "onnxruntime_c_api.h"), (tensorrt_include, "NvInfer.h")):
        if folder is not None and not (folder / header).is_file():
            raise PluginError(f"{folder} holds no {header}; see idol_plugins' README on where to get it")
    if tensorrt_include is not None and cuda_architectures is None and not tensorrt_host:
        raise PluginError("TensorRT's plugin is one for CUDA devices; build the CUDA kernel, too: add --cuda")
    into = build_folder() if into is None else into
    _check_folder(into)
    options = {
        "IDOL_STRICT": "ON" if strict else "OFF",
        "IDOL_SANITIZE": sanitize,
        "IDOL_TRT_HOST": "ON" if tensorrt_host else "OFF",
        **({} if ort_include is None else {"ORT_INCLUDE_DIR": str(ort_include.resolve())}),
        **({} if tensorrt_include is None else {"TENSORRT_INCLUDE_DIR": str(tensorrt_include.resolve())}),
    }
    if cuda_architectures is not None:
        options |= {
            "IDOL_CUDA": "ON",
            "IDOL_CUDA_ARCHITECTURES": cuda_architectures,
            "CMAKE_CUDA_COMPILER": cuda_compiler(),
        }
    with tempfile.TemporaryDirectory(prefix="idol-plugins-") as work:
        defined = [f"-D{name}={value}" for name, value in options.items()]
        _run([cmake, "-S", str(SOURCES), "-B", work, "-DCMAKE_BUILD_TYPE=Release", *defined])
        _run([cmake, "--build", work, "--parallel", str(jobs)])
        libraries = _collect(Path(work), into)
    if tensorrt_include is not None and not any("trt" in library.name for library in libraries):
        raise PluginError(
            "TensorRT's headers need CUDA's: install the CUDA toolkit, or put cuda_runtime_api.h and what it needs "
            f"into {tensorrt_include}"
        )
    return libraries


def _check_folder(into: Path) -> None:
    """Before minutes of compiling: whether the libraries can go there; makes nothing."""
    nearest = next(folder for folder in (into, *into.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise PluginError(f"{nearest} is a file; choose another folder with --into")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PluginError(
            f"{nearest} cannot be written: permission denied; choose another folder with --into"
        )


def _collect(work: Path, into: Path) -> list[Path]:
    """Moves the libraries to their folder, each in one step: a process may have the old one loaded."""
    try:
        into.mkdir(parents=True, exist_ok=True)
        libraries = []
        for built in sorted(work.glob("libidol_*.[sd][oy]*")):
            fresh = into / f".{built.name}.new"
            shutil.copyfile(built, fresh)
            libraries.append(fresh.replace(into / built.name))
    except OSError as error:
        raise PluginError(
            f"{into} cannot be written: {error.strerror}; choose another folder with --into"
        ) from error
    return libraries


def compiler() -> str:
    """Path of a C++ compiler.

    Raises:
        PluginError: there is none.
    """
    for name in ("c++", "g++", "clang++"):
        found = shutil.which(name)
        if found:
            return found
    raise PluginError("there is no C++ compiler; install one: apt install g++, for instance")


def cuda_compiler() -> str:
    """Path of nvcc: `$CUDACXX`, on the path, or where the toolkit installs it.

    Raises:
        PluginError: there is none.
    """
    toolkit = Path("/usr/local/cuda/bin/nvcc")  # on no path by default, on a Jetson for instance
    for name in (os.environ.get("CUDACXX"), "nvcc", str(toolkit)):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise PluginError(
        "there is no nvcc to compile the CUDA kernel with; install NVIDIA's CUDA toolkit, or name nvcc in CUDACXX"
    )


def _tool(name: str, fix: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise PluginError(f"{name} is not installed; {fix}")
    return found


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-30:])
        raise PluginError(
            f"building the plugins failed, in: {' '.join(command)}\n{tail}\n"
            "the sources need a C++17 compiler (GCC 9 or clang 12, or newer) and CMake 3.18"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m idol_plugins.build", description="Build the libraries.")
    parser.add_argument("--into", type=Path, help="folder for the libraries; default: the user's cache")
    parser.add_argument("--ort-include", type=Path, help="folder of ONNX Runtime's C headers")
    parser.add_argument(
        "--cuda",
        nargs="?",
        const="native",
        metavar="ARCHITECTURES",
        help="also build the CUDA kernel, for the device that is here, or for those named: 87, or '80;90'",
    )
    parser.add_argument("--tensorrt-include", type=Path, help="folder of TensorRT's C++ headers; with --cuda")
    options = parser.parse_args(arguments)
    try:
        built = build(
            options.into,
            ort_include=options.ort_include,
            cuda_architectures=options.cuda,
            tensorrt_include=options.tensorrt_include,
        )
    except PluginError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write("".join(f"{library}\n" for library in built))
    return 0


if __name__ == "__main__":
    sys.exit(main())
