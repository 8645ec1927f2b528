"""`idol-deploy evaluate`."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Toy
    from tests.idol_deploy.conftest import Command

OFFICIAL = Path(__file__).parents[2] / "data" / "ytvis_eval"


def test_evaluate_a_results_file(idol: Command, tmp_path: Path) -> None:
    scores, archive = tmp_path / "scores.json", tmp_path / "submission.zip"
    files = "--gt", OFFICIAL / "gt.json", "--pred", OFFICIAL / "pred.json"
    done = idol("evaluate", *files, "--metric", "ovis", "--json", scores, "--ious", "--submission", archive)
    assert (done.status, done.err) == (0, "")
    assert "note: 6 videos, 32 instances, 174 results\n" in done.out
    assert f"wrote {archive}\nwrote {scores}\n" in done.out
    expected = json.loads((OFFICIAL / "ovis_result.json").read_text())
    written = json.loads(scores.read_text())
    assert written["summary"] == pytest.approx(expected["summary"], abs=1e-9)
    assert written["ious"].keys() <= expected["ious"].keys()
    with zipfile.ZipFile(archive) as submission:
        assert submission.read("results.json") == (OFFICIAL / "pred.json").read_bytes()


@pytest.mark.parametrize("output", ["--json", "--submission"])
@pytest.mark.parametrize("name", ["gt.json", "pred.json"])
def test_what_is_read_is_not_replaced(
    refused: Callable[..., str], tmp_path: Path, output: str, name: str
) -> None:
    for path in (OFFICIAL / "gt.json", OFFICIAL / "pred.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    files = "--gt", tmp_path / "gt.json", "--pred", tmp_path / "pred.json"
    assert f"{name} is an input as well" in refused("evaluate", *files, output, tmp_path / name)


def test_the_model_is_not_replaced(
    refused: Callable[..., str], toy: Toy, frames_set: dict[str, Path], tmp_path: Path
) -> None:
    bundle = tmp_path / "a.idol"
    bundle.write_bytes(toy.path.read_bytes())
    message = refused("evaluate", *_pairs(frames_set), "--bundle", bundle, "--results", bundle)
    assert "a.idol is an input as well" in message


def test_a_submission_of_another_name(refused: Callable[..., str], tmp_path: Path) -> None:
    files = "--gt", OFFICIAL / "gt.json", "--pred", OFFICIAL / "pred.json"
    message = refused("evaluate", *files, "--submission", tmp_path / "submission.txt")
    assert "the name of an archive ends in .zip; rename it" in message


def test_the_graph_of_a_checkpoint(refused: Callable[..., str], tmp_path: Path) -> None:
    model = "--weights", "w.pth", "--preset", "ytvis19_r50", "--graph", "plugin"
    places = "--frames", tmp_path, "--results", tmp_path / "r.json"
    message = refused("evaluate", "--gt", OFFICIAL / "gt.json", *model, *places)
    assert "--backend and --graph apply to a bundle only; leave them out" in message


def test_evaluate_broken_files(refused: Callable[..., str], tmp_path: Path) -> None:
    cut = tmp_path / "cut.json"
    cut.write_bytes((OFFICIAL / "pred.json").read_bytes()[:-9])
    out = tmp_path / "scores.json"
    message = refused("evaluate", "--gt", OFFICIAL / "gt.json", "--pred", cut, "--json", out)
    assert "cut.json is not JSON" in message


@pytest.fixture
def frames_set(toy: Toy, tmp_path: Path, write_images: Callable[..., Path]) -> dict[str, Path]:
    """Annotations without instances for two videos, and their frames."""
    videos = []
    for seed in (1, 2):
        write_images(tmp_path / f"video{seed}", toy.video(4, seed))
        names = [f"video{seed}/frame{t}.png" for t in range(4)]
        videos.append({"id": seed, "height": toy.size[0], "width": toy.size[1], "file_names": names})
    categories = [{"id": i, "name": name} for i, name in enumerate(toy.config.classes, 1)]
    gt = tmp_path / "gt.json"
    gt.write_text(json.dumps({"videos": videos, "categories": categories, "annotations": []}))
    return {"--gt": gt, "--frames": tmp_path}


def _pairs(options: dict[str, Path]) -> list[object]:
    return [part for pair in options.items() for part in pair]


def test_evaluate_runs_a_bundle_as_run_does(
    idol: Command, toy: Toy, frames_set: dict[str, Path], tmp_path: Path
) -> None:
    results = tmp_path / "results.json"
    scores = tmp_path / "scores.json"
    backend = "--backend", "onnxruntime"
    options = "--bundle", toy.path, "--results", results, "--json", scores, *backend
    done = idol("evaluate", *_pairs(frames_set), *options)
    assert (done.status, done.err) == (0, "")
    assert "note: onnxruntime (cpu, portable graph)\nnote: running portable on ONNX Runtime" in done.out
    ran = json.loads(scores.read_text())["model"]
    assert (ran["backend"], ran["graph"]) == ("onnxruntime (cpu, portable graph)", "portable")
    assert "the bundle has no plugin graph" in ran["remark"]
    expected = []
    for seed in (1, 2):
        alone = tmp_path / f"{seed}.json"
        source = "--source", tmp_path / f"video{seed}", "--video-id", seed
        idol("run", toy.path, *source, "--results", alone, *backend)
        expected += json.loads(alone.read_text())
    assert expected
    assert json.loads(results.read_text()) == expected
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.usefixtures("toy_preset")
def test_evaluate_names_a_missing_frame(
    refused: Callable[..., str], toy: Toy, toy_weights: Path, frames_set: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "video2" / "frame3.png").unlink()
    results = tmp_path / "results.json"
    model = "--weights", toy_weights, "--preset", "toy", "--results", results
    message = refused("evaluate", *_pairs(frames_set), *model)
    assert "video2/frame3.png does not exist; give the folder" in message


def test_processes_may_not_choose_different_graphs(
    refused: Callable[..., str],
    toy: Toy,
    frames_set: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    model = "--bundle", toy.path, "--graph", "auto", "--results", tmp_path / "results.json"
    message = refused("evaluate", *_pairs(frames_set), *model)
    assert "--graph auto may choose another graph in each process" in message


@pytest.mark.usefixtures("toy_preset")
@pytest.mark.parametrize("wrong", [{"--preset": "ytvis19_r50"}, {"--device": "cuda:99"}, {"--frames": "no"}])
def test_a_mistake_does_not_stand_in_the_way_of_the_corrected_command(
    refused: Callable[..., str],
    toy_weights: Path,
    frames_set: dict[str, Path],
    tmp_path: Path,
    wrong: dict[str, str],
) -> None:
    model = {"--weights": toy_weights, "--preset": "toy", "--results": tmp_path / "results.json"}
    refused("evaluate", *_pairs(frames_set | model | wrong))
