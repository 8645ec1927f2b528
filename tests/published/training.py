"""Parity checks of matching, selection, losses and gradients, from `unit_*.npz`.

Letters: N images or pairs, G instances (padded), Q queries.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from idol_deploy.config import IdolConfig, preset
from idol_deploy.objective.batch import Batch, Pair, collate
from idol_deploy.objective.contrast import (
    Similarity,
    compare,
    contrastive_loss,
    cosine_loss,
    select_by_transport,
)
from idol_deploy.objective.criterion import Criterion
from idol_deploy.objective.matcher import match
from idol_deploy.train.graph import TrainingGraph
from idol_deploy.weights.layout import canonical_name, published_names
from idol_deploy.weights.reference import reference_model
from idol_export.verify.parity import relative_error
from published.arrays import Array
from published.parity import ParityRow

__all__ = ["PublishedSampler", "compare_matcher", "compare_selection", "compare_training", "training_batch"]

Arrays = Mapping[str, Array]

_LOSS = 1e-4
_GRADIENT = 1e-3
_FROZEN = -1.0  # gradient norm of a frozen parameter in the arrays


def compare_matcher(unit: Arrays) -> Iterator[ParityRow]:
    """Compare the matches of `unit_matcher`, with its images as one batch; yield the rows."""
    count = _count(unit, "gt_boxes")
    logits, boxes, labels, instance_boxes = (
        _batch(unit, name, count) for name in ("pred_logits", "pred_boxes", "labels", "gt_boxes")
    )
    exists = _batch(unit, "labels", count, ones=True).bool()
    ours = match(logits, boxes, labels, instance_boxes, exists)
    matched = [(unit[f"selected_query_mask{i}"], ours.matched[i].numpy()) for i in range(count)]
    yield _decisions("matcher", "matched queries", matched)
    instance = [(unit[f"gt_of_selected{i}"], ours.instance[i, ours.matched[i]].numpy()) for i in range(count)]
    yield _decisions("matcher", "their instances", instance)
    best = [(unit[f"matched_query_of_gt{i}"], ours.best_query[i, exists[i]].numpy()) for i in range(count)]
    yield _decisions("matcher", "best queries", best)


def compare_selection(unit: Arrays) -> Iterator[ParityRow]:
    """Compare the selection of `unit_pos_neg`, with its pairs as one batch; yield the rows.

    Negatives are drawn as `random.seed(0)` draws them for each pair.
    """
    count = _count(unit, "gt_boxes")
    logits, boxes, labels, instance_boxes, matched = (
        _batch(unit, name, count) for name in ("ref_logits", "ref_boxes", "labels", "gt_boxes", "matched")
    )
    valid = _batch(unit, "valid", count).bool()
    selection = select_by_transport(logits, boxes, labels, instance_boxes, valid)
    instances = [unit[f"valid{i}"].astype(np.bool_) for i in range(count)]
    for what, ours, name in (
        ("positives", selection.positive, "positive"),
        ("not negatives", ~selection.negative & valid[..., None], "not_negative"),
    ):
        cut = [(unit[f"{name}{i}"], ours[i, : len(instances[i])].numpy()) for i in range(count)]
        yield _decisions("pos_neg", what, cut)
    sampler = _PerPair()
    key, reference = (
        torch.cat([torch.from_numpy(unit[f"{name}{i}"]) for i in range(count)])
        for name in ("key_embed", "ref_embed")
    )
    key = key.gather(1, matched[..., None].expand(-1, -1, key.shape[-1]))
    similarity = compare(key, reference, selection, valid, sampler)
    yield from _item_rows(unit, similarity, instances)
    for what, loss in (("loss_reid", contrastive_loss), ("loss_reid_aux", cosine_loss)):
        errors = [
            _error(loss(_only(similarity, i)) / similarity.items[i].sum().clamp(min=1), unit[f"{what}{i}"])
            for i in range(count)
        ]
        yield ParityRow("pos_neg", "torch", what, max(errors), _LOSS, count)


class PublishedSampler:
    """A `Sampler` with the draws of the published code after `random.seed`."""

    def __init__(self, seed: int = 0) -> None:
        self._generator = random.Random(seed)

    def __call__(self, negative: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        """Draw negatives [N, G, Q], instance by instance."""
        drawn = torch.zeros(negative.shape, dtype=torch.bool, device=negative.device)
        for row, available, number in zip(
            drawn.flatten(0, 1), negative.flatten(0, 1), count.flatten().tolist(), strict=True
        ):
            (queries,) = available.nonzero(as_tuple=True)
            chosen = self._generator.sample(range(len(queries)), number)
            row[queries[chosen]] = True
        return drawn


class _PerPair:
    """A sampler that is seeded again for each pair."""

    def __call__(self, negative: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
        rows = [PublishedSampler()(negative[i : i + 1], count[i : i + 1]) for i in range(len(count))]
        return torch.cat(rows)


def _only(similarity: Similarity, pair: int) -> Similarity:
    return Similarity(**{name: value[pair : pair + 1] for name, value in vars(similarity).items()})


def _item_rows(unit: Arrays, similarity: Similarity, instances: list[Array]) -> Iterator[ParityRow]:
    """Compare contrastive items.

    A published item lists positives, then negatives; sampled negatives are in the order of sampling.
    """
    errors, labels, compared = {"contrast": 0.0, "aux_cos": 0.0}, 0, 0
    for i, present in enumerate(instances):
        for item, instance in enumerate(np.flatnonzero(present)):
            positive = similarity.positive[i, instance]
            for name, values, negative, label in (
                ("contrast", similarity.product, similarity.negative, "label"),
                ("aux_cos", similarity.cosine, similarity.sampled, "aux_label"),
            ):
                row, chosen = values[i, instance], negative[i, instance]
                ours = torch.cat((row[positive], row[chosen])).numpy()
                expected = unit[f"{name}{i}_{item}"].reshape(-1)
                n = int(positive.sum())
                if name == "aux_cos" and ours.shape == expected.shape:
                    ours[n:], expected = np.sort(ours[n:]), np.r_[expected[:n], np.sort(expected[n:])]
                errors[name] = max(errors[name], relative_error(ours, expected))
                item_labels = unit[f"{label}{i}_{item}"].reshape(-1)
                labels += int((item_labels.sum() != n) | (len(item_labels) != len(ours)))
                compared += 1
    for name, error in errors.items():
        yield ParityRow("pos_neg", "torch", f"{name} items", error, _LOSS, compared // 2)
    yield ParityRow("pos_neg", "torch", "item labels", labels, 0, compared)


def compare_training(unit: Arrays) -> Iterator[ParityRow]:
    """Compare all losses and gradients of `unit_train`, a step without dropout; yield the rows."""
    base = preset("ytvis19_r50")
    config = replace(base, model=replace(base.model, dropout=0.0))
    model = reference_model(config).train()
    criterion = Criterion(config.train.loss, config.model.hidden_dim)
    criterion.sampler = PublishedSampler()
    losses = TrainingGraph(model, criterion)(training_batch(unit, config))
    names = sorted(name.removeprefix("loss/") for name in unit if name.startswith("loss/"))
    errors = {
        name: _error(losses.parts[name], unit[f"loss/{name}"]) for name in names if name in losses.parts
    }
    missing = sorted(set(names) ^ set(losses.parts))
    worst = max(errors, key=lambda name: errors[name])
    error = float("inf") if missing else errors[worst]
    yield ParityRow("train", "torch", "losses", error, _LOSS, len(names), detail=", ".join(missing) or worst)
    yield ParityRow(
        "train", "torch", "weighted total", _error(losses.total, unit["total_weighted"]), _LOSS, 1
    )
    losses.total.backward()
    published = published_names(model)
    gradients = {
        published[name]: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    yield from _gradient_rows(unit, gradients)


def _gradient_rows(unit: Arrays, gradients: Mapping[str, torch.Tensor | None]) -> Iterator[ParityRow]:
    names = [canonical_name(str(name)) for name in unit["grad_names"]]
    norms = {name: _norm(gradient) for name, gradient in gradients.items()}
    expected = dict(zip(names, unit["grad_norms"].tolist(), strict=True))
    frozen = {name for name, norm in expected.items() if norm == _FROZEN}
    wrong = sorted(frozen ^ (set(expected) - set(norms)) | (set(norms) - set(expected)))
    yield ParityRow(
        "train", "torch", "what is frozen", len(wrong), 0, len(names), detail=", ".join(wrong[:3])
    )
    errors = {
        name: abs(norms[name] - norm) / max(norm, 1e-12)
        for name, norm in expected.items()
        if name in norms and norm != _FROZEN
    }
    worst = max(errors, key=lambda name: errors[name])
    yield ParityRow("train", "torch", "gradient norms", errors[worst], _GRADIENT, len(errors), detail=worst)
    total = float(np.linalg.norm(list(norms.values())))
    error = abs(total - float(unit["total_grad_norm"])) / float(unit["total_grad_norm"])
    yield ParityRow("train", "torch", "gradient norm", error, _GRADIENT, 1)
    slices = {}
    for name in (name for name in unit if name.startswith("grad/")):
        gradient, expected_slice = gradients.get(canonical_name(name.removeprefix("grad/"))), unit[name]
        if gradient is None:
            slices[name] = float("inf")
            continue
        rows, columns = expected_slice.shape
        slices[name] = relative_error(gradient.flatten(1)[:rows, :columns].numpy(), expected_slice)
    worst = max(slices, key=lambda name: slices[name])
    yield ParityRow("train", "torch", "gradient slices", slices[worst], _GRADIENT, len(slices), detail=worst)


def training_batch(unit: Arrays, config: IdolConfig) -> Batch:
    """Return the batch of pairs from which `unit_train` was computed."""
    pairs = []
    for i in range(_count(unit, "images")):
        key, reference = torch.from_numpy(unit[f"images{i}"])
        masks = np.unpackbits(unit[f"gt_masks{i}"][0], axis=-1, count=key.shape[-1]).astype(np.bool_)
        boxes, identities = (torch.from_numpy(unit[f"{name}{i}"]) for name in ("gt_boxes_xyxy", "gt_ids"))
        present = identities >= 0
        labels = torch.from_numpy(unit[f"gt_classes{i}"])
        pairs.append(
            Pair(
                *(key, reference, labels, boxes[0], boxes[1], torch.from_numpy(masks)),
                *(present[0], present[1], identities[0]),
            )
        )
    return collate(pairs, config.preprocessing)


def _count(unit: Arrays, name: str) -> int:
    """Return the number of arrays name0, name1, ..."""
    count = 0
    while f"{name}{count}" in unit:
        count += 1
    if not count:
        raise KeyError(f"{name}0")
    return count


def _batch(unit: Arrays, name: str, count: int, *, ones: bool = False) -> torch.Tensor:
    """Return a batch [N, ...] of arrays, padded on the first axis; with `ones`, of ones in place of the values."""
    values = [torch.from_numpy(unit[f"{name}{i}"]) for i in range(count)]
    return pad_sequence([torch.ones_like(value) if ones else value for value in values], batch_first=True)


def _decisions(tag: str, what: str, pairs: list[tuple[Array, Array]]) -> ParityRow:
    same_shape = all(expected.shape == ours.shape for expected, ours in pairs)
    wrong = sum(int((expected != ours).sum()) for expected, ours in pairs) if same_shape else float("inf")
    return ParityRow(tag, "torch", what, wrong, 0, sum(expected.size for expected, _ in pairs))


def _norm(gradient: torch.Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient.double().norm())


def _error(ours: torch.Tensor, expected: Array) -> float:
    return relative_error(ours.detach().numpy(), expected)
