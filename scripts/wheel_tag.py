"""Platform tag of a wheel with libraries, from the versions of the system libraries that they need.

wheel_tag.py LIBRARY...
"""

import platform
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

# Libraries of every manylinux system.
_SYSTEM = {
    "libc.so.6",
    "libm.so.6",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "libgcc_s.so.1",
    "libstdc++.so.6",
}
# Newest symbol versions on the oldest system of each tag (PEP 600); the tag names the version of glibc.
_TAGS = (
    ((2, 17), {"GLIBCXX": (3, 4, 19), "CXXABI": (1, 3, 7), "GCC": (4, 7, 0)}),  # CentOS 7
    ((2, 24), {"GLIBCXX": (3, 4, 22), "CXXABI": (1, 3, 10), "GCC": (4, 7, 0)}),  # Debian 9
    ((2, 28), {"GLIBCXX": (3, 4, 25), "CXXABI": (1, 3, 11), "GCC": (7, 0, 0)}),  # RHEL 8, Debian 10
    ((2, 31), {"GLIBCXX": (3, 4, 28), "CXXABI": (1, 3, 12), "GCC": (7, 0, 0)}),  # Debian 11, Ubuntu 20.04
    ((2, 34), {"GLIBCXX": (3, 4, 29), "CXXABI": (1, 3, 13), "GCC": (7, 0, 0)}),  # RHEL 9
    ((2, 35), {"GLIBCXX": (3, 4, 30), "CXXABI": (1, 3, 13), "GCC": (12, 0, 0)}),  # Ubuntu 22.04
)


def main() -> None:
    """Print the tag."""
    machine = platform.machine()
    required: dict[str, tuple[int, ...]] = defaultdict(tuple)
    for library in map(Path, sys.argv[1:]):
        _check_dependencies(library)
        for name, version in re.findall(r"\((GLIBC|GLIBCXX|CXXABI|GCC)_([0-9.]+)\)", _objdump("-T", library)):
            required[name] = max(required[name], tuple(map(int, version.split("."))))
    for glibc, versions in _TAGS:
        if all(required[name] <= newest for name, newest in {"GLIBC": glibc, **versions}.items()):
            print(f"manylinux_{glibc[0]}_{glibc[1]}_{machine}")
            return
    print(f"linux_{machine}")


def _check_dependencies(library: Path) -> None:
    foreign = set(re.findall(r"NEEDED\s+(\S+)", _objdump("-p", library))) - _SYSTEM
    foreign = {name for name in foreign if not name.startswith("ld-linux")}
    if foreign:
        sys.exit(
            f"[wheel] {library.name} depends on {', '.join(sorted(foreign))}; link against system libraries only"
        )


def _objdump(option: str, library: Path) -> str:
    return subprocess.run(  # noqa: S603
        ["objdump", option, str(library)],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    ).stdout


if __name__ == "__main__":
    main()
