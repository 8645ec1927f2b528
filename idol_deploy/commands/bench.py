"""`idol-deploy bench`: one bundle through every backend, in turns."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from idol_deploy.commands.arguments import positive
from idol_runtime.errors import ConfigError

if TYPE_CHECKING:
    from idol_runtime.bench.rows import Row

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of this command."""
    parser.description = (
        "Time a bundle stage by stage in every backend that is here: same frames, in turns, each in a process "
        "of its own."
    )
    parser.set_defaults(command=run)
    add = parser.add_argument
    add("bundle", type=Path, help="the .idol file")
    add("--source", help="video file, image folder or 'glob*' (default: the golden frame, drifting)")
    add(
        "--weights",
        type=Path,
        metavar="FILE",
        help="adds PyTorch: the checkpoint that the bundle was made of",
    )
    add("--preset", help="what the weights are (default: what the bundle says)")
    add("--compile", action="store_true", help="adds torch.compile; needs --weights and a C++ compiler")
    add("--only", metavar="TEXT,...", help="rows whose names hold one of these")
    add("--list", action="store_true", help="print the rows' names and do nothing")
    add("--frames", type=positive, default=50, metavar="N", help="timed frames of each row (default: 50)")
    add("--warmup", type=positive, default=3, metavar="N", help="frames before these (default: 3)")
    add("--threads", type=positive, metavar="N", help="CPU threads of each row")
    add("--device", default="cpu", help="cpu, cuda, cuda:N (default: cpu)")
    add("--fit", action="store_true", help="letterbox frames whose shape the bundle was not made for")
    add("--json", type=Path, metavar="FILE", help="all that was found")
    add("--markdown", type=Path, metavar="FILE", help="tables")
    add("--html", type=Path, metavar="FILE", help="tables and plots in one page")


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    from idol_runtime.bench.measure import BenchOptions, measure
    from idol_runtime.bench.page import as_page
    from idol_runtime.bench.report import as_markdown, as_text
    from idol_runtime.files import refuse_replacing, writable_target
    from idol_runtime.optional import import_optional
    from idol_runtime.sources.opening import source_places

    rows = _rows(options)
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    outputs = [path for path in (options.json, options.markdown, options.html) if path is not None]
    for path in outputs:
        writable_target(path)
    frames = source_places(options.source) if options.source else []
    refuse_replacing(outputs, [options.bundle, options.weights, options.preset, *frames])
    if options.html:
        import_optional("matplotlib", "matplotlib", "bench", "--html")
    bench = BenchOptions(
        source=options.source,
        frames=options.frames,
        warmup=options.warmup,
        threads=options.threads,
        device=options.device,
        fit=options.fit,
    )
    report = measure(options.bundle, rows, bench, lambda text: print(text, file=sys.stderr))
    print(as_text(report))
    _write(options.json, lambda: json.dumps(report, indent=2) + "\n")
    _write(options.markdown, lambda: as_markdown(report))
    _write(options.html, lambda: as_page(report))
    return 0


def _write(path: Path | None, text: Callable[[], str]) -> None:
    from idol_runtime.files import replacing

    if path is not None:
        with replacing(path) as temporary:
            temporary.write_text(text(), encoding="utf-8")
        print(f"wrote {path}")


def _rows(options: argparse.Namespace) -> "list[Row]":
    """PyTorch first, if its weights are given: what the others are compared with."""
    from idol_runtime.bench.rows import bundle_rows

    rows = bundle_rows(options.bundle, options.device, options.threads)
    if options.weights is not None:
        from idol_deploy.bench import torch_rows
        from idol_deploy.settings import network_config
        from idol_runtime.bundle.bundle import Bundle

        with Bundle.open(options.bundle) as bundle:
            config = network_config(options.preset or bundle.manifest.preset)
        of_torch = torch_rows(
            options.bundle,
            options.weights,
            config,
            device=options.device,
            threads=options.threads,
            compiled=options.compile,
        )
        rows = [*of_torch, *rows]
    elif options.compile or options.preset:
        raise ConfigError("--compile and --preset are of PyTorch; give --weights as well")
    if options.only:
        wanted = options.only.split(",")
        names = [row.name for row in rows]
        rows = [row for row in rows if any(text in row.name for text in wanted)]
        if not rows:
            raise ConfigError(f"--only {options.only} leaves no row; there are: {'; '.join(names)}")
    return rows
