"""The `idol-deploy` command: a subcommand is a module of `idol_deploy.commands`, which imports lazily what it needs.

Exit status: 0 done, 1 an internal error or a failed selftest, 2 an error that the user can mend (one line on stderr),
130 Ctrl-C or SIGTERM, 141 a reader that has gone.
"""

import argparse
import importlib.metadata
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from idol_deploy.commands import (
    ablate,
    bench,
    build,
    convert,
    evaluate,
    export,
    fetch_weights,
    figure,
    inspect,
    plugins,
    run,
    synth,
    train,
)
from idol_deploy.commands.steps import INTERRUPTED
from idol_runtime.errors import IdolError
from idol_runtime.signals import handling

__all__ = ["build_parser", "main"]

_NOBODY_READS = 128 + 13  # as a shell tells SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = build_parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        with handling(_interrupt, signal.SIGTERM):
            status = command(options)
        sys.stdout.flush()
    except IdolError as error:
        print(f"idol-deploy: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("idol-deploy: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read has enough, as `head` has; Python would complain again when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _NOBODY_READS
    return status


def _interrupt(number: int, frame: FrameType | None) -> None:
    """As Ctrl-C does: what stops services and containers lets a command finish its files."""
    raise KeyboardInterrupt


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
    export.add_arguments(commands.add_parser("export", help="checkpoint to verified .idol bundle"))
    train.add_arguments(commands.add_parser("train", help="annotated videos to a checkpoint"))
    fetch_weights.add_arguments(
        commands.add_parser("fetch-weights", help="ImageNet weights to begin training from")
    )
    convert.add_arguments(commands.add_parser("convert", help="a checkpoint's weights as safetensors"))
    synth.add_arguments(commands.add_parser("synth", help="a data set of synthetic videos"))
    build.add_arguments(commands.add_parser("build", help="bundle to TensorRT engine, on the device"))
    run.add_arguments(commands.add_parser("run", help="bundle and video to tracked masks"))
    bench.add_arguments(commands.add_parser("bench", help="how fast a bundle is in every backend"))
    evaluate.add_arguments(commands.add_parser("evaluate", help="score results, or a model over a data set"))
    ablate.add_arguments(commands.add_parser("ablate", help="what each part of the method is worth"))
    figure.add_arguments(commands.add_parser("figure", help="pictures of training and tracking"))
    inspect.add_arguments(commands.add_parser("inspect", help="what a checkpoint, ONNX file or bundle is"))
    plugins.add_arguments(
        commands.add_parser("plugins", help="the deformable-attention kernel: build, info, selftest")
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
