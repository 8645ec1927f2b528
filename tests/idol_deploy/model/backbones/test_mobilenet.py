from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from idol_deploy.config import MobileNetConfig
from idol_deploy.model.backbones.mobilenet import InvertedResidual, MobileNet
from idol_deploy.weights.reference import make_video


def test_an_inverted_residual_is_three_convolutions() -> None:
    torch.manual_seed(0)
    block = InvertedResidual(4, 4, stride=1, expansion=6)
    state = {name: tensor.normal_() for name, tensor in block.state_dict().items()}
    x = torch.randn(2, 4, 7, 5)

    def one(name: str, x: Tensor) -> Tensor:
        """Compute a convolution by its definition: a product with every 1x1 or 3x3 patch, zero outside."""
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        side = weight.shape[-1]
        patches = F.unfold(x, side, padding=side // 2).reshape(2, x.shape[1], side * side, 35)
        spread = weight.flatten(2)
        if weight.shape[1] == 1:
            product = torch.einsum("nckp,ck->ncp", patches, spread[:, 0])
        else:
            product = torch.einsum("nckp,ock->nop", patches, spread)
        return (product + bias[:, None]).reshape(2, -1, 7, 5)

    inner = one("depthwise", one("expand", x).clamp(0, 6)).clamp(0, 6)
    torch.testing.assert_close(block(x), x + one("project", inner), rtol=1e-4, atol=1e-3)


def test_a_block_that_changes_its_size_has_no_residual() -> None:
    for block in (InvertedResidual(4, 4, 2, 6), InvertedResidual(4, 8, 1, 6)):
        torch.nn.init.zeros_(block.project.weight)
        assert not block(torch.ones(1, 4, 4, 4)).any()


def test_the_published_number_of_parameters() -> None:
    """MobileNetV2 has 3,504,872 parameters; subtract classifier and last convolution, and half of the normalisation."""
    with torch.device("meta"):
        sizes = {name: p.numel() for name, p in MobileNet(MobileNetConfig()).named_parameters()}
    biases = sum(size for name, size in sizes.items() if name.endswith("bias"))
    assert sum(sizes.values()) + biases == 3504872 - 1281 * 1000 - (320 + 2) * 1280


def test_fresh_weights_keep_activations_in_range() -> None:
    """Without normalisation, only the first weights keep signal and gradient from vanishing or saturating."""
    video = torch.from_numpy(make_video(2, 192, 256, seed=0)).float()
    images = (video - video.mean()) / video.std()
    for seed in range(3):
        torch.manual_seed(seed)
        net = MobileNet(MobileNetConfig()).requires_grad_(requires_grad=False)
        for feature in net(images):
            assert 0.3 < float(feature.std()) < 3.0


@pytest.mark.parametrize("frozen", [0, 1, 2, 5])
def test_frozen_stages_do_not_train(frozen: int) -> None:
    with torch.device("meta"):
        net = MobileNet(replace(MobileNetConfig(), frozen_stages=frozen))
    stages = (net.stem, net.res2, net.res3, net.res4, net.res5)
    assert [all(p.requires_grad for p in stage.parameters()) for stage in stages] == [
        i >= frozen for i in range(5)
    ]
