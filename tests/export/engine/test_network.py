"""The options of a TensorRT build."""

import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from idol_export.engine.network import Plan, build_plan, timing_cache_path
from idol_runtime.backends.cuda_device import CudaDevice
from idol_runtime.backends.engine_choice import required_key
from idol_runtime.bundle.bundle import Bundle

pytest.importorskip("onnxruntime", reason="the fake of TensorRT runs networks on it")

Start = Callable[..., ModuleType]


def plan_of(path: Path, cache: Path, lines: list[str] | None = None, **options: Any) -> Plan:
    with Bundle.open(path) as bundle:
        device = CudaDevice()
        try:
            key = required_key(bundle, "portable", device)
            graph = bundle.graph("portable")
            announce = [].append if lines is None else lines.append
            with device.active():
                return build_plan(graph, bundle.manifest, key, cache, announce=announce, **options)
        finally:
            device.close()


def test_types_are_the_graphs_and_memory_is_limited(
    fake_tensorrt: Start, engine_bundle: Path, tmp_path: Path
) -> None:
    trt = fake_tensorrt()
    header, _ = trt._Plan.unpack(plan_of(engine_bundle, tmp_path / "cache", workspace=2**28).data)
    assert header["wrong"] is None  # TF32, which is on by default, was turned off
    assert header["pools"] == {"WORKSPACE": 2**28}
    assert header["detailed"]


def test_a_timing_cache_is_kept_and_a_broken_one_begun_anew(
    fake_tensorrt: Start, engine_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = fake_tensorrt()
    cache = tmp_path / "cache"
    given: list[bytes] = []
    create = trt._does["IBuilderConfig.create_timing_cache"]
    monkeypatch.setitem(
        trt._does,
        "IBuilderConfig.create_timing_cache",
        lambda self, data: given.append(data) or create(self, data),
    )
    plan_of(engine_bundle, cache)
    assert cache.read_bytes() == b"timing"
    plan_of(engine_bundle, cache)
    cache.write_bytes(b"broken")
    plan_of(engine_bundle, cache)
    assert given == [b"", b"timing", b"broken", b""]
    assert cache.read_bytes() == b"timing"


def test_a_timing_cache_that_cannot_be_read_or_written_is_done_without(
    fake_tensorrt: Start, engine_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = fake_tensorrt()
    cache = tmp_path / "cache"
    assert plan_of(engine_bundle, cache).reason == ""
    read = Path.read_bytes

    def unreadable(path: Path) -> bytes:
        if path == cache:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", unreadable)
        plan = plan_of(engine_bundle, cache)
    assert trt._Plan.unpack(plan.data)
    plan = plan_of(engine_bundle, tmp_path / "nowhere" / "cache")
    assert trt._Plan.unpack(plan.data)
    assert plan.reason.startswith("the timing cache is not stored, so the next build is not faster: ")


def test_a_timing_cache_for_each_device_and_release(
    fake_tensorrt: Start, engine_bundle: Path, tmp_path: Path
) -> None:
    paths = set()
    for release in ("10.3", "11.5"):
        fake_tensorrt(release)
        device = CudaDevice()
        with Bundle.open(engine_bundle) as bundle:
            paths.add(timing_cache_path(required_key(bundle, "portable", device), tmp_path).name)
        device.close()
    assert paths == {"timing-10.3.0-fake-orin.cache", "timing-11.5.0-fake-orin.cache"}


@pytest.mark.parametrize("fault", [BrokenPipeError(32, "Broken pipe"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_of_announce_ends_the_build_and_not_the_process(
    fake_tensorrt: Start, engine_bundle: Path, tmp_path: Path, fault: BaseException
) -> None:
    """TensorRT's callbacks must not throw, for example when stdout is closed."""
    trt = fake_tensorrt()

    class Lines(list):  # type: ignore[type-arg]
        def append(self, line: str) -> None:
            raise fault

    with pytest.raises(type(fault)) as caught:
        plan_of(engine_bundle, tmp_path / "cache", Lines())
    assert caught.value is fault
    assert not trt.terminated
    assert not (tmp_path / "cache").exists()


def test_ctrl_c_cancels_the_build(fake_tensorrt: Start, engine_bundle: Path, tmp_path: Path) -> None:
    fake_tensorrt()
    before = signal.getsignal(signal.SIGINT)

    class Lines(list):  # type: ignore[type-arg]
        def append(self, line: str) -> None:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        plan_of(engine_bundle, tmp_path / "cache", Lines())
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "cache").exists()
