"""`idol-deploy inspect`: a description of a file."""

import argparse
import json
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `idol-deploy inspect`."""
    parser.description = (
        "Describe a file: preset, classes, sizes, hashes, and the certificates of a bundle's graphs."
    )
    parser.add_argument("file", type=Path, help="describe this checkpoint, ONNX file or bundle")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from idol_export.inspection import describe

    description = describe(options.file)
    if options.json:
        print(json.dumps(description, indent=2, ensure_ascii=False))
        return 0
    for key, value in description.items():
        print(f"{key:16}", end=" " if len(key) <= 16 else "\n" + " " * 17)
        print(_readable(value))
    return 0


def _readable(value: object) -> str:
    if isinstance(value, dict):
        return ("\n" + " " * 17).join(f"{key}: {entry}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
