"""`idol-deploy figure`: pictures of training and tracking."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from idol_deploy.commands.common import (
    add_model,
    add_training_data,
    import_training,
    model_choice,
    new_settings,
    positive,
    whole,
)
from idol_deploy.progress import steps
from idol_runtime.errors import ConfigError

__all__ = ["add_arguments"]

_PRESET = "ytvis19_r50, ovis_swin_l, coco_r50, …, or settings.json of a run"
_ANNOTATIONS = "annotations: YouTube-VIS, OVIS or COCO JSON"
_SET = "change a setting, as in train: train.max_size=640, loss.iou_positive=0.6, …"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `idol-deploy figure`."""
    parser.description = "Draw pictures of training and tracking (docs/figures.md)."
    figures = parser.add_subparsers(required=True, metavar="FIGURE")
    _add_pairs(figures.add_parser("pairs", help="draw augmented training pairs"))
    _add_selection(
        figures.add_parser("selection", help="draw positive queries by IoU and by optimal transport")
    )
    _add_identities(
        figures.add_parser("identities", help="draw identities with and without temporal weighting")
    )
    _add_timeline(
        figures.add_parser("timeline", help="draw the frames and scores of each track of a results file")
    )


def _add_output(parser: argparse.ArgumentParser, formats: str = ".png, .svg or .pdf") -> None:
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="FILE", help=f"picture to write: {formats}"
    )


def _add_pairs(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Draw augmented pairs: the first pairs of a training run with these settings and seed."
    )
    parser.set_defaults(command=_pairs)
    parser.add_argument("--preset", required=True, help=_PRESET)
    add_training_data(parser, _ANNOTATIONS, _SET)
    add = parser.add_argument
    add("--pairs", type=positive, default=4, metavar="N", help="draw N pairs (default: 4)")
    add("--start", type=whole, default=0, metavar="N", help="skip the first N pairs of the run (default: 0)")
    add("--seed", type=whole, metavar="N", help="set run.seed=N")
    _add_output(parser, ".png, .jpg or .webp")


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Draw the queries that the contrastive loss selects as positives of the instances of an annotated frame, by "
        "IoU thresholds and by optimal transport (the paper's Figure 4)."
    )
    parser.set_defaults(command=_selection)
    add = parser.add_argument
    add("--weights", type=Path, metavar="FILE", help="checkpoint (default: random initialisation)")
    add("--preset", required=True, help=f"preset of the network: {_PRESET}")
    add_training_data(parser, _ANNOTATIONS, _SET)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--video", metavar="NAME", help="video to draw, by its id or the name of its folder")
    where.add_argument("--image", metavar="NAME", help="COCO image to draw, by its id or file name")
    add("--frame", type=whole, default=0, metavar="N", help="frame of the video, from 0 (default: 0)")
    add(
        "--instance",
        type=whole,
        metavar="N",
        help="draw only the queries of instance N (default: all)",
    )
    add("--device", default="cpu", help="run on cpu, cuda or cuda:N (default: cpu)")
    _add_output(parser)


def _add_identities(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Track a video with two associations, with and without temporally weighted softmax, and draw frames in which "
        "the identities differ (the paper's Figure 5)."
    )
    parser.set_defaults(command=_identities)
    add = parser.add_argument
    add_model(parser, "change a setting of both runs: association.temporal=paper, …")
    add("--source", required=True, help="video file, image folder or 'glob*' to track")
    add(
        "--frames",
        type=_numbers,
        metavar="N,N,…",
        help="draw these frames (default: where the runs differ most)",
    )
    add("--count", type=positive, default=3, metavar="N", help="choose N frames (default: 3)")
    add("--gt", type=Path, metavar="FILE", help="compare with these annotations and count identity switches")
    add("--video", metavar="NAME", help="video of --gt that is the source, by its id or folder")
    add("--stride", type=positive, default=1, metavar="N", help="take every N-th frame (default: 1)")
    add("--max-frames", type=positive, metavar="N", help="stop after N frames (default: no limit)")
    add(
        "--against",
        action="append",
        metavar="KEY=VALUE",
        help="change a setting of the second run (default: association.temporal=momentum "
        "association.frame_weight=false)",
    )
    _add_output(parser)


