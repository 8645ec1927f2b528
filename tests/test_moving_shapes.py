from pathlib import Path

import numpy as np
import pytest

from idol_deploy.data.coco import read_coco
from idol_deploy.data.faults import FaultLog
from idol_deploy.data.rle import expand_rle
from idol_deploy.data.ytvis import read_dataset
from idol_runtime.errors import OutputError
from moving_shapes import draw_clip, make_stills, make_videos


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_arguments_give_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_videos(tmp_path / name, seed=seed, frames=2)
    first, second, other = (_contents(tmp_path / name) for name in "abc")
    assert first == second
    assert first.keys() == other.keys()
    assert first != other


def test_a_mask_is_what_is_seen_of_its_shape() -> None:
    clip = draw_clip(12, (90, 130), 4, seed=3)
    assert clip.masks.sum(0).max() == 1
    for mask in clip.masks:
        assert len(np.unique(clip.frames[mask], axis=0)) == 1
    # Front shapes are never hidden; a shape behind is partly hidden at some time, and moves.
    assert (clip.hidden[-1] == 0).all()
    assert clip.hidden[:-1].max() > 0.2
    assert (clip.masks[-1, 0] != clip.masks[-1, -1]).any()


def test_the_readers_find_what_was_drawn(tmp_path: Path) -> None:
    made = make_videos(tmp_path / "o", videos=2, frames=12, size=(90, 130), shapes=4, form="ovis", seed=3)
    dataset = read_dataset(made.annotations)
    clip = draw_clip(12, (90, 130), 4, seed=3 * 1_000_003 + 2)
    tracks = dataset.tracks(2)
    for track, masks in zip(tracks, clip.masks, strict=True):
        np.testing.assert_array_equal(np.stack([track.masks.mask(t) for t in range(12)]), masks)
    assert {level for track in tracks for level in track.occlusion or ()} >= {0.0, 0.25}
    made = make_stills(tmp_path / "c", images=2, size=(90, 130))
    stills = read_coco(made.annotations, FaultLog(strict=True)).stills
    drawn = draw_clip(1, (90, 130), 3, seed=2).masks[:, 0]
    found = [expand_rle(counts, (90, 130)) for counts in stills[1].masks]
    np.testing.assert_array_equal(found, drawn[drawn.any((1, 2))])


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another place"):
        make_videos(tmp_path / "file")
