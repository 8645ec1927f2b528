"""The graph that a run trains: fresh or from a file, with the cores and wrappers that the settings ask for."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from idol_deploy.model.deform_op import operator_problem, use_operator
from idol_deploy.model.idol import Idol
from idol_deploy.model.transformer import DecoderLayer, EncoderLayer
from idol_deploy.objective.criterion import Criterion
from idol_deploy.objective.training_graph import TrainingGraph
from idol_deploy.settings import TrainSettings
from idol_deploy.weights.checkpoint import start_from

__all__ = ["build_graph", "compile_layers", "prepare_graph", "recompute_layers"]

Announce = Callable[[str], None]


def build_graph(
    settings: TrainSettings, identities: int, weights: Path | None, announce: Announce
) -> TrainingGraph:
    """Network and criterion in training mode, on the CPU; what is drawn depends on the seed alone.

    Args:
        settings: of the run.
        identities: of the training set, for an identity head.
        weights: a checkpoint to start from; None: fresh weights.
        announce: told what the file does not have.

    Raises:
        CheckpointError: the file does not fit; see `start_from`.
        ConfigError: an identity head without identities.
    """
    torch.manual_seed(settings.run.seed)
    config = settings.network
    if weights is None:
        model = Idol(config).train()
        if config.train.initial_weights:
            announce(
                f"weights from nothing; {config.name} begins with {config.train.initial_weights}: --weights"
            )
        if config.model.backbone.frozen_stages:
            announce(
                "the backbone's first stages are frozen as they were drawn; set backbone.frozen_stages=0 to train them"
            )
    else:
        model, fresh = start_from(weights, config)
        if fresh:
            announce(f"{weights} leaves {len(fresh)} tensors to be learnt from nothing, {fresh[0]} the first")
    return TrainingGraph(model, Criterion(config.train.loss, config.model.hidden_dim, identities)).train()


def prepare_graph(graph: TrainingGraph, settings: TrainSettings, announce: Announce) -> None:
    """Gives a graph, on its device already, the operator and the wrappers of the settings.

    Raises:
        PluginError: the operator is insisted on, and not built.
    """
    run, model = settings.run, graph.model
    device = next(model.parameters()).device
    if run.operator != "never":
        use_operator(model, required=run.operator == "always")
    problem = "run.operator=never" if run.operator == "never" else operator_problem(device)
    announce(f"deformable attention: {'its library' if problem is None else f'torch alone ({problem})'}")
    if run.recompute:
        recompute_layers(model)
    if run.compile:
        compile_layers(model)


def compile_layers(model: nn.Module) -> None:
    """Compiles the transformer's layers: one program serves all of a kind, whatever the size of the frames."""
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
