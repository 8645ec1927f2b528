"""All readers with all augmentations: what a sample says of each pixel is true of the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from idol_deploy.config import ytvis19_r50
from idol_deploy.data.pairs import open_pairs
from idol_deploy.data.samples import Sample

if TYPE_CHECKING:
    from idol_deploy.config import IdolConfig
    from idol_deploy.data.samples import AnnotatedFrame
    from idol_deploy.data.synthetic import MadeDataset


def _colour(frame: AnnotatedFrame, i: int) -> np.ndarray:
    """The usual colour of an instance."""
    return np.median(frame.image[frame.masks[i]], axis=0)


def _check(frame: AnnotatedFrame, *, own_boxes: bool) -> None:
    height, width = frame.image.shape[:2]
    assert frame.image.dtype == np.uint8
    assert frame.masks.shape[1:] == (height, width)
    np.testing.assert_array_equal(frame.present, frame.masks.any((1, 2)))
    assert (frame.masks.sum(0) <= 1).all()
    for mask, box in zip(frame.masks[frame.present], frame.boxes_xyxy[frame.present], strict=True):
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        if own_boxes:
            np.testing.assert_array_equal(box, tight)
        else:  # the box of the whole shape, of which a crop may leave an end; off by what a pixel was at most
            assert (box[:2] <= np.array(tight[:2]) + 3).all()
            assert (box[2:] >= np.array(tight[2:]) - 3).all()
        assert (box >= 0).all()
        assert (box <= [width, height, width, height]).all()


def test_masks_boxes_and_identities_are_those_of_the_shapes(shapes: tuple[MadeDataset, IdolConfig]) -> None:
    made, config = shapes
    source = open_pairs(made.annotations, made.frames, config, strict=True)
    found, sizes, absent = 0, set(), 0
    for seed in range(40):
        sample = source.load(seed % len(source), np.random.default_rng(seed))
        assert isinstance(sample, Sample)
        for frame in (sample.key, sample.reference):
            _check(frame, own_boxes=not config.train.still_images)
            sizes.add(frame.image.shape)
            absent += int((~frame.present).sum())
        assert set(sample.labels.tolist()) <= {0, 1, 3}
        for i in (sample.key.present & sample.reference.present).nonzero()[0]:
            if min(sample.key.masks[i].sum(), sample.reference.masks[i].sum()) > 400:
                colours = _colour(sample.key, i), _colour(sample.reference, i)
                # JPEG blurs colours at edges; two shapes differ by far more.
                np.testing.assert_allclose(*colours, atol=30)
                assert colours[0].max() > 180
                found += 1
    assert found > 60
    assert len(sizes) > 20
    assert absent > 0


def test_videos_number_their_instances_and_images_do_not(shapes: tuple[MadeDataset, IdolConfig]) -> None:
    made, config = shapes
    source = open_pairs(made.annotations, made.frames, config, strict=True)
    seen = set()
    for index in range(len(source)):
        for seed in range(8):
            sample = source.load(index, np.random.default_rng(seed))
            assert isinstance(sample, Sample)
            seen |= set(sample.identities.tolist())
    assert seen == (set(range(source.identities)) or {-1})
    assert source.identities == (0 if config.train.still_images else 12)


@pytest.mark.pseudo_ytvis
def test_real_frames_read_without_a_complaint(pseudo_ytvis) -> None:
    from dataclasses import replace

    config = replace(ytvis19_r50(), classes=("person", "dog", "sports_ball", "car", "bed"))
    source = open_pairs(pseudo_ytvis / "instances.json", pseudo_ytvis / "JPEGImages", config, strict=True)
    assert (len(source), source.identities) == (9, 63)
    for index in range(len(source)):
        sample = source.load(index, np.random.default_rng(index))
        assert isinstance(sample, Sample)
        assert max(sample.key.image.shape) <= 768
