"""Building, verifying and storing engines, on a fake of TensorRT with its names and signatures."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from idol_export.engine.build import BuildOptions, build, count_layers
from idol_runtime.backends import OpenOptions, open_backend
from idol_runtime.bundle.bundle import CERTIFICATES, GRAPHS, OUTPUT_NAMES, Bundle
from idol_runtime.bundle.certificates import (
    Certificates,
    GraphInfo,
    IdAgreement,
    PrecisionCertificate,
    StageError,
)
from idol_runtime.bundle.engine_file import engine_folder, read_info, read_plan, write_engine
from idol_runtime.errors import BackendError, ConfigError, IdolError, OutputError, ParityError
from idol_runtime.pipeline import Pipeline

pytest.importorskip("onnxruntime", reason="the fake of TensorRT runs networks on it")

Start = Callable[..., ModuleType]


def engines() -> list[Path]:
    return sorted(engine_folder().glob("*.engine"))


def make(path: Path, lines: list[str] | None = None, **options: Any) -> Any:
    with Bundle.open(path) as bundle:
        return build(bundle, BuildOptions(**options), [].append if lines is None else lines.append)


@pytest.mark.parametrize("release", ["10.3", "10.16", "11.5", "bare"])
def test_an_engine_is_built_verified_stored_and_run(
    fake_tensorrt: Start, engine_bundle: Path, kit: Any, release: str
) -> None:
    trt = fake_tensorrt(release)
    built = make(engine_bundle)
    assert engines() == [built.path]
    key = built.info.key
    assert (key.graph, key.precision, key.batch) == ("plugin", "fp32", (1, 1, 1))
    assert (key.tensorrt, key.gpu, key.capability) == (trt.__version__, "Fake Orin", "8.7")
    assert key.driver.startswith("12.6")
    assert all(stage.error == 0 for stage in built.info.golden)
    assert len(built.info.golden) == 6
    assert built.warnings == ("a warning of no importance",)

    frame = np.random.default_rng(1).integers(0, 256, (*kit.size, 3), dtype=np.uint8)
    with Pipeline.open(engine_bundle, backend="tensorrt") as pipeline:
        assert pipeline.backend.name == f"tensorrt {trt.__version__} (Fake Orin, plugin graph, fp32)"
        assert pipeline.backend.reason == ""
        (output,) = pipeline.backend.infer(frame[None])
    with Bundle.open(engine_bundle) as bundle:
        (expected,) = open_backend(bundle, OpenOptions("onnxruntime", graph="portable")).infer(frame[None])
    np.testing.assert_array_equal(output.logits, expected.logits)


def test_a_good_engine_is_kept_and_force_replaces_it(fake_tensorrt: Start, engine_bundle: Path) -> None:
    fake_tensorrt()
    first = make(engine_bundle)
    before = first.path.stat().st_mtime_ns
    lines: list[str] = []
    assert "fits, and its outputs match the golden frame" in make(engine_bundle, lines).reason
    assert first.path.stat().st_mtime_ns == before
    assert not any("TensorRT:" in line for line in lines)
    make(engine_bundle, force=True)
    assert first.path.stat().st_mtime_ns > before


def test_a_reduced_precision_graph_has_its_own_tolerances(
    fake_tensorrt: Start, kit: Any, engine_bundle: Path, tmp_path: Path
) -> None:
    """A graph without verification, and one with another quantization target, are refused."""
    trt = fake_tensorrt()
    with Bundle.open(engine_bundle) as bundle:
        members = {name: bundle.member(name) for name in bundle.manifest.members}
        manifest, parity = bundle.manifest, bundle.certificates
    wide, stages = dict.fromkeys(OUTPUT_NAMES, 0.1), (StageError("logits", 0.0, 1.0),)
    infos, certificates = {}, {}
    for name, engine, idf1 in (
        ("fp16", "tensorrt", 1.0),
        ("bf16", "tensorrt", 0.5),
        ("int8-ort", "onnxruntime", 1.0),
    ):
        agreement = IdAgreement(idf1, 600, 20, 0.99, 500, "made up")
        infos[name] = GraphInfo(name.partition("-")[0], (engine,), False)
        emulated = name != "int8-ort"
        certificates[name] = (
            PrecisionCertificate(stages, 20, "onnxruntime", ("other",), agreement, wide, emulated),
        )
        members[GRAPHS[name]] = kit.tiny_graph
    members[CERTIFICATES] = msgspec.json.encode(Certificates(parity.portable, parity.plugin, certificates))
    path = kit.write(
        tmp_path / "precisions.idol", msgspec.structs.replace(manifest, precisions=infos), members
    )
    for graph, why in (
        ("bf16", "is not verified"),
        ("int8-ort", "TensorRT does not run the int8-ort graph, which is made for ONNX Runtime"),
    ):
        with pytest.raises(BackendError, match=why):
            make(path, graph=graph)
    trt.wrong = ("boxes", 1.05)
    with pytest.raises(ParityError):
        make(path)
    built = make(path, graph="fp16")
    key = built.info.key
    assert (key.graph, key.precision, key.plugin_sha256) == ("fp16", "fp16", "")
    assert [stage.tolerance for stage in built.info.golden] == 6 * [0.1]
    with Pipeline.open(path, backend="tensorrt", graph="fp16") as pipeline:
        assert pipeline.backend.name.endswith("(Fake Orin, fp16 graph, fp16)")


def test_of_two_engines_the_faster_is_taken(fake_tensorrt: Start, engine_bundle: Path) -> None:
    fake_tensorrt()
    from msgspec.structs import replace

    for graph, latency in (("plugin", 2.0), ("portable", 1.0)):
        path = make(engine_bundle, graph=graph).path
        info = replace(read_info(path), latency_ms=(latency, latency))
        write_engine(path, info, read_plan(path, info), "{}")
    with Bundle.open(engine_bundle) as bundle:
        for asked, taken in (("auto", "portable"), ("plugin", "plugin")):
            backend = open_backend(bundle, OpenOptions(graph=asked))
            assert backend.graph == taken
            backend.close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("release", "it was built with TensorRT 10.16.1.11, this is 10.3.0"),
        ("driver", "it was built with driver 12.6"),
        ("gpu", "it was built on Fake Orin, this is Fake Thor"),
        ("plugin", "it was built with another build of the plugin"),
        ("corrupt info", "is corrupted"),
        ("corrupt plan", "is corrupted"),
        ("wrong", "boxes is off by 1.0e-02"),
    ],
)
def test_an_engine_that_does_not_fit_is_explained_and_built_again(
    fake_tensorrt: Start, engine_bundle: Path, tmp_path: Path, change: str, reason: str
) -> None:
    trt = fake_tensorrt()
    path = make(engine_bundle).path
    if change.startswith("corrupt"):
        data = path.read_bytes()
        place = 999 if change == "corrupt info" else data.index(b"DeformAttn")
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    if change == "wrong":
        inject(trt, engine_bundle, path)
    if change == "plugin":
        (tmp_path / "plugins" / "libidol_deform_attn_trt.so").write_bytes(b"another build")
    trt = fake_tensorrt("10.3" if change == "release" else "10.16")
    if change == "driver":
        trt.driver.device.version = 12080
    if change == "gpu":
        trt.driver.device.name = "Fake Thor"

    with Bundle.open(engine_bundle) as bundle:  # as `run` does
        if change == "wrong":
            with pytest.raises(BackendError, match=r"tensorrt .*boxes differs from PyTorch by 1\.0e-02"):
                Pipeline.open(engine_bundle, backend="tensorrt")
        else:
            fallback = open_backend(bundle)
            assert fallback.name.startswith("onnxruntime")
            assert reason in fallback.reason
            with pytest.raises(
                BackendError, match=f"build it again: idol-deploy build {engine_bundle}"
            ) as caught:
                open_backend(bundle, OpenOptions("tensorrt"))
            assert "\n" not in str(caught.value)
    lines: list[str] = []
    built = make(engine_bundle, lines)
    assert reason in built.reason
    assert any(line.startswith("building again, because") and reason in line for line in lines)
    with Pipeline.open(engine_bundle, backend="tensorrt") as pipeline:
        assert pipeline.backend.name.startswith("tensorrt")


def inject(trt: ModuleType, bundle: Path, path: Path) -> None:
    """Replace an engine by an intact one with wrong outputs."""
    header, graph = trt._Plan.unpack(read_plan(path, read_info(path)))
    plan = trt._Plan.pack({**header, "wrong": ["boxes", 1.01]}, graph)
    from msgspec.structs import replace

    from idol_runtime.bundle.sealed_zip import sha256

    info = replace(read_info(path), plan_sha256=sha256(plan), plan_bytes=len(plan))
    write_engine(path, info, plan, "{}")


def test_a_wrong_engine_is_not_stored(fake_tensorrt: Start, engine_bundle: Path) -> None:
    trt = fake_tensorrt()
    trt.wrong = ("mask_params", 1.5)
    for graph, fix in (("plugin", "idol_plugins.trt.conformance"), ("portable", "--graph plugin")):
        with pytest.raises(ParityError, match=f"mask_params is off by 5.0e-01 .*{fix}") as caught:
            make(engine_bundle, graph=graph)
        assert caught.value.stage == "mask_params"
    assert not engines()


def test_a_wrong_batch_is_found(
    fake_tensorrt: Start, batch_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that is correct for one frame and wrong for several."""
    trt = fake_tensorrt()
    execute = trt._execute

    def spoil(context: Any) -> None:
        context._engine._header["wrong"] = ("boxes", 1.1) if context._shape[0] > 1 else None
        execute(context)

    monkeypatch.setattr(trt, "_execute", spoil)
    with pytest.raises(ParityError, match="boxes"):
        make(batch_bundle, max_batch=3)
    make(batch_bundle)


