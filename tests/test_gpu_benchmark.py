"""Tests of the GPU benchmark's script, its packed wheels, and its sections for frames, training and the build."""

import importlib
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Function that imports a module of the GPU benchmark by name."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"benchmarks.gpu.{name}")


@needs_torch
def test_tolerances_of_the_gpu_check(load: Any) -> None:
    import torch

    gpu = load("frames")
    expected = tuple(torch.randn(3, 4, generator=torch.Generator().manual_seed(i)) for i in range(6))

    def passes(scale: float, output: int, exact: bool) -> bool:
        changed = tuple(a * scale if i == output else a for i, a in enumerate(expected))
        return bool(gpu.within_tolerance(gpu.compare(changed, expected), exact))

    assert all(passes(1 + 5e-4, i, exact=True) for i in range(6))
    assert not any(passes(1 + 2e-3, i, exact=True) for i in range(6))
    assert not any(passes(float("nan"), i, exact=True) for i in range(6))
    assert [passes(1.2, i, exact=False) for i in range(6)] == [False, True, False, True, True, True]
    assert not passes(float("nan"), 0, exact=False)


@needs_torch
def test_gpu_sections_keep_their_promised_time(load: Any) -> None:
    run = load("run")
    first, last = (
        sum(section.limit for section in run.SECTIONS.values() if section.part in parts)
        for parts in (("", "a", "b", "c", "d"), ("e", "f"))
    )
    assert first <= 360
    assert last <= 180
    assert first + last <= 600 - 30, "a command on the device machine has 600 s, its start included"
    before = list(itertools.takewhile(lambda section: not section.timed, run.SECTIONS.values()))
    assert sum(section.limit for section in before) >= run.BACKGROUND_LIMIT


@needs_torch
def test_parts_of_the_gpu_benchmark(load: Any) -> None:
    chosen = load("run").chosen
    assert chosen("d,b") == ["build", "plugin", "kernels"]
    assert chosen("kernels,frames") == ["frames", "kernels"]
    assert chosen("a,frames") == ["build", "checks", "tests", "backward", "frames"]
    assert len(chosen(None)) == 10
    with pytest.raises(ValueError, match="unknown section: g; choose from a, b, c, d, e, f, build, checks"):
        chosen("g")


