"""The `idol-deploy run` command: track instances through videos with a bundle."""

import argparse
import sys
from typing import TYPE_CHECKING

from idol_deploy.commands.common import INTERRUPTED
from idol_deploy.commands.event_outputs import EventOutputs, add_event_outputs, open_event_outputs
from idol_deploy.commands.source_options import add_network, add_source_options, add_sources, source_options
from idol_deploy.progress import steps
from idol_runtime.errors import BackendError, ConfigError
from idol_runtime.signals import STOP_SIGNALS, handling

if TYPE_CHECKING:
    from idol_deploy.streams_file import StreamsFile
    from idol_runtime.run.options import RunOptions, RunSummary

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `idol-deploy run`."""
    parser.description = "Track instances through videos with an exported bundle. Needs no PyTorch."
    add = parser.add_argument
    add_sources(parser)
    add_event_outputs(parser)
    add_source_options(parser)
    add_network(parser)
    add(
        "--explain",
        action="store_true",
        help="time every graph in every backend on this machine, print why each is used or not, and stop",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from idol_deploy.streams_file import StreamsFile
    from idol_runtime.run.options import check_outputs, for_each_source

    if options.explain:
        return _explain(options)
    if bool(options.source) == bool(options.streams):
        raise ConfigError(
            "--source is missing; give a video, an image folder, a camera or a URL, or a list of them with --streams"
            if not options.source
            else "--source and --streams are both given; write all sources into the file of --streams"
        )
    listing = None
    if options.streams:
        listing = StreamsFile(options.streams, add_source_options, source_options, options)
        run_options = listing.load()
    else:
        run_options = for_each_source(source_options(options), options.source)
    inputs = [options.bundle, *([options.streams] if listing else [])]
    check_outputs(run_options, *inputs, events=options.events)
    with open_event_outputs(options, single=len(run_options) == 1 and not listing) as tell:
        return _run(options, run_options, listing, tell)


def _run(
    options: argparse.Namespace,
    run_options: "list[RunOptions]",
    listing: "StreamsFile | None",
    tell: EventOutputs,
) -> int:
    """Process the sources and return the exit status.

    Args:
        options: parsed options of the command.
        run_options: options of each source.
        listing: file of `--streams`; None without one.
        tell: function that receives the events.
    """
    from idol_runtime.run.notify import ServiceManager
    from idol_runtime.run.run import Run
    from idol_runtime.streams import Streams

    inputs = [path for path in (options.bundle, options.streams, options.events) if path is not None]
    # A log rotation must not end a run that is still being loaded.
    rotates = any(entry.files.rotates for entry in run_options)
    hangups = [number for number in STOP_SIGNALS if rotates and number.name == "SIGHUP"]
    manager = ServiceManager()
    manager.status(f"loading {options.bundle}")
    with handling(lambda *_: None, *hangups), steps() as announce:
        opened = Streams.open(
            options.bundle,
            backend=options.backend,
            device=options.device,
            threads=options.threads,
            graph=options.graph,
            golden_check=options.golden_check,
            fit=options.fit,
            settings=options.set,
            at_once=options.at_once if listing else min(options.at_once, len(run_options)),
            announce=announce,
        )
    with handling(lambda *_: None, *hangups), opened as streams:
        backend = streams.backend.name
        reason = streams.backend.reason
        for note in (*reason.splitlines(), *streams.reason.splitlines()):
            print(f"note: {note}")
        with Run(
            streams, inputs=inputs, tell=tell, track_events=tell.track_events, manager=manager
        ) as process:
            for entry in run_options:
                process.add(entry)
            if listing is None:
                summaries = process.wait()
            else:
                with listing.watch(process, tell):
                    summaries = process.wait(lambda: listing.pending)
        if streams.backend.reason != reason:  # the engine could not be recorded as a CUDA graph
            print(f"note: {streams.backend.reason}")
    if tell.single and summaries and (error := summaries[0].error) is not None:
        raise error
    _print_summaries(summaries, backend)
    if process.failed:
        return 2
    # Closing a window is a normal end of the run.
    interactive = any(output.sink.interactive for entry in run_options for output in entry.outputs)
    return INTERRUPTED if process.interrupted and not interactive else 0


def _explain(options: argparse.Namespace) -> int:
    """Print the candidates with their times, and the choice."""
    from idol_runtime.backends import OpenOptions
    from idol_runtime.pipeline import explain_choice

    limits = OpenOptions(options.backend, options.device, options.threads, options.graph)
    with steps() as announce:
        candidates, choice = explain_choice(options.bundle, limits, announce)
    chosen = choice and (choice.backend, choice.device, choice.graph)
    rows = [("engine", "device", "graph", "ms", "speed", "")]
    for candidate in candidates:
        used = (candidate.backend, candidate.device, candidate.graph) == chosen
        ms = "-" if candidate.ms is None else f"{candidate.ms:.1f}"
        speed = f"{candidate.speed:.2f}" if candidate.ms else "-"
        slower = "slower" if candidate.speed < 1 else "not faster by more than the noise"
        place = candidate.kind.title, candidate.device, candidate.graph or "any"
        rows.append((*place, ms, speed, "used" if used else candidate.why_not or slower))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:{side}{width}}" for cell, side, width in zip(row, "<<<>><", widths, strict=True))
        print("  ".join(cells).rstrip())
    if choice is None:
        raise BackendError("no candidate runs; the table has the reasons")
    for line in choice.lines:
        print(f"note: {line}")
    return 0


def _print_summaries(summaries: "list[RunSummary]", backend: str) -> None:
    if len(summaries) > 1:
        for summary in summaries:
            print(f"{summary.source}: {summary.frames} frames, {summary.tracks} tracks")
    frames, tracks = sum(s.frames for s in summaries), sum(s.tracks for s in summaries)
    print(f"{frames} frames, {tracks} tracks, {backend}")
    for summary in summaries:
        for path in summary.paths:
            print(f"wrote {path}")
        for note in summary.notes:
            print(f"note: {note}")
    for summary in summaries:
        if summary.error is not None:
            print(f"idol-deploy: error: {summary.source} ended early: {summary.error}", file=sys.stderr)
