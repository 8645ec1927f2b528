"""Messages to the service manager, received on a socket as systemd does."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from idol_runtime.run import notify
from idol_runtime.run.notify import ServiceManager
from idol_runtime.run.options import RunOptions
from idol_runtime.run.run import Run
from idol_runtime.sinks.opening import requested_outputs
from idol_runtime.streams import Streams
from idol_runtime.tracking.detection import NetworkOutput
from samples.grey import CONFIG, GreyBackend
from samples.waiting import LIMIT_S


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        yield listener


def variables(listener: socket.socket, **others: str) -> dict[str, str]:
    name = listener.getsockname()
    address = "@" + name[1:].decode() if isinstance(name, bytes) else name
    return {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000", **others}


def received(listener: socket.socket) -> list[str]:
    """Return the lines of all messages so far."""
    listener.setblocking(False)
    lines = []
    while True:
        try:
            lines += listener.recv(4096).decode().splitlines()
        except BlockingIOError:
            listener.settimeout(60)
            return lines


def test_a_run_is_ready_alive_and_stopping(manager: socket.socket, tmp_path: Path) -> None:
    """A camera that is dead all the time does not make the run look hung."""
    environment = variables(manager, WATCHDOG_PID=str(os.getpid()))
    with Run(Streams(GreyBackend(), CONFIG), manager=ServiceManager(environment)) as run:
        assert not environment, "child processes must not inherit the socket"
        run.add(RunOptions("rtsp://127.0.0.1:9/dead", requested_outputs(jsonl=tmp_path / "out")))
        assert received(manager) == []
        lines, started = list[str](), time.monotonic()

        def stop_after_messages() -> None:
            try:
                while "STOPPING=1" not in lines:
                    lines.extend(manager.recv(4096).decode().splitlines())
                    if lines.count("WATCHDOG=1") >= 3:
                        run.stop()
            finally:
                run.stop()

        thread = threading.Thread(target=stop_after_messages)
        thread.start()
        run.wait()
        thread.join(60)
    seconds = time.monotonic() - started
    lines += received(manager)
    assert lines[:2] == ["READY=1", "WATCHDOG=1"]
    assert "STATUS=1 source, 0.0 frames/s" in lines
    assert lines.count("WATCHDOG=1") <= 2 + 10 * seconds, "every 0.1 s at most"
    assert "STOPPING=1" in lines[-4:]
    assert "WATCHDOG=1" not in lines[lines.index("STOPPING=1") :]


def test_a_network_that_hangs_sends_nothing(manager: socket.socket, clip: Path) -> None:
    hung, release = threading.Event(), threading.Event()

    class HangingBackend(GreyBackend):
        def infer(self, images: np.ndarray) -> list[NetworkOutput]:
            if len(self.seen) == 3:
                hung.set()
                release.wait(LIMIT_S)
            return super().infer(images)

    with Run(Streams(HangingBackend(), CONFIG), manager=ServiceManager(variables(manager))) as run:
        run.add(RunOptions(clip, requested_outputs(jsonl=clip.with_suffix(".jsonl"))))
        thread = threading.Thread(target=run.wait)
        thread.start()
        assert hung.wait(60)
        assert "READY=1" in received(manager)
        time.sleep(0.5)
        assert received(manager) == [], "systemd must see no sign of life"
        release.set()
        thread.join()
    assert "STOPPING=1" in received(manager)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    from PIL import Image

    folder = tmp_path / "clip"
    folder.mkdir()
    for t in range(6):
        Image.fromarray(np.full((32, 64, 3), 40 * t, np.uint8)).save(folder / f"{t}.png")
    return folder


def test_an_abstract_socket_and_the_watchdog_of_another_process() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(b"\0idol-notify-%d" % os.getpid())
        service = ServiceManager(variables(listener, WATCHDOG_PID="1"))
        service.status("loading model.idol")
        service.ready()
        assert received(listener) == ["STATUS=loading model.idol", "READY=1", "STATUS=running"]


def test_the_frame_rate_is_that_since_the_last_message(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr(notify.time, "monotonic", lambda: clock[0])
    service = ServiceManager(variables(manager, WATCHDOG_USEC="60000000"))
    service.ready()
    received(manager)
    for seconds, frames in ((9, 90), (10, 100), (15, 150), (20, 400)):
        clock[0] = 100.0 + seconds
        service.alive(2, frames)
    statuses = [line for line in received(manager) if line.startswith("STATUS")]
    assert statuses == ["STATUS=2 sources, 10.0 frames/s", "STATUS=2 sources, 30.0 frames/s"]


@pytest.mark.parametrize("address", ["", "/missing/socket", "vsock:2:1234", "@" + "x" * 200])
def test_a_missing_manager_is_no_error(address: str) -> None:
    service = ServiceManager({"NOTIFY_SOCKET": address})
    service.ready()
    service.stopping()


def test_a_manager_that_reads_nothing_is_not_waited_for(manager: socket.socket) -> None:
    service, started = ServiceManager(variables(manager)), time.monotonic()
    for _ in range(2000):
        service.status("x" * 100)
    assert time.monotonic() - started < 60
