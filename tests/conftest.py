"""Fixtures shared by all tests; imports no torch, so that the runtime's tests run without it."""

from __future__ import annotations

import ctypes.util
import importlib
import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, settings

from servers.rtsp import GSTREAMER_PYTHON

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from idol_deploy.config import IdolConfig
    from idol_deploy.model.idol import Idol
    from idol_export.export import Exported

# The same examples in every run, and no failure on a busy machine.
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci")

# A shell ignores SIGINT in jobs of the background, and so would every process of the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Real clips, which may not be redistributed: IDOL_CLIPS, or a folder next to the checkout.
CLIPS = Path(os.environ.get("IDOL_CLIPS") or Path(__file__).parents[2] / "shared" / "data" / "clips")
# Real frames with pseudo labels of a detector: IDOL_PSEUDO_YTVIS, or the same folder.
PSEUDO_YTVIS = Path(os.environ.get("IDOL_PSEUDO_YTVIS") or CLIPS.parent / "pseudo_ytvis")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    _skip(items, "gpu", _no_gpu)
    _skip(items, "clips", _no_clips)
    _skip(items, "pseudo_ytvis", _no_pseudo_ytvis)
    _skip(items, "gstreamer", _no_gstreamer)
    _skip(items, "browser", _no_browser)


def _skip(items: list[pytest.Item], marker: str, missing: Callable[[], str | None]) -> None:
    marked = [item for item in items if item.get_closest_marker(marker)]
    reason = missing() if marked else None
    for item in marked if reason else []:
        item.add_marker(pytest.mark.skip(reason=reason))


def _no_clips() -> str | None:
    return None if CLIPS.is_dir() else f"clips not found: {CLIPS}; set IDOL_CLIPS to their folder"


def _no_pseudo_ytvis() -> str | None:
    if PSEUDO_YTVIS.is_dir():
        return None
    return f"pseudo-labelled frames not found: {PSEUDO_YTVIS}; set IDOL_PSEUDO_YTVIS to their folder"


