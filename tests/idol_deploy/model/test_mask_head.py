from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from idol_deploy.model.idol import Idol
from idol_deploy.model.mask_head import MASK_PARAMETERS, MaskHead, aligned_bilinear

RelativeError = Callable[[npt.ArrayLike, npt.ArrayLike], float]


def test_masks_agree_with_the_published_ones(reference: Path, relative_error: RelativeError) -> None:
    unit = {
        name: torch.from_numpy(array) for name, array in np.load(reference / "unit_mask_head.npz").items()
    }
    head = MaskHead(256)
    counts: list[int] = unit["num_insts"].tolist()
    # The published function takes the concatenated queries of all images.
    masks = [
        head.decode(features[None], params, points)[0]
        for features, params, points in zip(
            unit["mask_feats"],
            unit["params"].split(counts, 1),
            unit["reference_points_px"].split(counts, 1),
            strict=True,
        )
    ]
    assert relative_error(torch.cat(masks), unit["mask_logits"][0]) < 1e-6


def test_mask_features_agree_with_the_published_ones(
    reference: Path, relative_error: RelativeError, model: Idol
) -> None:
    unit = {
        name: torch.from_numpy(array) for name, array in np.load(reference / "unit_mask_head.npz").items()
    }
    with torch.inference_mode():
        features = model.mask_head.fuse(unit["pyramid8"], unit["pyramid16"], unit["pyramid32"])
    assert relative_error(features, unit["mask_head_out"]) < 1e-5


def test_doubling_agrees_with_the_published_one(reference: Path) -> None:
    unit = np.load(reference / "unit_mask_head.npz")
    doubled = aligned_bilinear(torch.from_numpy(unit["aligned_in"]))
    np.testing.assert_allclose(doubled, unit["aligned_out"], rtol=0, atol=1e-6)


def test_a_batch_is_its_images() -> None:
    torch.manual_seed(0)
    features, params = torch.randn(3, 8, 5, 6), torch.randn(3, 4, MASK_PARAMETERS)
    points = 40 * torch.rand(3, 4, 2)
    head = MaskHead(32)
    batch = head.decode(features, params, points)
    assert batch.shape == (3, 4, 10, 12)
    alone = [head.decode(f[None], p[None], r[None]) for f, p, r in zip(features, params, points, strict=True)]
    torch.testing.assert_close(batch, torch.cat(alone))


def test_no_queries_make_no_masks() -> None:
    empty = MaskHead(32).decode(
        torch.zeros(1, 8, 3, 4), torch.zeros(1, 0, MASK_PARAMETERS), torch.zeros(1, 0, 2)
    )
    assert empty.shape == (1, 0, 6, 8)


def test_coordinates_are_pixels_relative_to_the_reference_point() -> None:
    params = torch.zeros(1, 1, MASK_PARAMETERS)
    # First layer: channel 0 is ref_x - px, channel 1 ref_y - py; later layers pass on channel 0.
    params[..., [0, 11]] = 1.0
    params[..., 80] = params[..., 144] = 1.0
    logits = MaskHead(32).decode(torch.zeros(1, 8, 2, 3), params, torch.tensor([[[21.0, 9.0]]]))
    # Cell centres lie at 4, 12, 20 pixels; row and column 2i + 1 of the result are cell i.
    assert logits[0, 0, 1, 1::2].tolist() == [17.0, 9.0, 1.0]
    assert logits[0, 0, 1, 0::2].tolist() == [17.0, 13.0, 5.0]