def test_batches(fake_tensorrt: Start, batch_bundle: Path, engine_bundle: Path, kit: Any) -> None:
    fake_tensorrt()
    built = make(batch_bundle, max_batch=3)
    assert built.info.key.batch == (1, 3, 3)
    frames = np.random.default_rng(0).integers(0, 256, (5, *kit.size, 3), dtype=np.uint8)
    with Bundle.open(batch_bundle) as bundle:
        backend, other = (
            open_backend(bundle, OpenOptions("tensorrt")),
            open_backend(bundle, OpenOptions("onnxruntime", graph="portable")),
        )
        for count in (5, 5, 2, 2, 3, 1, 4):  # in batches of 3; recorded again when the number changes
            found, expected = backend.infer(frames[:count]), other.infer(frames[:count])
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a.logits, b.logits, rtol=1e-6)
        backend.close()
    with pytest.raises(ConfigError, match="export it with --dynamic-batch"):
        make(engine_bundle, max_batch=2)


def test_compatible_engines_run_where_their_options_allow(fake_tensorrt: Start, engine_bundle: Path) -> None:
    fake_tensorrt("10.3")
    make(engine_bundle, version_compat=True, hardware_compat="ampere_plus")
    trt = fake_tensorrt("10.16")
    trt.driver.device.name, trt.driver.device.capability = "Fake Thor", (11, 0)
    with Bundle.open(engine_bundle) as bundle:
        open_backend(bundle, OpenOptions("tensorrt")).close()
        trt.driver.device.capability = (7, 5)
        with pytest.raises(BackendError, match="built on Fake Orin, this is Fake Thor"):
            open_backend(bundle, OpenOptions("tensorrt"))
        fake_tensorrt("11.5")
        with pytest.raises(BackendError, match=r"built with TensorRT 10\.3\.0, this is 11\.5"):
            open_backend(bundle, OpenOptions("tensorrt"))


