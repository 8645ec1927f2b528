"""`idol-deploy figure`: pictures for those who train."""

import argparse
from pathlib import Path
from typing import Any

from idol_deploy.commands.common import (
    add_association,
    add_training_data,
    import_training,
    model_choice,
    new_settings,
    positive,
    steps,
    whole,
)
from idol_runtime.errors import ConfigError

__all__ = ["add_arguments"]

_PRESET = "ytvis19_r50, ovis_swin_l, coco_r50, …, or a run's settings.json"
_SET = "as train takes it: train.max_size=640, loss.iou_positive=0.6, …"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of this command."""
    parser.description = (
        "Pictures of training and tracking, as PNG, SVG or PDF by the name of -o (docs/figures.md)."
    )
    figures = parser.add_subparsers(required=True, metavar="FIGURE")
    _add_pairs(figures.add_parser("pairs", help="augmented pairs, as training will see them"))
    _add_selection(figures.add_parser("selection", help="positives by IoU and by optimal transport"))
    _add_identities(figures.add_parser("identities", help="ids with and without temporal weighting"))
    _add_timeline(figures.add_parser("timeline", help="when each track of a results file was seen"))


def _add_output(parser: argparse.ArgumentParser, formats: str = ".png, .svg or .pdf") -> None:
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="FILE", help=f"the picture to write: {formats}"
    )


def _add_pairs(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Draw augmented pairs as training sees them: the first of a run with these settings and seed."
    )
    parser.set_defaults(command=_pairs)
    parser.add_argument("--preset", required=True, help=_PRESET)
    add_training_data(parser, "YouTube-VIS or OVIS JSON; or COCO's", _SET)
    add = parser.add_argument
    add("--pairs", type=positive, default=4, metavar="N", help="how many (default: 4)")
    add("--start", type=whole, default=0, metavar="N", help="how many the run has taken before (default: 0)")
    add("--seed", type=whole, metavar="N", help="as --set run.seed=N")
    _add_output(parser, ".png, .jpg or .webp")


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Draw which queries of an annotated frame are positives of its instances, by IoU thresholds and by optimal "
        "transport, as the contrastive loss selects them (the paper's Figure 4)."
    )
    parser.set_defaults(command=_selection)
    add = parser.add_argument
    add("--weights", type=Path, metavar="FILE", help="checkpoint; without, fresh weights")
    add("--preset", required=True, help=f"what the weights are: {_PRESET}")
    add_training_data(parser, "YouTube-VIS or OVIS JSON; or COCO's", _SET)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--video", metavar="NAME", help="id of a video, or the name of its folder")
    where.add_argument("--image", metavar="NAME", help="or id or file of one of COCO's images")
    add("--frame", type=whole, default=0, metavar="N", help="of the video, from 0 (default: 0)")
    add("--instance", type=whole, metavar="N", help="queries of this one alone, as numbered in the picture")
    add("--device", default="cpu", help="cpu, cuda, cuda:N (default: cpu)")
    _add_output(parser)


def _add_identities(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Track a video twice, with and without temporally weighted softmax, and draw frames in which the identities "
        "differ (the paper's Figure 5)."
    )
    parser.set_defaults(command=_identities)
    add = parser.add_argument
    add("--bundle", type=Path, metavar="FILE", help="the .idol file; needs no PyTorch")
    add("--weights", type=Path, metavar="FILE", help="or a checkpoint, run in PyTorch")
    add("--preset", help=f"what the weights are: {_PRESET}")
    add("--source", required=True, help="video file, image folder or 'glob*'")
    add("--frames", type=_numbers, metavar="N,N,…", help="frames to draw; default: where the two differ most")
    add("--count", type=positive, default=3, metavar="N", help="how many to choose (default: 3)")
    add("--gt", type=Path, metavar="FILE", help="annotations: count the switches of identity")
    add("--video", metavar="NAME", help="the source's id or folder in --gt")
    add("--stride", type=positive, default=1, metavar="N", help="take every N-th frame")
    add("--max-frames", type=positive, metavar="N", help="stop after N frames")
    add("--fit", action="store_true", help="letterbox frames whose shape the bundle was not made for")
    add("--device", default="cpu", help="cpu, cuda, cuda:N (default: cpu)")
    add("--threads", type=positive, metavar="N", help="CPU threads of the model")
    add_association(parser, "of both: association.temporal=paper, …")
    add(
        "--against",
        action="append",
        metavar="KEY=VALUE",
        help="of the second alone (default: association.temporal=momentum association.frame_weight=false)",
    )
    _add_output(parser)


def _add_timeline(parser: argparse.ArgumentParser) -> None:
    parser.description = "Draw when each track of a video was seen; with annotations, also whom it showed."
    parser.set_defaults(command=_timeline)
    add = parser.add_argument
    add("results", type=Path, help="what run wrote: --jsonl, or --results")
    add("--gt", type=Path, metavar="FILE", help="annotations: YouTube-VIS or OVIS JSON")
    add(
        "--video", metavar="NAME", help="which video of --gt or of the results: its id, or its folder in --gt"
    )
    add("--tracks", type=positive, default=40, metavar="N", help="draw the N longest (default: 40)")
    _add_output(parser)


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of frames; 10,14,18, for example")
    return tuple(int(part) for part in parts)


def _pairs(options: argparse.Namespace) -> int:
    import_training("drawing pairs")
    from idol_deploy.settings import override
    from idol_deploy.studies.figure.pairs import draw_training_pairs

    seed = [] if options.seed is None else [f"run.seed={options.seed}"]
    settings = override(_settings(options), seed)
    with steps() as announce:
        announce(f"reading {options.annotations}")
        notes = draw_training_pairs(settings, options.output, pairs=options.pairs, start=options.start)
    for note in notes:
        print(f"note: left out: {note}")
    print(f"wrote {options.output}")
    return 0


def _selection(options: argparse.Namespace) -> int:
    from idol_deploy.studies.figure.sheet import figure_target

    figure_target(options.output)
    import_training("drawing a selection")
    from idol_deploy.evaluate.model import load_model
    from idol_deploy.studies.figure.annotated import read_still, read_video_frame
    from idol_deploy.studies.figure.selection import draw_selection

    config = _settings(options).network
    with steps() as announce:
        announce(f"reading {options.annotations}")
        if options.image is not None:
            sample = read_still(options.annotations, options.frames, config, options.image)
        else:
            sample = read_video_frame(
                options.annotations, options.frames, config, options.video, options.frame
            )
        announce(f"running {options.weights or 'fresh weights'}")
        model = load_model(options.weights, config, options.device)
        note = config.name if options.weights else f"{config.name}, fresh weights"
        choices = draw_selection(model, sample, options.output, instance=options.instance, note=note)
    shown = range(len(sample.labels)) if options.instance is None else [options.instance]
    for method, choice in choices.items():
        print(f"{method:10} {choice.counted(shown)}")
    print(f"wrote {options.output}")
    return 0


def _identities(options: argparse.Namespace) -> int:
    from idol_deploy.studies.figure.sheet import figure_target

    figure_target(options.output)
    from idol_deploy.evaluate.model import open_pipeline
    from idol_deploy.studies.ablation.rows import WITHOUT_TWS
    from idol_deploy.studies.figure.identities import draw_identities, read_truth
    from idol_deploy.studies.figure.paired_runs import run_pair
    from idol_runtime.files import refuse_replacing
    from idol_runtime.sources.opening import source_paths

    refuse_replacing([options.output], source_paths(options.source))
    if (options.gt is None) != (options.video is None):
        raise ConfigError(
            "--gt and --video go together: the annotations, and which of their videos the source is"
        )
    truth = None if options.gt is None else read_truth(options.gt, options.video)
    against = tuple(options.against or WITHOUT_TWS)
    names = (" ".join(options.set) or "as configured", " ".join(against))
    if options.against is None:
        names = ("with TWS", "without TWS")
    choice = model_choice(options)
    with steps() as announce:
        announce(f"running {choice.file}")
        with open_pipeline(choice) as pipeline:
            frames = run_pair(
                pipeline, against, options.source, stride=options.stride, max_frames=options.max_frames
            )
            note = pipeline.note
        drawn = draw_identities(
            frames,
            options.source,
            options.output,
            names=names,
            indices=options.frames,
            count=options.count,
            truth=truth,
            note=note,
        )
    if not drawn.differ:
        print("note: the two runs agree on every identity of this video")
    for run, name in enumerate(names):
        switches = "" if drawn.switches is None else f", {drawn.switches[run]} switches"
        print(f"{name}: {drawn.identities[run]} identities{switches}")
    print(f"wrote {options.output}: frames {', '.join(map(str, drawn.frames))}")
    return 0


def _timeline(options: argparse.Namespace) -> int:
    from idol_deploy.studies.figure.timeline import draw_timeline

    drawn = draw_timeline(
        options.results, options.output, gt=options.gt, video=options.video, most=options.tracks
    )
    beside = f", {drawn.instances} annotated instances, {drawn.switches} switches" if options.gt else ""
    print(f"wrote {options.output}: {drawn.tracks} tracks{beside}")
    return 0


def _settings(options: argparse.Namespace) -> Any:
    """What `train` would have of the same arguments."""
    from idol_deploy.settings import override

    return override(new_settings(options), ["data.workers=0", *options.set])
