import torch
from torch import Tensor

from idol_deploy.model.mask_head import MASK_PARAMETERS, MaskHead
from idol_deploy.objective.losses import dice_loss, mask_focal_loss
from idol_deploy.objective.mask_loss import gather_matched, mask_losses


def test_the_matched_are_gathered_image_by_image() -> None:
    matched = torch.tensor([[[0, 1, 1], [0, 0, 0]], [[1, 0, 0], [0, 0, 1]]]).bool()  # [L, N, Q]
    found = gather_matched(matched)
    assert found.counted.tolist() == [[True, True, True], [True, False, False]]
    values = torch.arange(24).reshape(2, 2, 3, 2)
    for n, layers_and_queries in enumerate(([(0, 1), (0, 2), (1, 0)], [(1, 2)])):
        for i, (layer, query) in enumerate(layers_and_queries):
            assert int(found.layer[n, i]) == layer
            assert torch.equal(found.take(values)[n, i], values[layer, n, query])


def test_nothing_matched_still_gathers_one_that_does_not_count() -> None:
    found = gather_matched(torch.zeros(2, 3, 4, dtype=torch.bool))
    assert found.counted.tolist() == [[False]] * 3


def test_chunks_change_neither_losses_nor_gradients() -> None:
    torch.manual_seed(0)
    head, masks = MaskHead(32), torch.rand(2, 3, 8, 12) < 0.4
    inputs = [torch.randn(2, 8, 4, 6), torch.randn(2, 5, MASK_PARAMETERS), torch.rand(2, 5, 2) * 40]
    instance = torch.randint(0, 3, (2, 5))

    def run(at_once: int) -> tuple[Tensor, list[Tensor]]:
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        losses = torch.stack(mask_losses(head, *leaves, instance, masks, at_once))
        losses.square().sum().backward()
        return losses.detach(), [leaf.grad for leaf in leaves if leaf.grad is not None]

    whole, gradients = run(10)
    for n, i in ((n, i) for n in range(2) for i in range(5)):
        features, params, origin = (
            inputs[0][n : n + 1],
            inputs[1][n : n + 1, i : i + 1],
            inputs[2][n : n + 1, i : i + 1],
        )
        logits, wanted = head.decode(features, params, origin)[0, 0], masks[n, instance[n, i]]
        torch.testing.assert_close(whole[0, n, i], mask_focal_loss(logits, wanted))
        torch.testing.assert_close(whole[1, n, i], dice_loss(logits, wanted))
    for at_once in (1, 4):
        losses, found = run(at_once)
        torch.testing.assert_close(losses, whole)
        for ours, wanted in zip(found, gradients, strict=True):
            torch.testing.assert_close(ours, wanted)
