"""Options of several sources: output names, and outputs that would replace each other or a source."""

from pathlib import Path

import pytest

from idol_runtime.errors import ConfigError
from idol_runtime.run.options import RunOptions, check_outputs, for_each_source
from idol_runtime.sinks.opening import requested_outputs as outputs


def test_every_source_has_outputs_of_its_own() -> None:
    pattern = RunOptions(
        "", outputs(save=Path("{number}/{source}.mp4"), results=Path("r{number}.json")), score=0.5, video_id=7
    )
    first, second = for_each_source(pattern, ["a/x.mp4", "b/x.mp4"])
    assert (first.source, first.paths, first.video_id) == ("a/x.mp4", (Path("1/x.mp4"), Path("r1.json")), 7)
    assert (second.source, second.video_id, second.score) == ("b/x.mp4", 8, 0.5)
    assert second.paths == (Path("2/x.mp4"), Path("r2.json"))
    (only,) = for_each_source(RunOptions("", outputs(jsonl=Path("a.jsonl"))), ["x.mp4"])
    assert only == RunOptions("x.mp4", outputs(jsonl=Path("a.jsonl"))), "one source needs no pattern"


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("a.jsonl", r"a\.jsonl would be the output of 2 sources; write \{source\}"),
        ("{source}.jsonl", r"called x; write \{number\} instead of \{source\} in \{source\}\.jsonl"),
    ],
)
def test_two_sources_into_one_output(output: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        for_each_source(RunOptions("", outputs(jsonl=Path(output))), ["a/x.mp4", "b/x.mp4"])


def test_outputs_that_meet_all_the_same() -> None:
    pattern = RunOptions("", outputs(results=Path("{source}"), jsonl=Path.cwd() / "{source}"))
    with pytest.raises(ConfigError, match="give each its own"):
        check_outputs(for_each_source(pattern, ["x.mp4", "y.mp4"]))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a video and two folders of one image each."""
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
            [RunOptions("a.mp4", outputs(save=Path("x/../a.mp4")))],
            r"x/\.\./a\.mp4 is an input as well; give the output",
        ),
        ([RunOptions(0, outputs(save=Path("b.mp4"))), RunOptions("b.mp4"), RunOptions("a.mp4")], None),
        (
            [RunOptions(0, outputs(save=Path("a.mp4"))), RunOptions("x"), RunOptions("a.mp4")],
            "a.mp4 is an input as well",
        ),
        ([RunOptions("x", outputs(jsonl=Path("x/0.jpg")))], r"x/0\.jpg is an input as well"),
        ([RunOptions("x/*", outputs(jsonl=Path("x/0.jpg")))], r"x/0\.jpg is an input as well"),
        ([RunOptions("x/*", outputs(jsonl=Path("x/a"), masks=Path("x/masks")))], None),
        ([RunOptions("x", outputs(jsonl=Path("x/a")))], None),
        ([RunOptions("x/*", outputs(masks=Path("x")))], "x is an input as well"),
        ([RunOptions("a.mp4", outputs(masks=Path("x"))), RunOptions("x")], "x is an input as well"),
        (
            [RunOptions("y", outputs(masks=Path("masks"))), RunOptions("x", outputs(masks=Path("y/masks")))],
            None,
        ),
        ([RunOptions("a.mp4", outputs(masks=Path("masks")))], None),
    ],
)
def test_outputs_that_would_meet_a_source(here: Path, options: list[RunOptions], why: str | None) -> None:
    if why is None:
        check_outputs(options)
        return
    with pytest.raises(ConfigError, match=why):
        check_outputs(options)
