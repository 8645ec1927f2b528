"""The `idol-deploy` command: its help, its arguments, and how it tells errors."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from idol_deploy.cli import build_parser

if TYPE_CHECKING:
    from tests.idol_deploy.conftest import Command


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["export"],
        ["train"],
        ["convert"],
        ["synth"],
        ["build"],
        ["run"],
        ["bench"],
        ["evaluate"],
        ["ablate"],
        ["inspect"],
        ["fetch-weights"],
        ["figure"],
        *(["figure", c] for c in ("pairs", "curves", "selection", "identities", "timeline")),
        ["plugins"],
        *(["plugins", c] for c in ("build", "info", "selftest")),
    ],
)
def test_help_of_every_command(idol: Command, command: list[str]) -> None:
    done = idol(*command, "--help")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(" ".join(["usage: idol-deploy", *command]))


def test_help_names_the_commands_of_the_kernel(idol: Command) -> None:
    assert "the deformable-attention kernel: build, info, selftest" in " ".join(idol("--help").out.split())


def _commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that does something, by all its words."""
    for action in parser._actions:
        for name, command in action.choices.items() if isinstance(action.choices, dict) else ():
            inner = [(f"{name} {words}", below) for words, below in _commands(command)]
            yield from inner or [(name, command)]


def test_every_option_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    for name, parser in _commands(build_parser()):
        section = page.partition(f"## idol-deploy {name}\n")[2].partition("\n## ")[0]
        shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
        options = {option for action in shown for option in action.option_strings}
        assert len(options) > 2
        assert not [option for option in options if option not in section], name
        assert f"```sh\nidol-deploy {name}" in section, f"{name} has no example"


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
        (["evaluate"], "--gt"),
        (["evaluate", "--gt", "g"], "give --pred, or a model: --bundle, or --weights with --preset"),
        (["evaluate", "--gt", "g", "--pred", "p", "--ious"], "--json; give both"),
        (["evaluate", "--gt", "g", "--pred", "p", "--holdout-share", "0.5"], "give --holdout SEED as well"),
        (["evaluate", "--gt", "g", "--pred", "p", "--holdout", "x"], "'x' is not a whole number"),
        (["evaluate", "--gt", "g", "--pred", "p", "--metric", "coco"], "one of ytvis, ovis"),
        (["evaluate", "--gt", "gone", "--pred", "p"], "cannot read annotation file gone: No such file"),
        (["build"], "see idol-deploy build --help"),
        (["build", "x.idol", "--max-batch", "0"], "'0' is not a positive whole number"),
        (["inspect"], "see idol-deploy inspect --help"),
        (["plugins"], "see idol-deploy plugins --help"),
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
def test_wrong_arguments_are_told_in_one_line(
    refused: Callable[..., str], arguments: list[str], fix: str
) -> None:
    assert fix in refused(*arguments)


def test_a_reader_that_has_enough_is_no_error() -> None:
    command = [sys.executable, "-m", "idol_deploy.cli", "plugins", "info"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
