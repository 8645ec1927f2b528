"""`idol-deploy plugins`."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.idol_deploy.conftest import Command


@pytest.fixture
def built(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The libraries, as a user finds them."""
    monkeypatch.setenv("IDOL_PLUGINS", str(libraries))
    return libraries


def test_plugins_info(idol: Command, built: Path) -> None:
    done = idol("plugins", "info")
    assert (done.status, done.err) == (0, "")
    assert f"ready     {built / 'libidol_deform_attn_cpu.so'}" in done.out
    homes = {home["name"]: home for home in json.loads(idol("plugins", "info", "--json").out)["homes"]}
    assert homes["cpu"]["ready"] is True
    assert homes["cuda"]["fix"] or homes["cuda"]["ready"]


@pytest.mark.usefixtures("built")
def test_plugins_selftest(idol: Command) -> None:
    done = idol("plugins", "selftest", "--cases", 2)
    assert (done.status, done.err) == (0, "")
    assert "cpu scalar" in done.out
    report = json.loads(idol("plugins", "selftest", "--cases", 2, "--seed", 5, "--json").out)
    assert (report["passed"], report["seed"]) == (True, 5)


@pytest.mark.usefixtures("built")
def test_plugins_selftest_names_what_disagrees(idol: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from idol_plugins.cpu import CpuLibrary

    fused = CpuLibrary.deformable_attention
    monkeypatch.setattr(CpuLibrary, "deformable_attention", lambda *a, **k: fused(*a, **k) + np.float32(1e-3))
    done = idol("plugins", "selftest", "--cases", 0)
    assert done.status == 1
    assert "idol-deploy: selftest: cpu scalar, points, float32 values" in done.err


def test_plugins_build_says_what_it_wrote(
    idol: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from idol_plugins import build
    from idol_plugins.errors import PluginError

    def missing() -> Path:
        raise PluginError("openvino is not installed; install it")

    monkeypatch.setattr("idol_plugins.headers.openvino_cmake", missing)
    asked: dict[str, object] = {}
    monkeypatch.setattr(
        build, "build", lambda into, **options: asked.update(options) or [into / "libidol.so"]
    )
    done = idol("plugins", "build", "--into", tmp_path, "--cuda", "87", "--tensorrt-include", "headers")
    assert (done.status, done.err) == (0, "")
    assert asked["tensorrt_include"] == Path("headers")
    assert asked["cuda_architectures"] == "87"
    assert f"wrote {tmp_path / 'libidol.so'}" in done.out
    assert "OpenVINO is not built: openvino is not installed; install it" in done.out


def test_plugins_build_without_its_headers(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "contains no onnxruntime_c_api.h" in refused("plugins", "build", "--ort-include", tmp_path)


@pytest.fixture
def operator_anew() -> None:
    """The operator loads its libraries once in a process."""
    deform_op = pytest.importorskip("idol_deploy.model.deform_op", reason="the operator is one of PyTorch")
    for cached in (deform_op._problem, deform_op._cpu_library):
        cached.cache_clear()


@pytest.mark.usefixtures("built", "operator_anew")
def test_the_torch_operator_passes_in_every_type() -> None:
    from idol_deploy.commands.plugins import torch_target
    from idol_plugins.selftest import selftest

    assert torch_target().status().ready
    report = selftest([torch_target()], cases=4)
    assert not report.failures
    assert set(report.outcomes[0].errors) == {"float32", "float16", "bfloat16"}


@pytest.mark.usefixtures("operator_anew")
def test_without_its_library_or_torch_the_operator_names_the_fix(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from idol_deploy.commands.plugins import torch_target

    monkeypatch.setattr("idol_plugins.libraries.library_folders", lambda: iter([tmp_path]))
    status = torch_target().status()
    assert not status.ready
    assert status.fix == "idol-deploy plugins build"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "idol-deploy[train]" in torch_target().status().fix
