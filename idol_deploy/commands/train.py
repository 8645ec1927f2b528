"""`idol-deploy train`: a trained network from annotated videos."""

import argparse
from pathlib import Path
from typing import Any

from idol_deploy.commands.common import (
    INTERRUPTED,
    add_training_data,
    import_training,
    new_settings,
    whole,
)
from idol_deploy.progress import steps
from idol_runtime.errors import ConfigError

__all__ = ["add_arguments", "run"]

# Options that a resumed run takes from its snapshot.
_SAVED = (
    "preset",
    "annotations",
    "frames",
    "weights",
    "own_classes",
    "holdout",
    "strict",
    "global_normaliser",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `idol-deploy train`."""
    parser.description = (
        "Train a network on annotated videos, or on pairs made from still images. Under torchrun, the processes share "
        "the pairs of each iteration. Ctrl-C finishes the iteration and writes a snapshot; --resume continues from the "
        "last one."
    )
    add = parser.add_argument
    output = "write settings, log and weights to DIR"
    add("-o", "--output", required=True, type=Path, metavar="DIR", help=output)
    add("--resume", action="store_true", help="continue from the last snapshot in DIR, with its settings")
    add("--preset", help="name the network, augmentation and schedule: ytvis19_r50, ovis_swin_l, coco_r50, …")
    annotations = "read annotations from FILE: YouTube-VIS or OVIS JSON; COCO JSON for coco_*"
    settings = "change a setting: train.iterations=500, run.precision=bf16, … (docs/training.md)"
    add_training_data(parser, annotations, settings, required=False)
    weights = "start from the checkpoint or ImageNet backbone in FILE (default: random initialisation)"
    add("--weights", type=Path, metavar="FILE", help=weights)
    holdout = "leave out the videos that evaluate --holdout SEED scores (default: train on all videos)"
    add("--holdout", type=whole, metavar="SEED", help=holdout)
    strict = "stop at a broken frame or annotation instead of skipping and counting it"
    add("--strict", action="store_true", help=strict)
    add("--device", default="cpu", help="train on cpu, cuda (under torchrun one GPU per process) or cuda:N")
    normaliser = "divide each loss by the counts of all processes (default: of each process, as published)"
    add("--global-normaliser", action="store_true", help=normaliser)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    import_training("training")
    from idol_deploy.settings import override_settings
    from idol_deploy.train.loop import Training, train
    from idol_deploy.train.processes import joined

    settings, snapshot = _resumed_settings(options) if options.resume else (new_settings(options), None)
    task = Training(override_settings(settings, options.set), options.output, options.weights, snapshot)
    with joined(options.device) as processes, steps() as announce:
        trained = train(task, processes, announce)
        if not processes.first:
            return 0
    best = "" if trained.best is None else f", best AP {trained.best:.3f}"
    print(f"{trained.iterations} iterations{best}")
    for output in trained.outputs:
        print(f"wrote {output}")
    return INTERRUPTED if trained.interrupted else 0


def _resumed_settings(options: argparse.Namespace) -> tuple[Any, Path]:
    """Return the settings of the last snapshot and the path of the snapshot."""
    from idol_deploy.train.snapshots import SnapshotFolder, read_snapshot

    for name in _SAVED:
        if getattr(options, name) not in (None, False):
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"--resume uses the snapshot's settings; leave {flag} out, or use --set")
    newest = SnapshotFolder(options.output, 1).newest()
    return read_snapshot(newest).settings, newest
