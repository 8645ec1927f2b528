from pathlib import Path

import numpy as np
import pytest

from idol_deploy.data.annotations import mask_entry, occlusion_level, track_fields, write_image
from idol_deploy.data.ytvis import OCCLUSION
from idol_runtime.errors import OutputError
from idol_runtime.tracking.rle import decode_rle


@pytest.mark.parametrize(
    ("hidden", "level"),
    [(0.0, 0.0), (0.001, 0.25), (0.5, 0.25), (0.501, 0.75), (1.0, 0.75)],
)
def test_a_level_is_read_as_the_middle_of_its_bin(hidden: float, level: float) -> None:
    assert OCCLUSION[occlusion_level(hidden)] == level


def test_a_track_says_nothing_where_nothing_is_seen() -> None:
    mask = np.zeros((5, 7), np.bool_)
    mask[1:4, 2] = mask[3, 2:6] = True
    entries = [mask_entry(mask), mask_entry(np.zeros_like(mask))]
    track = track_fields(entries, [0.6, 1.0])
    np.testing.assert_array_equal(decode_rle(track["segmentations"][0]), mask)
    assert (track["bboxes"], track["areas"]) == ([[2, 1, 4, 3], None], [6, None])
    assert track["occlusion"] == ["severe_occlusion", None]
    assert track["segmentations"][1] is None
    assert "occlusion" not in track_fields(entries)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another place"):
        write_image(tmp_path / "file" / "0.jpg", np.zeros((2, 2, 3), np.uint8))
