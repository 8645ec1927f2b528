"""The server process, over real sockets."""

import contextlib
import http.client
import json
import resource
import signal
import socket
import struct
import threading
import time

import cv2
import numpy as np
import pytest

from idol_runtime.events import Event
from idol_runtime.serve.messages import Edit, End, EventMessage, Reply, StreamsMessage, Watch
from samples.waiting import until


def _records(response):
    while head := response.read(8):
        json_size, jpeg_size = struct.unpack(">II", head)
        yield json.loads(response.read(json_size)), response.read(jpeg_size)


def test_results_and_health_are_served_until_the_run_ends(start_server, kit) -> None:
    server = start_server()
    status, body = server.get("/healthz")
    assert (status, json.loads(body)) == (200, {"status": "ok"})
    assert server.get("/readyz")[0] == 503
    server.send(kit.frame())
    until(lambda: server.get("/readyz")[0] == 200)
    result = json.loads(server.get("/api/streams/door/result")[1])
    assert result["frame"] == 7
    assert result["instances"][0]["class"] == "dog"
    with (
        server.request("GET", "/api/live") as response,
        socket.create_connection(("127.0.0.1", server.port)) as unanswered,
    ):
        unanswered.sendall(b"DELETE /api/streams/door HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert isinstance(server.received(), Edit)
        next(_records(response))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            server.process.send_signal(number)
        assert server.get("/healthz")[0] == 200
        server.run.close()
        assert server.process.wait(60) == 0


def test_live_sends_pictures_of_the_streams_that_are_watched(start_server, kit) -> None:
    server = start_server()
    with server.request("GET", "/api/live?stream=door") as response:
        assert server.received() == Watch(["door"])
        records = _records(response)
        hello, _ = next(records)
        assert (hello["type"], hello["class_names"]) == ("hello", ["cat", "dog"])
        server.send(kit.frame(picture=True))
        while True:
            record, jpeg = next(records)
            if jpeg:
                break
        assert record["instances"][0]["id"] == 3
        picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (192, 256, 3)
        assert np.abs(picture[130:160, 180:220].astype(int) - 120).max() < 12  # no mask here
        assert np.abs(picture[60:80, 180:220].astype(int) - 120).max(axis=2).min() > 10
    until(lambda: server.get("/api/streams/door/tracks/3.jpg")[0] == 200)


def test_clients_are_told_the_end_of_a_run_that_is_not_killed(start_server, kit) -> None:
    paths = ("/api/live", "/api/streams/door/results", "/api/events", "/api/streams/door/video")
    for told in (True, False):
        server = start_server()
        with contextlib.ExitStack() as stack:
            responses = [stack.enter_context(server.request("GET", path)) for path in paths]
            last = EventMessage(Event("ended", "door", "door ended"), 5)
            server.send(*([last, End()] if told else []))
            server.run.close()
            assert server.process.wait(60) == 0
            if not told:
                for response in responses:
                    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                        response.read()
                continue
            records = [record for record, _ in _records(responses[0])]
            assert [record["type"] for record in records[-2:]] == ["event", "end"]
            bodies = [response.read() for response in responses[1:]]
        assert all(body.endswith(b"event: end\ndata: {}\n\n") for body in bodies[:2])
        assert b"id: 5\n" in bodies[1]


def test_streams_are_changed_by_the_run(start_server, kit) -> None:
    server = start_server()
    connection = server.request(
        "POST",
        "/api/streams",
        body=b'{"name": "yard", "source": "rtsp://yard/live", "stride": 2}',
        headers={"Content-Type": "application/json"},
    )
    answers = []

    def post() -> None:
        with connection as response:
            answers.append((response.status, json.loads(response.read())))

    thread = threading.Thread(target=post)
    thread.start()
    edit = server.received()
    assert edit == Edit(edit.id, {"name": "yard", "source": "rtsp://yard/live", "stride": 2})
    server.send(Reply(edit.id, "stream yard: no such host; check the source", 422))
    thread.join(60)
    assert answers == [(422, {"error": "stream yard: no such host; check the source"})]
    server.send(StreamsMessage(kit.hello().streams[1:]))
    until(lambda: server.get("/api/streams/door/result")[0] == 404)


def test_many_clients_at_once_need_few_descriptors(start_server, capfd) -> None:
    server = start_server()
    assert server.get("/healthz")[0] == 200
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (450, 450))
    server.process.send_signal(signal.SIGSTOP)
    clients = []
    for _ in range(600):
        clients.append(socket.socket())
        clients[-1].setblocking(False)
        clients[-1].connect_ex(("127.0.0.1", server.port))
    server.process.send_signal(signal.SIGCONT)
    for client in clients[:100]:
        client.settimeout(60)
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
    for client in clients:
        client.close()
    until(lambda: server.get("/healthz")[0] == 200)
    assert not capfd.readouterr().err


@pytest.mark.slow
def test_clients_that_read_nothing_cost_no_memory_and_are_dropped(start_server, kit) -> None:
    server = start_server()
    request = b"GET /api/live?stream=door&rate=30 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    noise = np.random.default_rng(0).integers(0, 255, (192, 256, 3), dtype=np.uint8)
    message = kit.frame(picture=True)
    message.picture.rgb = noise.data
    clients = []
    server.send(message)
    until(lambda: server.get("/readyz")[0] == 200)
    before, started = server.memory(), time.monotonic()
    for _ in range(60):
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(request)
        clients.append(client)
    until(lambda: b"\nidol_clients 60.0\n" in server.get("/metrics")[1])
    while b"\nidol_clients 0.0\n" not in server.get("/metrics")[1]:
        assert time.monotonic() - started < 120
        server.send(message)
        assert server.get("/api/streams/door/result")[0] == 200, "nobody waits for them"
        time.sleep(0.03)
    assert time.monotonic() - started > 10
    assert server.memory() - before < 60e6
    for client in clients:
        client.close()
