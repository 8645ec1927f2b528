"""`idol-deploy doctor`: what this machine has, what `run` would choose, and what is missing."""

import argparse
from pathlib import Path

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `idol-deploy doctor`."""
    parser.description = (
        "List what this machine has, what `run` would choose, and what is missing, each with the command that gets it. "
        "Exit status 1 if no inference engine can be used or, with a bundle, if none of its graphs runs."
    )
    parser.add_argument(
        "bundle", nargs="?", type=Path, help="also check this bundle, without timing its graphs"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for example for a bug report")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    import msgspec

    from idol_runtime.doctor.probe import examine
    from idol_runtime.doctor.report import as_text, make_report
    from idol_runtime.doctor.subject import Subject

    bundle = "" if options.bundle is None else str(options.bundle)
    report = make_report(examine(Subject(Path("/"), bundle)))
    as_json = options.json
    print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode() if as_json else as_text(report))
    return 0 if report["can_run"] else 1
