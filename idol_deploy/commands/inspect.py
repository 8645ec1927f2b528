"""`idol-deploy inspect`: what a file is."""

import argparse
import json
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of this command."""
    parser.description = (
        "Say what a file is: preset, classes, sizes, hashes, and for a bundle the certificates of its graphs."
    )
    parser.set_defaults(command=run)
    parser.add_argument("file", type=Path, help="checkpoint, ONNX file or bundle")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    from idol_export.inspection import describe

    description = describe(options.file)
    if options.json:
        print(json.dumps(description, indent=2, ensure_ascii=False))
        return 0
    for key, value in description.items():
        print(f"{key:16} {_readable(value)}")
    return 0


def _readable(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(("" if i == 0 else " " * 17) + f"{k}: {v}" for i, (k, v) in enumerate(value.items()))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
