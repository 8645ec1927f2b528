"""Swin transformer backbone: attention within windows that shift by half their side in every second block.

Letters: N images, H x W cells, C channels, T = window² tokens of a window, B windows of an image, M heads.
Maps are channels-last, [N, H, W, C], inside this module. Source: Liu et al. 2021, docs/idol.md §1.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from idol_deploy.model.backbones.base import Backbone
from idol_deploy.model.backbones.config import SwinConfig

__all__ = ["DropPath", "Swin", "WindowAttention", "relative_position_index", "shift_mask"]

# Added to the attention logits between tokens that are neighbours only through the cyclic shift.
_MASKED = -100.0


def relative_position_index(window: int) -> Tensor:
    """Return the row of the bias table for each pair of tokens of a window, int64 [T, T]."""
    cells = torch.arange(window)
    rows = cells.repeat_interleave(window)
    columns = cells.repeat(window)
    down = rows[:, None] - rows[None, :] + window - 1
    right = columns[:, None] - columns[None, :] + window - 1
    return down * (2 * window - 1) + right


def shift_mask(height: int, width: int, window: int, device: torch.device) -> Tensor:
    """Return the attention mask of a shifted block: float32 [B, 1, T, T], 0 or -100, added to the logits.

    Args:
        height: height in cells, a multiple of `window`.
        width: width in cells, a multiple of `window`.
        window: side of a window in cells; the shift is half of it.
        device: device of the mask.
    """

    def bands(size: int) -> Tensor:
        cell = torch.arange(size, device=device)
        return (cell >= size - window).int() + (cell >= size - window // 2).int()

    region = 3 * bands(height)[:, None] + bands(width)[None, :]
    tokens = _to_windows(region[None, :, :, None], window)[0, :, :, 0]
    separate = tokens[:, None, :] != tokens[:, :, None]
    return (separate.float() * _MASKED)[:, None]


def _to_windows(x: Tensor, window: int) -> Tensor:
    """Reshape [N, H, W, C] to [N, B, T, C]; H and W are multiples of the window."""
    N, H, W, C = x.shape
    x = x.reshape(N, H // window, window, W // window, window, C)
    return x.transpose(2, 3).reshape(N, -1, window * window, C)


def _from_windows(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """Reshape [N, B, T, C] to [N, height, width, C]."""
    N, _, _, C = x.shape
    x = x.reshape(N, height // window, width // window, window, window, C)
    return x.transpose(2, 3).reshape(N, height, width, C)


class DropPath(nn.Module):
    """Stochastic depth: drops the residual branch of random images in training (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, ...] to the same shape."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        return x * x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep).div_(keep)


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with a learnt bias per relative position."""

    relative_position_index: Tensor

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index(window))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within each window.

        Args:
            x: tokens [N, B, T, C].
            mask: values added to the logits, [B, 1, T, T]; None for an unshifted block.

        Returns:
            Mixed tokens [N, B, T, C].
        """
        N, B, T, C = x.shape
        qkv = self.qkv(x).reshape(N, B, T, 3, self.heads, C // self.heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)  # each [N, B, M, T, C / M]
        rows = self.relative_position_bias_table.index_select(0, self.relative_position_index.flatten())
        bias = rows.reshape(T, T, self.heads).permute(2, 0, 1)
        logits = (q * self.scale) @ k.transpose(-2, -1) + (bias if mask is None else bias + mask)
        mixed = (logits.softmax(-1) @ v).transpose(2, 3).reshape(N, B, T, C)
        projected: Tensor = self.proj(mixed)
        return projected


class _Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return mixed


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = _Mlp(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map [N, H, W, C] to the same shape; `mask` is the stage's shift mask."""
        x = x + self.drop_path(self._attend(self.norm1(x), mask))
        mixed: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return mixed

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        H, W = x.shape[1:3]
        window, shift = self.window, self.shift
        x = F.pad(x, (0, 0, 0, -W % window, 0, -H % window))
        padded_height, padded_width = x.shape[1:3]
        if shift:
            x = x.roll((-shift, -shift), (1, 2))
        x = self.attn(_to_windows(x, window), mask if shift else None)
        x = _from_windows(x, window, padded_height, padded_width)
        if shift:
            x = x.roll((shift, shift), (1, 2))
        cropped: Tensor = x[:, :H, :W]
        return cropped


class _PatchMerging(nn.Module):
    """A downsampling layer: each 2x2 block of cells becomes one cell of twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, H, W, C] to [N, ceil(H / 2), ceil(W / 2), 2 C]."""
        _, H, W, _ = x.shape
        x = F.pad(x, (0, 0, 0, W % 2, 0, H % 2))
        corners = [x[:, down::2, right::2] for right in (0, 1) for down in (0, 1)]
        merged: Tensor = self.reduction(self.norm(torch.cat(corners, -1)))
        return merged


class _Stage(nn.Module):
    def __init__(self, dim: int, heads: int, window: int, drop_paths: list[float], *, merges: bool) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(
            _Block(dim, heads, window, shift=i % 2 * (window // 2), drop_path=rate)
            for i, rate in enumerate(drop_paths)
        )
        self.downsample = _PatchMerging(dim) if merges else None

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, H, W, C] to the same shape; downsampling comes after the stage's output is taken."""
        window = self.window
        height, width = (-(-side // window) * window for side in x.shape[1:3])
        mask = shift_mask(height, width, window, x.device).to(x.dtype)
        for block in self.blocks:
            x = block(x, mask)
        return x


class _PatchEmbed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, kernel_size=4, stride=4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        """Map [N, 3, H, W] to [N, ceil(H / 4), ceil(W / 4), C]."""
        H, W = images.shape[-2:]
        cells = self.proj(F.pad(images, (0, -W % 4, 0, -H % 4)))
        embedded: Tensor = self.norm(cells.permute(0, 2, 3, 1))
        return embedded


class Swin(Backbone):
    """Four stages of window attention, and one LayerNorm per output map."""

    block = _Block

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.patch_embed = _PatchEmbed(config.embed_dim)
        last = sum(config.depths) - 1
        rates = [config.drop_path * i / max(last, 1) for i in range(last + 1)]
        self.layers = nn.ModuleList()
        for i, (dim, depth, heads) in enumerate(
            zip(config.channels, config.depths, config.heads, strict=True)
        ):
            stage_rates, rates = rates[:depth], rates[depth:]
            self.layers.append(_Stage(dim, heads, config.window, stage_rates, merges=i < 3))
        self.norm0, self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for dim in config.channels)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map normalised images [N, 3, H, W] to (res2, res3, res4, res5), channels first."""
        x = self.patch_embed(images)
        outputs = []
        for stage, norm in zip(self.layers, (self.norm0, self.norm1, self.norm2, self.norm3), strict=True):
            assert isinstance(stage, _Stage)
            x = stage(x)
            outputs.append(norm(x).permute(0, 3, 1, 2))
            if stage.downsample is not None:
                x = stage.downsample(x)
        return tuple(outputs)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
