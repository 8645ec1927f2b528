"""`idol-deploy evaluate`: the scores of results, or of a model over a data set."""

import argparse
from pathlib import Path

from idol_deploy.commands.common import add_association, model_choice, positive, steps, whole
from idol_runtime.errors import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of this command."""
    parser.description = (
        "Score a results file, or run a model over a data set and score that, as YouTube-VIS and OVIS do. Under "
        "torchrun the processes share the videos; a run that was cut off goes on where it stopped."
    )
    parser.set_defaults(command=run)
    add = parser.add_argument
    add("--gt", required=True, type=Path, metavar="FILE", help="annotations: YouTube-VIS or OVIS JSON")
    add("--pred", type=Path, metavar="FILE", help="score this results.json")
    add("--bundle", type=Path, metavar="FILE", help="or run this .idol file; needs no PyTorch")
    add("--weights", type=Path, metavar="FILE", help="or run this checkpoint in PyTorch")
    add("--preset", help="what the weights are: ytvis19_r50, ovis_swin_l, …, or a run's settings.json")
    add("--frames", type=Path, metavar="DIR", help="the folder that the annotations' file names are below")
    add("--results", type=Path, metavar="FILE", help="the results.json that the model writes")
    add("--metric", default="ytvis", help="ytvis, or ovis: by occlusion as well (default: ytvis)")
    add(
        "--tracking", action="store_true", help="also HOTA, AssA, DetA, IDF1, IDSW, and who came back as whom"
    )
    add("--json", type=Path, metavar="FILE", help="all scores, by class and by overlap threshold")
    add("--ious", action="store_true", help="also the overlap of every result and instance, in --json")
    add("--submission", type=Path, metavar="FILE", help="the .zip that the evaluation servers take")
    add("--holdout", type=whole, metavar="SEED", help="only the part of the videos that training leaves out")
    add(
        "--holdout-share",
        type=float,
        metavar="S",
        help="how much of them that is (default: 0.1)",
    )
    add("--fit", action="store_true", help="letterbox frames whose shape the bundle was not made for")
    add("--backend", default="auto", help="of the bundle: auto, onnxruntime, tensorrt (default: auto)")
    add(
        "--graph",
        default="fp32",
        help="of the bundle: fp32 (plugin, else portable), plugin, portable, int8-ort, fp16 …; auto: the fastest, as "
        "run (default: fp32)",
    )
    add("--device", default="cpu", help="cpu, cuda (under torchrun one each), cuda:N (default: cpu)")
    add("--threads", type=positive, metavar="N", help="CPU threads of the model")
    add_association(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    from idol_deploy.data.holdout import HOLDOUT_SHARE
    from idol_deploy.evaluate.run import Evaluation, evaluate

    model = None
    if options.bundle or options.weights or options.preset:
        model = model_choice(options)
    if options.ious and not options.json:
        raise ConfigError("--ious go into the file of --json; give both")
    if options.holdout_share is not None and options.holdout is None:
        raise ConfigError("--holdout-share is the size of a holdout; give --holdout SEED as well")
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
        done = evaluate(task, announce)
    if done.table:
        print(done.table)
    for note in done.notes:
        print(f"note: {note}")
    for output in done.outputs:
        print(f"wrote {output}")
    return 0
