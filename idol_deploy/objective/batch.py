"""A training batch: frame pairs and their annotations, padded to one size.

Letters: N pairs, n instances of one pair, G the largest n of the batch and at least 1, H x W padded pixels. A pair is
a key frame, whose instances are detected, and a reference frame, on which they are re-identified (docs/idol.md §5.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from idol_deploy.objective.boxes import to_cxcywh
from idol_deploy.objective.id_head import UNKNOWN
from idol_runtime.config import Preprocessing

__all__ = ["Batch", "Pair", "Targets", "collate"]

_MASK_STRIDE = 4


@dataclass(frozen=True)
class Pair:
    """Two resized frames and their instances.

    Attributes:
        key: key frame, uint8 RGB [3, h, w].
        reference: reference frame, uint8 RGB [3, h', w'].
        labels: class indices of the network, int64 [n].
        key_boxes: boxes on the key frame, xyxy [n, 4] in pixels; any value for an absent instance.
        reference_boxes: boxes on the reference frame, xyxy [n, 4] in pixels; any value for an absent instance.
        masks: masks on the key frame, bool [n, h, w].
        on_key: instances present on the key frame, bool [n]; the others are left out of the batch.
        on_reference: instances present on the reference frame, bool [n]; the embeddings of the others are not compared.
        identities: identities for an identity head, int64 [n]; `UNKNOWN` for an instance without one.
        reference_masks: masks on the reference frame, bool [n, h', w']; None if only the key frame is supervised.
    """

    key: Tensor
    reference: Tensor
    labels: Tensor
    key_boxes: Tensor
    reference_boxes: Tensor
    masks: Tensor
    on_key: Tensor
    on_reference: Tensor
    identities: Tensor
    reference_masks: Tensor | None = None

    def swapped(self) -> Pair:
        """Return the same pair with key and reference frame exchanged."""
        assert self.reference_masks is not None
        return replace(
            self,
            key=self.reference,
            reference=self.key,
            key_boxes=self.reference_boxes,
            reference_boxes=self.key_boxes,
            masks=self.reference_masks,
            on_key=self.on_reference,
            on_reference=self.on_key,
            reference_masks=self.masks,
        )


@dataclass(frozen=True)
class Targets:
    """Annotations of N pairs. Boxes are cxcywh in shares of the frame without its padding.

    Attributes:
        labels: class indices, int64 [N, G].
        boxes: boxes [N, G, 4] on the key frames.
        masks: masks on the key frames at every fourth pixel, bool [N, G, H / 4, W / 4].
        exists: real instances, bool [N, G]; False for padding.
        reference_boxes: boxes [N, G, 4] on the reference frames.
        on_reference: real instances that are present on the reference frame, bool [N, G].
        identities: identities, int64 [N, G]; `UNKNOWN` for padding.
        pixels: (width, height) [N, 2] of the key frames without padding.
    """

    labels: Tensor
    boxes: Tensor
    masks: Tensor
    exists: Tensor
    reference_boxes: Tensor
    on_reference: Tensor
    identities: Tensor
    pixels: Tensor


@dataclass(frozen=True)
class Batch:
    """The input of a training step.

    Attributes:
        images: uint8 [2 N, 3, H, W] in the order key, reference, key, ...; zero-padded at the right and bottom.
        padding_mask: bool [2 N, H, W], True at padded pixels.
        targets: annotations of the N pairs; for supervision in both directions, of 2 N pairs: each pair is followed by
            the same pair swapped, so that every image is a key frame.
    """

    images: Tensor
    padding_mask: Tensor
    targets: Targets

    @property
    def both_directions(self) -> bool:
        """True if every image is a key frame."""
        return self.targets.labels.shape[0] == self.images.shape[0]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the batch on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from which copies to a CUDA device are asynchronous."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        targets = Targets(*(change(getattr(self.targets, field.name)) for field in fields(Targets)))
        return Batch(change(self.images), change(self.padding_mask), targets)


def collate(pairs: Sequence[Pair], preprocessing: Preprocessing, *, both_directions: bool = False) -> Batch:
    """Join pairs of any sizes: all frames are padded to the largest, then to the multiple that the network needs.

    Instances that are not on the key frame are left out.

    Args:
        pairs: at least one pair.
        preprocessing: settings with the multiple that frames are padded to.
        both_directions: supervise reference frames like key frames; every pair then needs `reference_masks`.
    """
    frames = [frame for pair in pairs for frame in (pair.key, pair.reference)]
    height, width = preprocessing.padded_size(
        max(frame.shape[1] for frame in frames), max(frame.shape[2] for frame in frames)
    )
    padding_mask = torch.ones(len(frames), height, width, dtype=torch.bool)
    for mask, frame in zip(padding_mask, frames, strict=True):
        mask[: frame.shape[1], : frame.shape[2]] = False
    images = torch.stack([_padded(frame, height, width) for frame in frames])
    if both_directions:
        pairs = [either for pair in pairs for either in (pair, pair.swapped())]
    return Batch(images, padding_mask, _targets(pairs, height, width))


def _targets(pairs: Sequence[Pair], height: int, width: int) -> Targets:
    present = [pair.on_key for pair in pairs]
    instances = max(1, *(int(on_key.sum()) for on_key in present))

    def join(values: list[Tensor], padding: float = 0) -> Tensor:
        """Pad N tensors [n, ...] to [N, G, ...]."""
        chosen = [value[on_key] for value, on_key in zip(values, present, strict=True)]
        joined = pad_sequence(chosen, batch_first=True, padding_value=padding)
        missing = instances - joined.shape[1]
        return F.pad(joined, (0, 0) * (joined.ndim - 2) + (0, missing), value=padding)

    start = _MASK_STRIDE // 2
    masks = [
        _padded(pair.masks, height, width)[:, start::_MASK_STRIDE, start::_MASK_STRIDE] for pair in pairs
    ]
    return Targets(
        labels=join([pair.labels for pair in pairs]),
        boxes=join([_shares(pair.key_boxes, pair.key) for pair in pairs]),
        masks=join(masks),
        exists=join(present),
        reference_boxes=join([_shares(pair.reference_boxes, pair.reference) for pair in pairs]),
        on_reference=join([pair.on_reference for pair in pairs]),
        identities=join([pair.identities for pair in pairs], UNKNOWN),
        pixels=torch.stack([_pixels(pair.key) for pair in pairs]),
    )


def _padded(tensor: Tensor, height: int, width: int) -> Tensor:
    return F.pad(tensor, (0, width - tensor.shape[-1], 0, height - tensor.shape[-2]))


def _pixels(frame: Tensor) -> Tensor:
    return torch.tensor([float(frame.shape[2]), float(frame.shape[1])])


def _shares(boxes: Tensor, frame: Tensor) -> Tensor:
    """Convert boxes from xyxy in pixels of the frame to cxcywh in shares of it."""
    return to_cxcywh(boxes.float() / _pixels(frame).repeat(2))
