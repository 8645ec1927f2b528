"""The `idol-deploy run` command: track instances through videos with a bundle."""

import argparse

from idol_deploy.commands.event_outputs import add_event_outputs
from idol_deploy.commands.running import add_access, open_publisher, run_sources
from idol_deploy.commands.source_options import add_network, add_source_options, add_sources
from idol_deploy.progress import steps
from idol_runtime.errors import BackendError, ConfigError

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
        "--metrics",
        metavar="[HOST:]PORT",
        help="serve health and Prometheus metrics over HTTP at PORT, of 127.0.0.1 unless HOST is given",
    )
    add_access(parser)
    add(
        "--explain",
        action="store_true",
        help="time every graph in every backend on this machine, print why each is used or not, and stop",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    if options.explain:
        return _explain(options)
    if options.metrics is None:
        if options.token_file or options.allow_host:
            raise ConfigError(
                "--token-file and --allow-host are for the server of --metrics; add --metrics PORT"
            )
        return run_sources(options)
    with open_publisher(options, options.metrics, page=False) as publisher:
        return run_sources(options, publisher)


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
