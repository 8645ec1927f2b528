"""`idol-deploy ablate`: the paper's table of what each part of the method is worth, on videos of one's own."""

import argparse
from pathlib import Path

from idol_deploy.commands.common import (
    INTERRUPTED,
    add_training_data,
    import_training,
    new_settings,
    steps,
    whole,
)

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of this command."""
    parser.description = (
        "Train with the identity head, with contrast on IoU thresholds and with optimal transport, and score the five "
        "rows of the paper's Table 1 for every seed. Started again with the same arguments, it goes on where it "
        "stopped; more seeds or rows may be asked for. Under torchrun, processes share each training and each scoring."
    )
    parser.set_defaults(command=run)
    add = parser.add_argument
    add(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder for trainings, cells and table",
    )
    add("--preset", required=True, help="network, augmentation and schedule of every training: edge_synth, …")
    add_training_data(
        parser,
        "videos to train on",
        "of every training: train.iterations=500, run.precision=bf16, … (docs/training.md)",
    )
    add(
        "--val-annotations",
        required=True,
        type=Path,
        metavar="FILE",
        help="videos to score on, with occlusion",
    )
    add(
        "--val-frames",
        required=True,
        type=Path,
        metavar="DIR",
        help="the folder that their file names are below",
    )
    add("--weights", type=Path, metavar="FILE", help="checkpoint that every training starts from")
    add("--seeds", type=whole, nargs="+", default=[0, 1, 2], metavar="SEED", help="default: 0 1 2")
    add(
        "--rows",
        nargs="+",
        metavar="ROW",
        help="id_head_cues, contrast_cues, contrast, transport, temporal (default: all)",
    )
    add("--device", default="cpu", help="cpu, cuda (under torchrun one each), cuda:N (default: cpu)")


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    import_training("training")
    from idol_deploy.settings import override
    from idol_deploy.studies.ablation.rows import ROWS
    from idol_deploy.studies.ablation.run import Ablation, ablate
    from idol_deploy.train.processes import joined

    task = Ablation(
        settings=override(new_settings(options), options.set),
        annotations=options.val_annotations,
        frames=options.val_frames,
        output=options.output,
        seeds=tuple(dict.fromkeys(options.seeds)),
        rows=tuple(options.rows or (row.name for row in ROWS)),
        weights=options.weights,
    )
    with joined(options.device) as processes, steps() as announce:
        done = ablate(task, processes, announce)
    if done.table:
        print(done.table, end="")
    for output in done.outputs:
        print(f"wrote {output}")
    return INTERRUPTED if done.interrupted else 0