@pytest.mark.parametrize("first", ["ampere_plus", "same_compute_capability"])
def test_each_level_of_compatibility_is_an_engine_of_its_own(
    fake_tensorrt: Start, engine_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """All of them run on the device that built them."""
    fake_tensorrt()
    levels = [first, *{"ampere_plus", "same_compute_capability"} - {first}, "none"]
    for level in levels:
        built = make(engine_bundle, hardware_compat=level)
        assert built.info.key.hardware_compat == level
        assert built.reason == ""
        assert "fits" in make(engine_bundle, hardware_compat=level).reason
    stored = engines()
    assert len(stored) == 3
    for path in stored:
        monkeypatch.setenv("IDOL_ENGINES", str(tmp_path / path.stem))
        engine_folder().mkdir()
        shutil.copy(path, engine_folder())
        with Bundle.open(engine_bundle) as bundle:
            open_backend(bundle, OpenOptions("tensorrt")).close()


@pytest.mark.parametrize("option", [{"version_compat": True}, {"hardware_compat": "ampere_plus"}])
def test_an_option_that_a_release_lacks(
    fake_tensorrt: Start, engine_bundle: Path, option: dict[str, Any]
) -> None:
    fake_tensorrt("bare")
    with pytest.raises(BackendError, match=r"TensorRT 10\.99\.0 has no .*leave"):
        make(engine_bundle, **option)


def test_refusals_before_any_work(
    fake_tensorrt: Start, kit: Any, engine_bundle: Path, tmp_path: Path
) -> None:
    fake_tensorrt()
    portable = kit.write(tmp_path / "portable.idol", members=kit.members(graph=kit.tiny_graph))
    with pytest.raises(ConfigError, match=r"neither a plugin nor a tensorrt graph, .* export it again"):
        make(portable)
    with pytest.raises(ConfigError, match="no graph 'fast'; choose one of: portable"):
        make(portable, graph="fast")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="choose another --into"):
        make(engine_bundle, folder=tmp_path / "file" / "engines")
    for wrong in ({"hardware_compat": "all"}, {"max_batch": 0}, {"workspace": 0}):
        with pytest.raises(ConfigError):
            BuildOptions(**wrong)
    with pytest.raises(BackendError, match="there is no CUDA device 3"):
        make(engine_bundle, device="cuda:3")
    (tmp_path / "plugins" / "libidol_deform_attn_trt.so").write_bytes(b"broken")
    with pytest.raises(BackendError, match=r"TensorRT cannot load .* idol-deploy plugins build --cuda"):
        make(engine_bundle)
    (tmp_path / "plugins" / "libidol_deform_attn_trt.so").unlink()
    with pytest.raises(
        BackendError, match=r"is not built: .*; build it with: idol-deploy plugins build --cuda"
    ):
        make(engine_bundle)
    make(engine_bundle, graph="portable")  # needs no plugin


