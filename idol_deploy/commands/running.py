"""The run that `run` and `serve` share: sources through a bundle, with a live server if one is asked for."""

import argparse
import functools
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from idol_deploy.commands.common import INTERRUPTED
from idol_deploy.commands.event_outputs import EventOutputs, open_event_outputs
from idol_deploy.commands.source_options import add_source_options, source_options
from idol_deploy.progress import steps
from idol_runtime.errors import ConfigError
from idol_runtime.signals import STOP_SIGNALS, handling

if TYPE_CHECKING:
    from idol_deploy.stream_requests import StreamRequests
    from idol_deploy.streams_file import StreamsFile
    from idol_runtime.run.options import RunOptions, RunSummary
    from idol_runtime.serve.publisher import Publisher

__all__ = ["add_access", "open_publisher", "run_sources"]


def add_access(parser: argparse.ArgumentParser) -> None:
    """Add the options that say who may use the server."""
    add = parser.add_argument
    add(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="require the token in FILE from every client; needed beyond this machine (default: the variable "
        "IDOL_DEPLOY_TOKEN, if it is set)",
    )
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="accept requests to the host NAME as well, such as a proxy's; may be repeated",
    )


def open_publisher(options: argparse.Namespace, address: str, *, page: bool) -> "Publisher":
    """Listen at an address for the clients of a run.

    Args:
        options: parsed options of the command.
        address: `[HOST:]PORT`.
        page: serve the page and the API; False: health and metrics alone.

    Raises:
        ConfigError: the address or the token cannot be used.
        MissingDependencyError: a package of the server is not installed.
    """
    from idol_runtime.serve.access import Access, parse_address, read_token
    from idol_runtime.serve.publisher import Publisher

    host, port = parse_address(address)
    access = Access(host, port, read_token(options.token_file), tuple(options.allow_host))
    return Publisher(access, page=page)


def run_sources(
    options: argparse.Namespace,
    publisher: "Publisher | None" = None,
    requests: "StreamRequests | None" = None,
) -> int:
    """Process the sources of `run` or `serve` and return the exit status.

    Args:
        options: parsed options of the command.
        publisher: publisher of the run, which is started here; None for none.
        requests: checks of streams that are added over HTTP; None if none can be added.
    """
    from idol_deploy.streams_file import StreamsFile
    from idol_runtime.run.options import check_outputs, for_each_source
    from idol_runtime.sources.opening import reader_kind

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
        if publisher is not None:
            run_options = _named(run_options)
    for entry in run_options:  # before the network is loaded, which may take minutes
        reader_kind(entry.source).check(entry.source)
    check_outputs(run_options, options.bundle, options.streams, events=options.events)
    single = len(run_options) == 1 and not listing
    with open_event_outputs(options, *([publisher.tell] if publisher else []), single=single) as tell:
        return _run(options, run_options, listing, tell, publisher, requests)


def _run(
    options: argparse.Namespace,
    run_options: "list[RunOptions]",
    listing: "StreamsFile | None",
    tell: EventOutputs,
    publisher: "Publisher | None",
    requests: "StreamRequests | None",
) -> int:
    """Process the sources and return the exit status.

    Args:
        options: parsed options of the command.
        run_options: options of each source.
        listing: file of `--streams`; None without one.
        tell: function that receives the events.
        publisher: publisher of the run; None for none.
        requests: checks of streams that are added over HTTP; None if none can be added.
    """
    from idol_runtime.run.notify import ServiceManager
    from idol_runtime.run.run import Run
    from idol_runtime.streams import Streams

    # A log rotation must not end a run that is still being loaded.
    rotates = options.rotate is not None or any(entry.files.rotates for entry in run_options)
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
            print(f"note: {note}", flush=True)  # a service's log shows it at once
        with Run(
            streams,
            inputs=(options.bundle, options.streams, options.events),
            tell=tell,
            observe=None if publisher is None else publisher.observe,
            track_events=tell.track_events,
            rotate=None if options.rotate is None else tell.rotate,
            manager=manager,
        ) as process:
            for entry in run_options:
                process.add(entry)
            if publisher is not None:
                edit = None
                if listing is not None and listing.editable and requests is not None:
                    edit = functools.partial(listing.edit, process, tell, requests)
                publisher.start(streams, process, bundle=options.bundle.name, edit=edit)
                print(
                    f"serving {publisher.url}{' (open it in a browser)' if requests else 'metrics'}",
                    flush=True,
                )
            if listing is None:
                summaries = process.wait()
            else:
                with listing.watch(process, tell):
                    # A server with a list waits for further streams.
                    summaries = process.wait(lambda: requests is not None or listing.pending)
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


def _named(run_options: "list[RunOptions]") -> "list[RunOptions]":
    """Name each source by its label, such as `street` for street.mp4; further ones of a label as `street-2`."""
    from idol_runtime.sources.opening import source_label

    counts: Counter[str] = Counter()
    named = []
    for entry in run_options:
        label = source_label(entry.source)
        counts[label] += 1
        named.append(replace(entry, name=label if counts[label] == 1 else f"{label}-{counts[label]}"))
    return named


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
