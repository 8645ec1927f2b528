"""The commands `idol-deploy serve` and `run --metrics`: real processes, their servers, and what kills them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from samples.waiting import LIMIT_S, lives, until
from servers.mjpeg import MjpegServer

if TYPE_CHECKING:
    from tests.conftest import Toy
    from tests.idol_deploy.conftest import Command, Start

pytest.importorskip("starlette")
TOKEN = "a-token-of-24-characters"


class Served:
    """A running command and its server."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        self.url = next(line.split()[1] for line in lines if line.startswith("serving ")).removesuffix(
            "metrics"
        )

    def get(self, path: str, data: object = None, **options: Any) -> Any:
        """Return the JSON of a response."""
        body = None if data is None else json.dumps(data).encode()
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, body, headers, **options)
        with urllib.request.urlopen(request, timeout=LIMIT_S) as response:
            return json.load(response)

    def until(self, path: str, match: Callable[[Any], object]) -> Any:
        """Ask again and again until the answer matches."""

        def matching() -> Any:
            with contextlib.suppress(OSError):  # an error of HTTP, or a server that is killed
                answer = self.get(path)
                return [answer] if match(answer) else []

        return until(matching, self.process)[0]

    def server(self) -> int:
        """Return the server process."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        (pid,) = {int(pid) for path in children for pid in path.read_text().split()}
        return pid


@pytest.fixture
def serve(start: Start, tmp_path: Path) -> Callable[..., Served]:
    """Function that starts a command with these arguments and returns it once it serves."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)

    def run(*arguments: object) -> Served:
        return Served(start(*arguments, "--token-file", token, "--backend", "onnxruntime"))

    return run


@pytest.fixture
def camera(toy: Toy) -> Iterator[MjpegServer]:
    with MjpegServer(toy.size, 30) as opened:
        yield opened


def frames(count: int) -> Callable[[Any], bool]:
    return lambda answer: any(stream["frames"] >= count for stream in answer["streams"])


def test_streams_are_added_watched_and_removed(
    serve: Callable[..., Served], toy: Toy, camera: MjpegServer, tmp_path: Path
) -> None:
    listing, data = tmp_path / "s.json", tmp_path / "data"
    data.mkdir()
    listing.write_text('{"streams": []}')
    served = serve("serve", toy.path, "--streams", listing, "--http", 0, "--data", data)
    assert served.get("api/streams") == {"editable": True, "streams": []}
    source = camera.url.replace("//", "//me:secret@")
    served.get("api/streams", {"name": "front door", "source": source, "jsonl": "a.jsonl"}, method="POST")
    answer = served.until("api/streams", frames(3))
    assert [(stream["name"], stream["state"]) for stream in answer["streams"]] == [
        ("front door", "connected")
    ]
    assert "secret" not in json.dumps(answer)
    assert json.loads(listing.read_text())["streams"][0]["source"] == source
    with pytest.raises(urllib.error.HTTPError, match="409"):
        served.get("api/streams", {"name": "front door", "source": source}, method="POST")
    served.get("api/streams/front%20door", method="DELETE")
    served.until("api/streams", lambda answer: not answer["streams"])
    assert json.loads(listing.read_text()) == {"streams": []}
    assert (data / "a.jsonl").read_bytes().count(b"\n") >= 3
    served.process.send_signal(signal.SIGINT)
    out, _ = served.process.communicate(timeout=LIMIT_S)
    assert (served.process.returncode, "wrote " in out) == (130, True)


@pytest.mark.slow
def test_a_killed_run_continues_its_identities_at_the_same_port(
    serve: Callable[..., Served], toy: Toy, camera: MjpegServer, tmp_path: Path
) -> None:
    """SIGKILL of the server alone, which the run replaces, and of the run, whose server ends."""
    state = tmp_path / "a.state"
    command = ("serve", toy.path, "--source", camera.url, "--state", state, "--after-gap", "keep", "--http")
    served = serve(*command, 0)
    name = served.until("api/streams", frames(5))["streams"][0]["name"]
    first = served.server()
    os.kill(first, signal.SIGKILL)
    again = served.until("api/streams", frames(10))["streams"][0]
    assert (again["name"], again["state"]) == (name, "connected")
    assert served.server() != first
    served.until("readyz", lambda answer: True)
    result = served.until(f"api/streams/{name}/result", lambda answer: answer["instances"])
    before = {instance["id"] for instance in result["instances"]}
    saved = state.read_bytes()
    until(lambda: state.read_bytes() != saved)  # as it is every second
    server = served.server()
    served.process.kill()
    served.process.communicate()
    until(lambda: not lives(server))
    second = serve(*command, served.url.split(":")[2].strip("/"))
    assert second.url == served.url
    answer = second.until(f"api/streams/{name}/result", lambda answer: answer["instances"])
    assert {instance["id"] for instance in answer["instances"]} & before, "same scene, same identities"
    assert answer["frame"] > result["frame"]


def test_metrics_alone(serve: Callable[..., Served], toy: Toy, camera: MjpegServer, tmp_path: Path) -> None:
    served = serve("run", toy.path, "--source", camera.url, "--metrics", 0, "--jsonl", tmp_path / "a.jsonl")
    served.until("readyz", lambda answer: True)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        served.get("api/streams")
    request = urllib.request.Request(served.url + "metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=LIMIT_S) as response:
        assert b"idol_frames_total" in response.read()
    server = served.server()
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # as a service manager sends to all processes
        os.kill(server, number)
    served.process.send_signal(signal.SIGTERM)
    out, errors = served.process.communicate(timeout=LIMIT_S)
    assert served.process.returncode == 130
    assert f"wrote {tmp_path / 'a.jsonl'}" in out
    assert "server process ended" not in errors
    until(lambda: not lives(server))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--http", "0.0.0.0:0"], "can be reached from other machines, and there is no token; make one with"),
        (["--http", "x:y"], "not an address: 'x:y'"),
        (["--token-file", "gone"], "cannot read the token of gone"),
        (["--media", "gone"], "--media is not a folder: gone; create it first"),
        (["--streams", "s.json"], "--source and --streams are both given"),
    ],
)
def test_what_is_refused_before_the_network_is_loaded(
    idol: Command, options: list[str], problem: str
) -> None:
    done = idol("serve", "gone.idol", "--source", "0", "--http", "0", *options)
    assert done.status == 2
    assert problem in done.err


def test_a_token_without_a_server_is_refused(idol: Command) -> None:
    done = idol("run", "gone.idol", "--source", "0", "--jsonl", "x", "--token-file", "t")
    assert done.err == (
        "idol-deploy: error: --token-file and --allow-host are for the server of --metrics; add --metrics PORT\n"
    )


def test_a_taken_port_is_refused(idol: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = idol("run", "gone.idol", "--source", "0", "--jsonl", "x", "--metrics", port)
    assert done.status == 2
    problem = "Address already in use; give --http or --metrics a free port"
    assert f"cannot listen at 127.0.0.1:{port}: {problem}" in done.err
