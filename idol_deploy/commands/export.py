"""`idol-deploy export`: a verified bundle from a checkpoint."""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idol_deploy.commands.common import add_checkpoint, positive, print_checks, size
from idol_deploy.progress import steps
from idol_runtime.errors import ConfigError

if TYPE_CHECKING:
    from idol_deploy.config import IdolConfig
    from idol_export.export import Exported, ExportOptions
    from idol_export.precision.base import Precision
    from idol_runtime.bundle.certificates import ReducedName

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `idol-deploy export`."""
    parser.description = (
        "Export a checkpoint to ONNX, compare every stage and the track ids with PyTorch, and write a verified .idol "
        "bundle. If a stage is out of tolerance, the command names it. The bundle is written with its fp32 graphs, and "
        "again after each reduced-precision graph, so that an interrupt loses one graph at most."
    )
    add = parser.add_argument
    add_checkpoint(parser)
    parser.set_defaults(store=None)
    frame_size = "set the size of the source's frames: 720x1280 (default with --into: the bundle's)"
    add("--frame-size", type=size, metavar="HxW", help=frame_size)
    bundle = parser.add_mutually_exclusive_group(required=True)
    bundle.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the bundle to FILE: .idol")
    into = "add the graphs of --precision or --auto to the existing bundle FILE, which has the same weights and sizes"
    bundle.add_argument("--into", type=Path, metavar="FILE", help=into)
    resize = parser.add_mutually_exclusive_group()
    short_side = "resize frames to a short side of N pixels (default: the preset's)"
    resize.add_argument("--short-side", type=positive, metavar="N", help=short_side)
    resize.add_argument("--no-resize", action="store_true", help="run the network at the size of the frames")
    portable = "export only the graph of standard ONNX operators, without the compiled operator"
    add("--portable", action="store_true", help=portable)
    add("--dynamic-batch", action="store_true", help="leave the number of frames per call free (default: 1)")
    add("--opset", type=positive, metavar="N", help="use ONNX opset N, from 18 to 25 (default: 18)")
    precisions, targets = ("fp32", "fp16", "bf16", "int8"), ("ort", "qdq")
    precision = "add a reduced-precision graph, checked against the fp32 graph; may be repeated"
    add("--precision", action="append", default=[], choices=precisions, help=precision)
    target = "quantize the int8 graph for ONNX Runtime, or for OpenVINO and TensorRT; may be repeated (default: ort)"
    quantize: dict[str, Any] = {"action": "append", "choices": targets, "type": _current_target}
    add("--target", default=[], help=target, **quantize)
    add("--dialect", dest="target", default=argparse.SUPPRESS, help=argparse.SUPPRESS, **quantize)
    add("--calibrate", metavar="SOURCE", help="measure the int8 ranges on this video or these images")
    calibrate_frames = "measure the int8 ranges on N frames"
    add("--calibrate-frames", type=positive, default=64, metavar="N", help=calibrate_frames)
    keep = (
        "leave PART of the int8 graph in fp32: backbone, neck, encoder, decoder, heads, one stride of the backbone: "
        "backbone/4, the products that attention samples (values), or that tell it where (locations); may be repeated"
    )
    add("--keep", action="append", default=[], metavar="PART", help=keep)
    auto = "find the fastest int8 configuration that loses at most PERCENT id agreement (default: 1)"
    add("--auto", nargs="?", type=float, const=1.0, metavar="PERCENT", help=auto)
    annotations = "score the reduced-precision graphs on these annotations: YouTube-VIS or OVIS JSON"
    add("--annotations", type=Path, metavar="FILE", help=annotations)
    add("--judge", dest="annotations", type=Path, help=argparse.SUPPRESS)
    frames = "read the annotated frames below DIR; the annotations name them relative to it"
    add("--frames", type=Path, metavar="DIR", help=frames)
    unverified = "write a reduced-precision graph that fails its checks, marked as unverified; run refuses it"
    add("--unverified", action="store_true", help=unverified)
    verify = "compare with PyTorch on this video or these images (default: a generated video)"
    add("--verify", metavar="SOURCE", help=verify)
    add("--verify-frames", type=positive, default=4, metavar="N", help="compare with PyTorch on N frames")
    add("--note", default="", metavar="TEXT", help="show TEXT in annotated videos (default: no caption)")


def _current_target(text: str) -> str:
    return "qdq" if text == "trt" else text  # the former name


def run(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from idol_deploy.settings import network_config
    from idol_runtime.files import refuse_replacing, require_suffix, writable_target
    from idol_runtime.optional import import_optional
    from idol_runtime.sources.opening import source_paths

    if not (options.frame_size or options.into):
        raise ConfigError(
            "--frame-size is missing; pass the size of the source's frames: 720x1280, for example"
        )
    config = network_config(options.preset, options.classes)
    if options.no_resize or options.short_side:
        config = replace(config, preprocessing=replace(config.preprocessing, short_side=options.short_side))
    output = options.into or options.output
    writable_target(output)
    frames = [place for name in (options.verify, options.calibrate) if name for place in source_paths(name)]
    refuse_replacing(
        [output], [options.weights, options.preset, options.classes, options.annotations, *frames]
    )
    require_suffix(output, "a bundle", ".idol")
    if options.into:
        config = _adopt(options, config)
    for package in ("torch", "onnx", "onnxscript"):
        import_optional(package, package, "export", "exporting")

    from idol_deploy.weights.checkpoint import load_checkpoint
    from idol_export.export import add_graphs, export

    export_options = _export_options(options)
    names = [precision.name for precision in export_options.reduce.precisions]
    if options.into and not names:
        raise ConfigError("--into adds reduced-precision graphs; pass --precision or --auto as well")
    written: list[Exported] = []
    try:
        with steps(redraw=True) as announce:
            announce(f"reading {options.weights}")
            model = load_checkpoint(options.weights, config)
            work = add_graphs if options.into else export
            exported = work(model, config, output, export_options, announce, written.append)
    except BaseException:  # also an interrupt
        missing = names[len(written) - (not options.into) :]
        if written and missing:
            print(
                f"note: {output} is complete except for {', '.join(missing)}; to add: {_command(options, missing)}"
            )
        raise
    if not options.into:
        _print_parity(exported.certificates)
    _print_precisions(exported, names)
    if exported.reason:
        print(f"note: {exported.reason}")
    for reason in exported.uncertified:
        print(f"note: {reason}; verify it later with: idol-deploy certify {output}")
    size = output.stat().st_size / 2**20
    network = "x".join(map(str, exported.manifest.network_size))
    print(f"wrote {output} ({size:.0f} MiB, network input {network})")
    return 0


def _adopt(options: argparse.Namespace, config: "IdolConfig") -> "IdolConfig":
    """Set the options that were not given to those of the bundle of `--into`; return the resulting configuration."""
    from idol_runtime.bundle.bundle import Bundle

    with Bundle.open(options.into) as bundle:
        manifest = bundle.manifest
    opset = manifest.versions.get("opset", "")
    options.frame_size = options.frame_size or manifest.frame_size
    options.store = options.store or manifest.storage
    options.opset = options.opset or (int(opset) if opset.isdecimal() else None)
    options.note = options.note or manifest.note
    options.dynamic_batch = options.dynamic_batch or manifest.dynamic_batch
    if options.no_resize or options.short_side:
        return config
    return replace(config, preprocessing=manifest.stream.preprocessing)


def _command(options: argparse.Namespace, missing: Sequence["ReducedName"]) -> str:
    """Return the command that adds the missing graphs."""
    from idol_export.precision.registry import PRECISIONS

    precisions = [PRECISIONS[name] for name in missing]
    values: dict[str, Any] = {
        "into": options.output or options.into,
        "precision": list(dict.fromkeys(precision.arithmetic for precision in precisions)),
        "target": [precision.target for precision in precisions if precision.calibrated],
    }
    names = ["weights", "preset", "classes", "verify", "verify_frames", "annotations", "frames"]
    if values["target"]:
        names += ["calibrate", "calibrate_frames", "keep", "auto"]
    values |= {name.replace("_", "-"): getattr(options, name) for name in names}
    arguments = [
        f"--{name}={part:g}" if isinstance(part, float) else f"--{name}={part}"
        for name, value in values.items()
        for part in (value if isinstance(value, list) else [value])
        if part is not None
    ]
    flags = [f"--{name}" for name in ("portable", "unverified") if getattr(options, name)]
    return shlex.join(["idol-deploy", "export", *arguments, *flags])


def _export_options(options: argparse.Namespace) -> "ExportOptions":
    from idol_export.export import ExportOptions
    from idol_export.graph.tracing import DEFAULT_OPSET
    from idol_export.precision.base import ReduceOptions

    return ExportOptions(
        frame_size=options.frame_size,
        portable=options.portable,
        dynamic_batch=options.dynamic_batch,
        opset=options.opset or DEFAULT_OPSET,
        verify_source=options.verify,
        verify_frames=options.verify_frames,
        note=options.note,
        store=options.store or "fp32",
        reduce=ReduceOptions(
            precisions=_precisions(options),
            calibrate=options.calibrate,
            calibrate_frames=options.calibrate_frames,
            keep=tuple(options.keep),
            auto=None if options.auto is None else options.auto / 100,
            annotations=options.annotations,
            annotation_frames=options.frames,
            unverified=options.unverified,
        ),
    )


def _precisions(options: argparse.Namespace) -> "tuple[Precision, ...]":
    """Return the reduced precisions that the arguments request."""
    from idol_export.precision.registry import select_precisions

    precisions, targets = list(options.precision), options.target or ["ort"]
    if options.auto is not None:
        # On TensorRT, fp16 may be faster than int8. On a CPU, ONNX Runtime gains nothing from fp16.
        precisions += ["fp16", "int8"] if "qdq" in targets and not options.into else ["int8"]
    if options.target and "int8" not in precisions:
        raise ConfigError("--target applies to int8 only; pass --precision int8 or --auto as well")
    return select_precisions(precisions, targets)


def _print_parity(certificates: Any) -> None:
    by_graph, first = certificates.by_graph(), certificates.portable
    print(f"PyTorch against {first.backend}, {first.source}: largest relative error of each stage")
    print(f"{'stage':16} {'allowed':>9} " + "".join(f"{name:>9}" for name in by_graph))
    for stages in zip(*(certificate.stages for certificate in by_graph.values()), strict=True):
        errors = "".join(f"{stage.error:9.1e}" for stage in stages)
        passed = "pass" if all(stage.passed for stage in stages) else "FAIL"
        print(f"{stages[0].stage:16} {stages[0].tolerance:9.0e} {errors}   {passed}")
    ties = sum(certificate.near_ties for certificate in by_graph.values())
    counts = f"{first.frames} frames, {first.detections} detections, {first.identities} identities"
    print(f"{counts}, {ties} near-ties")
    if not first.identities:
        print(
            "note: no instance was tracked, so identities are untested; pass a clip with objects to --verify"
        )


def _print_precisions(exported: "Exported", names: Sequence["ReducedName"]) -> None:
    for name in names:
        for certificate in exported.certificates.precisions[name]:
            print_checks(f"{name} in {certificate.measured_in}", certificate)
        if (recipe := exported.manifest.precisions[name].recipe) is not None:
            _print_recipe(name, recipe)


def _print_recipe(name: str, recipe: Any) -> None:
    kept = ", ".join(recipe.kept) or "nothing"
    print(f"{name}: {recipe.integer_share:.0%} of the multiplications in int8, left in fp32: {kept}")
    if recipe.search:
        print(f"{'int8':>6} {'error':>8} {'ids':>8} {'speed':>6}  left in fp32")
    for step in recipe.search:
        speed = "" if step.speed is None else f"{step.speed:.2f}"
        kept = ", ".join(step.kept) or "nothing"
        ids = "" if step.idf1 is None else f"{'' if step.held else '≤ '}{step.idf1:.2%}"
        passed = ", pass" if step.held else ""
        print(f"{step.integer_share:6.0%} {step.error:8.2%} {ids:>8} {speed:>6}  {kept}{passed}")
