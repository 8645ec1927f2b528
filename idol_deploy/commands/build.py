"""`idol-deploy build`: bundle to TensorRT engine, on the device that will run it."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from idol_deploy.commands.common import positive, steps

if TYPE_CHECKING:
    from idol_export.engine.build import Built

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of this command."""
    parser.description = (
        "Build a TensorRT engine of a bundle for this device, compare it with PyTorch's golden outputs, and store "
        "it where run finds it. An engine that is there, fits and is right is kept. Needs no PyTorch and no ONNX "
        "Runtime."
    )
    parser.set_defaults(command=run)
    add = parser.add_argument
    add("bundle", type=Path, help="the .idol file")
    add(
        "--graph",
        default="auto",
        help="auto is plugin (our operator); portable only to try it: TensorRT 10.13 to 11.1 compute it wrongly",
    )
    add("--device", default="cuda", help="cuda, cuda:N (default: cuda)")
    add(
        "--max-batch",
        type=positive,
        default=1,
        metavar="N",
        help="most frames at once, of a bundle with a dynamic batch (default: 1)",
    )
    add(
        "--workspace",
        type=positive,
        metavar="MIB",
        help="memory for a layer's intermediate results; default: all",
    )
    add(
        "--hardware-compat",
        default="none",
        metavar="LEVEL",
        help="also for other devices: ampere_plus, same_compute_capability (default: none)",
    )
    add("--version-compat", action="store_true", help="also for newer TensorRT of the same major version")
    add("--force", action="store_true", help="build even if a good engine is there")
    add("--into", type=Path, metavar="DIR", help="folder for the engine; default: the user's cache")
    add("--report", type=Path, metavar="FILE", help="write what was built, and every layer of it, as JSON")


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    import msgspec

    from idol_export.engine.build import BuildOptions, build
    from idol_export.engine.report import count_layers
    from idol_runtime.bundle.bundle import Bundle
    from idol_runtime.bundle.engine_file import read_layers
    from idol_runtime.files import refuse_replacing, replacing, writable_target

    if options.report:
        writable_target(options.report)
        refuse_replacing([options.report], [options.bundle])
    wanted = BuildOptions(
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
        built = build(bundle, wanted, announce)
    layers = read_layers(built.path)
    _print(built, count_layers(layers))
    if options.report:
        report = {
            "engine": msgspec.to_builtins(built.info),
            "path": str(built.path),
            "remark": built.reason,
            "warnings": list(built.warnings),
            "layer_types": count_layers(layers),
            "layers": _parsed(layers),
        }
        with replacing(options.report) as temporary:
            temporary.write_text(json.dumps(report, indent=2) + "\n")
        print(f"wrote {options.report}")
    return 0


def _print(built: "Built", layers: dict[str, int]) -> None:
    info = built.info
    key = info.key
    if built.reason:
        print(f"note: {built.reason}")
    print(f"PyTorch against TensorRT {key.tensorrt} on {key.gpu}, golden frame: largest relative error")
    for stage in info.golden:
        print(
            f"{stage.stage:16} {stage.tolerance:9.0e} {stage.error:9.1e}   {'pass' if stage.passed else 'FAIL'}"
        )
    counted = ", ".join(f"{count} {kind}" for kind, count in list(layers.items())[:6])
    print(f"{sum(layers.values())} layers" + (f": {counted}" if counted else ""))
    median, late = info.latency_ms
    print(f"one frame with its copies: {median:.2f} ms, 95 % within {late:.2f} ms")
    if info.reason:
        print(f"note: {info.reason}")
    print(
        f"{built.path} ({info.plan_bytes / 2**20:.0f} MiB, {key.graph} graph, {key.precision}, "
        f"built in {info.build_seconds:.0f} s)"
    )


def _parsed(layers: str) -> object:
    try:
        return json.loads(layers)
    except ValueError:  # TensorRT promises no format
        return layers
