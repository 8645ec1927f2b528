"""The rows of an activation that a convolution or a product with a constant matrix multiplies by its weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

__all__ = ["Patches"]


@dataclass(frozen=True)
class Patches:
    """The windows of a convolution in a value [1, C, H, W], or the rows of a value [..., C].

    Attributes:
        value: name of the value.
        kernel: (h, w) of the window; empty for a product.
        strides: (down, right) distance of the windows.
        dilations: (down, right) distance of the cells in a window.
        pads: zeros at the top, left, bottom and right.
    """

    value: str
    kernel: tuple[int, ...] = ()
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    @classmethod
    def of(cls, node: onnx.NodeProto, weight: Sequence[int]) -> "Patches | None":
        """Return the patches of a node with a weight of this shape; None for a grouped convolution."""
        if node.op_type != "Conv":
            return cls(node.input[0])
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if attributes.get("group", 1) != 1:
            return None
        assert attributes.get("auto_pad", b"NOTSET") == b"NOTSET", "the export writes pads"
        named = {
            name: tuple(attributes[name]) for name in ("strides", "dilations", "pads") if name in attributes
        }
        return cls(node.input[0], tuple(weight[2:]), **named)

    def sample(
        self, values: NDArray[np.float32], count: int, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Return at most `count` random patches as rows [rows, C * h * w], in the order of one channel's weights."""
        if not self.kernel:
            rows = values.reshape(-1, values.shape[-1])
            return rows[rng.choice(len(rows), min(count, len(rows)), replace=False)]
        top, left, bottom, right = self.pads
        padded = np.pad(values[0], ((0, 0), (top, bottom), (left, right)))
        extent = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        windows = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=(1, 2))
        windows = windows[
            :, :: self.strides[0], :: self.strides[1], :: self.dilations[0], :: self.dilations[1]
        ]
        down, across = windows.shape[1:3]
        places = rng.choice(down * across, min(count, down * across), replace=False)
        patches: NDArray[np.float32] = windows[:, places // across, places % across]
        return patches.swapaxes(0, 1).reshape(len(places), -1)
