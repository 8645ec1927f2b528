from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from idol_deploy.config import preset
from idol_deploy.data.transforms import (
    Crop,
    Flip,
    Resize,
    View,
    boxes_of,
    draw_still_views,
    draw_video_views,
)
from idol_runtime.preprocess import resize

TRAIN = preset("ytvis19_r50").train


def _shapes(height: int, width: int) -> np.ndarray:
    rows, columns = np.ogrid[:height, :width]
    disc = (rows - height // 2) ** 2 + (columns - width // 3) ** 2 < 900
    corner = (rows < 7) & (columns >= width - 5)
    return np.stack([disc, corner, np.zeros((height, width), bool)])


def _step_by_step(
    pixels: np.ndarray, view: View, sized: Callable[[np.ndarray, tuple[int, int]], np.ndarray]
) -> np.ndarray:
    for step in view.steps:
        if isinstance(step, Crop):
            pixels = pixels[step.top :, step.left :][: step.size[0], : step.size[1]]
        elif isinstance(step, Flip):
            pixels = pixels[:, ::-1]
        else:
            pixels = sized(pixels, step.size)
    return pixels


def _nearest(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    image = Image.fromarray(mask.view(np.uint8))
    return np.asarray(image.resize(size[::-1], Image.Resampling.NEAREST)).view(bool)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("still", [False, True])
def test_images_and_masks_are_what_single_steps_make_of_them(seed: int, still: bool) -> None:
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(90, 700)), int(rng.integers(90, 700)))
    train = replace(TRAIN, min_sizes=(97, 160, 231), max_size=300, crop_short_sides=(120, 190))
    train = replace(train, crop_range=(80, 150))
    views = draw_still_views(size, 2, train, rng) if still else draw_video_views([size] * 2, train, rng)
    frame = rng.integers(0, 256, (*size, 3), np.uint8)
    masks = rng.random((2, *size)) < 0.5
    for view in views:
        image, turned = view.image(Image.fromarray(frame)), view.masks(masks)
        assert turned.shape[1:] == view.size == image.shape[:2]
        # Equal to the bit to the resize of the runtime.
        np.testing.assert_array_equal(image, _step_by_step(frame, view, resize))
        for mask, original in zip(turned, masks, strict=True):
            np.testing.assert_array_equal(mask, _step_by_step(original, view, _nearest))


def test_boxes_go_with_the_pixels() -> None:
    masks = _shapes(200, 300)
    view = View((200, 300), (Flip(), Resize((400, 600)), Crop(30, 100, (360, 480)), Resize((180, 240))))
    np.testing.assert_allclose(view.boxes(boxes_of(masks))[0], boxes_of(view.masks(masks))[0], atol=1)
    # The corner is now at the top left, outside the window.
    assert (view.boxes(boxes_of(masks))[1] == [0, 0, 0, 0]).all()
    assert not view.masks(masks)[1].any()


def test_boxes_end_behind_the_last_pixel() -> None:
    np.testing.assert_array_equal(
        boxes_of(_shapes(50, 60)[1:]), np.array([[55, 0, 60, 7], [0, 0, 0, 0]], np.float32)
    )
    assert boxes_of(np.zeros((0, 5, 5), bool)).shape == (0, 4)


@pytest.mark.parametrize(
    "config", [preset("ytvis19_r50"), preset("ovis_r50")], ids=lambda config: config.name
)
def test_a_clip_shares_size_and_flip_and_crops_each_frame(config) -> None:
    rng, size = np.random.default_rng(0), (720, 1280)
    shorts, kinds = Counter(), Counter()
    for _ in range(800):
        views = draw_video_views([size, size], config.train, rng)
        crops = [[step for step in view.steps if isinstance(step, Crop)] for view in views]
        flips = {Flip() in view.steps for view in views}
        assert len(flips) == 1
        assert len(crops[0]) == len(crops[1])
        kinds[flips.pop(), bool(crops[0])] += 1
        assert all(max(view.size) <= config.train.max_size for view in views)
        if crops[0]:
            assert crops[0] != crops[1]
            assert all(384 <= side <= 600 for crop in crops for side in crop[0].size)
            short = {min(view.size) for view in views if max(view.size) < config.train.max_size}
            assert len(short) < 2
        else:
            assert views[0] == views[1]
            shorts[min(views[0].size)] += 1
    assert all(count > 130 for count in kinds.values())
    assert len(kinds) == 4
    # For 720x1280 the long side limits short sides above 432.
    expected = {min(short, round(720 * config.train.max_size / 1280)) for short in config.train.min_sizes}
    assert set(shorts) == expected


def test_still_images_are_drawn_one_by_one() -> None:
    rng = np.random.default_rng(0)
    train = replace(TRAIN, same_size=False, same_flip=False, max_size=1333)
    kinds, enlarged = Counter(), Counter()
    for _ in range(400):
        pair = draw_still_views((480, 640), 2, train, rng)
        kinds[tuple((Flip() in view.steps, len(view.steps) > 2) for view in pair)] += 1
        for view in pair:
            order = [type(step) for step in view.steps if not isinstance(step, Flip)]
            assert order in ([Resize], [Resize, Crop, Resize])
            if len(order) == 3:
                enlarged[min(view.steps[-3].size)] += 1
    assert len(kinds) == 16
    assert set(enlarged) == {400, 500, 600}


def test_a_crop_is_no_larger_than_the_frame() -> None:
    view = draw_video_views([(240, 390)], replace(TRAIN, crop_probability=1.0), np.random.default_rng(0))[0]
    assert isinstance(view.steps[0], Crop)
    assert view.steps[0].size[0] == 240
    assert 384 <= view.steps[0].size[1] <= 390
