"""The libraries, built once for all tests of the plugins."""

import os
from pathlib import Path

import pytest

from idol_plugins.build import build
from idol_plugins.cpu import CpuLibrary
from idol_plugins.errors import PluginError


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of freshly built libraries, warnings being errors; skips where they cannot be built."""
    folder = tmp_path_factory.mktemp("libraries")
    try:
        build(folder, strict=True, sanitize=os.environ.get("IDOL_SANITIZE", ""))
    except PluginError as error:
        if "not installed" not in str(error) and "no C++ compiler" not in str(error):
            raise
        pytest.skip(f"the kernel is compiled where a compiler is: {error}")
    return folder


@pytest.fixture(scope="session")
def cpu_library(libraries: Path) -> CpuLibrary:
    """The kernel, through its C interface."""
    return CpuLibrary(libraries / "libidol_deform_attn_cpu.so")
