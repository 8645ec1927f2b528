"""The graph that a run trains: network and losses as one module, its initial weights, its operator and wrappers."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from idol_deploy.model.deform_op import operator_problem, use_operator
from idol_deploy.model.idol import Idol
from idol_deploy.model.pairs import forward_pairs, normalise
from idol_deploy.model.transformer import DecoderLayer, EncoderLayer
from idol_deploy.objective.batch import Batch
from idol_deploy.objective.criterion import Criterion, Losses
from idol_deploy.settings import TrainSettings
from idol_deploy.weights.checkpoint import start_from

__all__ = ["TrainingGraph", "build_graph", "prepare_graph", "recompute_layers"]

Announce = Callable[[str], None]


class TrainingGraph(nn.Module):
    """The graph that trains: from a batch to its losses.

    It is one module, so that DistributedDataParallel finds every parameter that a step uses.
    """

    def __init__(self, model: Idol, criterion: Criterion) -> None:
        super().__init__()
        self.model = model
        self.criterion = criterion

    def forward(self, batch: Batch) -> Losses:
        """Normalise the frames, run the network on their pairs and compute all losses."""
        images = normalise(self.model, batch.images, batch.padding_mask)
        output = forward_pairs(self.model, images, batch.padding_mask, both_directions=batch.both_directions)
        losses: Losses = self.criterion(self.model, output, batch.targets)
        return losses


def build_graph(
    settings: TrainSettings, identities: int, weights: Path | None, announce: Announce
) -> TrainingGraph:
    """Build network and criterion in training mode on the CPU; random weights depend on the seed only.

    Args:
        settings: settings of the run.
        identities: number of identities in the training set, for an identity head.
        weights: checkpoint to start from; None for random initialisation.
        announce: function that reports tensors without weights from the file.

    Raises:
        CheckpointError: the file does not fit; see `start_from`.
        ConfigError: an identity head is configured, and there are no identities.
    """
    torch.manual_seed(settings.run.seed)
    config = settings.network
    if weights is None:
        model = Idol(config).train()
        initial = config.train.initial_weights
        if initial:
            announce(f"training from random weights; {config.name} normally starts with --weights {initial}")
        if config.model.backbone.frozen_stages:
            announce(
                "the backbone's frozen stages have random weights; set backbone.frozen_stages=0 to train them"
            )
    else:
        model, fresh = start_from(weights, config)
        if fresh:
            announce(
                f"{weights} has no weights for {len(fresh)} tensors, the first is {fresh[0]}; they start at random"
            )
    return TrainingGraph(model, Criterion(config.train.loss, config.model.hidden_dim, identities)).train()


def prepare_graph(graph: TrainingGraph, settings: TrainSettings, announce: Announce) -> None:
    """Apply the operator, recomputation and compilation of the settings to a graph that is on its device.

    Raises:
        PluginError: `run.operator` is `always`, and the operator is not built.
    """
    run, model = settings.run, graph.model
    device = next(model.parameters()).device
    if run.operator != "never":
        use_operator(model, required=run.operator == "always")
    problem = "run.operator=never" if run.operator == "never" else operator_problem(device)
    announce(
        f"deformable attention: {'compiled operator' if problem is None else f'plain PyTorch ({problem})'}"
    )
    if run.recompute:
        recompute_layers(model)
    if run.compile:
        # One program serves all layers of a kind, for every size of the frames.
        for module in model.modules():
            if isinstance(module, EncoderLayer | DecoderLayer):
                module.compile(dynamic=True)


def recompute_layers(model: Idol) -> None:
    """Drop the activations of backbone blocks and transformer layers, and recompute them in the backward pass."""
    kinds = (model.backbone.block, EncoderLayer, DecoderLayer)
    for module in model.modules():
        if isinstance(module, kinds) and any(parameter.requires_grad for parameter in module.parameters()):
            # Set on the instance: a wrapping module would rename the parameters.
            module.__dict__["forward"] = functools.partial(checkpoint, module.forward, use_reentrant=False)
