"""Comparison of PyTorch and exported ONNX with a folder of reference arrays of the published code.

    scripts/reference_parity FOLDER [--units] [--tag TAG ...] [--json OUT]

Prints one row per video, path and stage. Exit status: 1 if a row is out of tolerance, 2 if the folder cannot be read.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from idol_runtime.errors import IdolError
from idol_runtime.files import replacing, writable_target
from published.arrays import ReferenceFolder
from published.parity import ParityRow, compare_tag
from published.units import compare_units

_HEADER = f"{'video':12} {'path':5} {'stage':18} {'error':>9} {'allowed':>9} {'compared':>9} {'near-ties':>9}"


def main() -> int:
    """Run the comparison and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="reference_parity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=Path, help="folder with meta.json and ref_*.npz, or with unit_*.npz for --units"
    )
    parser.add_argument("--units", action="store_true", help="compare unit_*.npz instead of videos")
    parser.add_argument("--tag", action="append", help="compare this video only (repeatable)")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--threads", type=int, help="CPU threads for PyTorch")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        if options.json:
            writable_target(options.json)
        rows = list(_report(compare_units(options.folder) if options.units else _videos(options)))
        if options.json:
            with replacing(options.json) as temporary:
                listing = [{**dataclasses.asdict(row), "passed": row.passed} for row in rows]
                temporary.write_text(json.dumps(listing, indent=1))
    except IdolError as error:
        print(f"reference_parity: {error}", file=sys.stderr)
        return 2
    failed = [row for row in rows if not row.passed]
    near_ties = sum(row.near_ties for row in rows)
    print(f"\n{len(rows) - len(failed)} of {len(rows)} stages hold, {near_ties} near-ties counted apart")
    return 1 if failed or not rows else 0


def _videos(options: argparse.Namespace) -> Iterator[ParityRow]:
    folder = ReferenceFolder(options.folder)
    if not options.tag:
        for name in folder.empty_tags:
            print(f"{name}: no arrays of a whole video here, not compared")
    if not (options.tag or folder.tags):
        raise IdolError(f"no ref_*.npz in {options.folder} for the videos of its meta.json; copy them there")
    # Read every tag first: comparing takes minutes.
    for name in options.tag or folder.tags:
        folder.read(name)
    for name in options.tag or folder.tags:
        yield from compare_tag(folder.read(name), _progress)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _report(rows: Iterator[ParityRow]) -> Iterator[ParityRow]:
    print(_HEADER)
    for row in rows:
        _progress("")
        verdict = "pass" if row.passed else "FAIL"
        counts = f"{row.compared:9d} {row.near_ties or '':>9}"
        notes = [row.remark] if row.passed else [row.detail, row.remark]
        detail = f"  {'; '.join(filter(None, notes))}" if any(notes) else ""
        print(
            f"{row.tag:12} {row.path:5} {row.stage:18} {row.error:9.1e} {row.tolerance:9.0e} {counts}  "
            f"{verdict}{detail}",
            flush=True,
        )
        yield row


if __name__ == "__main__":
    sys.exit(main())
