"""The publisher of a run, with a stand-in for its server process that lets the test read and write the messages."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image

import servers
from idol_runtime.errors import MissingDependencyError
from idol_runtime.events import Event, EventKind
from idol_runtime.frames import Frame
from idol_runtime.preprocess import Placement
from idol_runtime.run.observer import FrameReport
from idol_runtime.run.options import RunOptions
from idol_runtime.run.run import Run
from idol_runtime.serve import outbox, supervisor
from idol_runtime.serve import publisher as publisher_module
from idol_runtime.serve.access import Access
from idol_runtime.serve.messages import (
    Edit,
    End,
    EventMessage,
    FrameMessage,
    FromRun,
    FromServer,
    Hello,
    Reply,
    StreamsMessage,
    Tick,
    Watch,
    decode_from_run,
    encode,
)
from idol_runtime.serve.publisher import Publisher
from idol_runtime.streams import Streams
from idol_runtime.tracking.results import FrameResult
from samples.grey import CONFIG, GreyBackend
from samples.waiting import until
from servers.mjpeg import MjpegServer

T = TypeVar("T")


class Client:
    """The test's end of the connection to a run."""

    def __init__(self, publisher: Publisher) -> None:
        port = int(publisher.url.rstrip("/").rpartition(":")[2])
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._stream = self._socket.makefile("rb")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()
        self._socket.close()

    def send(self, message: FromServer) -> None:
        self._socket.sendall(encode(message))

    def next(self) -> FromRun:
        data = self._stream.read(int.from_bytes(self._stream.read(4), "big"))
        return decode_from_run(data)

    def until(self, kind: type[T], match: Callable[[T], object] = lambda _: True) -> T:
        """Return the first message of a kind that matches."""
        deadline = time.monotonic() + 60
        while not (isinstance(message := self.next(), kind) and match(message)):
            assert time.monotonic() < deadline
        return message


def state(name: str, value: str) -> Callable[[StreamsMessage], bool]:
    """Return a function that is True for a list of streams in which this one has this state."""
    return lambda message: any((s.name, s.state) == (name, value) for s in message.streams)


def report(size: tuple[int, int] = (32, 64), instances: int = 1, index: int = 0) -> FrameReport:
    rng = np.random.default_rng(0)
    image = np.asarray(Image.fromarray(rng.integers(0, 255, (8, 16, 3), np.uint8)).resize(size[::-1]))
    result = FrameResult(
        index=index,
        ids=np.arange(instances),
        labels=np.zeros(instances, np.int64),
        scores=np.linspace(0.9, 0.5, instances, dtype=np.float32),
        class_scores=np.ones((instances, 1), np.float32),
        boxes_xyxy=np.ones((instances, 4), np.float32),
        mask_logits=rng.normal(size=(instances, 8, 16)).astype(np.float32),
        placement=Placement(frame=size, network=(32, 64), content=(32, 64)),
        class_names=("grey",),
    )
    return FrameReport(
        "door", Frame(index, 0.0, image), result, {"write": 0.001}, None, index + 1, 0, instances
    )


