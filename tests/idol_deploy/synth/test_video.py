from dataclasses import replace

import numpy as np
import pytest

from idol_deploy.synth.config import SynthConfig
from idol_deploy.synth.identities import Library
from idol_deploy.synth.video import Draft, allowed, draft_video, least_seen


def _draft(config: SynthConfig, library: Library, index: int) -> Draft:
    drafts = (draft_video(config, library, "train", 3, index, attempt) for attempt in range(50))
    return next(draft for draft in drafts if draft is not None)


def test_a_draft_is_drawn_the_same_each_time(small: SynthConfig, library: Library) -> None:
    draft, again = _draft(small, library, 1), _draft(small, library, 1)
    assert draft.identities == again.identities
    for first, second, third in zip(draft.frames(), draft.frames(), again.frames(), strict=True):
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.image, third.image)
        np.testing.assert_array_equal(first.owner, third.owner)
    other = _draft(small, library, 2)
    assert (other._camera.place != draft._camera.place).all()


def test_a_held_out_video_is_no_other_with_others_in_it(small: SynthConfig, library: Library) -> None:
    free = replace(small, vanish=(2, small.frames))
    train, val = (draft_video(free, library, side, 3, 1, 0) for side in ("train", "val"))
    assert train is not None
    assert val is not None
    assert (train._camera.place != val._camera.place).all()


@pytest.mark.parametrize("size", [(64, 96), (160, 256), (256, 160)])
def test_the_same_happens_at_every_size(small: SynthConfig, library: Library, size: tuple[int, int]) -> None:
    """The full areas of a draft are those that are drawn."""
    draft = _draft(replace(small, size=size, camera=0, camera_jumps=0, blur=0), library, 0)
    areas = np.stack([frame.areas for frame in draft.frames()], -1) / min(size) ** 2
    complete = areas > 0.97 * draft.full_areas  # the frame cuts off the others
    assert complete.mean() > 0.4
    # 12 pixels at 64x96: a fifth of a pixel along an outline of 60 pixels.
    np.testing.assert_allclose(areas[complete], draft.full_areas[complete], rtol=0.03, atol=12 / 64**2)
    assert (areas < 1.1 * draft.full_areas).all()


def test_what_is_allowed() -> None:
    config = replace(SynthConfig(), frames=8, vanish=(2, 4))
    seen = np.ones((1, 8), np.bool_)
    assert allowed(seen, seen, config)
    away = seen.copy()
    away[0, 2:6] = False
    assert allowed(away, seen, config)
    away[0, 6] = False
    assert not allowed(away, seen, config)
    away[0] = False
    away[0, :3] = True
    assert allowed(away, seen, config)  # an instance that does not return has not vanished
    away[0, 0] = False
    assert not allowed(away, seen, config)


def test_least_seen_is_a_share_and_some_pixels() -> None:
    config = replace(SynthConfig(), least_seen=0.1)
    np.testing.assert_allclose(least_seen(np.array([0.05, 0.0]), config, 320), [0.005 * 320**2, 48])
