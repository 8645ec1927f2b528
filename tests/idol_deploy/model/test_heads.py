import torch

from idol_deploy.config import ModelConfig
from idol_deploy.model.heads import Heads

SMALL = ModelConfig(hidden_dim=32, heads=2, decoder_layers=3)


def test_each_decoder_layer_has_its_own_classes() -> None:
    heads = Heads(SMALL, classes=4)
    states = torch.randn(2, 5, 32)
    assert heads.classify(states).shape == (2, 5, 4)
    assert torch.equal(heads.classify(states), heads.classify(states, layer=2))
    assert not torch.equal(heads.classify(states), heads.classify(states, layer=0))


def test_untrained_classes_are_rare() -> None:
    heads = Heads(SMALL, classes=4)
    scores = heads.classify(torch.zeros(1, 1, 32)).sigmoid()
    torch.testing.assert_close(scores, torch.full((1, 1, 4), 0.01))


def test_embeddings_are_not_normalised() -> None:
    heads = Heads(SMALL, classes=4)
    states = torch.randn(2, 5, 32)
    embeddings = heads.embedding(states)
    assert embeddings.shape == (2, 5, 32)
    assert heads.embedding(10 * states).norm() > 2 * embeddings.norm()
    assert heads.controller(states).shape == (2, 5, 169)
