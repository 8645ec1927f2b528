"""Tests of the benchmarks: they run, check their limits and write their results."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Function that imports a benchmark by name."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def run(module: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(str(ROOT / folder) for folder in (".", "export", "plugins", "runtime"))
    command = [sys.executable, "-m", f"benchmarks.{module}", *args]
    environment = {**os.environ, "PYTHONPATH": paths, **env}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)


def test_association_stream_writes_its_result(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    done = run(
        "cpu.association_stream", "--frames", "120", "--counts", "5", "--repeats", "1", "--json", str(out)
    )
    # Such a short stream may pass or fail on a busy machine.
    result = json.loads(out.read_text())
    assert done.returncode == (0 if result["passed"] else 1), done.stderr
    (load,) = result["loads"]
    assert [len(load[key]) for key in ("median_us", "held_kib", "tracks")] == [4, 4, 4]
    assert load["memory_ratio_last_to_second"] < 1.5
    assert "last/second" in done.stdout
    assert str(ROOT) not in out.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@needs_torch
def test_held_out_compares_tws_with_the_best_of_the_iou_thresholds(load: Any) -> None:
    module = load("cpu.held_out")

    def scores(seed: int) -> Any:
        of_ways = {way: 0.5 - 0.05 * k + 0.01 * seed for k, way in enumerate(module.METHODS)}
        of_ways["IoU > .3"] = 0.45
        return {
            name: {way: dict.fromkeys(module.COLUMNS, value) for way, value in of_ways.items()}
            for name in module.SETS
        }

    summary = module.summarise({1: scores(1), 3: scores(3)})
    entry = summary["vanishing"]
    assert list(entry["ways"])[-1] == "IoU > .3, the best of three"
    assert len(entry["ways"]) == 4
    ahead = entry["ahead"]["IoU > .3, the best of three"]
    assert ahead["mean"]["kept"] == pytest.approx(0.07)
    assert ahead["spread"]["kept"] == pytest.approx(0.02 / 2**0.5)
    text = module.markdown(summary)
    assert "| multi-cues | 42.0 ± 1.4 |" in text
    assert "| IoU > .3, the best of three | +7.0 ± 1.4 |" in text


def test_association_stream_refuses_too_few_frames() -> None:
    done = run("cpu.association_stream", "--frames", "3")
    assert done.returncode == 2
    assert "at least 40 frames" in done.stderr


@pytest.mark.parametrize(("memory", "time", "passed"), [(1.0, 1.0, True), (1.06, 1, False), (1, 1.6, False)])
def test_limits_of_growth(load: Any, memory: float, time: float, passed: bool) -> None:
    module = load("cpu.association_stream")
    result = module.Load(1, 1, [], [], [], 1.0, time, memory)
    assert result.passed == passed


def test_the_committed_result_is_of_this_benchmark() -> None:
    result = json.loads((BENCHMARKS / "results" / "association_stream.json").read_text())
    assert result["passed"]
    assert result["frames"] >= 2000
    assert {"cpu", "python", "numpy", "date"} <= set(result["machine"])
    assert [load["detections_per_frame"] for load in result["loads"]] == [10, 50]


@needs_torch
def test_the_network_loads_where_only_torch_and_numpy_are() -> None:
    blocked = ("msgspec", "PIL", "cv2", "onnx", "onnxruntime", "pycocotools", "safetensors", "tqdm")
    sections = ", ".join(
        f"benchmarks.gpu.{path.stem}" for path in sorted((BENCHMARKS / "gpu").glob("[!_]*.py"))
    )
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked})); import {sections}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


@needs_torch
def test_gpu_check_without_a_device(load: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.run"])
    assert load("gpu.run").main() == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "needs a CUDA device" in err


@needs_torch
def test_a_failing_section_does_not_stop_the_others(tmp_path: Path) -> None:
    done = run(
        *("gpu.run", "--device", "cpu", "--quick", "--only", "plugin,backward"),
        OUT=str(tmp_path),
        IDOL_PLUGINS=str(tmp_path / "empty"),
        TENSORRT_INCLUDE_DIR="",
    )
    assert done.returncode == 1, done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert list(result["sections"]) == ["plugin", "backward"]
    assert "backward" in result["failed"]
    assert "idol-deploy plugins build" in result["sections"]["backward"]["error"]


@needs_torch
@pytest.mark.parametrize("section", ["checks", "kernels", "plugin"])
def test_gpu_section_dry_run(
    load: Any, libraries: Path, monkeypatch: pytest.MonkeyPatch, section: str
) -> None:
    monkeypatch.setenv("IDOL_PLUGINS", str(libraries))
    report: dict[str, Any] = {}
    load(f"gpu.{section}").run(load("gpu.common").Options("cpu", True, 2), report, lambda: None)
    assert report["passed"], report
    if section == "checks":
        assert [kernel["checks"] for kernel in report["kernels"].values()] == [167, 125]
        assert all(0 < kernel["worst_share_of_tolerance"] < 1 for kernel in report["kernels"].values())
    if section == "kernels":
        assert all(call["gain"]["torch"] >= 0 for call in report["calls"] if call["types"][0] == "float32")
        assert [goal["goal"] for goal in report["goals"]] == ["time of fp32 / time"] * 2


@needs_torch
def test_a_wrong_kernel_fails_the_gpu_checks(
    load: Any, libraries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDOL_PLUGINS", str(libraries))
    library = load("gpu.attention").HostLibrary()
    right = library.deformable_attention

    def wrong(value: Any, *others: Any) -> None:
        if value.dtype != "bfloat16":
            right(value, *others)

    library.deformable_attention = wrong
    libraries = {"auto": load("gpu.attention").HostLibrary(), "group": library}
    report = load("gpu.checks").check_libraries(libraries, load("gpu.common").Options("cpu", True, 2))
    assert not report["passed"]
    failed = {(check["kernel"], check["case"].split(", ")[-1]) for check in report["failed"]}
    assert failed == {("group", "bfloat16 of float32")}


@needs_torch
def test_goals_of_the_kernels(load: Any) -> None:
    calls = [
        {"call": f"{kind} at 2x2", "types": [dtype] * 2, "us": {"warp": us}, "winner": "warp", "gain": gain}
        for kind, dtype, us, gain in (
            ("encoder", "float32", 30.0, {"stock": 1.9, "gather": 0.61}),
            ("encoder", "float16", 20.0, {"stock": 2.0, "gather": 0.59}),
            ("decoder", "float32", 10.0, {"stock": 1.1, "gather": 9}),
            ("decoder", "float16", 11.0, {"stock": 0.9, "gather": 9}),
        )
    ]
    gpu, rest = load("gpu.kernels"), {"over_floor": 2, "failed": []}
    goals = gpu.goals_of(calls)
    assert [(goal["value"], goal["target"], goal["met"]) for goal in goals] == [
        *((1.9, 2, False), (0.61, 0.6, True), (2.0, 2, True), (0.59, 0.6, False), (1.5, 1, True)),
        *((1.1, 1, True), (0.9, 1, False), (0.91, 1, False)),
    ]
    assert [gpu.summary(call | rest, goals).count("MISSED") for call in calls] == [1, 1, 0, 2]


@needs_torch
def test_gpu_check_detects_a_wrong_gradient(load: Any) -> None:
    from idol_deploy.model.deform_attn import deformable_attention

    gpu, types = load("gpu.backward"), load("gpu.attention").TYPES[0]
    for decoder in (False, True):
        call = load("gpu.attention").network_call((64, 96), decoder, types, 0, "cpu")
        assert 0.5 < float(gpu.smooth(call).float().mean()) < 1
        assert max(gpu.call_errors(deformable_attention, call).values()) <= 1e-5
        # The same output, and another gradient of merged.
        errors = gpu.call_errors(
            lambda value, shapes, merged, reference: deformable_attention(
                value, shapes, 1.001 * merged - 0.001 * merged.detach(), reference
            ),
            call,
        )
        assert errors["merged"] == pytest.approx(1e-3, rel=0.01)
        assert max(errors[name] for name in ("out", "value", "reference")) <= 1e-5


def test_gpu_table_of_the_readme_matches_the_result() -> None:
    result = json.loads((BENCHMARKS / "results" / "gpu_h100.json").read_text())
    assert set(result["failed"]) == {"candidates"}
    assert result["sections"]["checks"]["checks"] == 167
    text = (BENCHMARKS / "README.md").read_text()
    for call in result["sections"]["kernels"]["calls"]:
        gain = call.get("gain")
        if gain:
            kernel = call["libraries"]["kernel"]
            row = [kernel["us"]["median"], kernel["warm_us"]["median"]]
            cells = [f"{us:.1f}" for us in row] + [
                f"{kernel['over_floor']:.1f}",
                f"{kernel['gathered_tb_s']:.1f}",
            ]
            cells += [f"{gain[name]:.1f}" if gain[name] >= 2 else f"{gain[name]:.2f}" for name in gain]
            kind = f"{call['call']}, {call['types'][0].replace('float', 'fp')}"
            assert f"| {kind} | {' | '.join(cells)} |" in text


@needs_torch
def test_error_of_a_frame_is_that_of_its_worst_output(load: Any) -> None:
    module = load("cpu.frame")
    right = {name: np.array([[2.0, -4.0]], np.float32) for name in module.OUTPUT_NAMES}
    wrong = {**right, "boxes": np.array([[2.0, -3.0]], np.float32)}
    result = module.measure({"eager": lambda: right, "other": lambda: wrong}, rounds=2)
    assert {name: row["error"] for name, row in result.items()} == {"eager": 0, "other": 0.25}
    assert result["eager"]["times_as_fast_as_eager"] == 1


@needs_torch
def test_goals_of_a_frame_are_those_of_the_processor(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("cpu.frame")
    times = {"eager": 1000.0, "openvino-grid": 500.0, "operator": 250.0, "openvino-int8": 100.0}
    networks = {module.NETWORKS[0]: {"rows": {name: {"median_ms": ms} for name, ms in times.items()}}}
    for features, limits in (
        (("amx_int8", "avx512", "vnni"), [11, 3.8, 5]),
        (("avx2", "vnni"), [4.5, 3.2, 2]),
    ):
        monkeypatch.setattr(module, "processor_features", lambda features=features: features)
        compared = module.goals(networks)
        assert [goal["goal"] for goal in compared] == limits
        assert [goal["fast"] for goal in compared] == ["openvino-int8", "operator", "openvino-int8"]
        assert [goal["speed_up"] for goal in compared] == [10, 4, 5]


@needs_torch
def test_table_of_frames_has_a_row_for_each_engine(load: Any) -> None:
    module = load("cpu.frame")
    row = {"median_ms": 20.0, "least_ms": 18.0, "error": 0.0}
    row |= {"times_as_fast_as_eager": 2.0, "best_times_as_fast_as_eager": 2.1}
    report = {
        "machine": {"cpu": "a processor", "date": "a day"},
        "processor": ["avx2"],
        "threads": 2,
        "rounds": 3,
        "goals": [],
        "products_gflops": {"fp32": 100.0},
        "networks": {
            "net:8x8": {"rows": {"operator": row}, "floor_ms": {"fp32": 5.0}},
            "other:9x9": {"rows": {}, "floor_ms": {"fp32": 6.0}},
        },
    }
    lines = module.table(report).splitlines()
    assert lines[0] == "| | `net`, 8x8, ms | times eager | error | `other`, 9x9, ms | times eager | error |"
    assert "| ONNX Runtime, operator | 20.0 (18.0) | 2.00 (2.10) | 0e+00 |  |  |  |" in lines
    assert "| products alone, fp32 | 5.0 | | | 6.0 | | |" in lines
    assert {line.count("|") for line in lines[: lines.index("")]} == {8}


@needs_torch
def test_data_loading_writes_its_result(tmp_path: Path) -> None:
    out = tmp_path / "d.json"
    options = ("--size", "48x64", "--workers", "0,1", "--batches", "1", "--rounds", "1", "--json", str(out))
    done = run("cpu.data_loading", *options)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["images_per_second"].keys() == {"0", "1"}
    assert set(result["ms_per_image"]) >= {"read", "expand masks", "resize masks", "resize images", "join"}
    assert result["passed"]


@needs_torch
def test_a_profiled_network_matches_as_a_trained_one(load: Any) -> None:
    import torch

    from idol_deploy.objective.matcher import match

    instances = torch.tensor([[[0.3, 0.3, 0.2, 0.2], [0.7, 0.6, 0.3, 0.2], [0.5, 0.5, 0.1, 0.1]]])
    exists = torch.tensor([[True, True, False]])
    boxes = torch.full((1, 40, 4), 0.01)
    moved = load("cpu.training_profile").moved(boxes, instances, exists)
    result = match(torch.zeros(1, 40, 2), moved, torch.zeros(1, 3, dtype=torch.int64), instances, exists)
    assert int(result.matched.sum()) == 18  # the sum of ten IoUs, cut off, for each that exists


def test_training_table_of_the_docs_matches_the_result() -> None:
    result = json.loads((BENCHMARKS / "results" / "training_profile.json").read_text())
    assert result["passed"]
    assert max(case["share"]["assignment"] for case in result["cases"]) < 0.01
    text = (ROOT / "docs" / "training.md").read_text()
    for case in result["cases"]:
        share = " | ".join(f"{value:.1%}" for value in case["share"].values())
        assert f"| {case['threads']} | {case['images_per_second']:.2f} | {share} |" in text


def _bench_report() -> dict[str, Any]:
    def row(name: str, ms: float, ratio: float, wrong: bool = False) -> dict[str, Any]:
        return {
            "row": name,
            "stages_ms": {"network": {"p50": ms}},
            "faster_network": {"median": ratio, "p10": ratio - 0.5, "p90": ratio + 0.5},
            "frames_per_s": 1000 / (ms + 10),
            "wrong": wrong,
        }

    return {
        "rows": [row("pytorch, eager", 90, 1), row("fast", 30, 3), row("odd", 10, 9, wrong=True)],
        "bundle": {"preset": "toy", "network_size": [72, 104]},
        "machine": {"cpu": "a processor", "date": "2026-11-23"},
        "frames": 60,
        "threads": 2,
    }


@needs_torch
def test_latency_writes_its_table_into_the_readme(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load("cpu.latency")
    taken, page = tmp_path / "latency.json", tmp_path / "README.md"
    taken.write_text(json.dumps(_bench_report()))
    page.write_text(f"before\n{module.BEGIN}an old table\n{module.END}after\n")
    monkeypatch.setattr(sys, "argv", ["latency", "--from", str(taken), "--readme", str(page)])
    assert module.main() == 1, "a row has a wrong output"
    text = page.read_text()
    assert "| pytorch, eager | 90.0 | 1 | 10.0 |\n| fast | 30.0 | 3.00 (2.50 to 3.50) | 25.0 |\n" in text
    assert "| odd (wrong output) | 10.0 |" in text
    assert text.startswith(f"before\n{module.BEGIN}| |")
    assert text.endswith(f"percentile.\n{module.END}after\n")
    module.main()
    assert page.read_text() == text
    with pytest.raises(ValueError, match="add them where the table belongs"):
        module.put_into("no marks", "", module.BEGIN, module.END)
    module.put_into((ROOT / "README.md").read_text(), text, module.BEGIN, module.END)


@needs_torch
def test_batches_are_measured_against_single_frames(load: Any) -> None:
    module = load("cpu.batches")

    class Counting:
        network_size, name = (16, 24), "counting"

        def __init__(self, threads: int = 1) -> None:
            self.seen: list[int] = []
            opened.append(self)

        def infer(self, images: np.ndarray) -> list[Any]:
            self.seen.append(len(images))
            return [None] * len(images)

    opened: list[Counting] = []
    result = module.batches(Counting(), module.frames(4, (16, 24)), [1, 2, 4], rounds=2)
    assert opened[0].seen == [1, 2, 4] * 3
    assert list(result) == ["1", "2", "4"]
    assert result["1"]["times_one"] == {"median": 1, "p10": 1, "p90": 1}
    ways = module.sessions(Counting, module.frames(4, (16, 24)), threads=2, rounds=1)
    assert [name.split(",")[1] for name in ways] == [" one by one", " one batch", " one by one"]
    assert [sum(backend.seen) for backend in opened[1:]] == [16, 4, 4], "each session gets its share, twice"
