"""`idol-deploy run`: bundle and video to tracked masks."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from idol_deploy.commands.common import INTERRUPTED, add_association, positive
from idol_runtime.errors import ConfigError

if TYPE_CHECKING:
    from idol_runtime.run.options import RunSummary

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of this command."""
    parser.description = "Track instances through a video with an exported bundle. Needs no PyTorch."
    parser.set_defaults(command=run)
    add = parser.add_argument
    add("bundle", type=Path, help="the .idol file")
    add(
        "--source",
        required=True,
        action="append",
        help="video file, image folder, 'glob*', camera index, or rtsp/http URL; may be repeated",
    )
    add("--save", type=Path, metavar="FILE", help="annotated video: .mp4, .mkv, .avi")
    add("--jsonl", type=Path, metavar="FILE", help="one JSON object per frame, masks as RLE")
    add(
        "--results",
        type=Path,
        metavar="FILE",
        help="the video's results.json, as YouTube-VIS and OVIS take it",
    )
    add("--masks", type=Path, metavar="DIR", help="16-bit PNGs of id + 1")
    add("--display", action="store_true", help="show a window; q or Esc ends")
    add("--boxes", action="store_true", help="draw boxes as well")
    add("--score", type=float, default=0.0, metavar="S", help="hide instances below this (not in --results)")
    add(
        "--latest",
        action="store_true",
        help="of a camera or stream, skip what came while the network was busy",
    )
    add(
        "--at-once",
        type=positive,
        default=4,
        metavar="N",
        help="frames of several sources that go through the network together (default: up to 4)",
    )
    add("--stride", type=positive, default=1, metavar="N", help="take every N-th frame")
    add("--max-frames", type=positive, metavar="N", help="stop after N frames of each source")
    add("--video-id", type=int, default=1, metavar="N", help="of the entries in --results (default: 1, 2, …)")
    add("--fit", action="store_true", help="letterbox frames whose shape the bundle was not made for")
    add("--backend", default="auto", help="auto, onnxruntime, tensorrt (default: auto)")
    add(
        "--graph",
        default="auto",
        help="auto, fp32, plugin (our operator), portable, int8-ort, fp16 … (default: auto)",
    )
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N (default: auto)")
    add("--threads", type=positive, metavar="N", help="CPU threads of the backend")
    add(
        "--no-golden-check",
        dest="golden_check",
        action="store_false",
        help="do not replay the golden frame at load",
    )
    add("--no-canary", dest="golden_check", action="store_false", help=argparse.SUPPRESS)
    add_association(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    from idol_runtime.files import refuse_replacing
    from idol_runtime.run.options import RunOptions, for_each_source
    from idol_runtime.run.run import run
    from idol_runtime.streams import Streams

    if not (options.save or options.jsonl or options.results or options.masks or options.display):
        raise ConfigError("nothing to write; give --save, --jsonl, --results, --masks or --display")
    pattern = RunOptions(
        source="",
        save=options.save,
        jsonl=options.jsonl,
        results=options.results,
        masks=options.masks,
        display=options.display,
        boxes=options.boxes,
        score=options.score,
        latest=options.latest,
        stride=options.stride,
        max_frames=options.max_frames,
        video_id=options.video_id,
    )
    run_options = for_each_source(pattern, options.source)
    refuse_replacing([path for entry in run_options for path in entry.outputs], [options.bundle])
    with Streams.open(
        options.bundle,
        backend=options.backend,
        device=options.device,
        threads=options.threads,
        graph=options.graph,
        golden_check=options.golden_check,
        fit=options.fit,
        settings=options.set,
        at_once=min(options.at_once, len(run_options)),
    ) as streams:
        backend = streams.backend.name
        for reason in filter(None, (streams.backend.reason, streams.reason)):
            print(f"note: {reason}")
        summaries = run(streams, run_options)
    return _tell(summaries, backend, options.display)


def _tell(summaries: "list[RunSummary]", backend: str, display: bool) -> int:
    """Say what came of each source; returns the exit status."""
    if len(summaries) > 1:
        for summary in summaries:
            print(f"{summary.source}: {summary.frames} frames, {summary.tracks} tracks")
    frames, tracks = sum(s.frames for s in summaries), sum(s.tracks for s in summaries)
    print(f"{frames} frames, {tracks} tracks, {backend}")
    for output in (path for summary in summaries for path in summary.outputs):
        if output.exists():
            print(f"wrote {output}")
    broken = [summary for summary in summaries if summary.error is not None]
    for summary in broken:
        print(f"idol-deploy: error: {summary.source} ended early: {summary.error}", file=sys.stderr)
    if any(summary.interrupted for summary in summaries) and not display:
        return INTERRUPTED
    return 2 if broken else 0
