import pytest
import torch

from idol_deploy.config import SwinConfig
from idol_deploy.model.backbones.swin import (
    DropPath,
    Swin,
    WindowAttention,
    relative_position_index,
    shift_mask,
)

SMALL = SwinConfig(embed_dim=8, depths=(2, 2, 2, 2), heads=(1, 2, 2, 4), window=4, drop_path=0.5)


def test_relative_positions_are_numbered_by_row_then_column() -> None:
    index = relative_position_index(3)
    assert index.shape == (9, 9)
    assert (index.diagonal() == 12).all()  # no step: the middle of the 5x5 table
    assert index[0, 8] == 0  # two up and two left
    assert index[8, 0] == 24
    assert index[0, 1] == 11  # one left


def test_tokens_joined_by_the_shift_alone_are_kept_apart() -> None:
    mask = shift_mask(8, 8, 4, torch.device("cpu"))
    assert mask.shape == (4, 1, 16, 16)
    assert not mask[0].any()
    bottom = mask[2, 0].reshape(4, 4, 4, 4)
    assert (bottom[:2, :, 2:] == -100).all()
    assert not bottom[:2, :, :2].any()
    corner = mask[3, 0].reshape(4, 4, 4, 4)
    assert (corner[0, 0, :2, :2] == 0).all()
    assert (corner[0, 0] == -100).sum() == 12


def test_windows_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    attention = WindowAttention(dim=8, heads=2, window=2)
    x = torch.randn(1, 3, 4, 8)
    first = attention(x, None)
    x[:, 2] += 1
    assert torch.equal(attention(x, None)[:, :2], first[:, :2])


def test_one_window_attends_as_full_attention_does() -> None:
    torch.manual_seed(0)
    attention = WindowAttention(dim=8, heads=2, window=2)
    x = torch.randn(1, 1, 4, 8)
    q, k, v = attention.qkv(x[0, 0]).reshape(4, 3, 2, 4).permute(1, 2, 0, 3)
    bias = attention.relative_position_bias_table[attention.relative_position_index].permute(2, 0, 1)
    mixed = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], bias[None])
    wanted = attention.proj(mixed[0].transpose(0, 1).flatten(1))
    torch.testing.assert_close(attention(x, None)[0, 0], wanted)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (70, 33), (5, 130)])
def test_a_batch_is_its_images_whatever_the_size(height: int, width: int) -> None:
    torch.manual_seed(0)
    swin = Swin(SMALL).eval()
    images = torch.randn(2, 3, height, width)
    with torch.inference_mode():
        for batch, first in zip(swin(images), swin(images[:1]), strict=True):
            torch.testing.assert_close(batch[:1], first, rtol=1e-4, atol=1e-5)


def test_stochastic_depth_rises_to_its_last_block() -> None:
    rates = [module.rate for module in Swin(SMALL).modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.5 * i / 7 for i in range(8)])


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25)
    x = torch.ones(4000, 2, 2)
    kept = drop(x)
    assert set(kept[:, 0, 0].tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert torch.equal(kept, kept[:, :1, :1].expand_as(kept))
    assert kept.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(drop.eval()(x), x)
