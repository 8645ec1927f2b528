from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from idol_deploy.config import ResNetConfig
from idol_deploy.model.backbones.resnet import FrozenBatchNorm, ResNet


def test_frozen_normalisation_is_batch_normalisation_with_fixed_statistics() -> None:
    torch.manual_seed(0)
    norm = FrozenBatchNorm(5)
    for buffer in norm.buffers():
        buffer.uniform_(0.5, 2.0)
    x = torch.randn(2, 5, 3, 4)
    wanted = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-5)
    torch.testing.assert_close(norm(x), wanted)
    assert not list(norm.parameters())


def test_fresh_normalisation_changes_nothing() -> None:
    x = torch.randn(1, 3, 2, 2)
    torch.testing.assert_close(FrozenBatchNorm(3)(x), x)


@pytest.mark.parametrize("frozen", [0, 1, 2, 5])
def test_frozen_stages_do_not_train(frozen: int) -> None:
    with torch.device("meta"):
        resnet = ResNet(replace(ResNetConfig(), frozen_stages=frozen))
    stages = (resnet.stem, resnet.res2, resnet.res3, resnet.res4, resnet.res5)
    trains = [any(parameter.requires_grad for parameter in stage.parameters()) for stage in stages]
    assert trains == [i >= frozen for i in range(5)]
