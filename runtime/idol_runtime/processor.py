"""The processor's name and instruction sets; the latter decide how an engine rounds in reduced precision."""

import platform
import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

__all__ = ["decisive_features", "processor_features", "processor_name"]

_CPUINFO = Path("/proc/cpuinfo")
# Names in /proc/cpuinfo, and the names of these features here.
_NAMES: Mapping[str, str] = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx_vnni": "vnni",
    "avx512_vnni": "vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_bf16": "amx_bf16",
    "amx_int8": "amx_int8",
    "asimd": "neon",
    "asimddp": "dotprod",
    "bf16": "bf16",
    "i8mm": "i8mm",
    "sve": "sve",
}
# Cores by Arm's number of the part; Linux states no name.
_ARM_CORES: Mapping[str, str] = {
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse N1",
    "0xd40": "Neoverse V1",
    "0xd42": "Cortex-A78AE",
    "0xd4f": "Neoverse V2",
    "0xd83": "Neoverse V3AE",
}
# Features that decide the arithmetic of a precision. fp16 graphs are for GPUs; CPUs compute them in fp32.
_DECISIVE: Mapping[str, Collection[str]] = {
    "fp16": (),
    "bf16": ("amx_bf16", "avx512_bf16", "bf16"),
    "int8": ("amx_int8", "dotprod", "i8mm", "vnni"),
}


@cache
def processor_features(cpuinfo: Path | None = None) -> tuple[str, ...]:
    """Return the sorted names of this processor's features, such as `avx2` and `vnni`.

    A system that does not list them, such as macOS, has one feature: its name with the processor's, `darwin-arm64`.

    Args:
        cpuinfo: file in the format of `/proc/cpuinfo`; None: this file.
    """
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", _read(cpuinfo), re.MULTILINE)
    if not lines:
        return (f"{platform.system()}-{platform.machine()}".lower(),)
    common = set.intersection(*(set(line.split()) for line in lines))  # cores may differ
    return tuple(sorted({name for flag, name in _NAMES.items() if flag in common}))


def decisive_features(precision: str, features: Collection[str]) -> tuple[str, ...]:
    """Return the features that decide the arithmetic of a precision, sorted.

    Two processors with the same decisive features compute a graph of this precision alike. The name of a system that
    lists no features is always among them.

    Args:
        precision: precision of the arithmetic, such as `int8`.
        features: features of a processor.
    """
    decisive = _DECISIVE[precision]
    return tuple(sorted(name for name in features if name in decisive or name not in _NAMES.values()))


def processor_name(cpuinfo: Path | None = None) -> str:
    """Return the processor's name from Linux, or else its architecture; argument as for `processor_features`."""
    text = _read(cpuinfo)
    parts = dict.fromkeys(re.findall(r"^CPU part\s*: (0x\w+)$", text, re.MULTILINE))
    if cores := [_ARM_CORES[part] for part in parts if part in _ARM_CORES]:
        return " + ".join(cores)
    names = re.findall(r"^(?:model name|Model)\s*:(.*)$", text, re.MULTILINE)
    return names[0].strip() if names else platform.processor() or platform.machine()


def _read(cpuinfo: Path | None) -> str:
    try:
        return (cpuinfo or _CPUINFO).read_text()
    except OSError:
        return ""