def test_the_plugin_graph_is_built_only_with_the_library(
    fake_tensorrt: Start, kit: Any, engine_bundle: Path, tmp_path: Path
) -> None:
    fake_tensorrt()
    with Bundle.open(engine_bundle) as bundle:
        members = {name: bundle.member(name) for name in bundle.manifest.members}
        parity = bundle.certificates
    members[GRAPHS["tensorrt"]] = kit.tiny_graph
    members[CERTIFICATES] = msgspec.json.encode(msgspec.structs.replace(parity, tensorrt=parity.portable))
    path = kit.write(tmp_path / "three.idol", members=members)
    lines: list[str] = []
    assert make(path, lines).info.key.graph == "plugin"
    assert "building the plugin graph: the library of our operator is built" in lines
    (tmp_path / "plugins" / "libidol_deform_attn_trt.so").unlink()
    lines.clear()
    assert make(path, lines).info.key.graph == "tensorrt"
    assert any(re.fullmatch("building the tensorrt graph: .* is not built.*", line) for line in lines)
    assert make(path, graph="fp32").info.key.graph == "tensorrt"
    with pytest.raises(BackendError, match="is not built"):
        make(path, graph="plugin")
    with Pipeline.open(path, backend="tensorrt") as pipeline:
        assert pipeline.backend.graph == "tensorrt"


