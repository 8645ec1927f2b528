"""Builds the kernel's libraries from `csrc/`: a command of its own, never called on import.

python -m idol_plugins.build [--into FOLDER] [--ort-include FOLDER]
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from idol_plugins.errors import PluginError
from idol_plugins.libraries import build_folder

__all__ = ["SOURCES", "build", "compiler", "main"]

SOURCES = Path(__file__).parent / "csrc"


def build(
    into: Path | None = None,
    *,
    ort_include: Path | None = None,
    strict: bool = False,
    sanitize: str = "",
    jobs: int = 2,
) -> list[Path]:
    """Compile the libraries for this machine.

    Args:
        into: folder for the libraries; None: `libraries.build_folder()`.
        ort_include: folder of ONNX Runtime's C headers; None: the system's, and without them no operator.
        strict: warnings are errors.
        sanitize: sanitizers to build with, `address,undefined` for instance.
        jobs: how many compilers at once.

    Returns:
        The libraries.

    Raises:
        PluginError: CMake or a compiler is missing, the headers are not where they were said to be, or the
            compiler fails.
    """
    cmake = _tool("cmake", "install it with your system's package manager, or: pip install cmake")
    compiler()
    if ort_include is not None and not (ort_include / "onnxruntime_c_api.h").is_file():
        raise PluginError(
            f"{ort_include} holds no onnxruntime_c_api.h; see idol_plugins' README on where to get it"
        )
    into = build_folder() if into is None else into
    options = {
        "IDOL_STRICT": "ON" if strict else "OFF",
        "IDOL_SANITIZE": sanitize,
        **({} if ort_include is None else {"ORT_INCLUDE_DIR": str(ort_include.resolve())}),
    }
    with tempfile.TemporaryDirectory(prefix="idol-plugins-") as work:
        defined = [f"-D{name}={value}" for name, value in options.items()]
        _run([cmake, "-S", str(SOURCES), "-B", work, "-DCMAKE_BUILD_TYPE=Release", *defined])
        _run([cmake, "--build", work, "--parallel", str(jobs)])
        return _collect(Path(work), into)


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
        raise PluginError(f"{into} cannot be written ({error}); choose another folder with --into") from error
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
    options = parser.parse_args(arguments)
    try:
        built = build(options.into, ort_include=options.ort_include)
    except PluginError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write("".join(f"{library}\n" for library in built))
    return 0


if __name__ == "__main__":
    sys.exit(main())
