"""`idol-deploy bench`: the speed of a bundle in every backend."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from idol_deploy.commands.common import positive
from idol_runtime.errors import ConfigError

if TYPE_CHECKING:
    from idol_runtime.bench.rows import BenchRow

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `idol-deploy bench`."""
    parser.description = (
        "Time every stage of a bundle in every installed backend. All rows run on the same frames, interleaved, each "
        "in its own process. On a GPU or a Jetson, each row then runs alone for 4 s to measure power, energy per frame "
        "and device memory."
    )
    add = parser.add_argument
    add("bundle", type=Path, help="time this .idol file")
    source = (
        "time on a video file, image folder or 'glob*' (default: the golden frame, shifted in each frame)"
    )
    add("--source", help=source)
    weights = (
        "add rows for PyTorch, on a GPU also with our operator and in fp16; FILE is the checkpoint that the bundle was "
        "exported from"
    )
    add("--weights", type=Path, metavar="FILE", help=weights)
    add("--preset", help="name the network of --weights (default: the bundle's preset)")
    compiled = "add a row for torch.compile; needs --weights and a C++ compiler"
    add("--compile", action="store_true", help=compiled)
    add("--only", metavar="TEXT,...", help="time only rows whose names contain one of these texts")
    add("--list", action="store_true", help="print the names of the rows and stop")
    add("--frames", type=positive, default=50, metavar="N", help="time each row on N frames")
    add("--warmup", type=positive, default=3, metavar="N", help="run each row on N frames before timing")
    add("--threads", type=positive, metavar="N", help="limit each row to N CPU threads")
    add(
        "--device",
        default="cpu",
        help="run all rows on cpu, cuda, cuda:N, or Intel's gpu, gpu:N or npu (default: cpu)",
    )
    add("--fit", action="store_true", help="letterbox frames whose shape differs from the bundle's")
    add("--json", type=Path, metavar="FILE", help="write every measurement to FILE")
    add("--markdown", type=Path, metavar="FILE", help="write tables to FILE")
    add("--html", type=Path, metavar="FILE", help="write tables and plots to FILE, one page")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from idol_runtime.bench.measure import BenchOptions, measure
    from idol_runtime.bench.page import as_page
    from idol_runtime.bench.report import as_markdown, as_text
    from idol_runtime.files import refuse_replacing, replacing, writable_target
    from idol_runtime.optional import import_optional
    from idol_runtime.sources.opening import source_paths

    rows = _rows(options)
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    formats = (
        (options.json, lambda report: json.dumps(report, indent=2) + "\n"),
        (options.markdown, as_markdown),
        (options.html, as_page),
    )
    outputs = {path: as_format for path, as_format in formats if path is not None}
    for path in outputs:
        writable_target(path)
    frames = source_paths(options.source) if options.source else []
    refuse_replacing(outputs, [options.bundle, options.weights, options.preset, *frames])
    if options.html:
        import_optional("matplotlib", "matplotlib", "bench", "--html")
    bench = BenchOptions(
        options.source, options.frames, options.warmup, options.threads, options.device, options.fit
    )
    report = measure(options.bundle, rows, bench, lambda text: print(text, file=sys.stderr))
    print(as_text(report))
    for path, as_format in outputs.items():
        with replacing(path) as temporary:
            temporary.write_text(as_format(report), encoding="utf-8")
        print(f"wrote {path}")
    return 0


def _rows(options: argparse.Namespace) -> "list[BenchRow]":
    """Return the rows to time; PyTorch comes first, as the reference of the others."""
    from idol_runtime.bench.rows import bundle_rows

    rows = bundle_rows(options.bundle, options.device, options.threads)
    if options.weights is not None:
        from dataclasses import replace

        from idol_deploy.bench import TorchRow, torch_rows
        from idol_deploy.settings import network_config
        from idol_runtime.bundle.bundle import Bundle

        with Bundle.open(options.bundle) as bundle:
            config = network_config(options.preset or bundle.manifest.preset)
            config = replace(config, classes=bundle.manifest.stream.class_names)
        pytorch = TorchRow(
            options.bundle, options.weights, config, options.device, options.threads, options.compile
        )
        rows = [*torch_rows(pytorch), *rows]
    elif options.compile or options.preset:
        raise ConfigError("--compile and --preset apply to PyTorch only; pass --weights as well")
    if options.only:
        texts, names = options.only.split(","), [row.name for row in rows]
        rows = [row for row in rows if any(text in row.name for text in texts)]
        if not rows:
            raise ConfigError(f"no row matches --only {options.only}; choose from: {'; '.join(names)}")
    return rows