@needs_torch
def test_frames_without_time_are_listed(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = load("frames")
    jobs = {job.variant: job for job in reversed(gpu.jobs(True))}
    assert next(iter(gpu.jobs(False))).variant == gpu.BASE
    monkeypatch.setattr(gpu, "jobs", lambda quick: [jobs["compile fp32"], jobs["eager fp32"]])
    monkeypatch.setattr(gpu, "operator_problem", lambda device: None)
    report: dict[str, Any] = {}
    monkeypatch.setattr(gpu, "COMPILE_S", 1e6)
    options = load("common").Options("cpu", True, 2, time.monotonic() + 1e5)
    gpu.run(options, report, lambda: None)
    assert report["cut"] == ["edge_synth 60x96 batch 1, compile fp32"]
    (case,) = report["cases"]
    assert list(case["variants"]) == ["eager fp32"]
    assert case["padded"] == [64, 96]
    assert report["passed"], report


@needs_torch
def test_cost_of_a_network_matches_its_graph(load: Any) -> None:
    from idol_runtime.bench.roofline import count_cost
    from idol_runtime.bundle.bundle import Bundle

    pytest.importorskip("onnx")
    gpu, options = load("network"), load("common").Options("cpu", False, 2)
    model = gpu.model_of("edge_synth", options)
    costs = []
    for batch in (1, 2):
        case = gpu.Case("edge_synth", (240, 384), batch)
        costs.append(gpu.count_cost(gpu.Network(model, case.size), gpu.frames_of(model, case)))
    with Bundle.open(ROOT / "models" / "edge_synth" / "edge_synth.idol") as bundle:
        graph = count_cost(bundle.graph("tensorrt"))
    assert costs[0].flops == pytest.approx(graph.flops, rel=0.01)
    assert costs[0].bytes == pytest.approx(graph.bytes, rel=0.01)
    assert costs[1].flops == pytest.approx(2 * graph.flops, rel=0.01)
    assert graph.bytes < costs[1].bytes < 2 * graph.bytes, "weights count once"


@needs_torch
def test_16_bit_networks_keep_mobilenet_in_fp32(load: Any) -> None:
    import torch

    gpu, options = load("network"), load("common").Options("cpu", True, 2)
    case = gpu.Case("edge_synth", (60, 96))
    model, kind = gpu.model_of(case.preset, options), gpu.KINDS["bf16"]
    network = gpu.prepared(model, case, kind, options)
    assert {p.dtype for p in network.model.backbone.parameters()} == {torch.float32}
    assert network.model.neck.projections[0][0].weight.dtype == torch.bfloat16
    assert next(model.neck.parameters()).dtype == torch.float32, "the original is unchanged"
    types = []
    network.model.backbone.register_forward_hook(lambda module, inputs, out: types.append(out[-1].dtype))
    images = gpu.frames_of(model, case)
    with torch.inference_mode():
        outputs, exact = network(images), gpu.Network(model, case.size)(images)
    assert types == [torch.float32]
    errors = load("frames").compare(outputs, exact)["relative_error"]
    assert 1e-4 < max(errors.values()) < 0.1


@needs_torch
def test_attention_for_cuda_graphs_copies_nothing_from_the_host(
    load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from idol_deploy.model.deform_attn import deformable_attention

    call = load("attention").network_call((64, 96), False, (torch.float32,) * 2, 0, "cpu")
    arguments = (call.value, call.shapes, call.merged, call.reference)
    core, expected = load("network").recordable_core(call.shapes, "cpu"), deformable_attention(*arguments)
    monkeypatch.setattr(torch.Tensor, "new_tensor", None)
    monkeypatch.setattr(torch, "tensor", None)
    assert torch.equal(core(*arguments), expected)


@needs_torch
def test_random_pairs_of_the_training_benchmark(load: Any) -> None:
    import torch

    pair = load("training").random_pair((60, 90), 25, torch.Generator().manual_seed(3))
    assert pair.key.shape == pair.reference.shape == (3, 60, 90)
    for boxes, masks in ((pair.key_boxes, pair.masks), (pair.reference_boxes, pair.reference_masks)):
        assert masks.sum(0).max() == 1, "an instance hides those behind it"
        for (left, top, right, bottom), mask in zip(boxes.int().tolist(), masks, strict=True):
            assert 0 <= left < right <= 90
            assert 0 <= top < bottom <= 60
            outside = mask.clone()
            outside[top:bottom, left:right] = False
            assert not outside.any()


@needs_torch
def test_other_losses_than_the_cpus_fail_the_training_benchmark(
    load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from idol_deploy.settings import TrainSettings

    gpu, options = load("training"), load("common").Options("cpu", True, 2)
    totals = iter([10.0, 9.0, 8.0, 10.0, 9.0, 8.3])
    stepper = SimpleNamespace(step=lambda source, i: SimpleNamespace(total=next(totals)))
    monkeypatch.setattr(gpu, "make_stepper", lambda *args, **kwargs: stepper)
    settings = TrainSettings(load("network").network_config(options))
    result = gpu.check_losses(settings, "never", options)
    assert result["relative_error"] == [0, 0, pytest.approx(0.0375)]
    assert not result["passed"]


@needs_torch
def test_build_without_usable_engine_headers_goes_on(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from idol_plugins.errors import PluginError

    gpu, calls = load("build"), []

    def build(into: Path, **options: Any) -> list[Path]:
        calls.append(options)
        if options.get("tensorrt_include"):
            raise PluginError("NvInfer.h:1: error")
        return [into / "libidol_deform_attn_cpu.so"]

    monkeypatch.setattr(gpu, "build", build)
    monkeypatch.setattr(gpu, "find_headers", lambda headers: tmp_path)
    monkeypatch.setenv("IDOL_PLUGINS", str(tmp_path / "lib"))
    report: dict[str, Any] = {}
    gpu.run(load("common").Options("cpu", True, 2), report, lambda: None)
    assert report == {
        "passed": False,
        "error": "NvInfer.h:1: error",
        "libraries": ["libidol_deform_attn_cpu.so"],
    }
    assert [call.get("ort_include") for call in calls] == [tmp_path, None]
    assert {call["cuda_architectures"] for call in calls} == {None}


def wheel(folder: Path, name: str) -> Path:
    """Write a wheel of one module of 3,000 random bytes."""
    path, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    text = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    noise = np.random.default_rng(0).bytes(3000).hex()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"noise = {noise!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", text)
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def packed(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a packed wheel in several parts."""
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheel(tmp_path, "lonely").parent)}.items():
        monkeypatch.setenv(name, value)
    gpu = load("pack")
    monkeypatch.setattr(gpu, "PART_BYTES", 1000)
    folder = tmp_path / "packed"
    assert gpu.main(["lonely", "--packed", str(folder)]) == 0
    return folder


def test_packed_wheels_are_joined_and_installed(load: Any, packed: Path, tmp_path: Path) -> None:
    parts = sorted(packed.glob("*.whl.*"))
    assert len(parts) > 5
    assert max(part.stat().st_size for part in parts) == 1000
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=packed, check=False).returncode == 0
    target = tmp_path / "site"
    assert load("pack").main(["--packed", str(packed), "--install", str(target)]) == 0
    command = [sys.executable, "-c", "import lonely; print(len(lonely.noise))"]
    env = {**os.environ, "PYTHONPATH": str(target)}
    assert subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout == "6000\n"


@pytest.mark.parametrize("fault", ["damaged", "missing", "unlisted", "unknown"])
def test_packing_faults_are_named(load: Any, packed: Path, tmp_path: Path, fault: str, capsys: Any) -> None:
    gpu, second = load("pack"), sorted(packed.glob("*.whl.*"))[1]
    arguments, message = (
        ["--packed", str(packed), "--install", str(tmp_path / "site")],
        f"missing: {second.name}",
    )
    if fault == "damaged":
        second.write_bytes(b"x" + second.read_bytes()[1:])
        message = f"has another SHA-256 than listed: {second.name}; copy "
    elif fault == "missing":
        second.unlink()
    elif fault == "unlisted":
        (packed / "SHA256SUMS").unlink()
        message = "holds no packed wheels: No such file or directory; pack them again"
    else:
        arguments, message = ["no-such-package", "--packed", str(packed)], "pip failed: "
    assert gpu.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "site").exists()


@needs_torch
@pytest.mark.slow
def test_gpu_dry_run(libraries: Path, packed: Path, tmp_path: Path) -> None:
    sections = "checks,tests,plugin,backward,frames,identities,kernels,training,ort"
    command = ["bash", str(BENCHMARKS / "gpu" / "run.sh"), "--device", "cpu", "--quick", "--only", sections]
    env = {
        "IDOL_PLUGINS": str(libraries),
        "PACKED": str(packed),
        "OUT": str(tmp_path),
        "PYTHON": sys.executable,
    }
    done = subprocess.run(
        command, env={**os.environ, **env}, capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "installed lonely-1.0-py3-none-any.whl" in done.stderr
    result = json.loads(done.stdout)
    assert json.loads((tmp_path / "gpu.json").read_text()) == result
    assert result["passed"]
    assert {*sections.split(","), "compiled"} == result["sections"].keys()
    assert "limit" not in result["skipped"]
    found = result["sections"]
    assert found["backward"]["network"]["gain"] >= 0
    assert found["frames"]["cut"] == []
    first, second = found["frames"]["cases"]
    kinds = {f"{mode} {kind}" for mode in ("eager", "operator") for kind in ("fp32", "tf32", "fp16", "bf16")}
    assert set(first["variants"]) == kinds | {"compile fp32", "compile operator fp32"}
    assert set(second["variants"]) < kinds
    assert second["batch"] == 2
    for case in (first, second):
        for variant in case["variants"].values():
            assert variant["ms"]["p99"] >= variant["ms"]["median"] > 0
            assert variant["over_floor"] > 0
            assert len(variant["relative_error"]) == 6
    assert found["identities"]["precisions"]["fp16"]["id_agreement"] >= 0.99
    assert len(found["training"]["runs"]) == 4
    assert max(found["training"]["first_losses"]["relative_error"]) < 1e-4
    assert {"plugin", "portable"} <= found["ort"]["graphs"].keys()
    assert str(ROOT) not in done.stdout


@needs_torch
@pytest.mark.gpu
def test_cuda_outputs_match_the_cpu(load: Any) -> None:
    import torch

    gpu, frames, options = (
        load("network"),
        load("frames"),
        load("common").Options("cuda", False, 2),
    )
    case = gpu.Case("ytvis19_r50", (180, 320))
    with torch.inference_mode(), gpu.KINDS["fp32"].active():
        model = gpu.model_of(case.preset, options)
        images = gpu.frames_of(model, case)
        expected = gpu.Network(model, case.size)(images)
        result = gpu.prepared(model, case, gpu.KINDS["fp32"], options)(images.cuda())
    report = frames.compare(result, expected)
    assert frames.within_tolerance(report, exact=True), report
