"""The training objective: assignment at every decoder layer, all losses, their normalisers and weights.

Letters: L decoder layers, N pairs, G instances (padded), Q queries. Losses have their published names: those of layer k
end in `_k`, those of the last layer have no suffix. Source: docs/idol.md §5.2 to §5.4.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch import distributed as dist

from idol_deploy.model.idol import Idol
from idol_deploy.model.pairs import PairOutput
from idol_deploy.objective.batch import Targets
from idol_deploy.objective.config import LossConfig
from idol_deploy.objective.contrast import (
    Sampler,
    Selection,
    compare,
    contrastive_loss,
    cosine_loss,
    sample_uniformly,
    select_by_iou,
    select_by_transport,
)
from idol_deploy.objective.id_head import IdHead
from idol_deploy.objective.losses import box_losses, class_loss
from idol_deploy.objective.mask_loss import gather_matched, mask_losses
from idol_deploy.objective.matcher import Assignment, match

__all__ = ["Criterion", "Losses", "Normaliser", "count_everywhere", "count_here"]

# From counts, [n], to the divisors of their losses, [n].
Normaliser: TypeAlias = Callable[[Tensor], Tensor]


def count_here(counts: Tensor) -> Tensor:
    """Return the counts of this process, at least 1: the published normaliser."""
    return counts.clamp(min=1)


def count_everywhere(counts: Tensor) -> Tensor:
    """Return the mean of the counts over all processes; their sum is at least 1.

    Averaged gradients then equal those of one process with the whole batch. Without torch.distributed, this is
    `count_here`.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return count_here(counts)
    total = counts.clone()
    dist.all_reduce(total)
    return total.clamp(min=1) / dist.get_world_size()


@dataclass(frozen=True)
class Losses:
    """Losses of one batch in this process.

    Attributes:
        parts: scalar losses by published name, before their weights; they have a gradient.
        total: weighted sum of the losses.
        matched: number of matched queries of each layer, [L].
        items: number of instances whose embeddings are trained.
    """

    parts: dict[str, Tensor]
    total: Tensor
    matched: Tensor
    items: Tensor


