"""`idol-deploy evaluate`: scores of a results file, or of a model over a data set."""

import argparse
from pathlib import Path

from idol_deploy.commands.common import add_backend, add_model, model_choice, whole
from idol_deploy.progress import steps
from idol_runtime.errors import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `idol-deploy evaluate`."""
    parser.description = (
        "Score a results file, or run a model over a data set and score its results, by the rules of YouTube-VIS and "
        "OVIS. Under torchrun the processes share the videos. An interrupted run continues where it stopped."
    )
    add = parser.add_argument
    add("--gt", required=True, type=Path, metavar="FILE", help="annotations: YouTube-VIS or OVIS JSON")
    add("--pred", type=Path, metavar="FILE", help="score this results file")
    add_model(parser)
    add("--frames", type=Path, metavar="DIR", help="folder that the file names in the annotations start from")
    add("--results", type=Path, metavar="FILE", help="write the results of the model to this file")
    add("--metric", default="ytvis", help="rules: ytvis, or ovis with scores by occlusion (default: ytvis)")
    add("--tracking", action="store_true", help="add HOTA, AssA, DetA, IDF1, IDSW and re-identification")
    add("--json", type=Path, metavar="FILE", help="write all scores, by class and IoU threshold")
    add("--ious", action="store_true", help="add the IoU of every result and instance to --json")
    add("--submission", type=Path, metavar="FILE", help="write a .zip for an evaluation server")
    add(
        "--holdout",
        type=whole,
        metavar="SEED",
        help="score only the videos that training with this seed holds out",
    )
    add(
        "--holdout-share",
        type=float,
        metavar="S",
        help="share of the recordings in the holdout (default: 0.1)",
    )
    add_backend(parser, "fp32")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from idol_deploy.data.holdout import HOLDOUT_SHARE
    from idol_deploy.evaluate.run import Evaluation, evaluate

    model = model_choice(options) if options.bundle or options.weights or options.preset else None
    if options.ious and not options.json:
        raise ConfigError("--ious needs a file for the matrices; give --json as well")
    if options.holdout_share is not None and options.holdout is None:
        raise ConfigError("--holdout-share needs a holdout; give --holdout SEED as well")
    task = Evaluation(
        gt=options.gt,
        pred=options.pred,
        model=model,
        frames=options.frames,
        results=options.results,
        metric=options.metric,
        tracking=options.tracking,
        ious=options.ious,
        json=options.json,
        submission=options.submission,
        seed=options.holdout,
        share=HOLDOUT_SHARE if options.holdout_share is None else options.holdout_share,
    )
    with steps() as announce:
        result = evaluate(task, announce)
    if result.table:
        print(result.table)
    for note in result.notes:
        print(f"note: {note}")
    for output in result.outputs:
        print(f"wrote {output}")
    return 0
