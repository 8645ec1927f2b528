"""Tests of the benchmarks of cameras and long runs."""

import importlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from idol_runtime.pipeline import Pipeline
from idol_runtime.preprocess import resize
from idol_runtime.streams import Streams

ROOT = Path(__file__).parents[1]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Function that imports a benchmark by name."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize("number", [0, 299_999, 2**32 - 1, 0x5A5A_1234])
def test_a_picture_shows_its_number_after_jpeg_and_a_resize(load: Any, number: int) -> None:
    camera, buffer = load("camera"), io.BytesIO()
    ground = np.random.default_rng(0).integers(0, 256, (*camera.SIZE, 3), np.uint8)
    Image.fromarray(camera.picture(number, ground)).save(buffer, "JPEG", quality=85)
    image = np.asarray(Image.open(buffer))
    assert camera.read_number(image) == camera.read_number(resize(image, (240, 384))) == number


def test_the_scene_has_as_many_identities_as_the_tracker_finds(load: Any) -> None:
    camera = load("camera")
    scene, pipeline = camera.Scene(), Pipeline(camera.StubNetwork(), camera.CONFIG)
    ground = np.full((*camera.SIZE, 3), 90, np.uint8)
    ids = set[int]()
    for number in range(400):
        result = pipeline.step(camera.picture(number, ground))
        assert len(result) == scene.at(number)[0].sum()
        ids.update(result.ids.tolist())
        assert len(ids) == scene.tracks(number + 1)


def test_frame_times_are_compared_by_round_without_their_beginning(load: Any) -> None:
    """Frames of 20 ms, of 22 ms under load, and of 500 ms while the load settles."""
    kinds, times, rounds = ("none", "load", "none"), [0.0], list[tuple[str, float, float]]()
    for kind in kinds:
        begin = times[-1]
        while times[-1] < begin + 8:
            settling = times[-1] < begin + 3.9
            times.append(times[-1] + (0.5 if settling else 0.022 if kind == "load" else 0.02))
        rounds.append((kind, begin, times[-1]))
    report = load("serve").frame_times(np.array(times), rounds)
    assert report["ratio"] == {"load": 1.1}
    assert report["ratio_by_round"] == {"load": [1.1]}
    assert report["frame_ms"]["none"]["p99"] == pytest.approx(20)


def test_growth_is_found(load: Any) -> None:
    soak = load("soak")
    steady = [(float(i), 80.0, 8.0, 11.0, 2.0 + i % 2, 3.0) for i in range(200)]
    assert all(soak.evaluate(steady)["flat"].values())
    for name, growth in (("rss_mib", 0.02), ("host_ms", 0.01), ("threads", 0.01), ("descriptors", 0.01)):
        rows = np.array(steady)
        rows[:, soak.COLUMNS.index(name)] += np.floor(growth * np.arange(200) * (1 if growth < 0.02 else 1.2))
        assert [key for key, flat in soak.evaluate(rows)["flat"].items() if not flat] == [name]


@pytest.mark.slow
def test_frames_of_a_fast_camera_stay_young(load: Any, tmp_path: Path) -> None:
    camera, live = load("camera"), load("live")
    streams = Streams(camera.StubNetwork(0.04, number_per_frame=1e3 / live.FPS), camera.CONFIG)
    case = live.measure(streams, 150, clips=False, folder=tmp_path)
    assert case["frames"] == 150
    assert case["dropped"] > 100
    # The stub sleeps, and a picture waits for at most one other; those of a queue are seconds old.
    network, age, since_sent = (case[name]["p50"] for name in ("network_ms", "age_ms", "since_sent_ms"))
    assert 40 <= network < age < 3 * network
    assert since_sent < age + 10 * network


@pytest.mark.slow
def test_one_process_writes_the_lines_of_four(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.streams", "--frames", "6", "--rounds", "1", "--threads", "1"]
    done = subprocess.run(
        [*command, "--json", tmp_path / "a.json"], capture_output=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["frames"] == 24
    assert report["identical_lines"]


@pytest.mark.slow
def test_a_fault_is_told_and_nothing_leaks(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.faults", "--only", "refused", "--json", tmp_path / "a.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads((tmp_path / "a.json").read_text())["faults"]
    assert row["identities"] > 0
    assert any("sends again" in message for message in row["events"])


@pytest.mark.slow
def test_memory_of_20000_frames_is_flat(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--frames", "20000", "--json", tmp_path / "soak.json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    report = json.loads((tmp_path / "soak.json").read_text())
    assert report["complete"], done.stdout + done.stderr
    changes = {name for name, flat in report["flat"].items() if not flat}
    assert changes <= {"host_ms"}, done.stdout + done.stderr  # other processes change the time
    assert report["frames"] == 20_000
    assert report["first_line"] > 0, "nothing was rotated and deleted"
