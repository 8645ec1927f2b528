"""A written video, checked against its masks."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from idol_deploy.synth.config import synth_preset
from idol_deploy.synth.entries import Task, VideoEntries, write_video
from idol_deploy.synth.identities import Library
from idol_deploy.synth.render import draw_frames
from idol_deploy.synth.video import draft_video
from idol_runtime.tracking.rle import decode_rle

SIZE = (96, 128)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory, library: Library) -> Task:
    config = replace(synth_preset("hard"), frames=20, size=SIZE)
    return Task(config, library, "val", 5, tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def written(task: Task) -> VideoEntries:
    return write_video(task, 2)


def _masks(annotation: dict) -> np.ndarray:
    empty = np.zeros(SIZE, np.bool_)
    return np.stack([empty if rle is None else decode_rle(rle) for rle in annotation["segmentations"]])


def test_frames_and_fields_are_there(task: Task, written: VideoEntries) -> None:
    assert (written.video["id"], written.video["length"]) == (3, 20)
    for name in written.video["file_names"]:
        with Image.open(task.root / name) as image:
            assert image.size == SIZE[::-1]
    for one in written.annotations:
        assert one["video_id"] == 3
        masks = _masks(one)
        assert [area or 0 for area in one["areas"]] == masks.sum((1, 2)).tolist()
        for mask, box in zip(masks, one["bboxes"], strict=True):
            assert (box is None) == (not mask.any())
            if box is not None:
                left, top, width, height = box
                inner = mask[top : top + height, left : left + width]
                assert inner.sum() == mask.sum()
                assert inner[0].any()
                assert inner[-1].any()
                assert inner[:, 0].any()
                assert inner[:, -1].any()
    assert np.sum([_masks(one) for one in written.annotations], 0).max() == 1


def test_occlusion_is_what_the_others_hide(task: Task, written: VideoEntries) -> None:
    """Draw each instance alone: its mask is the visible part of this full outline."""
    drafts = (draft_video(task.config, task.library, "val", 5, 2, attempt) for attempt in range(200))
    ids = [one["synth"]["identity"] for one in written.annotations]
    draft = next(d for d in drafts if d and [f"{i.kind}/{i.name}" for i in d.identities] == ids)
    levels = set()
    for number, one in enumerate(written.annotations, start=1):
        layers = [replace(layer, instance=1) for layer in draft._layers if layer.instance == number]
        alone = draw_frames(np.random.default_rng(0), layers, draft._camera, task.config)
        for t, (mask, frame) in enumerate(zip(_masks(one), alone, strict=True)):
            full = frame.owner > 0
            assert not (mask & ~full).any()
            if not mask.any():
                assert one["occlusion"][t] is None
                continue
            share = 1 - mask.sum() / full.sum()
            assert one["synth"]["hidden"][t] == pytest.approx(share, abs=1e-4)
            level = (
                "no_occlusion" if share == 0 else "slight_occlusion" if share <= 0.5 else "severe_occlusion"
            )
            assert one["occlusion"][t] == level
            levels.add(level)
    assert len(levels) == 3


def test_events_name_gaps_of_the_masks(written: VideoEntries) -> None:
    expected = []
    for one in written.annotations:
        there = "".join("#" if area else "-" for area in one["areas"])
        inner = there.strip("-")
        at = there.index("#")
        for word in inner.replace("#-", "# -").replace("-#", "- #").split():
            if word[0] == "-":
                expected.append((one["id"], at, len(word)))
            at += len(word)
    vanishings = [(v["annotation_id"], v["start"], v["frames"]) for v in written.video["synth"]["vanishings"]]
    assert vanishings == expected
    assert vanishings
    groups = {one["id"]: one["synth"]["group"] for one in written.annotations}
    for meeting in written.video["synth"]["meetings"]:
        first, second = (groups[i] for i in meeting["annotation_ids"])
        assert meeting["look_alikes"] == (first is not None and first == second)
