"""Folders of reference arrays: reading, and refusal of broken files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from idol_runtime.errors import ConfigError
from published.arrays import ReferenceFolder, cuts, read_arrays


@pytest.fixture
def folder(reference: Path, tmp_path: Path) -> Path:
    """Copy the reference folder, so that a test can change it."""
    copy = tmp_path / "reference"
    copy.mkdir()
    for path in reference.iterdir():
        if path.suffix == ".json" or path.name.startswith("ref_"):
            shutil.copy(path, copy)
    return copy


def _meta(folder: Path, **changed: object) -> None:
    path = folder / "meta.json"
    meta = json.loads(path.read_text())
    meta["small"] |= changed
    path.write_text(json.dumps(meta))


def test_the_published_arrays_are_read(reference: Path) -> None:
    folder = ReferenceFolder(reference)
    assert folder.tags == ("small",)
    assert folder.empty_tags == ("pad",), "a sample of it only"
    tag = folder.read("small")
    assert (tag.name, tag.video, tag.preset) == ("small", (4, 128, 192, 7), "ytvis19_r50")
    assert len(tag.keys) > 500
    assert tag.keys["detr.detr.class_embed.0.bias"] == (40,)
    parts = {name.partition("/")[0] for name in tag.arrays}
    assert parts == {"backbone", "transformer", "heads", "masks_full", "tracker_final"}


def test_every_array_before_the_tracker_is_cut_from_something(reference: Path) -> None:
    tag = ReferenceFolder(reference).read("small")
    tensors = {
        name
        for name in tag.arrays
        if not name.startswith("tracker_final/")
        and not name.endswith(("_shape", "_shapes", "_sizes", "_stride"))
    }
    assert tensors == set(cuts(tag))


def test_arrays_of_no_meaning_here_are_left_alone(folder: Path) -> None:
    np.savez(folder / "ref_small_masks_full.npz", of_tomorrow=np.zeros(3))
    tag = ReferenceFolder(folder).read("small")
    assert "masks_full/of_tomorrow" in tag.arrays
    assert not any(name.startswith("masks_full/") for name in cuts(tag))


def test_a_key_list_that_lies_elsewhere_is_done_without(folder: Path) -> None:
    (folder / "state_dict_keys.json").unlink()
    assert not ReferenceFolder(folder).read("small").keys


def test_published_preset_names_are_understood(folder: Path) -> None:
    _meta(folder, preset="ytvis19_swinL")
    assert ReferenceFolder(folder).read("small").preset == "ytvis19_swin_l"


def test_no_key_list_need_be_named(folder: Path) -> None:
    _meta(folder, keys="")
    assert not ReferenceFolder(folder).read("small").keys


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("{")])
def test_a_folder_without_a_good_meta_json(folder: Path, spoil: Callable[[Path], object]) -> None:
    spoil(folder / "meta.json")
    with pytest.raises(ConfigError, match=r"is no folder of reference arrays: meta\.json"):
        ReferenceFolder(folder)


@pytest.mark.parametrize(
    "changed", [{"video": [4, 128]}, {"video": [0, 8, 8, 1]}, {"video": [4, 8, 8, -1]}, {"preset": 3}]
)
def test_a_meta_json_that_says_nonsense(folder: Path, changed: dict[str, object]) -> None:
    _meta(folder, **changed)
    with pytest.raises(ConfigError, match=r"is no folder of reference arrays: meta\.json"):
        ReferenceFolder(folder)


@pytest.mark.parametrize("tag", ["pad", "large"])
def test_a_tag_without_arrays(folder: Path, tag: str) -> None:
    with pytest.raises(ConfigError, match=f"has no arrays of '{tag}': .*; it has small"):
        ReferenceFolder(folder).read(tag)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"keys": [["a"]]}', '{"keys": [["a", "b"]]}', '{"keys": [3]}']
)
def test_a_broken_key_list_is_refused(folder: Path, content: str) -> None:
    (folder / "state_dict_keys.json").write_text(content)
    with pytest.raises(ConfigError, match=r"key list state_dict_keys\.json that meta\.json names"):
        ReferenceFolder(folder).read("small")


@pytest.mark.parametrize("name", ["../secret.json", "/etc/passwd", "a/b.json"])
def test_a_key_list_outside_the_folder_is_not_read(folder: Path, name: str) -> None:
    _meta(folder, keys=name)
    with pytest.raises(ConfigError, match="lies elsewhere"):
        ReferenceFolder(folder).read("small")


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_broken_npz_file_is_named(folder: Path, share: float) -> None:
    path = folder / "ref_small_heads.npz"
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ConfigError, match=r"ref_small_heads\.npz is no readable npz file"):
        ReferenceFolder(folder).read("small")


def test_no_object_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    np.savez(path, evil=np.array([{"a": 1}], object))
    with pytest.raises(ConfigError, match=r"objects\.npz is no readable npz file"):
        read_arrays(path)


def test_an_incomplete_record_of_decisions_is_named(folder: Path) -> None:
    path = folder / "ref_small_tracker_final.npz"
    arrays = {name: array for name, array in read_arrays(path).items() if name not in ("ids", "result_row")}
    np.savez(path, **arrays)
    with pytest.raises(ConfigError, match=r"ref_small_tracker_final\.npz lacks ids"):
        ReferenceFolder(folder).read("small")


def test_results_need_not_be_there(folder: Path) -> None:
    path = folder / "ref_small_tracker_final.npz"
    arrays = {
        name: array for name, array in read_arrays(path).items() if "row" not in name and "pred" not in name
    }
    np.savez(path, **arrays)
    assert "tracker_final/ids" in ReferenceFolder(folder).read("small").arrays


def test_decisions_need_not_be_there(folder: Path) -> None:
    (folder / "ref_small_tracker_final.npz").unlink()
    assert "tracker_final/n" not in ReferenceFolder(folder).read("small").arrays
