"""`idol-deploy train`: annotated videos to a checkpoint."""

import argparse
from pathlib import Path
from typing import Any

from idol_deploy.commands.arguments import whole
from idol_deploy.commands.steps import INTERRUPTED, steps
from idol_deploy.commands.training import import_training, new_settings
from idol_runtime.errors import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of this command."""
    parser.description = (
        "Train a network on annotated videos, or on pairs made of still images. Under torchrun, processes share each "
        "iteration's pairs. Ctrl-C finishes the iteration and writes a snapshot; --resume goes on from the last one."
    )
    parser.set_defaults(command=run)
    add = parser.add_argument
    add(
        "-o", "--output", required=True, type=Path, metavar="DIR", help="folder for settings, log and weights"
    )
    add("--resume", action="store_true", help="go on from the last snapshot in the folder, with its settings")
    add("--preset", help="network, augmentation and schedule: ytvis19_r50, ovis_swin_l, coco_r50, …")
    add("--annotations", type=Path, metavar="FILE", help="YouTube-VIS or OVIS JSON; COCO's for coco_*")
    add("--frames", type=Path, metavar="DIR", help="the folder that the annotations' file names are below")
    add(
        "--weights",
        type=Path,
        metavar="FILE",
        help="checkpoint or ImageNet backbone to start from; without, from nothing",
    )
    add(
        "--own-classes",
        action="store_true",
        help="train the classes of --annotations instead of the preset's",
    )
    add(
        "--holdout",
        type=whole,
        metavar="SEED",
        help="leave out the part of the videos that evaluate takes with it",
    )
    add("--strict", action="store_true", help="refuse broken frames and annotations instead of counting them")
    add("--device", default="cpu", help="cpu, cuda (under torchrun one each), cuda:N (default: cpu)")
    add(
        "--global-normaliser",
        action="store_true",
        help="divide losses by what all processes found; published: by what each found",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="train.iterations=500, run.precision=bf16, data.workers=4, model.queries=100, … (docs/training.md)",
    )


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    import_training("training")
    from idol_deploy.settings import override
    from idol_deploy.train.loop import Training, train
    from idol_deploy.train.processes import joined

    settings, snapshot = _resumed_settings(options) if options.resume else (new_settings(options), None)
    task = Training(override(settings, options.set), options.output, options.weights, snapshot)
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
    """The settings of the last snapshot, and the snapshot."""
    from idol_deploy.train.snapshots import SnapshotFolder, read_snapshot

    taken = (
        "preset",
        "annotations",
        "frames",
        "weights",
        "own_classes",
        "holdout",
        "strict",
        "global_normaliser",
    )
    for name in taken:
        if getattr(options, name) not in (None, False):
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"--resume goes on with the snapshot's settings; leave {flag} out, or use --set"
            )
    newest = SnapshotFolder(options.output, 1).newest()
    return read_snapshot(newest).settings, newest
