from collections.abc import Callable
from dataclasses import replace

import torch

from idol_deploy.objective.batch import Pair, collate
from idol_deploy.objective.id_head import UNKNOWN
from idol_runtime.config import Preprocessing


def test_pairs_of_other_sizes_and_counts(make_pair: Callable[..., Pair]) -> None:
    first, second = make_pair(3, 0, (60, 90)), make_pair(1, 1, (40, 100))
    # The first instance is on the reference frame only, the second on the key frame only.
    first = replace(
        first, on_key=torch.tensor([False, True, True]), on_reference=torch.tensor([True, False, True])
    )
    batch = collate([first, second], Preprocessing())
    assert batch.images.shape == (4, 3, 64, 128)
    assert batch.images.dtype == torch.uint8
    for i, frame in enumerate((first.key, first.reference, second.key, second.reference)):
        height, width = frame.shape[1:]
        assert torch.equal(batch.images[i, :, :height, :width], frame)
        assert int((~batch.padding_mask[i]).sum()) == height * width
        assert not batch.padding_mask[i, :height, :width].any()
        assert int(batch.images[i].sum()) == int(frame.sum())
    targets = batch.targets
    assert targets.exists.tolist() == [[True, True], [True, False]]
    assert targets.on_reference.tolist() == [[False, True], [True, False]]
    assert targets.identities.tolist() == [[1, 2], [0, UNKNOWN]]
    assert targets.pixels.tolist() == [[90, 60], [100, 40]]
    assert targets.masks.shape == (2, 2, 16, 32)
    assert torch.equal(targets.masks[0, :, :15, :22], first.masks[1:, 2::4, 2::4])
    assert not targets.masks[0, :, 15:].any()
    left, top, right, bottom = second.key_boxes[0].tolist()
    wanted = [(left + right) / 200, (top + bottom) / 80, (right - left) / 100, (bottom - top) / 40]
    torch.testing.assert_close(targets.boxes[1, 0], torch.tensor(wanted))
    assert not targets.boxes[1, 1].any()


def test_frames_without_instances_have_one_that_does_not_exist(make_pair: Callable[..., Pair]) -> None:
    targets = collate([make_pair(0), make_pair(0, 1)], Preprocessing()).targets
    assert targets.exists.tolist() == [[False], [False]]
    assert targets.masks.shape == (2, 1, 16, 24)
    assert targets.boxes.shape == (2, 1, 4)
