"""`idol-deploy build`: build a TensorRT engine from a bundle, on the device that will run it."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from idol_deploy.commands.common import positive
from idol_deploy.progress import steps

if TYPE_CHECKING:
    from idol_export.engine.build import Built

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `idol-deploy build`."""
    parser.description = (
        "Build a TensorRT engine from a bundle for this device, compare its outputs with PyTorch's golden outputs, "
        "and store it where run finds it. A stored engine that passes is reused. Needs no PyTorch and no ONNX "
        "Runtime."
    )
    add = parser.add_argument
    add("bundle", type=Path, help="bundle, an .idol file")
    add(
        "--graph",
        default="auto",
        help="build this graph: plugin, tensorrt, fp16, int8-qdq, … (default: auto, which is plugin if our operator's "
        "library is built, else tensorrt)",
    )
    add("--device", default="cuda", help="build for this device: cuda or cuda:N (default: cuda)")
    add(
        "--max-batch",
        type=positive,
        default=1,
        metavar="N",
        help="allow up to N frames at once, if the bundle has a dynamic batch (default: 1)",
    )
    add(
        "--workspace",
        type=positive,
        metavar="MIB",
        help="limit a layer's intermediate results to MIB (default: no limit)",
    )
    add(
        "--hardware-compat",
        default="none",
        metavar="LEVEL",
        help="make the engine run on other devices as well: ampere_plus, same_compute_capability (default: none)",
    )
    add(
        "--version-compat",
        action="store_true",
        help="make the engine run in newer TensorRT releases of the same major version as well",
    )
    add("--force", action="store_true", help="build even if a usable engine is stored")
    add("--into", type=Path, metavar="DIR", help="write the engine to DIR (default: the user's cache)")
    add("--report", type=Path, metavar="FILE", help="write a report with every layer as JSON to FILE")


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    import msgspec

    from idol_export.engine.build import BuildOptions, build, count_layers
    from idol_runtime.bundle.bundle import Bundle
    from idol_runtime.bundle.engine_file import read_layers
    from idol_runtime.files import refuse_replacing, writable_target, write_text

    if options.report:
        writable_target(options.report)
        refuse_replacing([options.report], [options.bundle])
    build_options = BuildOptions(
        graph=options.graph,
        device=options.device,
        max_batch=options.max_batch,
        workspace=options.workspace,
        hardware_compat=options.hardware_compat,
        version_compat=options.version_compat,
        force=options.force,
        folder=options.into,
    )
    with steps() as announce, Bundle.open(options.bundle) as bundle:
        built = build(bundle, build_options, announce)
    layers = read_layers(built.path)
    _print(built, count_layers(layers))
    if options.report:
        report = {
            "engine": msgspec.to_builtins(built.info),
            "path": str(built.path),
            "remark": built.reason,
            "warnings": list(built.warnings),
            "layer_types": count_layers(layers),
            "layers": _parse(layers),
        }
        write_text(options.report, json.dumps(report, indent=2) + "\n")
        print(f"wrote {options.report}")
    return 0


def _print(built: "Built", layers: dict[str, int]) -> None:
    info = built.info
    key = info.key
    if built.reason:
        print(f"note: {built.reason}")
    print(f"largest relative error against PyTorch on the golden frame, TensorRT {key.tensorrt} on {key.gpu}")
    for stage in info.golden:
        print(
            f"{stage.stage:16} {stage.tolerance:9.0e} {stage.error:9.1e}   {'pass' if stage.passed else 'FAIL'}"
        )
    kinds = ", ".join(f"{count} {kind}" for kind, count in list(layers.items())[:6])
    print(f"{sum(layers.values())} layers" + (f": {kinds}" if kinds else ""))
    median, late = info.latency_ms
    print(f"latency of one frame, copies included: median {median:.2f} ms, 95th percentile {late:.2f} ms")
    if info.reason:
        print(f"note: {info.reason}")
    print(
        f"engine {built.path} ({info.plan_bytes / 2**20:.0f} MiB, {key.graph} graph, {key.precision}, "
        f"built in {info.build_seconds:.0f} s)"
    )


def _parse(layers: str) -> object:
    try:
        return json.loads(layers)
    except (ValueError, RecursionError):  # TensorRT does not specify the format
        return layers
