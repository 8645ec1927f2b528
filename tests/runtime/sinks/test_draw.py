"""Annotated frames: coloured areas, unchanged areas, tags, and colours of ids."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from idol_runtime.errors import FrameError
from idol_runtime.sinks.draw import class_name, draw
from idol_runtime.sinks.palette import id_colour, text_colour
from idol_runtime.sinks.tags import TagWriter
from samples.results import Result

cv2 = pytest.importorskip("cv2")


def rectangles(size: tuple[int, int], *boxes: tuple[int, int, int, int], ids: Sequence[int] = ()) -> Result:
    """Return one rectangular instance per box, in the order of falling scores."""
    n = len(boxes)
    masks = np.zeros((n, *size), np.bool_)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return Result(
        ids=np.array(ids or range(n), np.int64),
        labels=np.zeros(n, np.int64),
        scores=np.linspace(0.9, 0.1, n).astype(np.float32),
        boxes_xyxy=np.array(boxes, np.float32).reshape(n, 4),
        masks=masks,
    )


def grey(height: int, width: int, value: int = 128) -> NDArray[np.uint8]:
    return np.full((height, width, 3), value, np.uint8)


def test_the_frame_itself_is_left_alone() -> None:
    frame = grey(120, 200)
    drawn = draw(frame, rectangles((120, 200), (50, 40, 120, 90)), boxes=True, caption="untrained weights")
    assert (frame == 128).all()
    assert drawn.shape == frame.shape
    assert drawn.dtype == np.uint8
    assert drawn.flags.c_contiguous


def test_fill_is_translucent_inside_and_absent_outside() -> None:
    drawn = draw(grey(240, 320), rectangles((240, 320), (60, 60, 200, 200)))
    expected = 128 * 0.58 + np.array(id_colour(0)) * 0.42
    np.testing.assert_allclose(drawn[130, 130], expected, atol=1)
    assert (drawn[220:, 220:] == 128).all()


def test_the_higher_score_lies_on_top() -> None:
    result = rectangles((240, 320), (60, 60, 200, 200), (60, 60, 200, 200), ids=(4, 5))
    below = 128 * 0.58 + np.array(id_colour(5)) * 0.42
    np.testing.assert_allclose(
        draw(grey(240, 320), result)[130, 130], below * 0.58 + np.array(id_colour(4)) * 0.42, atol=2
    )


def test_the_contour_shows_on_black_and_on_white() -> None:
    for background in (0, 255):
        drawn = draw(grey(360, 640, background), rectangles((360, 640), (100, 100, 300, 300))).astype(int)
        row = drawn[200, 95:106]
        contrast = np.abs(row - background).max(axis=1)
        assert contrast.max() > 100


def test_without_scores_a_tag_is_shorter() -> None:
    result = rectangles((240, 320), (60, 60, 200, 200))
    with_score, without = (draw(grey(240, 320), result, scores=scores) for scores in (True, False))
    # Only tags are opaque areas of the pure colour.
    tags = [(drawn == id_colour(0)).all(2).sum() for drawn in (with_score, without)]
    assert 0 < tags[1] < tags[0]


def test_no_instances_no_change() -> None:
    frame = grey(50, 60)
    np.testing.assert_array_equal(draw(frame, rectangles((50, 60))), frame)


def test_an_empty_mask_shows_its_box() -> None:
    result = rectangles((240, 320), (60, 60, 200, 200))
    result.masks[:] = False
    drawn = draw(grey(240, 320), result)
    assert (drawn[60, 150:190] != 128).any()
    assert (drawn[100:180, 100:180] == 128).all()


@pytest.mark.parametrize(
    "box", [(np.nan,) * 4, (-1e9, -1e9, 1e9, 1e9), (np.inf, 0, -np.inf, 5), (9, 9, 9, 9)]
)
def test_wild_boxes_are_survived(box: tuple[float, ...]) -> None:
    result = rectangles((40, 60), (5, 5, 20, 20))
    result.boxes_xyxy[0] = box
    result.masks[:] = False
    draw(grey(40, 60), result, boxes=True)


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 2), (16, 16), (31, 47)])
def test_small_frames_are_survived(size: tuple[int, int]) -> None:
    drawn = draw(grey(*size), rectangles(size, (0, 0, *size[::-1])), boxes=True, caption="untrained weights")
    assert drawn.shape == (*size, 3)


def test_a_result_of_another_size_is_refused() -> None:
    with pytest.raises(FrameError, match="sizes: 50x60 and 40x60; draw a result over its own frame"):
        draw(grey(50, 60), rectangles((40, 60), (5, 5, 20, 20)))


def test_a_caption_darkens_the_lower_edge_only() -> None:
    drawn = draw(grey(360, 640), rectangles((360, 640)), caption="untrained weights")
    assert (drawn[-1] == 32).all()
    assert (drawn[:300] == 128).all()


def test_crowded_tags_stay_inside_and_apart() -> None:
    writer = TagWriter(cv2, grey(360, 640))
    writer.banner("untrained weights")
    for i in range(20):
        writer.tag(f"giant_panda #{i} 0.50", (200, 100, 50), (300, 330, 340, 360))
    places = writer._occupied
    assert len(places) == 21
    assert all(0 <= x0 < x1 <= 640 and 0 <= y0 < y1 <= 360 for x0, y0, x1, y1 in places)
    for a, b in itertools.combinations(places, 2):
        assert min(a[2], b[2]) <= max(a[0], b[0]) or min(a[3], b[3]) <= max(a[1], b[1])


def test_colours_are_stable_and_neighbours_differ() -> None:
    colours = [id_colour(i) for i in range(64)]
    assert colours == [id_colour(i) for i in range(64)]
    assert len(set(colours)) == 64
    for i, j in itertools.combinations(range(64), 2):
        if j - i < 8:
            assert np.abs(np.subtract(colours[i], colours[j])).sum() > 40, (i, j)


def test_text_reads_on_its_tag() -> None:
    assert text_colour((255, 255, 0)) == (0, 0, 0)
    assert text_colour((30, 30, 160)) == (255, 255, 255)


def test_labels_beyond_the_class_list_have_a_name() -> None:
    assert class_name(1, ("person", "cat")) == "cat"
    assert class_name(7, ("person", "cat")) == "class 7"
    assert class_name(-1, ("person", "cat")) == "class -1"
