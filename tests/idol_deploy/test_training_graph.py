from collections.abc import Callable

import torch

from idol_deploy.batch import Pair, collate
from idol_deploy.criterion import Criterion
from idol_deploy.loss_config import LossConfig
from idol_deploy.model.idol import Idol
from idol_deploy.training_graph import TrainingGraph


def test_steps_lower_the_loss_of_one_batch(tiny: Idol, make_pair: Callable[..., Pair]) -> None:
    torch.manual_seed(0)
    batch = collate([make_pair(2), make_pair(1, 1, (50, 90))], tiny.config.preprocessing)
    graph = TrainingGraph(tiny.train(), Criterion(LossConfig(), 32))
    optimiser = torch.optim.AdamW(graph.parameters(), lr=2e-3)
    totals = []
    for _ in range(11):
        optimiser.zero_grad()
        losses = graph(batch)
        losses.total.backward()
        optimiser.step()
        totals.append(losses.total.item())
    assert sum(totals[-3:]) < 0.85 * sum(totals[:3])
