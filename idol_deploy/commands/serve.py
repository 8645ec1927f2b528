"""The `idol-deploy serve` command: run the sources and show them over HTTP."""

import argparse
from pathlib import Path

from idol_deploy.commands.event_outputs import add_event_outputs
from idol_deploy.commands.running import add_access, open_publisher, run_sources
from idol_deploy.commands.source_options import add_network, add_source_options, add_sources

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `idol-deploy serve`."""
    parser.description = (
        "Track instances as run does, and show them on a page, as an API and as metrics over HTTP."
    )
    add = parser.add_argument
    add_sources(parser)
    add(
        "--http",
        default="127.0.0.1:8080",
        metavar="[HOST:]PORT",
        help="listen at this address; 0.0.0.0 or [::] is every address of this machine (default: 127.0.0.1:8080)",
    )
    add_access(parser)
    add(
        "--media",
        action="append",
        type=Path,
        default=[],
        metavar="DIR",
        help="let streams that are added over HTTP read the files in DIR; may be repeated (default: no files)",
    )
    add(
        "--data",
        type=Path,
        metavar="DIR",
        help="let streams that are added over HTTP write outputs into DIR (default: no outputs)",
    )
    add_event_outputs(parser)
    add_source_options(parser)
    add_network(parser)
    parser.set_defaults(needs_output=False)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from idol_deploy.stream_requests import StreamRequests

    protected = options.bundle, options.token_file, options.events
    requests = StreamRequests(options.media, options.data, protected)
    with open_publisher(options, options.http, page=True) as publisher:
        return run_sources(options, publisher, requests)
