"""`idol-deploy ablate`: the ablation of the paper's Table 1 on your own videos."""

import argparse
from pathlib import Path

from idol_deploy.commands.common import (
    INTERRUPTED,
    add_training_data,
    import_training,
    new_settings,
    whole,
)
from idol_deploy.progress import steps

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `idol-deploy ablate`."""
    parser.description = (
        "Train with the identity head, with contrastive loss on IoU thresholds and with optimal transport, and score "
        "the five rows of the paper's Table 1 for every seed. An interrupted run continues with the same arguments, "
        "also with more seeds or rows. Under torchrun the processes share each training and each scoring."
    )
    add = parser.add_argument
    add(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder for trainings, scores and table",
    )
    add("--preset", required=True, help="network, augmentation and schedule: edge_synth, …")
    add_training_data(
        parser,
        "annotations of the training videos",
        "change a setting: train.iterations=500, run.precision=bf16, … (docs/training.md)",
    )
    add(
        "--val-annotations",
        required=True,
        type=Path,
        metavar="FILE",
        help="annotations of the videos to score on, with occlusion",
    )
    add(
        "--val-frames",
        required=True,
        type=Path,
        metavar="DIR",
        help="folder that their file names start from",
    )
    add(
        "--weights",
        type=Path,
        metavar="FILE",
        help="checkpoint to start every training from (default: random initialisation)",
    )
    add(
        "--seeds",
        type=whole,
        nargs="+",
        default=[0, 1, 2],
        metavar="SEED",
        help="seeds of the trainings (default: 0 1 2)",
    )
    add(
        "--rows",
        nargs="+",
        metavar="ROW",
        help="rows to score: id_head_cues, contrast_cues, contrast, transport, temporal (default: all)",
    )
    add("--device", default="cpu", help="run on cpu, cuda (one device per process) or cuda:N (default: cpu)")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    import_training("training")
    from idol_deploy.settings import override_settings
    from idol_deploy.studies.ablation.rows import ROWS
    from idol_deploy.studies.ablation.run import Ablation, ablate
    from idol_deploy.train.processes import joined

    task = Ablation(
        settings=override_settings(new_settings(options), options.set),
        annotations=options.val_annotations,
        frames=options.val_frames,
        output=options.output,
        seeds=tuple(dict.fromkeys(options.seeds)),
        rows=tuple(options.rows or (row.name for row in ROWS)),
        weights=options.weights,
    )
    with joined(options.device) as processes, steps() as announce:
        result = ablate(task, processes, announce)
    if result.table:
        print(result.table, end="")
    for output in result.outputs:
        print(f"wrote {output}")
    return INTERRUPTED if result.interrupted else 0
