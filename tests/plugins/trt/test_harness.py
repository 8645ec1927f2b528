"""Loading of a plugin library, and its log."""

from pathlib import Path

import pytest

from idol_plugins.errors import PluginError
from idol_plugins.trt.harness import Phase, PluginLibrary


@pytest.fixture
def host_plugin(trt_harness: Path) -> Path:
    return trt_harness.with_name("libidol_deform_attn_trt_host.so")


def test_it_logs_through_the_logger(host_plugin: Path, trt_harness: Path) -> None:
    with PluginLibrary(host_plugin, harness=trt_harness) as library:
        assert library.create([], Phase.BUILD) is None
        ((severity, text),) = library.log()
    assert severity == 1
    assert "host build, for tests" in text
    assert "heads" in text


def test_the_logger_of_another_version_is_left_alone(
    host_plugin: Path, trt_harness: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with PluginLibrary(host_plugin, harness=trt_harness, major=12) as library:
        assert library.create([], Phase.BUILD) is None
        assert library.log() == []
    assert "heads" in capfd.readouterr().err


def test_a_library_of_something_else_is_refused(libraries: Path, trt_harness: Path, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="setLoggerFinder"):
        PluginLibrary(libraries / "libidol_deform_attn_cpu.so", harness=trt_harness)
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"nothing")
    with pytest.raises(PluginError, match=r"no library of TensorRT plugins"):
        PluginLibrary(broken, harness=trt_harness)
    with pytest.raises(PluginError, match="build it again: idol-deploy plugins build"):
        PluginLibrary(broken, harness=broken)
