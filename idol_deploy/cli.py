"""The `idol-deploy` command.

Each subcommand is a module of `idol_deploy.commands` that imports its dependencies when it runs.

Exit status: 0 success; 1 internal error, failed selftest or failed certification; 2 an error that the user can fix
(one line on stderr); 130 interrupted by Ctrl-C, SIGTERM or SIGHUP; 141 the reader of stdout has closed it.
"""

import argparse
import importlib
import importlib.metadata
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from idol_deploy.commands.common import INTERRUPTED
from idol_deploy.console import StopRequest, standard_streams, stop_request
from idol_runtime.errors import IdolError
from idol_runtime.signals import STOP_SIGNALS

__all__ = ["build_parser", "entry", "main"]

_COMMANDS = {
    "export": "export a checkpoint to a verified .idol bundle",
    "train": "train a network on annotated videos",
    "fetch-weights": "download ImageNet weights to start training from",
    "convert": "write the weights of a checkpoint as safetensors",
    "synth": "draw a data set of synthetic videos",
    "certify": "verify reduced-precision graphs on this machine",
    "build": "build a TensorRT engine from a bundle, on the device",
    "run": "track instances through videos with a bundle",
    "serve": "run, with a live page, an API and metrics over HTTP",
    "bench": "measure the speed of a bundle in every backend",
    "evaluate": "score results, or a model on a data set",
    "ablate": "measure the effect of each part of the method",
    "figure": "draw figures of training and tracking",
    "inspect": "describe a checkpoint, ONNX file or bundle",
    "doctor": "list what this machine has and what it lacks",
    "plugins": "build, list or test the deformable-attention kernel",
}
_BROKEN_PIPE = 128 + 13  # the status that a shell reports for SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    with standard_streams() as output, stop_request() as stop:
        try:
            status = _run(arguments, stop)
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, `head` for example, has closed the pipe
            return _BROKEN_PIPE
        if output is not None and output.failure is not None:
            _print_error(f"cannot write standard output: {output.failure.strerror}; send it to another place")
            return status or 2
        return status


def entry() -> int:
    """Run the command as a process: a signal that comes while Python shuts down does not change the exit status."""
    status = main()
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    return status


def _run(arguments: Sequence[str] | None, stop: StopRequest) -> int:
    """Run the command and return its exit status; every error but a broken pipe is reported here."""
    status: int | None = None
    try:
        try:
            options = build_parser().parse_args(arguments)
            command: Callable[[argparse.Namespace], int] = options.command
            status = command(options)
        finally:
            stop.closing = True
    except KeyboardInterrupt:
        stop.received = True
    except SystemExit as end:  # --help, --version and wrong arguments
        return int(end.code or 0)
    except BrokenPipeError:
        raise
    except Exception as error:
        if not stop.received:  # otherwise the error may be a library's reaction to the signal
            if not isinstance(error, IdolError):
                raise
            _print_error(str(error))
            return 2
    if status is None or (stop.received and status != INTERRUPTED):
        print("idol-deploy: interrupted", file=sys.stderr)
        return INTERRUPTED
    return status


def _print_error(message: str) -> None:
    print(f"idol-deploy: error: {message}", file=sys.stderr)


class _HelpFormatter(argparse.HelpFormatter):
    """Help that states the default of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.nargs == 0 or action.default in (None, "", [], argparse.SUPPRESS) or "default: " in text:
            return text
        return f"{text} (default: %(default)s)"


class _Parser(argparse.ArgumentParser):
    """A parser that reports a wrong argument in one line, like every other error."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown arguments in the parser of the subcommand, whose help lists the known ones."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"idol-deploy: error: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command line."""
    parser = _Parser(
        prog="idol-deploy",
        description="Online video instance segmentation with IDOL, from checkpoint to device.",
    )
    version = importlib.metadata.version("idol-deploy")
    parser.add_argument("--version", action="version", version=f"idol-deploy {version}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, summary in _COMMANDS.items():
        module = importlib.import_module(f"idol_deploy.commands.{name.replace('-', '_')}")
        command = commands.add_parser(name, help=summary)
        if hasattr(module, "run"):  # figure and plugins have subcommands instead
            command.set_defaults(command=module.run)
        module.add_arguments(command)
    return parser


if __name__ == "__main__":
    sys.exit(entry())
