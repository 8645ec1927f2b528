import pytest
import torch
from torch.nn import functional as F

from idol_deploy.objective.id_head import UNKNOWN, IdHead
from idol_runtime.errors import ConfigError


def test_only_known_instances_that_count_are_classified() -> None:
    torch.manual_seed(0)
    head, embeddings = IdHead(4, 6), torch.randn(2, 3, 4, requires_grad=True)
    identities = torch.tensor([[5, UNKNOWN, 2], [0, 1, UNKNOWN]])
    counted = torch.tensor([[True, True, False], [True, True, False]])
    loss, items = head.loss(embeddings, identities, counted)
    known = [(0, 0), (1, 0), (1, 1)]
    wanted = sum(F.cross_entropy(head.classify(embeddings[at]), identities[at]) for at in known)
    torch.testing.assert_close(loss, wanted)
    assert int(items) == 3
    loss.backward()
    assert embeddings.grad is not None
    touched = embeddings.grad.abs().sum(-1) > 0
    assert touched.nonzero().tolist() == [list(at) for at in known]


def test_nothing_known_costs_nothing() -> None:
    loss, items = IdHead(4, 6).loss(torch.randn(3, 4), torch.full((3,), UNKNOWN), torch.ones(3).bool())
    assert (float(loss.detach()), int(items)) == (0.0, 0)


def test_it_needs_to_know_how_many_there_are() -> None:
    with pytest.raises(ConfigError, match="embedding='contrastive'"):
        IdHead(4, 0)
