from collections.abc import Callable

import torch

from idol_deploy.model.idol import Idol
from idol_deploy.model.pairs import forward_pairs, normalise
from idol_deploy.objective.batch import Batch, Pair, collate


def _batch(model: Idol, make_pair: Callable[..., Pair]) -> Batch:
    return collate([make_pair(1, 0, (60, 90)), make_pair(1, 1, (64, 70))], model.config.preprocessing)


def test_pairs_are_what_the_network_says_of_each_frame(tiny: Idol, make_pair: Callable[..., Pair]) -> None:
    batch = _batch(tiny, make_pair)
    images = normalise(tiny, batch.images, batch.padding_mask)
    assert not images[batch.padding_mask[:, None].expand_as(images)].any()
    with torch.no_grad():
        pairs = forward_pairs(tiny, images, batch.padding_mask)
        alone = tiny(images, batch.padding_mask)
    decoder = alone.decoder
    found = {
        "logits": (pairs.logits[-1], alone.logits[::2]),
        "boxes": (pairs.boxes, decoder.boxes[:, ::2]),
        "states": (pairs.states, decoder.states[:, ::2]),
        "origins": (pairs.origins[-1], alone.mask_reference[::2]),
        "mask_features": (pairs.mask_features, alone.mask_features[::2]),
        "reference_logits": (pairs.reference_logits, alone.logits[1::2]),
        "reference_boxes": (pairs.reference_boxes, alone.boxes[1::2]),
        "reference_states": (pairs.reference_states, decoder.states[-1, 1::2]),
    }
    for name, (ours, wanted) in found.items():
        torch.testing.assert_close(
            ours, wanted, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    for layer, logits in enumerate(pairs.logits):
        assert torch.equal(logits, tiny.heads.classify(pairs.states[layer], layer))


def test_only_training_drops_out(tiny: Idol, make_pair: Callable[..., Pair]) -> None:
    batch = _batch(tiny, make_pair)
    images = normalise(tiny, batch.images, batch.padding_mask)
    for training in (False, True):
        tiny.train(training)
        # The backbone has stochastic depth.
        tiny.backbone.eval()
        with torch.no_grad():
            first, second = (forward_pairs(tiny, images, batch.padding_mask) for _ in range(2))
        assert torch.equal(first.reference_states, second.reference_states) is not training
        assert torch.equal(first.states, second.states) is not training


def test_gradients_stop_where_the_published_ones_do(tiny: Idol, make_pair: Callable[..., Pair]) -> None:
    batch = _batch(tiny, make_pair)
    pairs = forward_pairs(tiny, normalise(tiny, batch.images, batch.padding_mask), batch.padding_mask)
    assert not pairs.reference_logits.requires_grad
    assert not pairs.reference_boxes.requires_grad
    (gradient,) = torch.autograd.grad(pairs.origins[1:].sum(), pairs.origins, retain_graph=True)
    assert gradient[1:].all()
    points = tiny.transformer.reference_points.weight
    (of_first,) = torch.autograd.grad(pairs.origins[0].sum(), points, retain_graph=True)
    assert of_first.abs().sum() > 0
    (of_later,) = torch.autograd.grad(
        pairs.origins[1:].sum(), points, allow_unused=True, materialize_grads=True
    )
    assert not of_later.any()
