"""Signals that end `idol-deploy run`: every output is complete, and the exit status tells the reason."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from idol_runtime.stream import Prepared
from idol_runtime.streams import Streams
from samples.run_outputs import check_outputs, output_options, read_lines, video_length
from samples.waiting import LIMIT_S, until
from servers.mjpeg import MjpegServer

if TYPE_CHECKING:
    from tests.conftest import Toy
    from tests.idol_deploy.conftest import Command, Start


@pytest.mark.parametrize("frame", [0, 3])
def test_ctrl_c_finishes_every_output(
    idol: Command,
    toy: Toy,
    images: Path,
    outputs: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    frame: int,
) -> None:
    track = Streams.track

    def interrupted(self: Streams, prepared: Mapping[int, Prepared], times: Mapping[int, float]) -> object:
        if self.join(0)._index == frame:
            signal.raise_signal(signal.SIGINT)
            if not frame:
                signal.raise_signal(signal.SIGINT)  # the second one drops what is not written
        return track(self, prepared, times)

    monkeypatch.setattr(Streams, "track", interrupted)
    done = idol("run", toy.path, "--source", images, *output_options(outputs))
    assert done.status == 130
    assert "Traceback" not in done.err
    if frame:
        check_outputs(outputs, frame + 1)
    else:
        assert not list(outputs["masks"].parent.iterdir())


def test_ctrl_c_while_loading(idol: Command, toy: Toy, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Streams, "open", interrupted)
    done = idol("run", toy.path, "--source", clip, "--jsonl", "a.jsonl")
    assert (done.status, done.err) == (130, "idol-deploy: interrupted\n")


def test_a_log_rotation_while_loading_does_not_end_the_run(
    idol: Command, toy: Toy, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Streams.open

    def hang_up(*arguments: object, **options: object) -> Streams:
        signal.raise_signal(signal.SIGHUP)
        return load(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Streams, "open", hang_up)
    arguments = "run", toy.path, "--source", images, "--jsonl", tmp_path / "a.jsonl"
    assert idol(*arguments).status == 130
    assert idol(*arguments, "--rotate", "1h").status == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_true_signal_finishes_every_output(
    toy: Toy, images: Path, start: Start, outputs: dict[str, Path], number: signal.Signals
) -> None:
    first = images / "frame0.png"
    for i in range(len(list(images.iterdir())), 4000):
        os.link(first, images / f"frame{i}.png")
    process = start("run", toy.path, "--source", images, *output_options(outputs))
    until((outputs["masks"] / "000003.png").exists, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, err) == (130, "")
    assert f"wrote {outputs['a.jsonl']}" in out
    frames = len(read_lines(outputs["a.jsonl"]))
    assert 3 <= frames < 4000
    assert abs(len(list(outputs["masks"].glob("[0-9]*.png"))) - frames) <= 1
    assert abs(video_length(outputs["a.mp4"]) - frames) <= 1
    assert json.loads(outputs["a.json"].read_text())
    assert {path.name for path in outputs["masks"].parent.iterdir()} == set(outputs), "no partial file"


def test_a_lost_source_is_told_at_once_and_decides_the_exit_status(
    toy: Toy, images: Path, clip: Path, start: Start, tmp_path: Path
) -> None:
    """Two cameras, one of which goes, a broken file, and SIGTERM."""
    (images / "frame4.png").write_bytes(b"no image")
    events, listing = tmp_path / "events.jsonl", tmp_path / "streams.json"
    events.write_bytes(b'{"kind": "ad')  # cut by a kill

    def told(kind: str, source: str) -> list[str]:
        lines = events.read_text().split("\n")[1:-1]  # the last one may not be whole yet
        return [e["message"] for e in map(json.loads, lines) if (e["kind"], e["source"]) == (kind, source)]

    with MjpegServer(toy.size, 10) as stays, MjpegServer(toy.size, 10) as goes:
        sources = {"stays": stays.url, "goes": goes.url, "file": str(images)}
        listing.write_text(
            json.dumps({"streams": [{"name": name, "source": url} for name, url in sources.items()]})
        )
        command = (
            "run",
            toy.path,
            "--streams",
            listing,
            "--events",
            events,
            "--jsonl",
            tmp_path / "{source}.jsonl",
        )
        process = start(*command, "--no-golden-check")
        until(lambda: told("connected", "goes") and told("ended", "file"), process)
        until((tmp_path / "stays.jsonl").exists, process)
        goes.stop()
        until(lambda: told("lost", "goes"), process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=LIMIT_S)
        goes.start()
    assert process.returncode == 2
    assert err.count("file: ended early: ") == 1
    assert err.splitlines()[-1].startswith("idol-deploy: error: file ended early: cannot read image")
    assert len([line for line in err.splitlines() if line.split()[2] == "goes:"]) >= 2, "connected and lost"
    assert "note: stays: frame age " in out
    assert [line["frame"] for line in read_lines(tmp_path / "file.jsonl")] == [0, 1, 2, 3]
    assert len(read_lines(tmp_path / "stays.jsonl")) > 0
