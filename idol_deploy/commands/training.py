"""What the commands that train, or look at training, have in common."""

import argparse
from pathlib import Path
from typing import Any

from idol_runtime.errors import ConfigError

__all__ = ["add_training_data", "import_training", "new_settings"]


def add_training_data(parser: argparse.ArgumentParser, annotations: str, settings: str) -> None:
    """What `new_settings` asks for besides the preset, of a command that is not `train`, and `--set`.

    Args:
        parser: of the command.
        annotations: help of `--annotations`.
        settings: help of `--set`.
    """
    add = parser.add_argument
    add("--annotations", required=True, type=Path, metavar="FILE", help=annotations)
    where = "the folder that the annotations' file names are below"
    add("--frames", required=True, type=Path, metavar="DIR", help=where)
    add("--own-classes", action="store_true", help="the classes of --annotations instead of the preset's")
    add("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help=settings)
    parser.set_defaults(global_normaliser=False, strict=False, holdout=None)


def import_training(purpose: str) -> None:
    """Find out early that a package is missing.

    Raises:
        MissingDependencyError: it names the extra.
    """
    from idol_runtime.optional import import_optional

    for package in ("torch", "safetensors", "pycocotools"):
        import_optional(package, package, "train", purpose)


def new_settings(options: argparse.Namespace) -> Any:
    """The settings of a run that begins, from its preset, its data and what `--own-classes` and others change."""
    from dataclasses import replace

    from idol_deploy.settings import DataConfig, TrainSettings, network_config
    from idol_deploy.train.data import category_names

    for name in ("preset", "annotations", "frames"):
        if not getattr(options, name):
            raise ConfigError(
                f"--{name} is missing; give it, or --resume to go on with a run in {options.output}"
            )
    network = network_config(options.preset)
    if options.own_classes:
        network = replace(network, classes=category_names(options.annotations))
    if options.global_normaliser:
        loss = replace(network.train.loss, global_normaliser=True)
        network = replace(network, train=replace(network.train, loss=loss))
    data = DataConfig(
        str(options.annotations), str(options.frames), strict=options.strict, holdout=options.holdout
    )
    return TrainSettings(network, data)
