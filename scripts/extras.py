"""Resolution of every extra for machines other than this one; run by `scripts/test-extras`.

extras.py [MACHINE...]

pip evaluates markers for the running interpreter, also with `--platform`. So the markers of pyproject.toml are
evaluated here for each machine, and uv resolves the result with the machine's markers in the dependencies, too. For
Jetsons, pip then confirms with `--no-deps` that each resolved version has a wheel.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tomli
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
# Source packages, and their dependencies with wheels. TensorRT's gets its libraries from NVIDIA when it is installed.
SOURCES = {"tensorrt": ["tensorrt-cu13-bindings"], "pycuda": ["mako", "platformdirs", "pytools"]}


@dataclass(frozen=True)
class Machine:
    """A machine that the package is installed on.

    Attributes:
        architecture: aarch64 or x86_64.
        python: Python version.
        glibc: minor version of glibc 2.
        kernel: output of `uname -r`.
        empty: extras that add nothing there; every other extra must add a package.
    """

    architecture: str
    python: str
    glibc: int
    kernel: str
    empty: frozenset[str] = frozenset()


_JETSON = frozenset({"gpu", "tensorrt"})
MACHINES = {
    "JetPack 6.1, 6.2": Machine("aarch64", "3.10", 35, "5.15.148-tegra", _JETSON),
    "JetPack 7.2, Orin and Thor": Machine("aarch64", "3.12", 39, "6.8.12-1021-tegra", _JETSON),
    "Arm server, Python 3.10": Machine("aarch64", "3.10", 35, "5.15.0-1060-nvidia", frozenset({"gpu"})),
    "Arm server, Python 3.12": Machine("aarch64", "3.12", 39, "6.8.0-1030-nvidia-64k"),
    **{
        f"x86-64, Python {python}": Machine("x86_64", python, 31, "6.8.0-generic")
        for python in ("3.10", "3.11", "3.12", "3.13")
    },
}


def requirements(project: dict[str, list[str]], extra: str, machine: Machine) -> list[str]:
    """Return the requirements of an extra on a machine, without markers."""
    environment = default_environment() | {
        "platform_machine": machine.architecture,
        "platform_release": machine.kernel,
        "python_version": machine.python,
        "python_full_version": f"{machine.python}.0",
        "platform_system": "Linux",
        "sys_platform": "linux",
        "extra": "",
    }
    result = []
    for requirement in map(Requirement, project[extra]):
        if requirement.name == "idol-deploy":
            for other in sorted(requirement.extras):
                result += requirements(project, other, machine)
        elif requirement.marker is None or requirement.marker.evaluate(environment):
            result += SOURCES.get(requirement.name, [f"{requirement.name}{requirement.specifier}"])
    return result


def resolve(lines: list[str], machine: Machine) -> set[str]:
    """Return the packages and versions that uv chooses, all of them wheels."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "-"]
    command += ["--only-binary", ":all:", "--python", sys.executable, "--python-version", machine.python]
    command += ["--python-platform", f"{machine.architecture}-manylinux_2_{machine.glibc}"]
    return set(_run(command, "\n".join(lines)).split())


def confirm(pins: set[str], machine: Machine) -> None:
    """Let pip find a wheel of every pin; pins of one package in different versions need one run each."""
    versions = defaultdict(list)
    for pin in sorted(pins):
        versions[pin.partition("==")[0]].append(pin)
    abi = f"cp{machine.python.replace('.', '')}"
    tags = [f"manylinux_2_{minor}" for minor in range(machine.glibc, 4, -1)] + ["manylinux2014"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--dry-run",
        "--no-deps",
        "--ignore-installed",
    ]
    command += ["--only-binary=:all:", "--python-version", machine.python, "--implementation", "cp"]
    command += [f"--abi={name}" for name in (abi, "abi3", "none")]
    command += [f"--platform={tag}_{machine.architecture}" for tag in tags]
    with tempfile.TemporaryDirectory() as folder:
        for index in range(max(map(len, versions.values()))):
            chosen = [same[index] for same in versions.values() if len(same) > index]
            _run([*command, "--target", folder, *chosen])


def _run(command: list[str], text: str = "") -> str:
    environment = os.environ | {"PIP_CONFIG_FILE": os.devnull}  # uv does not read pip's constraints
    done = subprocess.run(  # noqa: S603
        command, input=text, capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        raise SystemExit(f"{done.stderr}[test-extras] failed: {' '.join(command[2:6])} ... {text.split()}")
    return done.stdout


def check(name: str) -> str:
    """Check all extras on a machine and return a summary; exit with the tool's message at the first failure."""
    project = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups, base, machine = project["optional-dependencies"], project["dependencies"], MACHINES[name]
    pins: set[str] = set()
    for extra in groups:
        lines = requirements(groups, extra, machine)
        if bool(lines) == (extra in machine.empty):
            raise SystemExit(
                f"[test-extras] {name}: [{extra}] adds {lines or 'nothing'}; see docs/install.md"
            )
        pins |= resolve([*base, *lines], machine)
    if "tegra" in machine.kernel:  # pip is slow: the machines that cannot run the tests
        confirm(pins, machine)
    nothing = f"; nothing in {', '.join(sorted(machine.empty))}" if machine.empty else ""
    return f"[test-extras] {name}: {len(groups)} extras, {len(pins)} wheels{nothing}"


def main() -> None:
    """Check the machines that the command line names, or all."""
    names = sys.argv[1:] or list(MACHINES)
    if unknown := set(names) - set(MACHINES):
        raise SystemExit(
            f"[test-extras] unknown machine: {unknown}; choose from {json.dumps(list(MACHINES))}"
        )
    with ThreadPoolExecutor(4) as pool:
        for line in pool.map(check, names):
            print(line, flush=True)
    print("[test-extras] passed")


if __name__ == "__main__":
    main()