@pytest.fixture(autouse=True)
def relay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the server by `servers/relay.py`, which is started again at once."""
    monkeypatch.setattr(supervisor, "_MODULE", "servers.relay")
    monkeypatch.setattr(supervisor, "_FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(publisher_module, "_TICK_S", 0.05)
    paths = str(Path(servers.__path__[0]).parent), os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("IDOL_DEPLOY_TOKEN", "secret")


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher(Access(port=0, token="t" * 16)) as opened:
        yield opened


@pytest.fixture
def run(publisher: Publisher) -> Iterator[Run]:
    """A run without sources."""
    with Run(Streams(GreyBackend(), CONFIG), tell=publisher.tell, observe=publisher.observe) as opened:
        yield opened


def start(publisher: Publisher, run: Run, edit: Callable[[Edit], Reply] | None = None) -> int:
    """Start the server and return its process."""
    publisher.start(run._streams, run, bundle="a.idol", edit=edit)
    supervised = publisher._supervisor
    assert supervised is not None
    return until(lambda: supervised.pid, limit_s=60)


def test_a_server_gets_the_run_its_frames_and_its_states(publisher: Publisher, run: Run) -> None:
    with MjpegServer((32, 64), 100) as camera:
        run.add(RunOptions(camera.url.replace("//", "//me:secret@"), name="door"))
        start(publisher, run)
        thread = threading.Thread(target=run.wait, args=(lambda: True,))
        thread.start()
        with Client(publisher) as client:
            hello = client.until(Hello)
            assert (hello.pid, hello.bundle, hello.token) == (os.getpid(), "a.idol", "t" * 16)
            assert (hello.backend, hello.device, hello.class_names) == ("grey", "numpy", ["grey"])
            assert (hello.page, hello.editable) == (True, False)
            (door,) = hello.streams
            assert (door.name, door.live) == ("door", True)
            assert "secret" not in door.source
            frame = client.until(FrameMessage)
            assert (frame.stream, frame.size, frame.ids, frame.labels) == ("door", (32, 64), [0], [0])
            assert list(frame.stages) == ["wait", "prepare", "network", "track", "write"]
            assert frame.picture is None
            camera.fault = "refuse"
            client.until(StreamsMessage, state("door", "lost"))
            camera.fault = ""
            client.until(StreamsMessage, state("door", "back"))
            run.add(RunOptions(camera.url, name="yard"))
            added = client.until(StreamsMessage, lambda m: len(m.streams) == 2)
            assert [(s.name, s.source) for s in added.streams][1] == ("yard", camera.url)
            run.remove("door")
            gone = client.until(StreamsMessage, lambda m: len(m.streams) == 1)
            assert gone.streams[0].name == "yard"
            run.stop()
            thread.join(60)
            client.until(StreamsMessage, state("yard", "ended"))


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of the queues of frames."""
    now = [1000.0]
    monkeypatch.setattr(outbox, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_pictures_are_sent_for_watched_streams_alone(
    publisher: Publisher, run: Run, now: list[float]
) -> None:
    start(publisher, run)
    large, small = report((1080, 1920), 3), report((32, 64), 0)
    with Client(publisher) as client:
        client.next()
        publisher.observe(large)
        client.send(Watch(["door"]))
        until(lambda: publisher._outbox._watched)
        frames = [client.until(FrameMessage)]
        for index in range(9):
            publisher.observe(large if index == 0 else small)
            frames.append(client.until(FrameMessage))
            now[0] += 1 / 32
        pictures = [m.picture for m in frames]
        pictured = [place for place, picture in enumerate(pictures) if picture is not None]
        assert pictured == [1, 5, 8], "of the first frame and of ten a second"
        first, other = pictures[1], pictures[5]
        assert first is not None
        assert other is not None
        assert first.size == (540, 960)
        pixels = np.frombuffer(first.rgb, np.uint8).reshape(540, 960, 3).astype(float)
        expected = np.asarray(Image.fromarray(large.frame.image).resize((960, 540), Image.Resampling.BOX))
        assert np.abs(pixels - expected).max() <= 1
        masks = np.frombuffer(first.masks, np.float32).reshape(3, *first.mask_size)
        assert np.array_equal(masks, large.result.mask_logits)
        assert (other.size, bytes(other.masks)) == ((32, 64), b"")
        assert np.array_equal(np.frombuffer(other.rgb, np.uint8), small.frame.image.ravel())


def test_a_server_that_does_not_read_holds_nobody_up(
    publisher: Publisher, run: Run, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_HANG_S", 120)
    start(publisher, run)
    frame = report((540, 960))
    with Client(publisher) as client:
        client.next()
        client.send(Watch(["door"]))
        until(lambda: publisher._outbox._watched)
        begin, drawn = time.monotonic(), list[str]()
        draw = publisher._outbox._draw
        publisher._outbox._draw = lambda shown: drawn.append(threading.current_thread().name) or draw(shown)
        for index in range(3000):
            publisher.observe(frame)
            now[0] += 1 / 320
            if index % 30 == 0:
                publisher.tell(Event("dropped", "door", str(index)))
        assert time.monotonic() - begin < 60, "a full connection is not waited for"
        assert {*drawn} <= {"idol-serve"}, "the thread of the network draws nothing"
        assert len(publisher._outbox._frames) <= 300
        assert sum(waiting.report is not None for waiting in publisher._outbox._frames) <= 1
        told = [client.until(EventMessage) for _ in range(100)]
        assert [m.event.message for m in told] == [str(30 * i) for i in range(100)]
        late = client.until(Tick, lambda m: m.unsent)
        assert late.unsent <= 3000


@pytest.mark.parametrize("end", ["killed", "hangs", "wrong"])
def test_a_server_that_fails_is_started_again_with_the_true_state(
    publisher: Publisher,
    run: Run,
    end: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    told, begin = threading.Event(), publisher._begin
    monkeypatch.setattr(supervisor, "_HANG_S", 1)
    pid = start(publisher, run)
    monkeypatch.setattr(supervisor, "_HANG_S", 60)  # of the next server
    with Client(publisher) as client, caplog.at_level(logging.WARNING):
        assert isinstance(client.next(), Hello)
        monkeypatch.setattr(publisher._supervisor, "_begin", lambda: begin() if told.wait(60) else None)
        publisher.tell(Event("added", "door", "added"))
        publisher.tell(Event("connected", "door", "640x360"))
        client.until(StreamsMessage, state("door", "connected"))
        if end == "killed":
            os.kill(pid, signal.SIGKILL)
        elif end == "wrong":
            client._socket.sendall(b"\0\0\0\1x")
        else:
            os.kill(pid, signal.SIGSTOP)
            for _ in range(2000):
                publisher.tell(Event("evicted", "door", "x" * 1000))
        publisher.tell(Event("lost", "door", "no frame for 10 s"))
        told.set()
        with Client(publisher) as again:
            hello = again.until(Hello)
            assert [(s.name, s.state, s.message) for s in hello.streams] == [
                ("door", "lost", "no frame for 10 s")
            ]
            last = hello.events[-1]
            assert last.event.message == "no frame for 10 s"
            assert [m.id for m in hello.events] == list(range(last.id + 1 - len(hello.events), last.id + 1))
            publisher.tell(Event("back", "door", "back"))
            after = again.until(EventMessage)
            assert after.id == last.id + 1
    assert "the server process ended (" in caplog.text
    assert "the run goes on, and it is started again in 0.01 s" in caplog.text
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_streams_have_the_state_of_their_events_also_for_a_later_server(
    publisher: Publisher, run: Run
) -> None:
    def tell(*kinds: EventKind, output: str = "") -> None:
        for kind in kinds:
            publisher.tell(Event(kind, "door", kind, {"output": output}))

    pid = start(publisher, run)
    with Client(publisher) as client:
        client.next()
        tell("added", "connected", "lost", "back", "lost", "back")
        tell("output_stopped", output="a.mp4")
        tell("output_stopped", output="b.jsonl")
        tell("output_back", output="a.mp4")
        client.until(StreamsMessage, lambda m: m.streams[0].stopped_outputs == ["b.jsonl"])
        tell(*["track_enter"] * 1000)
        os.kill(pid, signal.SIGKILL)
        with Client(publisher) as again:
            hello = again.until(Hello)
            (door,) = hello.streams
            assert (door.state, door.reconnects, door.stopped_outputs) == ("back", 2, ["b.jsonl"])
            tell("removed", "lost")  # the thread of its source goes on for a moment
            publisher.tell(Event("added", "yard", "added"))
            streams = again.until(StreamsMessage, state("yard", "added"))
            assert [info.name for info in streams.streams] == ["yard"]


def test_file_names_that_are_no_utf8_are_sent(publisher: Publisher, run: Run) -> None:
    start(publisher, run)
    with Client(publisher) as client:
        client.next()
        publisher.tell(Event("ended", "clip", "\udcff ü.mp4"))
        message = client.until(EventMessage)
        assert message.event.message == "? ü.mp4"


def test_a_broken_package_is_reported_in_one_line(
    publisher: Publisher,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "broken.py").write_text("raise TypeError('descriptor')")
    monkeypatch.setattr(supervisor, "_MODULE", "broken")
    monkeypatch.setattr(supervisor, "_FIRST_DELAY_S", 60)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    publisher.start(run._streams, run)
    until(lambda: "exit status 1" in caplog.text)
    assert capfd.readouterr().err == (
        "the server process cannot be started: TypeError('descriptor'); install idol-deploy[serve] again\n"
    )


def test_the_process_has_nothing_but_its_connection(
    publisher: Publisher, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_FLUSH_S", 60)
    monkeypatch.setattr(supervisor, "_END_S", 60)
    with (tmp_path / "other").open("w") as other:
        os.set_inheritable(other.fileno(), True)
        pid = start(publisher, run)
        with Client(publisher) as client:
            client.next()
            proc = Path(f"/proc/{pid}")
            links = {os.readlink(link) for link in (proc / "fd").iterdir()}
            assert sum(link.startswith("socket:") for link in links) == 3, "run, listener and the test"
            assert "/dev/null" in links
            assert str(tmp_path / "other") not in links
            assert b"IDOL_DEPLOY_TOKEN" not in (proc / "environ").read_bytes()
            assert b"tttt" not in (proc / "cmdline").read_bytes()
            assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 5)
            assert os.getsid(pid) == pid != os.getsid(0), "Ctrl-C reaches the run alone"
            publisher.tell(Event("ended", "door", "last"))
            publisher.__exit__(None, None, None)
            client.until(EventMessage, lambda m: m.event.message == "last")
            client.until(End)
    assert not proc.exists()
    with pytest.raises(ConnectionRefusedError):
        Client(publisher)


def test_changes_of_the_list_are_answered(
    publisher: Publisher, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    def edit(change: Edit) -> Reply:
        if change.remove == "bug":
            raise ZeroDivisionError
        return Reply(change.id, "no", 404)

    start(publisher, run, edit)
    with Client(publisher) as client:
        hello = client.until(Hello)
        assert hello.editable
        for number, name in enumerate(("door", "bug")):
            client.send(Edit(number, remove=name))
        replies = [client.until(Reply) for _ in range(2)]
        assert replies == [Reply(0, "no", 404), Reply(1, "internal error; see the log of the run", 500)]
    assert "ZeroDivisionError" in caplog.text


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        publisher_module.importlib.util,
        "find_spec",
        lambda name: None if name == "prometheus_client" else name,
    )
    with pytest.raises(
        MissingDependencyError, match=r"prometheus-client.*pip install 'idol-deploy\[serve\]'"
    ):
        Publisher(Access(port=0))