def forbid_builds(trt: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def build_nothing(*_: object) -> None:
        pytest.fail("the engine was built before the folder was checked")

    monkeypatch.setitem(trt._does, "Builder.build_serialized_network", build_nothing)


def test_a_folder_that_cannot_be_written_is_reported_before_the_build(
    fake_tensorrt: Start, engine_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stored engine in the folder stays usable."""
    trt = fake_tensorrt()
    stored = make(engine_bundle, graph="portable").path
    access = os.access  # root may write anywhere
    with monkeypatch.context() as patch:
        forbid_builds(trt, patch)
        patch.setattr(os, "access", lambda path, mode: path != engine_folder() and access(path, mode))
        with pytest.raises(OutputError, match=r"cannot write .*\.engine: permission denied; choose another"):
            make(engine_bundle)
        assert "fits" in make(engine_bundle, graph="portable").reason
    assert engines() == [stored]


def test_a_full_disk_is_reported_before_the_build(
    fake_tensorrt: Start, engine_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = fake_tensorrt()
    with monkeypatch.context() as patch:
        forbid_builds(trt, patch)
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=9))
        with pytest.raises(OutputError, match=r"cannot write .*\.engine: the disk is full; .* --into"):
            make(engine_bundle)
    make(engine_bundle)


def test_an_engine_is_stored_though_its_timing_cache_cannot_be(
    fake_tensorrt: Start, engine_bundle: Path
) -> None:
    fake_tensorrt()
    engine_folder().mkdir()
    (engine_folder() / "timing-10.16.1.11-fake-orin.cache").mkdir()
    built = make(engine_bundle)
    assert engines() == [built.path]
    assert "the next build is not faster" in built.reason
    assert "fake-orin.cache is a folder" in built.reason


def test_tensorrts_errors_become_one_sentence(
    fake_tensorrt: Start, kit: Any, engine_bundle: Path, tmp_path: Path
) -> None:
    trt = fake_tensorrt()
    trt.refused = "Could not find any implementation\nfor node X"
    with pytest.raises(
        BackendError, match="cannot build the engine: Could not find any implementation for node X"
    ):
        make(engine_bundle)
    broken = kit.write(tmp_path / "broken.idol", members=kit.members(graph=b"no", plugin=b"graph"))
    with pytest.raises(BackendError, match=r"TensorRT 10\.16\.1\.11 refuses the graph: ") as caught:
        make(broken)
    assert "\n" not in str(caught.value)


def test_a_device_builds_without_torch_onnx_and_onnxruntime(
    fake_tensorrt: Start, engine_bundle: Path, tmp_path: Path
) -> None:
    with Bundle.open(engine_bundle) as bundle:
        golden_frame = bundle.golden_frame()
    np.savez(tmp_path / "answers.npz", image=[1, *golden_frame.frame.shape], **golden_frame.outputs)
    code = (
        "import os, sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'onnxscript'):\n"
        "    sys.modules[name] = None\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2] / 'fakes')!r})\n"
        f"os.environ['FAKE_TENSORRT_ANSWERS'] = {str(tmp_path / 'answers.npz')!r}\n"
        "from idol_deploy.cli import main\n"
        f"sys.exit(main(['build', {str(engine_bundle)!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "boxes" in done.stdout
    assert len(engines()) == 1


def test_errors_are_ours(fake_tensorrt: Start, engine_bundle: Path) -> None:
    trt = fake_tensorrt()
    trt.driver.device.memory_bytes = 1000
    with pytest.raises(IdolError, match=r"cuMemAlloc fails with error 2, CUDA_ERROR_OUT_OF_MEMORY"):
        make(engine_bundle)


def test_layers_are_counted_by_type() -> None:
    layers = [{"Name": str(i), "LayerType": kind} for i, kind in enumerate(("gemm", "PluginV3", "gemm"))]
    assert list(count_layers(json.dumps({"Layers": layers})).items()) == [("gemm", 2), ("PluginV3", 1)]


@pytest.mark.parametrize("layers", ["", "no JSON", "[]", "{}", "3"])
def test_layers_in_another_format_are_no_error(layers: str) -> None:
    assert count_layers(layers) == {}


def test_layers_without_details() -> None:
    assert count_layers('{"Layers": ["a", "b"]}') == {"unknown": 2}