class Criterion(nn.Module):
    """The losses of the network's outputs on pairs of frames.

    Attributes:
        config: weights and options.
        id_head: identity head; None if the embedding is trained with the contrastive loss.
        sampler: function that draws the negatives of the auxiliary cosine loss.
        normaliser: function from counts to the divisors of the losses.
    """

    def __init__(self, config: LossConfig, dim: int, identities: int = 0) -> None:
        """Build the identity head if the settings have one.

        Args:
            config: weights and options.
            dim: number of channels of the embedding.
            identities: number of identities in the training set; only the identity head needs it.

        Raises:
            ConfigError: an identity head is configured, and there are no identities.
        """
        super().__init__()
        self.config = config
        self.id_head = IdHead(dim, identities) if config.embedding == "id_head" else None
        self.sampler: Sampler = sample_uniformly
        self.normaliser: Normaliser = count_everywhere if config.global_normaliser else count_here

    def forward(self, model: Idol, output: PairOutput, targets: Targets) -> Losses:
        """Compute all losses.

        Args:
            model: network whose heads run on the matched queries.
            output: outputs of the network.
            targets: annotations.
        """
        if not self.config.deep_supervision:
            layered = ("logits", "boxes", "states", "origins")
            output = replace(output, **{name: getattr(output, name)[-1:] for name in layered})
        layers, pairs = output.logits.shape[:2]
        every = _match_layers(output, targets)
        matched, instance = (values.reshape(layers, pairs, -1) for values in (every.matched, every.instance))
        sums = _detection_sums(output, targets, matched, instance)
        sums |= self._mask_sums(model, output, targets, matched, instance)
        last = Assignment(*(getattr(every, field.name)[-pairs:] for field in fields(Assignment)))
        embedding, items = self._embedding_sums(model, output, targets, last)
        matched_count = matched.flatten(1).sum(1)
        divisors = self.normaliser(torch.cat((matched_count, items[None])).float())
        parts = _named({name: values / divisors[:-1] for name, values in sums.items()})
        parts |= {name: value / divisors[-1] for name, value in embedding.items()}
        total = torch.stack([self._weight(name) * value for name, value in parts.items()]).sum()
        return Losses(parts, total, matched_count, items)

    def _weight(self, name: str) -> float:
        kind = name.removeprefix("loss_").rstrip("0123456789").rstrip("_")
        weight: float = getattr(self.config, f"{'reid' if kind == 'id' else kind}_weight")
        return weight

    def _mask_sums(
        self, model: Idol, output: PairOutput, targets: Targets, matched: Tensor, instance: Tensor
    ) -> dict[str, Tensor]:
        """Sum the mask losses per layer, [L]; only matched queries get mask parameters."""
        chosen = gather_matched(matched)
        focal, dice = mask_losses(
            model.mask_head,
            output.mask_features,
            model.heads.controller(chosen.take(output.states)),
            chosen.take(output.origins) * targets.pixels[:, None],
            chosen.take(instance),
            targets.masks,
            self.config.masks_at_once,
        )
        sums = {}
        for name, loss in (("mask", focal), ("dice", dice)):
            values, start = loss.where(chosen.counted, 0.0), loss.new_zeros(matched.shape[0])
            sums[name] = start.index_add(0, chosen.layer.flatten(), values.flatten())
        return sums

    def _embedding_sums(
        self, model: Idol, output: PairOutput, targets: Targets, assignment: Assignment
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Sum the embedding losses; return scalars by name and the number of compared instances."""
        states = output.states[-1]
        index = assignment.best_query[..., None].expand(-1, -1, states.shape[-1])
        key = model.heads.embedding(states.gather(1, index))
        reference = model.heads.embedding(output.reference_states)
        selection = self.select(output, targets)
        if self.id_head is not None:
            return self._identity_sums(self.id_head, key, reference, selection, targets, assignment.assigned)
        similarity = compare(key, reference, selection, assignment.assigned, self.sampler)
        sums = {"loss_reid": contrastive_loss(similarity), "loss_reid_aux": cosine_loss(similarity)}
        return sums, similarity.items.sum()

    def select(self, output: PairOutput, targets: Targets) -> Selection:
        """Select the positive and negative queries of the reference frames."""
        boxes, exists = output.reference_boxes, targets.on_reference
        if self.config.selection == "iou":
            above, below = self.config.iou_positive, self.config.iou_negative
            return select_by_iou(boxes, targets.reference_boxes, exists, above, below)
        logits = output.reference_logits
        return select_by_transport(logits, boxes, targets.labels, targets.reference_boxes, exists)

    def _identity_sums(
        self,
        head: IdHead,
        key: Tensor,  # [N, G, C]
        reference: Tensor,  # [N, Q, C]
        selection: Selection,
        targets: Targets,
        assigned: Tensor,  # [N, G]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Sum the cross-entropy of each instance's best query on the key frame and its positives on the other."""
        owner = selection.positive.int().argmax(1)
        embeddings = torch.cat((key, reference), 1)
        identities = torch.cat((targets.identities, targets.identities.gather(1, owner)), 1)
        loss, items = head.loss(embeddings, identities, torch.cat((assigned, selection.positive.any(1)), 1))
        return {"loss_id": loss}, items


def _match_layers(output: PairOutput, targets: Targets) -> Assignment:
    """Assign queries in every layer; layers and pairs form one axis [L * N, ...]."""
    layers = output.logits.shape[0]
    repeated = (
        values.expand(layers, *values.shape).flatten(0, 1)
        for values in (targets.labels, targets.boxes, targets.exists)
    )
    return match(output.logits.flatten(0, 1), output.boxes.flatten(0, 1), *repeated)


def _detection_sums(
    output: PairOutput, targets: Targets, matched: Tensor, instance: Tensor
) -> dict[str, Tensor]:
    """Sum class and box losses per layer, [L]."""
    layers = matched.shape[0]
    labels = targets.labels.expand(layers, -1, -1).gather(2, instance)
    boxes = targets.boxes.expand(layers, -1, -1, -1).gather(2, instance[..., None].expand(-1, -1, -1, 4))
    distance, overlap = box_losses(output.boxes, boxes, matched)
    return {"ce": class_loss(output.logits, labels, matched), "bbox": distance, "giou": overlap}


def _named(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Split [L] per kind into scalars by published name, the last layer first."""
    last = len(next(iter(losses.values()))) - 1
    return {
        f"loss_{kind}" + ("" if layer == last else f"_{layer}"): values[layer]
        for layer in (last, *range(last))
        for kind, values in losses.items()
    }
