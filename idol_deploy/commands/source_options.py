"""Options that `run` and `serve` share: sources, outputs and network."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, cast

from idol_deploy.commands.common import add_association, add_backend, positive
from idol_deploy.commands.event_outputs import has_event_outputs
from idol_runtime.errors import ConfigError
from idol_runtime.sinks.opening import SINKS, requested_outputs

if TYPE_CHECKING:
    from idol_runtime.run.options import QueuePolicy, RunOptions

__all__ = ["add_network", "add_source_options", "add_sources", "source_options"]


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the bundle, `--source` and `--streams`."""
    add = parser.add_argument
    parser.set_defaults(needs_output=True)
    add("bundle", type=Path, help="exported bundle (.idol file)")
    add(
        "--source",
        action="append",
        default=[],
        help="video or image file, image folder, 'glob*' pattern, pipe, camera (0, /dev/video0, csi:0, "
        "v4l2:/dev/video0), rtsp/http URL or GStreamer pipeline ('gst:... ! appsink'); may be repeated",
    )
    add(
        "--streams",
        type=Path,
        metavar="FILE",
        help="read the sources from a TOML or JSON file, and follow its changes during the run",
    )


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add the options of the network."""
    add = parser.add_argument
    add(
        "--at-once",
        type=positive,
        default=4,
        metavar="N",
        help="process up to N frames of several sources in one network call (default: 4)",
    )
    add(
        "--fit",
        action="store_true",
        help="letterbox frames whose shape differs from the bundle's frame size, instead of refusing them",
    )
    add_backend(parser, "auto")
    add(
        "--device",
        default="auto",
        help="run on auto, cpu, cuda, cuda:N, or Intel's gpu, gpu:N or npu (default: auto)",
    )
    add(
        "--threads",
        type=positive,
        metavar="N",
        help="use N CPU threads in the backend (default: its own choice)",
    )
    add(
        "--no-golden-check",
        dest="golden_check",
        action="store_false",
        help="do not replay the golden frame when the bundle is loaded",
    )
    add("--no-canary", dest="golden_check", action="store_false", help=argparse.SUPPRESS)
    add_association(parser)


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every source has; a stream in the file of `--streams` has them as fields."""
    add = parser.add_argument
    for kind in SINKS:
        if kind.metavar:
            add(f"--{kind.name}", metavar=kind.metavar, help=kind.help)
        else:
            add(f"--{kind.name}", action="store_true", help=kind.help)
    add("--boxes", action="store_true", help="draw boxes as well as masks")
    add(
        "--score",
        type=float,
        default=0.0,
        metavar="S",
        help="hide instances with a score below S, except in --results (default: 0.0)",
    )
    add(
        "--queue",
        type=_queue_policy,
        metavar="POLICY",
        help="handle frames that arrive while the network is busy: block processes all, latest the newest, and a "
        "number drops frames older than so many milliseconds (default: latest for cameras and streams, else block)",
    )
    add("--latest", dest="queue", action="store_const", const="latest", help="same as --queue latest")
    add(
        "--reconnect",
        type=_attempts,
        default="forever",
        metavar="N",
        help="open a lost camera or stream again: forever, N times in a row, or off (default: forever)",
    )
    add(
        "--read-timeout",
        type=float,
        default="10",
        metavar="SECONDS",
        help="treat a camera or stream that sends no frame for SECONDS as lost (default: 10)",
    )
    add(
        "--frozen",
        type=float,
        default="30",
        metavar="SECONDS",
        help="treat a camera or stream that sends the same picture for SECONDS as lost; 0: never (default: 30)",
    )
    add("--stride", type=positive, default=1, metavar="N", help="process every N-th frame (default: 1)")
    add("--max-frames", type=positive, metavar="N", help="stop after N frames of each source (default: all)")
    add(
        "--state",
        type=Path,
        metavar="FILE",
        help="save tracks and counters to FILE once a second and at the end, and continue from it if it exists",
    )
    add(
        "--after-gap",
        type=_gap,
        default="30",
        metavar="SECONDS",
        help="continue identities of a camera or stream after shorter gaps than SECONDS; keep: always, reset: never "
        "(default: 30)",
    )
    add(
        "--video-id",
        type=int,
        default=1,
        metavar="N",
        help="video id of the first source in --results; further sources count up from it (default: 1)",
    )
    add(
        "--rotate",
        metavar="LIMIT",
        help="continue every output, and --events, in a new file after a time or a size, such as 1h, 500MB or "
        "1h,500MB (default: one file)",
    )
    add(
        "--retain",
        metavar="LIMIT",
        help="delete the oldest files of an output or of --events beyond an age or a total size, such as 7d or 20GB; "
        "needs --rotate (default: keep all)",
    )
    add(
        "--sync",
        default="1",
        metavar="SECONDS",
        help="write output files to the disk at most every SECONDS, or off (default: 1)",
    )


def _queue_policy(text: str) -> "QueuePolicy":
    if text in ("block", "latest"):
        return cast("QueuePolicy", text)
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no policy; use block, latest or milliseconds"
        ) from None


def _attempts(text: str) -> int | None:
    try:
        return None if text == "forever" else 0 if text == "off" else positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is no limit; use forever, off or a number") from None


def _gap(text: str) -> float:
    try:
        return float({"keep": "inf", "reset": "0"}.get(text, text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no gap; use keep, reset or seconds") from None


def source_options(options: argparse.Namespace) -> "RunOptions":
    """Return the options of a source, still without the source."""
    from idol_runtime.run.options import RunOptions
    from idol_runtime.sinks.policy import FilePolicy
    from idol_runtime.sources.live import LiveOptions

    outputs = requested_outputs(**{kind.name: getattr(options, kind.name) for kind in SINKS})
    if not outputs and options.needs_output and not has_event_outputs(options):
        names = ", ".join(f"--{kind.name}" for kind in SINKS)
        raise ConfigError(f"nothing to write; give {names}, --events, --mqtt or --webhook, or use `serve`")
    return RunOptions(
        source="",
        outputs=outputs,
        boxes=options.boxes,
        score=options.score,
        queue=options.queue,
        stride=options.stride,
        max_frames=options.max_frames,
        video_id=options.video_id,
        files=FilePolicy.parse(options.rotate, options.retain, options.sync),
        live=LiveOptions(
            reconnect=options.reconnect, read_timeout_s=options.read_timeout, frozen_s=options.frozen
        ),
        state=options.state,
        after_gap_s=options.after_gap,
    )