def _add_timeline(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Draw frames and scores of each track of a video; with annotations, also the instance it shows."
    )
    parser.set_defaults(command=_timeline)
    add = parser.add_argument
    add("results", type=Path, help="output of run --jsonl or --results")
    add("--gt", type=Path, metavar="FILE", help="annotations: YouTube-VIS or OVIS JSON")
    add("--video", metavar="NAME", help="video of --gt and of the results, by its id or its folder in --gt")
    add("--tracks", type=positive, default=40, metavar="N", help="draw the N longest tracks (default: 40)")
    _add_output(parser)


def _numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(
            f"expected a list of frames, got {text!r}; write 10,14,18, for example"
        )
    return tuple(int(part) for part in parts)


def _pairs(options: argparse.Namespace) -> int:
    import_training("drawing pairs")
    from idol_deploy.settings import override_settings
    from idol_deploy.studies.figure.pairs import draw_training_pairs

    seed = [] if options.seed is None else [f"run.seed={options.seed}"]
    settings = override_settings(_settings(options), seed)
    with steps() as announce:
        announce(f"reading {options.annotations}")
        notes = draw_training_pairs(settings, options.output, pairs=options.pairs, start=options.start)
    _print_left_out(notes)
    print(f"wrote {options.output}")
    return 0


def _selection(options: argparse.Namespace) -> int:
    from idol_deploy.studies.figure.sheet import figure_target

    figure_target(options.output)
    import_training("drawing a selection")
    from idol_deploy.data.faults import FaultLog
    from idol_deploy.evaluate.model import load_model
    from idol_deploy.studies.figure.annotated import read_still, read_video_frame
    from idol_deploy.studies.figure.selection import draw_selection

    config, log = _settings(options).network, FaultLog()
    with steps() as announce:
        announce(f"reading {options.annotations}")
        if options.image is not None:
            sample = read_still(options.annotations, options.frames, config, options.image, log)
        else:
            sample = read_video_frame(
                options.annotations, options.frames, config, options.video, options.frame, log
            )
        announce(f"running {options.weights or 'random weights'}")
        model = load_model(options.weights, config, options.device)
        note = config.name if options.weights else f"{config.name}, random weights"
        choices = draw_selection(model, sample, options.output, instance=options.instance, note=note)
    _print_left_out(log.summary())
    shown = range(len(sample.labels)) if options.instance is None else [options.instance]
    for method, choice in choices.items():
        print(f"{method:10} {choice.counted(shown)}")
    print(f"wrote {options.output}")
    return 0


def _identities(options: argparse.Namespace) -> int:
    from idol_deploy.studies.figure.sheet import figure_target

    figure_target(options.output)
    from idol_deploy.data.faults import FaultLog
    from idol_deploy.evaluate.model import open_pipeline
    from idol_deploy.studies.ablation.rows import WITHOUT_TWS
    from idol_deploy.studies.figure.identities import draw_identities, read_truth
    from idol_deploy.studies.figure.paired_runs import run_pair
    from idol_runtime.files import refuse_replacing
    from idol_runtime.sources.opening import source_paths

    refuse_replacing([options.output], source_paths(options.source))
    if (options.gt is None) != (options.video is None):
        raise ConfigError(
            "--gt and --video go together; give the annotations and the video of them that is the source"
        )
    log = FaultLog()
    truth = None if options.gt is None else read_truth(options.gt, options.video, log)
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
    _print_left_out(log.summary())
    if not drawn.differ:
        print("note: both runs have the same identities in this video")
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
    _print_left_out(drawn.left_out)
    truth = f", {drawn.instances} annotated instances, {drawn.switches} switches" if options.gt else ""
    print(f"wrote {options.output}: {drawn.tracks} tracks{truth}")
    return 0


def _print_left_out(lines: Iterable[str]) -> None:
    for line in lines:
        print(f"note: left out: {line}")


def _settings(options: argparse.Namespace) -> Any:
    """Return the settings that `train` has with the same arguments."""
    from idol_deploy.settings import override_settings

    return override_settings(new_settings(options), ["data.workers=0", *options.set])
