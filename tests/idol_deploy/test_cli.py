"""The `idol-deploy` command: its help, its arguments and its error messages."""

from __future__ import annotations

import argparse
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from idol_deploy.cli import build_parser
from idol_deploy.commands import plugins
from idol_runtime.backends.opening import BACKENDS
from idol_runtime.bundle.bundle import GRAPHS
from idol_runtime.errors import IdolError
from idol_runtime.signals import STOP_SIGNALS

if TYPE_CHECKING:
    from tests.idol_deploy.conftest import Command


def _parsers(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Yield the words and the parser of every command and every group of commands."""
    yield words, parser
    for action in parser._actions:
        for name, below in action.choices.items() if isinstance(action.choices, dict) else ():
            yield from _parsers(below, (*words, name))


PARSERS = dict(_parsers(build_parser()))
COMMANDS = {words: parser for words, parser in PARSERS.items() if "command" in parser._defaults}


def test_the_commands() -> None:
    assert {" ".join(words) for words in COMMANDS} == {
        *(
            "export",
            "train",
            "fetch-weights",
            "convert",
            "synth",
            "build",
            "run",
            "serve",
            "bench",
            "evaluate",
            "ablate",
        ),
        *(f"figure {name}" for name in ("pairs", "selection", "identities", "timeline")),
        *("certify", "doctor", "inspect", "plugins build", "plugins info", "plugins selftest"),
    }


@pytest.mark.parametrize("command", PARSERS, ids=" ".join)
def test_help_of_every_command(idol: Command, command: tuple[str, ...]) -> None:
    done = idol(*command, "--help")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(" ".join(["usage: idol-deploy", *command]))
    assert PARSERS[command].description


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_option_says_what_it_does_and_its_default(command: tuple[str, ...]) -> None:
    parser = COMMANDS[command]
    formatter = parser._get_formatter()
    for action in parser._actions:
        text = "" if action.help == argparse.SUPPRESS else formatter._expand_help(action)
        name = "/".join(action.option_strings) or action.dest
        assert text or action.help == argparse.SUPPRESS, f"{name} has no help"
        assert not text.endswith("."), name
        if text and action.nargs != 0 and action.default not in (None, "", []):
            assert "default: " in text, name
            assert isinstance(action.default, list) or str(action.default) in text, name


@pytest.mark.parametrize("command", ["run", "evaluate"])
@pytest.mark.parametrize(("option", "names"), [("--backend", BACKENDS), ("--graph", GRAPHS)])
def test_every_backend_and_graph_is_listed(command: str, option: str, names: Iterable[str]) -> None:
    (text,) = (a.help or "" for a in PARSERS[(command,)]._actions if option in a.option_strings)
    assert set(names) <= set(re.findall(r"[\w-]+", text))


def test_former_spellings_are_accepted_and_hidden(idol: Command) -> None:
    export = ["export", "--weights=w", "--preset=p", "--frame-size=72x104", "--output=o.idol"]
    run = ["run", "a.idol", "--source=0"]
    for command, new, old in (
        (export, ["--target=qdq"], ["--dialect=trt"]),
        (export, ["--annotations=a.json"], ["--judge=a.json"]),
        (run, ["--no-golden-check"], ["--no-canary"]),
    ):
        parsed, former = (build_parser().parse_args([*command, *option]) for option in (new, old))
        assert vars(parsed) == vars(former) != vars(build_parser().parse_args(command))
        assert old[0].partition("=")[0] not in idol(command[0], "--help").out


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_an_example(command: tuple[str, ...]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    name = " ".join(("idol-deploy", *command))
    section = page.partition(f"## {name}\n")[2]
    assert re.match(rf"\n```sh\n{name}\b", section), f"the section of {name} starts with no example"


DOCS = sorted((Path(__file__).parents[2] / "docs").glob("*.md"))


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_examples_are_right(page: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        if line.startswith("idol-deploy ") and "…" not in line:
            build_parser().parse_args(shlex.split(line, comments=True)[1:])


def test_version(idol: Command) -> None:
    assert idol("--version").out.startswith("idol-deploy 0.")


@pytest.mark.parametrize(
    ("arguments", "fix"),
    [
        ([], "see idol-deploy --help"),
        (["expert"], "choose from"),
        (["run"], "see idol-deploy run --help"),
        (["run", "x.idol"], "--source"),
        (["run", "x.idol", "--source", "0", "--stride", "0"], "'0' is not a positive whole number"),
        (["run", "x.idol", "--source", "0", "--score", "high"], "invalid float"),
        (
            ["run", "x.idol", "--source", "0", "--reconnect", "0"],
            "'0' is no limit; use forever, off or a number",
        ),
        (["evaluate"], "--gt"),
        (["evaluate", "--gt", "g"], "give --pred, or --bundle, or --weights with --preset"),
        (["evaluate", "--gt", "g", "--pred", "p", "--ious"], "give --json as well"),
        (["evaluate", "--gt", "g", "--pred", "p", "--holdout-share", "0.5"], "give --holdout SEED as well"),
        (["evaluate", "--gt", "g", "--pred", "p", "--holdout", "x"], "'x' is not a whole number"),
        (["evaluate", "--gt", "g", "--pred", "p", "--metric", "coco"], "one of ytvis, ovis"),
        (["evaluate", "--gt", "gone", "--pred", "p"], "cannot read annotation file gone: No such file"),
        (["build"], "see idol-deploy build --help"),
        (["build", "x.idol", "--max-batch", "0"], "'0' is not a positive whole number"),
        (["inspect"], "see idol-deploy inspect --help"),
        (["plugins"], "see idol-deploy plugins --help"),
        (["plugins", "info", "--jsn"], "unrecognized arguments: --jsn; see idol-deploy plugins info --help"),
        (["plugins", "selftest", "--seed", "-1"], "-1"),
        (["plugins", "selftest", "--cases", "few"], "'few' is not a whole number"),
        (["export", "--weights", "w", "--preset", "p", "-o", "o"], "--frame-size"),
        (
            ["export", "--weights=w", "--preset=p", "-o", "o", "--frame-size=720"],
            "'720' is not HEIGHTxWIDTH; 720x1280, for example",
        ),
        (["export", "--weights=w", "--preset=p", "-o", "o", "--frame-size=720x-2"], "720x1280, for example"),
        (["export", "--weights=w", "--preset=p", "-o", "o", "--frame-size=x"], "720x1280, for example"),
        (["export", "--no-resize", "--short-side", "3"], "not allowed with"),
    ],
)
def test_wrong_arguments_are_reported_in_one_line(
    refused: Callable[..., str], arguments: list[str], fix: str
) -> None:
    assert fix in refused(*arguments)


def _shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = line.replace("idol-deploy", f"{shlex.quote(sys.executable)} -m idol_deploy.cli")
    return subprocess.run(["sh", "-c", command], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["--version", "--help", "plugins info", "inspect gone.idol", "bench"])
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_closed_and_full_streams_change_no_status(tmp_path: Path, command: str, closed: str) -> None:
    usual, done = (_shell(f"idol-deploy {command} {streams}", tmp_path) for streams in ("", closed))
    assert done.returncode == usual.returncode
    assert (done.stdout, done.stderr) in {(usual.stdout, ""), ("", usual.stderr), ("", "")}


@pytest.mark.parametrize("command", ["--version", "--help", "plugins info"])
def test_a_full_stdout_is_an_error(tmp_path: Path, command: str) -> None:
    done = _shell(f"idol-deploy {command} >/dev/full", tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        "idol-deploy: error: cannot write standard output: No space left on device; send it to another place\n"
    )


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """Messages of this process and of C libraries would be written into it."""
    script = (
        "import os, sys; from idol_deploy import console\nwith console.standard_streams(): print(os.dup(0))"
    )
    done = _shell(f"{shlex.quote(sys.executable)} -c {shlex.quote(script)} 2>&- <&-", tmp_path)
    assert int(done.stdout) > 2


def test_a_character_that_a_terminal_lacks_is_escaped(tmp_path: Path) -> None:
    done = _shell("PYTHONIOENCODING=latin-1 idol-deploy evaluate --help", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2026" in done.stdout
    done = _shell(
        "PYTHONIOENCODING=latin-1 idol-deploy inspect $(printf 'snow\\342\\230\\203\\377')", tmp_path
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert r"snow\u2603\udcff" in done.stderr


@pytest.mark.parametrize("error", [ImportError("numpy"), IdolError("onnxruntime is not installed"), None])
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_that_a_library_swallows_is_an_interruption(
    idol: Command, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, error: Exception | None
) -> None:
    def command(_: argparse.Namespace) -> int:
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            if error is not None:
                raise error from None
        return 0

    monkeypatch.setattr(plugins, "_info", command)
    done = idol("plugins", "info")
    assert done == (130, "", "idol-deploy: interrupted\n")


def test_a_signal_at_exit_does_not_change_the_status(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from idol_deploy import cli; sys.argv = ['idol-deploy', '--version']; "
        "status = cli.entry(); [os.kill(os.getpid(), number) for number in cli.STOP_SIGNALS]; sys.exit(status)"
    )
    done = _shell(f"{shlex.quote(sys.executable)} -c {shlex.quote(script)}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_stdout_is_no_error() -> None:
    command = [sys.executable, "-m", "idol_deploy.cli", "plugins", "info"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
