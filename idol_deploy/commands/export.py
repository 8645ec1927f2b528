"""`idol-deploy export`: checkpoint to verified bundle."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idol_deploy.commands.arguments import positive, size
from idol_deploy.commands.steps import steps
from idol_runtime.errors import ConfigError

if TYPE_CHECKING:
    from idol_export.export import ExportOptions

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of this command."""
    parser.description = (
        "Export a checkpoint to ONNX, compare it with PyTorch stage by stage down to track ids, and write one "
        ".idol bundle. Out of tolerance: an error that names the stage, and no file."
    )
    parser.set_defaults(command=run)
    add = parser.add_argument
    add("--weights", required=True, type=Path, metavar="FILE", help="published checkpoint, or safetensors")
    add(
        "--preset",
        required=True,
        help="what the weights are: ytvis19_r50, ovis_swin_l, …, or a run's settings.json",
    )
    add("--frame-size", required=True, type=size, metavar="HxW", help="size of the source's frames: 720x1280")
    add("-o", "--output", required=True, type=Path, metavar="FILE", help="the .idol bundle to write")
    resize = parser.add_mutually_exclusive_group()
    resize.add_argument(
        "--short-side", type=positive, metavar="N", help="resize to this; default: the preset's"
    )
    resize.add_argument("--no-resize", action="store_true", help="the network sees frames as they are")
    add(
        "--portable",
        action="store_true",
        help="standard operators only: leave out the graph with our operator",
    )
    add("--dynamic-batch", action="store_true", help="leave the number of frames free")
    add("--opset", type=positive, help="of the ONNX operators, 18 to 25 (default: 18)")
    add(
        "--store",
        choices=("fp32", "fp16"),
        default="fp32",
        help="weights in the file; fp16 rounds them first, and halves the file (default: fp32)",
    )
    add(
        "--precision",
        action="append",
        default=[],
        choices=("fp32", "fp16", "bf16", "int8"),
        help="add a graph of fewer bits to those of fp32, which judge it; may be repeated",
    )
    add(
        "--target",
        choices=("ort", "trt"),
        help="runtime that the int8 graph is quantized for: ONNX Runtime or TensorRT (default: ort)",
    )
    add("--dialect", dest="target", choices=("ort", "trt"), help=argparse.SUPPRESS)
    add("--calibrate", metavar="SOURCE", help="video or images that int8 takes its ranges from")
    add(
        "--calibrate-frames",
        type=positive,
        default=64,
        metavar="N",
        help="how many frames of it (default: 64)",
    )
    add(
        "--keep",
        action="append",
        default=[],
        metavar="PART",
        help="stays fp32 beside what int8 never rounds: backbone, neck, encoder, decoder, heads, or a part of the "
        "backbone: backbone/4",
    )
    add(
        "--auto",
        nargs="?",
        type=float,
        const=1.0,
        metavar="LOSS",
        help="int8, of the fastest choice of nodes that loses at most so many percent of the id agreement "
        "(default: 1)",
    )
    add(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="score the reduced-precision graphs on these annotations",
    )
    add("--judge", dest="annotations", type=Path, help=argparse.SUPPRESS)
    add("--frames", type=Path, metavar="DIR", help="the folder that the annotations' file names are below")
    add(
        "--unverified",
        action="store_true",
        help="write a graph of fewer bits that fails, marked; run refuses it",
    )
    add("--verify", metavar="SOURCE", help="video or images to compare on (default: a generated video)")
    add("--verify-frames", type=positive, default=4, metavar="N", help="how many frames of it (default: 4)")
    add("--note", default="", help="caption for annotated videos")


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit status."""
    from dataclasses import replace

    from idol_deploy.settings import network_config
    from idol_runtime.files import refuse_replacing, writable_target
    from idol_runtime.optional import import_optional
    from idol_runtime.sources.opening import source_places
    from idol_runtime.suffixes import require_suffix

    config = network_config(options.preset)
    if options.no_resize or options.short_side:
        side = None if options.no_resize else options.short_side
        config = replace(config, preprocessing=replace(config.preprocessing, short_side=side))
    writable_target(options.output)
    frames = [place for name in (options.verify, options.calibrate) if name for place in source_places(name)]
    refuse_replacing([options.output], [options.weights, options.preset, options.annotations, *frames])
    require_suffix(options.output, "a bundle", ".idol")
    for package in ("torch", "onnx", "onnxscript"):
        import_optional(package, package, "export", "exporting")

    from idol_deploy.weights.checkpoint import load_checkpoint
    from idol_export.export import export

    wanted = _export_options(options)
    with steps() as announce:
        announce(f"reading {options.weights}")
        model = load_checkpoint(options.weights, config)
        exported = export(model, config, options.output, wanted, announce)
    _print_parity(exported.certificates)
    _print_precisions(exported.certificates)
    if exported.reason:
        print(f"note: {exported.reason}")
    size = options.output.stat().st_size / 2**20
    network = "x".join(map(str, exported.manifest.network_size))
    print(f"wrote {options.output} ({size:.0f} MiB, network input {network})")
    return 0


def _export_options(options: argparse.Namespace) -> "ExportOptions":
    from idol_export.export import ExportOptions
    from idol_export.graph.tracing import DEFAULT_OPSET
    from idol_export.precision.reduce import ReduceOptions

    return ExportOptions(
        frame_size=options.frame_size,
        portable=options.portable,
        dynamic_batch=options.dynamic_batch,
        opset=options.opset or DEFAULT_OPSET,
        verify_source=options.verify,
        verify_frames=options.verify_frames,
        note=options.note,
        store=options.store,
        reduce=ReduceOptions(
            names=_reduced_names(options),
            calibrate=options.calibrate,
            calibrate_frames=options.calibrate_frames,
            keep=tuple(options.keep),
            auto=None if options.auto is None else options.auto / 100,
            annotations=options.annotations,
            annotation_frames=options.frames,
            unverified=options.unverified,
        ),
    )


def _reduced_names(options: argparse.Namespace) -> tuple[Any, ...]:
    """Of the graphs that the arguments ask for."""
    precisions, target = list(options.precision), options.target or "ort"
    if options.auto is not None:
        # What a search may choose from: TensorRT gains from fp16 as well, ONNX Runtime on a processor does not.
        precisions += ["fp16", "int8"] if target == "trt" else ["int8"]
    if options.target and "int8" not in precisions:
        raise ConfigError("--target is of int8; give --precision int8 or --auto as well")
    names = dict.fromkeys(f"int8-{target}" if name == "int8" else name for name in precisions)
    return tuple(name for name in names if name != "fp32")


def _print_precisions(parity: Any) -> None:
    for name, certificate in parity.precisions.items():
        agreement, scores = certificate.agreement, certificate.annotation_scores
        stages = ", ".join(f"{stage.stage} {stage.error:.1e}" for stage in certificate.stages)
        print(f"{name} on {certificate.backend}, relative errors: {stages}")
        print(
            f"{name}: id agreement {agreement.idf1:.2%} with fp32 on {agreement.instance_frames} instance-frames of "
            f"{agreement.source}"
        )
        if scores is not None:
            print(
                f"{name}: AP {scores.ap:.1%} (fp32 {scores.ap_fp32:.1%}), IDF1 {scores.idf1:.1%} "
                f"(fp32 {scores.idf1_fp32:.1%}) on {scores.source}"
            )
        if certificate.recipe is not None:
            _print_recipe(name, certificate.recipe)
        if certificate.failures:
            print(f"{name}: NOT VERIFIED, failed: {', '.join(certificate.failures)}; run refuses it")


def _print_recipe(name: str, recipe: Any) -> None:
    kept = ", ".join(recipe.kept) or "nothing"
    print(f"{name}: {recipe.integer_share:.0%} of the multiplications in integers, kept in fp32: {kept}")
    if recipe.search:
        print(f"{'int8':>6} {'error':>8} {'ids':>8} {'speed':>6}  kept in fp32")
    for step in recipe.search:
        speed = "" if step.speed is None else f"{step.speed:.2f}"
        kept = ", ".join(step.kept) or "nothing"
        ids = "" if step.idf1 is None else f"{step.idf1:.2%}"
        held = ", holds" if step.held else ""
        print(f"{step.integer_share:6.0%} {step.error:8.2%} {ids:>8} {speed:>6}  {kept}{held}")


def _print_parity(parity: Any) -> None:
    certificates = parity.by_graph()
    first = parity.portable
    print(f"PyTorch against {first.backend}, {first.source}: largest relative error of each stage")
    print(f"{'stage':16} {'allowed':>9} " + "".join(f"{name:>9}" for name in certificates))
    for stages in zip(*(certificate.stages for certificate in certificates.values()), strict=True):
        errors = "".join(f"{stage.error:9.1e}" for stage in stages)
        passed = all(stage.passed for stage in stages)
        print(f"{stages[0].stage:16} {stages[0].tolerance:9.0e} {errors}   {'pass' if passed else 'FAIL'}")
    near_ties = sum(certificate.near_ties for certificate in certificates.values())
    print(
        f"{first.frames} frames, {first.detections} detections, {first.identities} identities, {near_ties} near-ties"
    )
    if not first.identities:
        print(
            "note: nothing was tracked, so identities are untested; verify on a clip with objects: --verify"
        )
