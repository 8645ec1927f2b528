import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from idol_deploy.config import preset
from idol_deploy.data.pairs import open_pairs
from idol_deploy.data.samples import Sample
from idol_deploy.data.ytvis import read_dataset
from idol_deploy.synth import entries
from idol_deploy.synth.config import SynthConfig, synth_preset
from idol_deploy.synth.dataset import SynthDataset, write_dataset
from idol_deploy.synth.identities import Library
from idol_runtime.errors import ConfigError, OutputError


def _hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, small: SynthConfig, library: Library) -> SynthDataset:
    root = tmp_path_factory.mktemp("synth") / "set"
    return write_dataset(root, library, small, "train", videos=4, seed=7, preset="small")


def test_workers_change_no_byte_and_seeds_do(
    dataset: SynthDataset, small: SynthConfig, library: Library, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "a", library, small, "train", videos=4, seed=7, workers=3, preset="small")
    assert _hashes(tmp_path / "a") == _hashes(dataset.annotations.parent)
    for name, split, seed in (("b", "train", 8), ("c", "val", 7)):
        other = write_dataset(tmp_path / name, library, small, split, videos=1, seed=seed)
        frames = _hashes(other.frames)
        assert not set(frames.values()) & set(_hashes(dataset.frames).values())
    # A shorter data set is the beginning of a longer one.
    shown: list[tuple[int, int]] = []
    progress = lambda *counts: shown.append(counts)  # noqa: E731
    write_dataset(tmp_path / "d", library, small, "train", videos=1, seed=7, progress=progress)
    assert shown == [(0, small.frames), (small.frames, small.frames)]
    short = _hashes(tmp_path / "d" / "JPEGImages")
    assert short.items() < _hashes(dataset.frames).items()


def test_the_readers_accept_it(dataset: SynthDataset, library: Library) -> None:
    config = replace(preset("ytvis19_r50"), classes=library.classes)
    pairs = open_pairs(dataset.annotations, dataset.frames, config, strict=True)
    assert (len(pairs), pairs.identities) == (4, dataset.statistics["instances"])
    sample = pairs.load(0, np.random.default_rng(0))
    assert isinstance(sample, Sample)
    truth = read_dataset(dataset.annotations)
    assert tuple(category.name for category in truth.categories) == library.classes
    levels = {level for video in truth.videos for t in truth.tracks(video.id) for level in t.occlusion or ()}
    assert levels == {0.0, 0.25, 0.75, None}


def test_vanishing_json_is_a_part_of_instances_json(dataset: SynthDataset) -> None:
    content = json.loads(dataset.annotations.read_text())
    chosen = [
        video["id"]
        for video in content["videos"]
        if any(3 <= v["frames"] <= 9 for v in video["synth"]["vanishings"])
    ]
    assert 0 < len(chosen) == dataset.statistics["videos_with_3_to_9"]
    assert dataset.vanishing is not None
    part = json.loads(dataset.vanishing.read_text())
    assert [video["id"] for video in part["videos"]] == chosen
    assert part["annotations"] == [one for one in content["annotations"] if one["video_id"] in chosen]
    about = json.loads((dataset.annotations.parent / "dataset.json").read_text())
    assert about["statistics"] == dataset.statistics
    assert (about["preset"], about["split"], about["seed"]) == ("small", "train", 7)
    assert about["config"]["frames"] == 14


def test_at_the_hard_setting_every_fourth_mask_is_mostly_hidden(library: Library, tmp_path: Path) -> None:
    config = replace(synth_preset("hard"), size=(64, 104))
    dataset = write_dataset(tmp_path / "hard", library, config, "train", videos=8)
    assert dataset.statistics["hidden_more_than_half"] >= 0.25
    assert dataset.statistics["vanishings_past_expiry"] == 0
    assert dataset.statistics["vanishings_before_expiry"] >= 16


def test_longer_absences_when_asked_for(library: Library, tmp_path: Path) -> None:
    config = replace(synth_preset("standard"), size=(64, 104), frames=40, vanish=(10, 14), hide=0.5)
    dataset = write_dataset(tmp_path / "long", library, config, "train", videos=4)
    assert dataset.statistics["vanishings_past_expiry"] >= 3
    assert max(map(int, dataset.statistics["vanishings"])) <= 14


def test_existing_files_stay(
    small: SynthConfig, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "ATTEMPTS", 2)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not an empty folder"):
        write_dataset(tmp_path / "full", library, small, "train", videos=1)
    with pytest.raises(ConfigError, match="workers must be at least 1"):
        write_dataset(tmp_path / "new", library, small, "train", videos=1, workers=0)
    impossible = replace(small, frames=60, leave=1, cross=0, hide=0, lurk=0, vanish=(1, 1))
    with pytest.raises(ConfigError, match=r"none of 2 plans for video 1 .* or raise vanish"):
        write_dataset(tmp_path / "new", library, impossible, "train", videos=1)
    assert _hashes(tmp_path).keys() == {"full/mine.txt"}
    assert os.listdir(tmp_path) == ["full"]
    (tmp_path / "empty").mkdir()
    dataset = write_dataset(tmp_path / "empty", library, small, "train", videos=1)
    assert dataset.annotations.exists()