def _no_gstreamer() -> str | None:
    """Explain what is missing of GStreamer and its RTSP server; None if they are installed."""
    script = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    try:
        subprocess.run([GSTREAMER_PYTHON, "-I", "-c", script], check=True, capture_output=True)
        for element in ("videotestsrc", "x264enc", "rtph264pay"):  # of -plugins-base, -ugly and -good
            subprocess.run(["gst-inspect-1.0", "--exists", element], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return "GStreamer's RTSP server is missing: scripts/install-test-packages"
    return None


def _no_browser() -> str | None:
    """Explain what is missing to drive a browser; None if nothing is."""
    if importlib.util.find_spec("playwright") is None:
        return "playwright is missing; pip install playwright"
    return None if shutil.which("chromium") else "chromium is missing; run scripts/install-test-packages"


def _no_gpu() -> str | None:
    """Explain why there is no CUDA device; None if there is one. Without torch, look for the driver's library."""
    if importlib.util.find_spec("torch") is not None:
        import torch

        return None if torch.cuda.is_available() else "torch finds no CUDA device"
    return None if ctypes.util.find_library("cuda") else "no CUDA driver is installed"


@pytest.fixture(scope="session", autouse=True)
def _no_libraries_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hide the user's plugin libraries, so that tests use only those that they build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("IDOL_PLUGINS", raising=False)
        yield


@pytest.fixture(autouse=True)
def _random_numbers_of_its_own() -> None:
    """Seed the global generators, so that no test's numbers depend on the tests before it in its process."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of arrays computed by the published code."""
    return Path(__file__).parent / "data" / "reference"


@pytest.fixture(scope="session")
def clips() -> Path:
    """Folder of demonstration clips, for tests marked `clips`."""
    return CLIPS


@pytest.fixture(scope="session")
def pseudo_ytvis() -> Path:
    """Folder of pseudo-labelled frames, for tests marked `pseudo_ytvis`."""
    return PSEUDO_YTVIS


@pytest.fixture(scope="session")
def relative_error() -> Callable[[npt.ArrayLike, npt.ArrayLike], float]:
    """Function that returns ‖a − b‖ / ‖b‖ of two arrays of the same shape, in float64."""

    def error(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        return float(np.linalg.norm(a - b) / np.linalg.norm(b))

    return error


@pytest.fixture(scope="session")
def smooth() -> Callable[..., npt.NDArray[np.bool_]]:
    """Function that marks the queries of a deformable attention whose gradients depend little on rounding.

    Bilinear sampling has a kink at every cell's centre, so rounding decides the slope of a location near it.
    """

    def smooth(
        shapes: tuple[tuple[int, int], ...],
        merged: npt.ArrayLike,  # [N, Q, M * L * P * 3]
        reference: npt.ArrayLike,  # [N or 1, Q, L, 2 or 4]
        heads: int,
        margin: float = 1e-4,  # cells
    ) -> npt.NDArray[np.bool_]:  # [N, Q]
        merged, reference = np.asarray(merged, np.float64), np.asarray(reference, np.float64)
        N, Q, width = merged.shape
        points = width // (3 * heads * len(shapes))
        offsets = merged[..., : 2 * width // 3].reshape(N, Q, heads, len(shapes), points, 2)
        sides = np.array([[w, h] for h, w in shapes], np.float64)[:, None]
        reference = reference[:, :, None, :, None]
        step = reference[..., 2:] * sides * 0.5 / points if reference.shape[-1] == 4 else 1.0
        at = reference[..., :2] * sides - 0.5 + offsets * step
        clear: npt.NDArray[np.bool_] = (np.abs(at - np.rint(at)) > margin).all((2, 3, 4, 5))
        return clear

    return smooth


@dataclass(frozen=True)
class Toy:
    """A small exported network.

    Attributes:
        config: configuration; not a preset.
        model: PyTorch network; read only.
        size: (H, W) of its frames, which the network pads.
        path: path of the bundle.
        exported: return value of the export.
        probe: ONNX graph with intermediate stages as outputs.
        graph: ONNX graph as shipped.
    """

    config: IdolConfig
    model: Idol
    size: tuple[int, int]
    path: Path
    exported: Exported
    probe: bytes
    graph: bytes

    def video(self, frames: int, seed: int = 1, size: tuple[int, int] | None = None) -> npt.NDArray[np.uint8]:
        """Return a video with moving objects, [T, H, W, 3]."""
        from idol_deploy.weights.reference import make_video

        video = make_video(frames, *(size or self.size), seed)
        return np.ascontiguousarray(video.transpose(0, 2, 3, 1))


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """Swin with shifted windows, one encoder and one decoder layer, reference weights; tracks four objects."""
    from idol_deploy.config import ModelConfig, SwinConfig, preset
    from idol_deploy.weights.reference import reference_model
    from idol_export import export as module

    backbone = SwinConfig(embed_dim=16, depths=(1, 2, 1, 1), heads=(1, 2, 4, 8), window=4)
    network = ModelConfig(backbone, hidden_dim=64, queries=40, ffn_dim=64, encoder_layers=1, decoder_layers=1)
    base = preset("ytvis19_r50")
    preprocessing = replace(base.preprocessing, short_side=None)
    config = replace(base, name="toy", model=network, preprocessing=preprocessing)
    model, path, size = reference_model(config), tmp_path_factory.mktemp("toy") / "toy.idol", (72, 104)
    probes: list[bytes] = []
    trace = module.probe_to_onnx

    def record(*arguments: object, **options: object) -> bytes:
        probes.append(trace(*arguments, **options))
        return probes[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "probe_to_onnx", record)
        options = module.ExportOptions(size, portable=True, verify_frames=3, note="untrained weights")
        exported = module.export(model, config, path, options)
    return Toy(config, model, size, path, exported, probes[0], module.shipped(probes[0]))


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of plugin libraries built with warnings as errors; skips the test without a compiler.

    The headers of ONNX Runtime are the system's or those in `$ORT_INCLUDE_DIR`, those of TensorRT in
    `$TENSORRT_INCLUDE_DIR`, those of OpenVINO are part of its package. Without headers, the library is not built.
    """
    from idol_plugins.build import build, compiler
    from idol_plugins.errors import PluginError

    ort, tensorrt = os.environ.get("ORT_INCLUDE_DIR"), os.environ.get("TENSORRT_INCLUDE_DIR")
    try:
        compiler()
    except PluginError as error:
        pytest.skip(f"the kernel cannot be compiled: {error}")
    if not shutil.which("cmake"):
        pytest.skip("the kernel cannot be compiled: cmake is missing")
    sanitize = os.environ.get("IDOL_SANITIZE", "")

    def make(folder: Path) -> None:
        build(
            folder,
            ort_include=Path(ort) if ort else None,
            tensorrt_include=Path(tensorrt) if tensorrt else None,
            tensorrt_host=True,
            strict=True,
            sanitize=sanitize,
        )

    return _create_once(tmp_path_factory, "libraries", make)


def _create_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Create a folder in the first of several test processes; the others wait for it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = factory.mktemp(name)
        make(folder)
        return folder
    from filelock import FileLock

    folder = factory.getbasetemp().parent / name
    marker = folder.with_suffix(".made")
    with FileLock(folder.with_suffix(".lock")):
        if not marker.is_file():
            make(folder)
            marker.touch()
    return folder


@pytest.fixture(scope="session")
def ort_operator(libraries: Path) -> Path:
    """Library of the operator for ONNX Runtime."""
    from idol_plugins.errors import PluginError
    from idol_plugins.ort import ort_library

    try:
        return ort_library(libraries)
    except PluginError:
        pytest.skip(f"ONNX Runtime's headers are missing; set ORT_INCLUDE_DIR{_tried('onnxruntime')}")


@pytest.fixture(scope="session")
def trt_harness(libraries: Path) -> Path:
    """Harness that calls a plugin library like TensorRT; the plugin's CPU build is in the same folder."""
    harness = libraries / "libidol_trt_harness.so"
    if not harness.is_file():
        pytest.skip(f"TensorRT's headers are missing; set TENSORRT_INCLUDE_DIR{_tried('tensorrt')}")
    return harness


@pytest.fixture(scope="module")  # Playwright's event loop runs in this thread until then
def chromium() -> Iterator[Browser]:
    """A headless Chromium, for tests marked `browser`."""
    from playwright.sync_api import sync_playwright

    quiet = "background-networking component-update default-apps gpu quic sync"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet.split())],
        )
        yield browser
        browser.close()


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user id that the system does not know, as in a container started with a number, without a home folder."""
    import pwd

    def unknown(user: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {user}")

    for name in ("HOME", "XDG_CACHE_HOME", "IDOL_PLUGINS", "IDOL_ENGINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


_FAKES = Path(__file__).parent / "fakes"
_FAKED = ("tensorrt", "cuda", "cuda.bindings", "cuda.bindings.driver", "libcuda", "pycuda", "pycuda.driver")


@pytest.fixture
def fake_tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., ModuleType]]:
    """Function that loads the fake TensorRT of a release, with a new device and an empty folder for engines.

    After the test, all memory and streams of the device must have been released, and no context be current.
    """
    from idol_runtime.backends import tensorrt_api

    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "libidol_deform_attn_trt.so").write_bytes(b"the plugin")
    monkeypatch.setenv("IDOL_ENGINES", str(tmp_path / "engines"))
    monkeypatch.setenv("IDOL_PLUGINS", str(folder))
    monkeypatch.syspath_prepend(str(_FAKES))
    devices = []

    def start(release: str = "10.16") -> ModuleType:
        monkeypatch.setenv("FAKE_TENSORRT", release)
        for name in _FAKED:
            sys.modules.pop(name, None)  # monkeypatch would restore the fake of an earlier call
        for cached in (tensorrt_api.tensorrt_log, tensorrt_api.load_plugin):
            cached.cache_clear()
        module = importlib.import_module("tensorrt")
        devices.append(module.driver.device)
        return module

    yield start
    for name in _FAKED:
        sys.modules.pop(name, None)
    for cached in (tensorrt_api.tensorrt_log, tensorrt_api.load_plugin):
        cached.cache_clear()
    for device in devices:
        assert not any(device.alive()), f"not released on the device: {device.alive()}"
        assert not device.stack, f"current contexts: {device.stack}"


def _tried(kind: str) -> str:
    """Return the reason why `scripts/test` could not download the headers, or an empty string."""
    reason = Path(__file__).parents[1] / "build" / "headers" / f"{kind}.why"
    return f" ({reason.read_text().strip()})" if reason.is_file() else ""
