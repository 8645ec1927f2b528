"""Parts shared by the subcommands: argument types, common options, and the values built from them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from idol_runtime.errors import ConfigError

if TYPE_CHECKING:
    from idol_deploy.evaluate.model import ModelChoice
    from idol_deploy.settings import TrainSettings
    from idol_runtime.bundle.certificates import PrecisionCertificate

__all__ = [
    "INTERRUPTED",
    "add_association",
    "add_backend",
    "add_checkpoint",
    "add_model",
    "add_training_data",
    "import_training",
    "model_choice",
    "new_settings",
    "positive",
    "print_checks",
    "size",
    "whole",
]

INTERRUPTED = 130  # exit status after Ctrl-C


def size(text: str) -> tuple[int, int]:
    """Parse `720x1280` as (height, width)."""
    height, _, width = text.lower().replace("×", "x").partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH; 720x1280, for example")
    return int(height), int(width)


def positive(text: str) -> int:
    """Parse an integer of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def whole(text: str) -> int:
    """Parse an integer of 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def add_backend(parser: argparse.ArgumentParser, graph: str) -> None:
    """Add `--backend`, and `--graph` with this default."""
    add = parser.add_argument
    backend = (
        "run the bundle with auto, onnxruntime, openvino or tensorrt; auto is the fastest (default: auto)"
    )
    add("--backend", default="auto", help=backend)
    graphs = (
        "run this graph of the bundle: auto (the fastest), fp32 (the fastest in fp32), plugin, portable, tensorrt, "
        "fp16, bf16, int8-ort or int8-qdq (default: %(default)s)"
    )
    add("--graph", default=graph, help=graphs)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add `--weights`, `--preset`, `--classes` and `--store`."""
    add = parser.add_argument
    weights = "read the weights from FILE: published .pth, .safetensors or a run's iteration-*.pt"
    add("--weights", required=True, type=Path, metavar="FILE", help=weights)
    preset = "name the network of the weights: ytvis19_r50, ovis_swin_l, …, or a run's settings.json"
    add("--preset", required=True, help=preset)
    _add_classes(parser)
    store = "store the weights as fp32 or fp16; fp16 rounds matrices and kernels and halves the file (default: fp32)"
    add("--store", choices=("fp32", "fp16"), default="fp32", help=store)


def add_association(
    parser: argparse.ArgumentParser,
    text: str = "change a threshold or association setting: association.temporal=paper, …",
) -> None:
    """Add `--set KEY=VALUE` for thresholds and association, with this help text."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


def add_model(parser: argparse.ArgumentParser, *settings: str) -> None:
    """Add the options that `model_choice` needs; `settings` is the help text of `--set`, as in `add_association`."""
    add = parser.add_argument
    add("--bundle", type=Path, metavar="FILE", help="run this .idol file, without PyTorch")
    add("--weights", type=Path, metavar="FILE", help="run this checkpoint in PyTorch")
    add("--preset", help="preset of the checkpoint: ytvis19_r50, ovis_swin_l, …, or settings.json of a run")
    _add_classes(parser)
    fit = "letterbox frames of another shape than the bundle was exported for"
    add("--fit", action="store_true", help=fit)
    add("--device", default="cpu", help="run on cpu, cuda (one device per process) or cuda:N (default: cpu)")
    add("--threads", type=positive, metavar="N", help="use N CPU threads (default: choice of the backend)")
    add_association(parser, *settings)


def model_choice(options: argparse.Namespace) -> "ModelChoice":
    """Build the model choice; a command without `--backend` and `--graph` uses their defaults.

    Raises:
        ConfigError: neither or both of `--bundle` and `--weights` are given.
    """
    from idol_deploy.evaluate.model import ModelChoice

    return ModelChoice(
        bundle=options.bundle,
        weights=options.weights,
        preset=options.preset,
        classes=options.classes,
        backend=getattr(options, "backend", "auto"),
        graph=getattr(options, "graph", "fp32"),
        device=options.device,
        threads=options.threads,
        fit=options.fit,
        settings=tuple(options.set),
    )


def add_training_data(
    parser: argparse.ArgumentParser, annotations: str, settings: str, *, required: bool = True
) -> None:
    """Add the options that `new_settings` reads besides `--preset`, and `--set`.

    Args:
        parser: parser of the command.
        annotations: help text of `--annotations`.
        settings: help text of `--set`.
        required: whether the command needs `--annotations` and `--frames` in every case (default: yes).
    """
    add = parser.add_argument
    add("--annotations", required=required, type=Path, metavar="FILE", help=annotations)
    frames = "read the annotated frames below DIR; the annotations name them relative to it"
    add("--frames", required=required, type=Path, metavar="DIR", help=frames)
    own = "use the classes of --annotations, in the order of their ids, instead of the preset's"
    add("--own-classes", action="store_true", help=own)
    add("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help=settings)
    parser.set_defaults(global_normaliser=False, strict=False, holdout=None)


def import_training(purpose: str) -> None:
    """Import the packages of the extra `train`, so that a missing one is reported before any work.

    Raises:
        MissingDependencyError: a package is missing; names the extra.
    """
    from idol_runtime.optional import import_optional

    for package in ("torch", "safetensors", "pycocotools"):
        import_optional(package, package, "train", purpose)


def new_settings(options: argparse.Namespace) -> "TrainSettings":
    """Build the settings of a new run from the preset, the data and the options that change the network.

    Raises:
        ConfigError: `--preset`, `--annotations` or `--frames` is missing.
    """
    from dataclasses import replace

    from idol_deploy.settings import DataConfig, TrainSettings, network_config

    for name in ("preset", "annotations", "frames"):
        if not getattr(options, name):
            raise ConfigError(
                f"--{name} is missing; give it, or --resume to continue a run in {options.output}"
            )
    network = network_config(options.preset, options.annotations if options.own_classes else None)
    if options.global_normaliser:
        loss = replace(network.train.loss, global_normaliser=True)
        network = replace(network, train=replace(network.train, loss=loss))
    # Absolute, so that the run can be resumed from another folder.
    annotations, frames = (str(path.absolute()) for path in (options.annotations, options.frames))
    data = DataConfig(annotations, frames, strict=options.strict, holdout=options.holdout)
    return TrainSettings(network, data)


def _add_classes(parser: argparse.ArgumentParser) -> None:
    """Add `--classes`."""
    classes = (
        "read the class names of the weights from FILE: names.txt with one name per line, or the annotations of their "
        "training (default: the preset's)"
    )
    parser.add_argument("--classes", type=Path, metavar="FILE", help=classes)


def print_checks(name: str, certificate: "PrecisionCertificate") -> None:
    """Print the results of a certificate of the named graph."""
    agreement, scores = certificate.agreement, certificate.annotation_scores
    stages = ", ".join(f"{stage.stage} {stage.error:.1e}" for stage in certificate.stages)
    print(f"{name}: relative errors: {stages}")
    frames = f"{agreement.instance_frames} instance-frames of {agreement.source}"
    print(f"{name}: id agreement {agreement.idf1:.2%} with fp32 on {frames}")
    if scores is not None:
        ap = f"AP {scores.ap:.1%} (fp32 {scores.ap_fp32:.1%})"
        idf1 = f"IDF1 {scores.idf1:.1%} (fp32 {scores.idf1_fp32:.1%})"
        print(f"{name}: {ap}, {idf1} on {scores.source}")
    if certificate.failures:
        print(f"{name}: NOT VERIFIED, failed: {', '.join(certificate.failures)}; run refuses it")
