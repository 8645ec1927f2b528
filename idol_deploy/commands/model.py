"""Arguments of the commands that run a model and associate what it finds."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idol_deploy.evaluate.model import ModelChoice

__all__ = ["add_association", "model_choice"]


def add_association(
    parser: argparse.ArgumentParser, what: str = "association.temporal=paper, for example"
) -> None:
    """`--set KEY=VALUE`, of thresholds and association."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=what)


def model_choice(options: argparse.Namespace) -> "ModelChoice":
    """The model that the arguments choose; a command that lets the backend choose itself has no such arguments.

    Raises:
        ConfigError: nothing to run, or two things.
    """
    from idol_deploy.evaluate.model import ModelChoice

    return ModelChoice(
        bundle=options.bundle,
        weights=options.weights,
        preset=options.preset,
        backend=getattr(options, "backend", "auto"),
        graph=getattr(options, "graph", "fp32"),
        device=options.device,
        threads=options.threads,
        fit=options.fit,
        settings=tuple(options.set),
    )
