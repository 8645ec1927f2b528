"""Names of outputs by source: whose they are, and that no two sources share one."""

from pathlib import Path

import pytest

from idol_runtime.errors import ConfigError
from idol_runtime.run.options import RunOptions, check_outputs, for_each_source, source_name


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a/street.mp4", "street"),
        ("a/street.cam.mp4", "street.cam"),
        ("yard/*.png", "yard"),
        ("yard/2*/frame*.png", "yard"),
        (0, "camera0"),
        ("12", "camera12"),
        ("rtsp://me:secret@10.0.0.5:554/live/1?key=hidden", "10.0.0.5_554_live_1"),
        ("http://cam.local/", "cam.local"),
        ("rtsp://me:secret@[10.0.0.5/live?key=1", "rtsp_10.0.0.5_live"),
        ("Straße 5.mp4", "Straße_5"),
        ("...mp4", "source"),
        ("a\0b.mp4", "a_b"),
        ("~nosuchuser/x.mp4", "x"),
        ("~a\0b/x.mp4", "x"),
        ("x" * 5000, "x" * 5000),
        (Path("12"), "12"),
        ("1234567890", "1234567890"),
    ],
)
def test_what_a_source_is_called(source: str | int | Path, name: str) -> None:
    assert source_name(source) == name


def test_a_folder_is_called_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "clip.v2"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert source_name(folder) == source_name(".") == source_name("*.png") == "clip.v2"


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    """As `open_source`: what is there is no pattern."""
    clip = tmp_path / "clip[1].mp4"
    assert source_name(clip) == tmp_path.name
    clip.touch()
    assert source_name(clip) == "clip_1"
    (tmp_path / "take[2]").mkdir()
    assert source_name(tmp_path / "take[2]") == "take_2"


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").symlink_to("b.mp4")
    (tmp_path / "b.mp4").symlink_to("a.mp4")
    assert source_name(tmp_path / "a.mp4") == "a"


def test_every_source_has_outputs_of_its_own() -> None:
    pattern = RunOptions(
        "", save=Path("{number}/{source}.mp4"), results=Path("r{number}.json"), score=0.5, video_id=7
    )
    first, second = for_each_source(pattern, ["a/x.mp4", "b/x.mp4"])
    assert (first.source, first.save, first.results, first.video_id) == (
        "a/x.mp4",
        Path("1/x.mp4"),
        Path("r1.json"),
        7,
    )
    assert (second.source, second.save, second.video_id, second.score) == ("b/x.mp4", Path("2/x.mp4"), 8, 0.5)
    (only,) = for_each_source(RunOptions("", jsonl=Path("a.jsonl")), ["x.mp4"])
    assert only == RunOptions("x.mp4", jsonl=Path("a.jsonl")), "one source needs no pattern"


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("a.jsonl", r"a\.jsonl would be the output of 2 sources; write \{source\}"),
        ("{source}.jsonl", r"called x; write \{number\} instead of \{source\} in \{source\}\.jsonl"),
    ],
)
def test_two_sources_into_one_output(output: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        for_each_source(RunOptions("", jsonl=Path(output)), ["a/x.mp4", "b/x.mp4"])


def test_outputs_that_meet_all_the_same() -> None:
    pattern = RunOptions("", save=Path("{source}"), jsonl=Path("o/../{source}"))
    with pytest.raises(ConfigError, match="give each its own"):
        check_outputs(for_each_source(pattern, ["x.mp4", "y.mp4"]))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A video, two folders of an image, and nothing else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").touch()
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            [RunOptions("a.mp4", save=Path("x/../a.mp4"))],
            r"x/\.\./a\.mp4 is an input as well; give the output",
        ),
        ([RunOptions(0, save=Path("b.mp4")), RunOptions("b.mp4"), RunOptions("a.mp4")], None),
        (
            [RunOptions(0, save=Path("a.mp4")), RunOptions("x"), RunOptions("a.mp4")],
            "a.mp4 is an input as well",
        ),
        ([RunOptions("x", jsonl=Path("x/0.jpg"))], r"x/0\.jpg is an input as well"),
        ([RunOptions("x/*", jsonl=Path("x/0.jpg"))], r"x/0\.jpg is an input as well"),
        ([RunOptions("x/*", jsonl=Path("x/a"), masks=Path("x/masks"))], None),
        ([RunOptions("x", jsonl=Path("x/a"))], None),
        ([RunOptions("x/*", masks=Path("x"))], "x is an input as well"),
        ([RunOptions("a.mp4", masks=Path("x")), RunOptions("x")], "x is an input as well"),
        (
            [RunOptions("y", masks=Path("masks")), RunOptions("x", masks=Path("y/masks"))],
            None,
        ),
        ([RunOptions("a.mp4", masks=Path("masks"))], None),
    ],
)
def test_outputs_that_would_meet_a_source(here: Path, options: list[RunOptions], why: str | None) -> None:
    if why is None:
        check_outputs(options)
        return
    with pytest.raises(ConfigError, match=why):
        check_outputs(options)
