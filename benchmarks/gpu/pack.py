"""Packages for a machine without network, as parts of at most 20 MiB with their SHA-256.

    python -m benchmarks.gpu.pack                      pack what some sections need beyond torch: see `PACKAGES`
    python -m benchmarks.gpu.pack msgspec pycocotools  pack these only
    python -m benchmarks.gpu.pack --install FOLDER     verify, join and install them; run.sh does this

The parts and `SHA256SUMS`, which `sha256sum -c` reads, lie in `benchmarks/gpu/packed`. Needs pip only.
"""

import argparse
import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from idol_runtime.errors import IdolError

__all__ = ["PACKAGES", "PACKED", "PART_BYTES", "install", "main", "pack"]

PACKED = Path(__file__).parent / "packed"
PACKAGES = ("msgspec", "pycocotools", "onnxruntime-gpu")
PART_BYTES = 20 * 2**20
_SUMS = "SHA256SUMS"
_GLIBC = range(39, 16, -1)  # pip takes only wheels for exactly the named versions of glibc


def pack(packages: Sequence[str], into: Path, *, python: str = "3.12", machine: str = "x86_64") -> list[Path]:
    """Download the wheels of these packages, without their dependencies, and write them in parts.

    Args:
        packages: names or requirements of the packages.
        into: folder for the parts; parts that it contains are removed.
        python: version of Python that the wheels are for.
        machine: processor that the wheels are for: `x86_64` or `aarch64`.

    Raises:
        IdolError: pip cannot download a package.
    """
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in _GLIBC]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += [f"--python-version={python}", *platforms, f"--platform=manylinux2014_{machine}"]
    with TemporaryDirectory(prefix="idol-pack-") as work:
        _run([*command, f"--dest={work}", *packages])
        into.mkdir(parents=True, exist_ok=True)
        for old in into.glob("*.whl.*"):
            old.unlink()
        parts = [part for wheel in sorted(Path(work).glob("*.whl")) for part in _split(wheel, into)]
    sums = [f"{hashlib.sha256(part.read_bytes()).hexdigest()}  {part.name}\n" for part in parts]
    (into / _SUMS).write_text("".join(sums))
    return parts


def _split(wheel: Path, into: Path) -> list[Path]:
    parts = []
    with wheel.open("rb") as file:
        while data := file.read(PART_BYTES):
            parts.append(into / f"{wheel.name}.{len(parts):03}")
            parts[-1].write_bytes(data)
    return parts


def install(packed: Path, target: Path) -> list[str]:
    """Verify and join the parts, and install the wheels into a folder.

    Args:
        packed: folder of the parts.
        target: folder for `PYTHONPATH`.

    Returns:
        Names of the wheels.

    Raises:
        IdolError: a part is missing or damaged, or pip refuses a wheel.
    """
    try:
        sums = [line.split() for line in (packed / _SUMS).read_text().splitlines()]
    except OSError as error:
        raise IdolError(f"{packed} holds no packed wheels: {error.strerror}; pack them again") from error
    with TemporaryDirectory(prefix="idol-pack-") as work:
        wheels = list(dict.fromkeys(Path(work) / name.rpartition(".")[0] for _, name in sums))
        for expected, name in sums:
            part = packed / name
            data = part.read_bytes() if part.is_file() else b""
            if hashlib.sha256(data).hexdigest() != expected:
                fault = "has another SHA-256 than listed" if data else "is missing"
                raise IdolError(f"packed part {fault}: {name}; copy {packed} again")
            with (Path(work) / name.rpartition(".")[0]).open("ab") as file:
                file.write(data)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        _run([*command, f"--target={target}", *map(str, wheels)])
    return [wheel.name for wheel in wheels]


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise IdolError(f"pip failed: {done.stderr.strip()[-500:]}; see the names of the packages")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    add = parser.add_argument
    add("packages", nargs="*", metavar="PACKAGE", help=f"package to pack (default: {' '.join(PACKAGES)})")
    add(
        "--packed",
        type=Path,
        default=PACKED,
        metavar="DIR",
        help="folder of the parts (default: %(default)s)",
    )
    add("--python", default="3.12", help="version of Python of the machine (default: %(default)s)")
    add(
        "--machine",
        default="x86_64",
        help="processor of the machine, x86_64 or aarch64 (default: %(default)s)",
    )
    add("--install", type=Path, metavar="DIR", help="install the packed wheels into DIR instead of packing")
    options = parser.parse_args(arguments)
    try:
        if options.install is not None:
            for name in install(options.packed, options.install):
                print(f"installed {name}")
            return 0
        parts = pack(
            options.packages or PACKAGES, options.packed, python=options.python, machine=options.machine
        )
    except IdolError as error:
        print(error, file=sys.stderr)
        return 2
    for part in parts:
        print(f"wrote {part} ({part.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
