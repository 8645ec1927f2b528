"""The build of the kernel's libraries from `csrc/`: a separate command, never run on import.

python -m idol_plugins.build [--into FOLDER] [--ort-include FOLDER] [--cuda [ARCHITECTURES]]
                             [--tensorrt-include FOLDER]
"""

import argparse
import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from idol_plugins.errors import PluginError
from idol_plugins.headers import ONNXRUNTIME, TENSORRT, openvino_cmake, openvino_release
from idol_plugins.libraries import build_folder

__all__ = ["SOURCES", "add_arguments", "build", "compiler", "cuda_compiler", "main"]

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
    """Compile the libraries for this machine; the operator for OpenVINO if PyPI's OpenVINO is installed.

    Args:
        into: Folder for the libraries; None: `libraries.build_folder()`.
        ort_include: Folder of ONNX Runtime's C headers; None: the system's. Without headers, the operator for ONNX
            Runtime is not built.
        cuda_architectures: CUDA architectures in CMake's notation: "native" for the device of this machine, "87" for
            an Orin, "80;90" for two; None: build no CUDA kernel.
        tensorrt_include: Folder of TensorRT's C++ headers; None: the system's. Without headers, or without CUDA's
            headers, the TensorRT plugin and its test harness are not built.
        tensorrt_host: True to also build the plugin for tests, which computes on the CPU.
        strict: True to treat compiler warnings as errors.
        sanitize: Sanitizers to build with, for example `address,undefined`.
        jobs: Number of parallel compilers.

    Returns:
        Paths of the libraries.

    Raises:
        PluginError: CMake, a compiler or nvcc is missing, a folder has no headers, the output folder cannot be
            written, or a compiler fails.
    """
    cmake = shutil.which("cmake")
    if cmake is None:
        raise PluginError(
            "cmake is not installed; install it with your system's package manager, or: pip install cmake"
        )
    compiler()
    options = {
        "IDOL_STRICT": "ON" if strict else "OFF",
        "IDOL_SANITIZE": sanitize,
        "IDOL_TRT_HOST": "ON" if tensorrt_host else "OFF",
    }
    for folder, headers in ((ort_include, ONNXRUNTIME), (tensorrt_include, TENSORRT)):
        if folder is not None:
            if not (folder / headers.file).is_file():
                raise PluginError(
                    f"{folder} contains no {headers.file}; get the headers as plugins/README.md says"
                )
            options[headers.variable] = str(folder.resolve())
    with contextlib.suppress(PluginError):
        options |= {"OpenVINO_DIR": str(openvino_cmake()), "IDOL_OPENVINO_RELEASE": openvino_release()}
    if tensorrt_include is not None and cuda_architectures is None and not tensorrt_host:
        raise PluginError("the TensorRT plugin needs the CUDA kernel; build both: add --cuda")
    into = build_folder() if into is None else into
    _check_folder(into)
    if cuda_architectures is not None:
        options["IDOL_CUDA"] = "ON"
        options["IDOL_CUDA_ARCHITECTURES"] = cuda_architectures
        options["CMAKE_CUDA_COMPILER"] = cuda_compiler()
    with tempfile.TemporaryDirectory(prefix="idol-plugins-") as work:
        definitions = [f"-D{name}={value}" for name, value in options.items()]
        _run([cmake, "-S", str(SOURCES), "-B", work, "-DCMAKE_BUILD_TYPE=Release", *definitions])
        _run([cmake, "--build", work, "--parallel", str(jobs)])
        libraries = _install(Path(work), into)
    if tensorrt_include is not None and not any("trt" in library.name for library in libraries):
        raise PluginError(
            "TensorRT's headers need CUDA's; install the CUDA toolkit, or put cuda_runtime_api.h and the headers that "
            f"it includes into {tensorrt_include}"
        )
    return libraries


def _check_folder(into: Path) -> None:
    """Check, before minutes of compiling, that the libraries can be written; create nothing."""
    nearest = next(folder for folder in (into, *into.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise PluginError(f"{nearest} is a file; choose another folder with --into")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PluginError(
            f"{nearest} cannot be written: permission denied; choose another folder with --into"
        )


def _install(work: Path, into: Path) -> list[Path]:
    """Move each library to its folder atomically, because a process may have the old one loaded."""
    try:
        into.mkdir(parents=True, exist_ok=True)
        libraries = []
        for built in sorted(work.glob("libidol_*.[sd][oy]*")):
            # A name of its own, because another build may be running.
            temporary = into / f".{built.name}-{secrets.token_hex(4)}"
            try:
                shutil.copyfile(built, temporary)
                libraries.append(temporary.replace(into / built.name))
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise PluginError(
            f"{into} cannot be written: {error.strerror}; choose another folder with --into"
        ) from error
    return libraries


def compiler() -> str:
    """Return the path of a C++ compiler.

    Raises:
        PluginError: No C++ compiler is installed.
    """
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return path
    raise PluginError("there is no C++ compiler; install one, for example: apt install g++")


def cuda_compiler() -> str:
    """Return the path of nvcc: `$CUDACXX`, on the PATH, or in the toolkit's folder.

    Raises:
        PluginError: nvcc is not installed.
    """
    toolkit = "/usr/local/cuda/bin/nvcc"  # not on the PATH by default, for example on a Jetson
    for name in (os.environ.get("CUDACXX"), "nvcc", toolkit):
        if name and (path := shutil.which(name)):
            return path
    raise PluginError(
        "there is no nvcc to compile the CUDA kernel; install NVIDIA's CUDA toolkit, or set CUDACXX to nvcc's path"
    )


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-30:])
        raise PluginError(
            f"building the plugins failed, in: {' '.join(command)}\n{tail}\n"
            "the sources need a C++17 compiler (GCC 9 or clang 12, or newer) and CMake 3.18"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that are shared with `idol-deploy plugins build`."""
    add = parser.add_argument
    add("--into", type=Path, metavar="DIR", help="write the libraries to DIR (default: the user's cache)")
    add(
        ONNXRUNTIME.option,
        type=Path,
        metavar="DIR",
        help="use ONNX Runtime's C headers in DIR (default: the system's, if present)",
    )
    add(
        TENSORRT.option,
        type=Path,
        metavar="DIR",
        help="use TensorRT's C++ headers in DIR for its plugin, with --cuda (default: the system's)",
    )
    add(
        "--cuda",
        dest="cuda_architectures",
        nargs="?",
        const="native",
        metavar="ARCH",
        help="also build for CUDA devices: this machine's, or those of ARCH: 87, '80;90'",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m idol_plugins.build", description="Build the libraries.")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    try:
        libraries = build(**vars(options))
    except PluginError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write("".join(f"{library}\n" for library in libraries))
    return 0


if __name__ == "__main__":
    sys.exit(main())
