"""The `idol-deploy` command: argument parsing only; each subcommand imports what it needs when it runs.

Exit status: 0 done, 1 an internal error or a failed selftest, 2 an error that the user can mend (one line on stderr),
130 Ctrl-C.
"""

import argparse
import contextlib
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from idol_runtime.errors import ConfigError, IdolError

__all__ = ["build_parser", "main"]

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = build_parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except IdolError as error:
        print(f"idol-deploy: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("idol-deploy: interrupted", file=sys.stderr)
        return _INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """Tells a wrong argument as every other error is told: in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"idol-deploy: error: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(
        prog="idol-deploy",
        description="Online video instance segmentation with IDOL, from checkpoint to device.",
    )
    version = importlib.metadata.version("idol-deploy")
    parser.add_argument("--version", action="version", version=f"idol-deploy {version}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_export(commands.add_parser("export", help="checkpoint to verified .idol bundle"))
    _add_train(commands.add_parser("train", help="annotated videos to a checkpoint"))
    _add_run(commands.add_parser("run", help="bundle and video to tracked masks"))
    _add_evaluate(commands.add_parser("evaluate", help="score results, or a model over a data set"))
    _add_inspect(commands.add_parser("inspect", help="what a checkpoint, ONNX file or bundle is"))
    _add_plugins(commands.add_parser("plugins", help="build, list or test the deformable-attention kernel"))
    return parser


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Export a checkpoint to ONNX, compare it with PyTorch stage by stage down to track ids, and write one "
        ".idol bundle. Out of tolerance: an error that names the stage, and no file."
    )
    parser.set_defaults(command=_export)
    add = parser.add_argument
    add("--weights", required=True, type=Path, metavar="FILE", help="published checkpoint, or safetensors")
    add(
        "--preset",
        required=True,
        help="what the weights are: ytvis19_r50, ovis_swin_l, …, or a run's settings.json",
    )
    add(
        "--frame-size", required=True, type=_size, metavar="HxW", help="size of the source's frames: 720x1280"
    )
    add("-o", "--output", required=True, type=Path, metavar="FILE", help="the .idol bundle to write")
    resize = parser.add_mutually_exclusive_group()
    resize.add_argument(
        "--short-side", type=_positive, metavar="N", help="resize to this; default: the preset's"
    )
    resize.add_argument("--no-resize", action="store_true", help="the network sees frames as they are")
    add(
        "--portable",
        action="store_true",
        help="standard operators only: leave out the graph with our operator",
    )
    add("--dynamic-batch", action="store_true", help="leave the number of frames free")
    add("--opset", type=_positive, help="of the ONNX operators (default: 18)")
    add("--verify", metavar="SOURCE", help="video or images to compare on (default: a generated video)")
    add("--verify-frames", type=_positive, default=4, metavar="N", help="how many frames of it (default: 4)")
    add("--note", default="", help="caption for annotated videos")


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Train a network on annotated videos, or on pairs made of still images. Under torchrun, processes share each "
        "iteration's pairs. Ctrl-C finishes the iteration and writes a snapshot; --resume goes on from the last one."
    )
    parser.set_defaults(command=_train)
    add = parser.add_argument
    add(
        "-o", "--output", required=True, type=Path, metavar="DIR", help="folder for settings, log and weights"
    )
    add("--resume", action="store_true", help="go on from the last snapshot in the folder, with its settings")
    add("--preset", help="network, augmentation and schedule: ytvis19_r50, ovis_swin_l, coco_r50, …")
    add("--annotations", type=Path, metavar="FILE", help="YouTube-VIS or OVIS JSON; COCO's for coco_*")
    add("--frames", type=Path, metavar="DIR", help="the folder that the annotations' file names are below")
    add("--weights", type=Path, metavar="FILE", help="checkpoint to start from; without, from nothing")
    add(
        "--own-classes",
        action="store_true",
        help="train the classes of --annotations instead of the preset's",
    )
    add(
        "--holdout",
        type=_whole,
        metavar="SEED",
        help="leave out the part of the videos that evaluate takes with it",
    )
    add("--strict", action="store_true", help="refuse broken frames and annotations instead of counting them")
    add("--device", default="cpu", help="cpu, cuda (under torchrun one each), cuda:N (default: cpu)")
    add(
        "--global-normaliser",
        action="store_true",
        help="divide losses by what all processes found; published: by what each found",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="train.iterations=500, run.precision=bf16, data.workers=4, model.queries=100, … (docs/training.md)",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.description = "Track instances through a video with an exported bundle. Needs no PyTorch."
    parser.set_defaults(command=_run)
    add = parser.add_argument
    add("bundle", type=Path, help="the .idol file")
    add("--source", required=True, help="video file, image folder, 'glob*', camera index, or rtsp/http URL")
    add("--save", type=Path, metavar="FILE", help="annotated video: .mp4, .mkv, .avi")
    add("--jsonl", type=Path, metavar="FILE", help="one JSON object per frame, masks as RLE")
    add(
        "--results",
        type=Path,
        metavar="FILE",
        help="the video's results.json, as YouTube-VIS and OVIS take it",
    )
    add("--masks", type=Path, metavar="DIR", help="16-bit PNGs of id + 1")
    add("--display", action="store_true", help="show a window; q or Esc ends")
    add("--boxes", action="store_true", help="draw boxes as well")
    add("--score", type=float, default=0.0, metavar="S", help="hide instances below this (not in --results)")
    add("--stride", type=_positive, default=1, metavar="N", help="take every N-th frame")
    add("--max-frames", type=_positive, metavar="N", help="stop after N frames")
    add("--video-id", type=int, default=1, metavar="N", help="of the entries in --results (default: 1)")
    add("--fit", action="store_true", help="letterbox frames whose shape the bundle was not made for")
    add("--backend", default="auto", help="auto, onnxruntime (default: auto)")
    add("--graph", default="auto", help="auto, plugin (our operator), portable (default: auto)")
    add("--device", default="cpu", help="cpu, cuda, cuda:N (default: cpu)")
    add("--threads", type=_positive, metavar="N", help="CPU threads of the backend")
    add("--no-canary", dest="canary", action="store_false", help="skip the golden frame at load")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="association.temporal=paper, for example",
    )


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Score a results file, or run a model over a data set and score that, as YouTube-VIS and OVIS do. Under "
        "torchrun the processes share the videos; a run that was cut off goes on where it stopped."
    )
    parser.set_defaults(command=_evaluate)
    add = parser.add_argument
    add("--gt", required=True, type=Path, metavar="FILE", help="annotations: YouTube-VIS or OVIS JSON")
    add("--pred", type=Path, metavar="FILE", help="score this results.json")
    add("--bundle", type=Path, metavar="FILE", help="or run this .idol file; needs no PyTorch")
    add("--weights", type=Path, metavar="FILE", help="or run this checkpoint in PyTorch")
    add("--preset", help="what the weights are: ytvis19_r50, ovis_swin_l, …, or a run's settings.json")
    add("--frames", type=Path, metavar="DIR", help="the folder that the annotations' file names are below")
    add("--results", type=Path, metavar="FILE", help="the results.json that the model writes")
    add("--metric", default="ytvis", help="ytvis, or ovis: by occlusion as well (default: ytvis)")
    add("--tracking", action="store_true", help="also HOTA, AssA, DetA and IDF1, through TrackEval")
    add("--json", type=Path, metavar="FILE", help="all scores, by class and by overlap threshold")
    add("--ious", action="store_true", help="also the overlap of every result and instance, in --json")
    add("--submission", type=Path, metavar="FILE", help="the .zip that the evaluation servers take")
    add("--holdout", type=_whole, metavar="SEED", help="only the part of the videos that training leaves out")
    add(
        "--holdout-share",
        type=float,
        metavar="S",
        help="how much of them that is (default: 0.1)",
    )
    add("--fit", action="store_true", help="letterbox frames whose shape the bundle was not made for")
    add("--backend", default="auto", help="of the bundle: auto, onnxruntime (default: auto)")
    add("--graph", default="auto", help="of the bundle: auto, plugin, portable (default: auto)")
    add("--device", default="cpu", help="cpu, cuda (under torchrun one each), cuda:N (default: cpu)")
    add("--threads", type=_positive, metavar="N", help="CPU threads of the model")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="association.temporal=paper, for example",
    )


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Say what a file is: preset, classes, sizes, hashes, and for a bundle its parity certificate."
    )
    parser.set_defaults(command=_inspect)
    parser.add_argument("file", type=Path, help="checkpoint, ONNX file or bundle")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_plugins(parser: argparse.ArgumentParser) -> None:
    parser.description = "The deformable-attention kernel for the CPU, ONNX Runtime, CUDA and TensorRT."
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_plugins_build(commands.add_parser("build", help="compile the libraries for this machine"))
    _add_plugins_info(commands.add_parser("info", help="what is here, what is missing and why"))
    _add_plugins_selftest(commands.add_parser("selftest", help="compare all that is here with numpy"))


def _add_plugins_build(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compile the libraries for this machine, from the sources that are installed with the package. "
        "Needs a C++17 compiler and CMake."
    )
    parser.set_defaults(command=_plugins_build)
    add = parser.add_argument
    add("--into", type=Path, metavar="DIR", help="folder for the libraries; default: the user's cache")
    add(
        "--ort-include",
        type=Path,
        metavar="DIR",
        help="ONNX Runtime's C headers; default: the system's, if there",
    )
    add(
        "--fetch-headers",
        action="store_true",
        help="get ONNX Runtime's headers with apt-get download, if they are not here",
    )
    add(
        "--tensorrt-include",
        type=Path,
        metavar="DIR",
        help="TensorRT's C++ headers, for its plugin with --cuda; default: the system's",
    )
    add(
        "--cuda",
        nargs="?",
        const="native",
        metavar="ARCH",
        help="also for CUDA devices: the one that is here, or those named: 87, '80;90'",
    )


def _add_plugins_info(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Say which homes of the kernel are here, which file each is, why others are not and what mends it, "
        "and what there is to build with."
    )
    parser.set_defaults(command=_plugins_info)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_plugins_selftest(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compare all that is here with numpy, on ordinary and adversarial inputs; exit status 1 if not equal."
    )
    parser.set_defaults(command=_plugins_selftest)
    add = parser.add_argument
    add("--json", action="store_true", help="print JSON")
    add("--seed", type=_whole, default=0, metavar="N", help="of the inputs (default: 0)")
    add(
        "--cases",
        type=_whole,
        default=24,
        metavar="N",
        help="inputs of random sizes, besides the special ones (default: 24)",
    )


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().replace("×", "x").partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH; 720x1280, for example")
    return int(height), int(width)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _export(options: argparse.Namespace) -> int:
    from dataclasses import replace

    from idol_deploy.train.settings import network_config
    from idol_runtime.files import writable_target
    from idol_runtime.optional import import_optional

    config = network_config(options.preset)
    if options.no_resize or options.short_side:
        side = None if options.no_resize else options.short_side
        config = replace(config, preprocessing=replace(config.preprocessing, short_side=side))
    writable_target(options.output)
    for package in ("torch", "onnx", "onnxscript"):
        import_optional(package, package, "export", "exporting")

    from idol_deploy.checkpoint import load_checkpoint
    from idol_export.export import ExportOptions, export
    from idol_export.onnx import DEFAULT_OPSET

    with _steps() as announce:
        announce(f"reading {options.weights}")
        model = load_checkpoint(options.weights, config)
        exported = export(
            model,
            config,
            options.output,
            ExportOptions(
                frame_size=options.frame_size,
                portable=options.portable,
                dynamic_batch=options.dynamic_batch,
                opset=options.opset or DEFAULT_OPSET,
                verify_source=options.verify,
                verify_frames=options.verify_frames,
                note=options.note,
            ),
            announce,
        )
    _print_parity(exported.parity)
    if exported.remark:
        print(f"note: {exported.remark}")
    size = options.output.stat().st_size / 2**20
    network = "x".join(map(str, exported.manifest.network_size))
    print(f"wrote {options.output} ({size:.0f} MiB, network input {network})")
    return 0


@contextlib.contextmanager
def _steps() -> Iterator[Callable[[str], None]]:
    """A line that says what is going on; where there is no terminal, plain lines on stdout."""
    terminal = sys.stderr.isatty()

    def announce(what: str) -> None:
        if terminal:
            print(f"\r\x1b[K{what} …", end="", file=sys.stderr, flush=True)
        else:
            print(what, flush=True)

    try:
        yield announce
    finally:
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


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


def _train(options: argparse.Namespace) -> int:
    from idol_runtime.optional import import_optional

    for package in ("torch", "safetensors", "pycocotools"):
        import_optional(package, package, "train", "training")

    from idol_deploy.train.loop import Training, train
    from idol_deploy.train.processes import joined
    from idol_deploy.train.settings import override

    settings, snapshot = _resumed_settings(options) if options.resume else (_new_settings(options), None)
    task = Training(override(settings, options.set), options.output, options.weights, snapshot)
    with joined(options.device) as processes, _steps() as announce:
        trained = train(task, processes, announce)
        if not processes.first:
            return 0
    best = "" if trained.best is None else f", best AP {trained.best:.3f}"
    print(f"{trained.iterations} iterations{best}")
    for output in trained.outputs:
        print(f"wrote {output}")
    return _INTERRUPTED if trained.interrupted else 0


def _resumed_settings(options: argparse.Namespace) -> tuple[Any, Path]:
    """The settings of the last snapshot, and the snapshot."""
    from idol_deploy.train.snapshots import SnapshotFolder, read_snapshot

    taken = (
        "preset",
        "annotations",
        "frames",
        "weights",
        "own_classes",
        "holdout",
        "strict",
        "global_normaliser",
    )
    for name in taken:
        if getattr(options, name) not in (None, False):
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"--resume goes on with the snapshot's settings; leave {flag} out, or use --set"
            )
    newest = SnapshotFolder(options.output, 1).newest()
    return read_snapshot(newest).settings, newest


def _new_settings(options: argparse.Namespace) -> Any:
    from dataclasses import replace

    from idol_deploy.train.data import category_names
    from idol_deploy.train.settings import DataConfig, TrainSettings, network_config

    for name in ("preset", "annotations", "frames"):
        if not getattr(options, name):
            raise ConfigError(
                f"--{name} is missing; give it, or --resume to go on with a run in {options.output}"
            )
    network = network_config(options.preset)
    if options.own_classes:
        network = replace(network, classes=category_names(options.annotations))
    if options.global_normaliser:
        loss = replace(network.train.loss, global_normaliser=True)
        network = replace(network, train=replace(network.train, loss=loss))
    data = DataConfig(
        str(options.annotations), str(options.frames), strict=options.strict, holdout=options.holdout
    )
    return TrainSettings(network, data)


def _run(options: argparse.Namespace) -> int:
    from idol_runtime.pipeline import Pipeline
    from idol_runtime.run import RunOptions, run

    if not (options.save or options.jsonl or options.results or options.masks or options.display):
        raise ConfigError("nothing to write; give --save, --jsonl, --results, --masks or --display")
    run_options = RunOptions(
        source=options.source,
        save=options.save,
        jsonl=options.jsonl,
        results=options.results,
        masks=options.masks,
        display=options.display,
        boxes=options.boxes,
        score=options.score,
        stride=options.stride,
        max_frames=options.max_frames,
        video_id=options.video_id,
    )
    with Pipeline.open(
        options.bundle,
        backend=options.backend,
        device=options.device,
        threads=options.threads,
        graph=options.graph,
        canary=options.canary,
        fit=options.fit,
        settings=options.set,
    ) as pipeline:
        backend = pipeline.backend.name
        if pipeline.backend.remark:
            print(f"note: {pipeline.backend.remark}")
        summary = run(pipeline, run_options)
    print(f"{summary.frames} frames, {summary.tracks} tracks, {backend}")
    for output in summary.outputs:
        if output.exists():
            print(f"wrote {output}")
    return _INTERRUPTED if summary.interrupted and not options.display else 0


def _evaluate(options: argparse.Namespace) -> int:
    from idol_deploy.data.holdout import HOLDOUT_SHARE
    from idol_deploy.evaluate.run import Evaluation, ModelChoice, evaluate

    model = None
    if options.bundle or options.weights or options.preset:
        model = ModelChoice(
            bundle=options.bundle,
            weights=options.weights,
            preset=options.preset,
            backend=options.backend,
            graph=options.graph,
            device=options.device,
            threads=options.threads,
            fit=options.fit,
            settings=tuple(options.set),
        )
    if options.ious and not options.json:
        raise ConfigError("--ious go into the file of --json; give both")
    if options.holdout_share is not None and options.holdout is None:
        raise ConfigError("--holdout-share is the size of a holdout; give --holdout SEED as well")
    task = Evaluation(
        gt=options.gt,
        pred=options.pred,
        model=model,
        frames=options.frames,
        results=options.results,
        metric=options.metric,
        tracking=options.tracking,
        ious=options.ious,
        json=options.json,
        submission=options.submission,
        seed=options.holdout,
        share=HOLDOUT_SHARE if options.holdout_share is None else options.holdout_share,
    )
    with _steps() as announce:
        done = evaluate(task, announce)
    if done.table:
        print(done.table)
    for note in done.notes:
        print(f"note: {note}")
    for output in done.outputs:
        print(f"wrote {output}")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from idol_export.inspection import describe

    description = describe(options.file)
    if options.json:
        print(json.dumps(description, indent=2, ensure_ascii=False))
        return 0
    for key, value in description.items():
        print(f"{key:16} {_readable(value)}")
    return 0


def _readable(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(("" if i == 0 else " " * 17) + f"{k}: {v}" for i, (k, v) in enumerate(value.items()))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)


def _plugins_build(options: argparse.Namespace) -> int:
    from idol_plugins.build import build
    from idol_plugins.fetch import fetch_onnxruntime
    from idol_plugins.headers import ONNXRUNTIME, TENSORRT, find_headers

    with _steps() as announce:
        ort_include = options.ort_include or find_headers(ONNXRUNTIME)
        if options.fetch_headers and ort_include is None:
            announce("getting ONNX Runtime's headers")
            ort_include = fetch_onnxruntime()
        announce("compiling")
        built = build(
            options.into,
            ort_include=ort_include,
            cuda_architectures=options.cuda,
            tensorrt_include=options.tensorrt_include or find_headers(TENSORRT),
        )
    for library in built:
        print(f"wrote {library}")
    if ort_include is None:
        print("left out the operator for ONNX Runtime: its headers are not here; give --fetch-headers")
    return 0


def _plugins_info(options: argparse.Namespace) -> int:
    from idol_deploy.torch_home import TorchHome
    from idol_plugins.homes import all_homes
    from idol_plugins.info import collect

    found = collect([*all_homes(), TorchHome()])
    print(json.dumps(found.as_dict(), indent=2) if options.json else found.table())
    return 0


def _plugins_selftest(options: argparse.Namespace) -> int:
    from idol_deploy.torch_home import TorchHome
    from idol_plugins.homes import all_homes
    from idol_plugins.selftest import selftest

    homes = [*all_homes(), TorchHome()]
    # JSON stands alone on stdout.
    with contextlib.nullcontext(lambda _: None) if options.json else _steps() as announce:
        report = selftest(homes, seed=options.seed, cases=options.cases, announce=announce)
    print(json.dumps(report.as_dict(), indent=2) if options.json else report.table())
    for failure in report.failures:
        print(f"idol-deploy: selftest: {failure}", file=sys.stderr)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
