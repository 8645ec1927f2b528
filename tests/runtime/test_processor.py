"""Features of a processor, from /proc/cpuinfo of several machines."""

from pathlib import Path

import pytest

from idol_runtime import processor as module
from idol_runtime.processor import decisive_features, processor_features

ZEN5 = "flags\t\t: fpu sse avx2 avx512f avx512_vnni avx512_bf16\n"
MACHINES = {
    "AMX": ("flags : avx2 avx512f avx512_vnni amx_bf16 amx_int8\n", "amx_bf16 amx_int8 avx2 avx512 vnni"),
    "two equal cores": (ZEN5 * 2, "avx2 avx512 avx512_bf16 vnni"),
    "two kinds of cores": (ZEN5 + "flags : avx2 avx_vnni\n", "avx2"),
    "laptop": ("flags : avx2 avx_vnni\nvmx flags : amx_bf16\n", "avx2 vnni"),
    "Orin": ("Features\t: fp asimd asimdhp asimddp\n", "dotprod neon"),
    "Graviton": ("Features : asimd asimddp sve bf16 i8mm\n", "bf16 dotprod i8mm neon sve"),
    "old": ("flags : sse2\n", ""),
}


@pytest.mark.parametrize("name", MACHINES)
def test_features(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, features = MACHINES[name]
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor : 0\nmodel name : flags: amx\n{text}")
    monkeypatch.setattr(module, "_CPUINFO", path)
    assert processor_features.__wrapped__() == tuple(features.split())


def test_a_system_that_lists_no_features_is_known_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CPUINFO", tmp_path / "none")
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert processor_features.__wrapped__() == ("darwin-arm64",)


@pytest.mark.parametrize(
    ("precision", "decisive"),
    [("fp16", ""), ("bf16", "avx512_bf16"), ("int8", "vnni")],
)
def test_features_that_decide_the_arithmetic(precision: str, decisive: str) -> None:
    features = ("avx2", "avx512", "avx512_bf16", "vnni")
    assert decisive_features(precision, features) == tuple(decisive.split())
    assert decisive_features(precision, ("darwin-arm64",)) == ("darwin-arm64",)
