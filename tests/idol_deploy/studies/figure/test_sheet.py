import sys
from pathlib import Path

import pytest
from PIL import Image

from idol_deploy.studies.figure.sheet import colour_of, figure_target, sheet
from idol_runtime.errors import ConfigError, MissingDependencyError, OutputError
from idol_runtime.sinks.palette import id_colour


def draw(path: Path) -> bytes:
    with sheet(path, (2, 1)) as figure:
        figure.add_subplot().set_title("costs a$b and $2 more")
    return path.read_bytes()


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")])
def test_the_same_figure_is_the_same_file(tmp_path: Path, suffix: str, begins: bytes) -> None:
    first = draw(tmp_path / f"a{suffix}")
    assert first.startswith(begins)
    assert first == draw(tmp_path / f"b{suffix}")


def test_text_is_as_given(tmp_path: Path) -> None:
    assert b"costs a$b and $2 more" in draw(tmp_path / "a.svg")


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    before = draw(tmp_path / "a.png")
    with pytest.raises(KeyError), sheet(tmp_path / "a.png", (1, 1)):
        raise KeyError
    assert (tmp_path / "a.png").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_place_or_format_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown figure format: .*a.gif; use the suffix \.png, \.svg, \.pdf"
    ):
        figure_target(tmp_path / "a.gif")
    with pytest.raises(OutputError, match="does not exist; create it first"):
        figure_target(tmp_path / "none" / "a.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"'idol-deploy\[figure\]'"):
        figure_target(tmp_path / "a.png")


def test_a_colour_is_that_of_the_videos(tmp_path: Path) -> None:
    with sheet(tmp_path / "a.png", (1, 1)) as figure:
        figure.set_facecolor(colour_of(5))
    with Image.open(tmp_path / "a.png") as image:
        assert image.convert("RGB").getpixel((0, 0)) == id_colour(5)
