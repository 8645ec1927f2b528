"""What a convolution or a product with a constant matrix reads of a value at each place: the rows it multiplies."""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

__all__ = ["Patches"]


@dataclass(frozen=True)
class Patches:
    """Of a value [1, C, H, W] windows of a convolution, else of [..., C] its rows.

    Attributes:
        value: its name.
        kernel: (h, w) of a convolution's window; empty for a product.
        strides: of windows, down and right.
        dilations: likewise.
        pads: zeros above, left, below and right.
    """

    value: str
    kernel: tuple[int, ...] = ()
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    @classmethod
    def of(cls, node: onnx.NodeProto, weight: tuple[int, ...]) -> "Patches | None":
        """Of a node with a weight of this shape; None where groups of channels are multiplied apart."""
        if node.op_type != "Conv":
            return cls(node.input[0])
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if given.get("group", 1) != 1:
            return None
        assert given.get("auto_pad", b"NOTSET") == b"NOTSET", "our exports give pads"
        named = {name: tuple(given[name]) for name in ("strides", "dilations", "pads") if name in given}
        return cls(node.input[0], weight[2:], **named)

    def sample(
        self, values: NDArray[np.float32], count: int, rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """At most this many rows [rows, C * h * w], in the order of one channel's weights, at drawn places."""
        if not self.kernel:
            rows = values.reshape(-1, values.shape[-1])
            return rows[rng.choice(len(rows), min(count, len(rows)), replace=False)]
        top, left, bottom, right = self.pads
        padded = np.pad(values[0], ((0, 0), (top, bottom), (left, right)))
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(1, 2))
        windows = windows[
            :, :: self.strides[0], :: self.strides[1], :: self.dilations[0], :: self.dilations[1]
        ]
        down, across = windows.shape[1:3]
        places = rng.choice(down * across, min(count, down * across), replace=False)
        found: NDArray[np.float32] = windows[:, places // across, places % across]
        return found.swapaxes(0, 1).reshape(len(places), -1)
