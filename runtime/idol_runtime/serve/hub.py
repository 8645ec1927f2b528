"""The state of a run in its server process, and the clients that wait for changes of it.

A client has no queue: a change marks its topic, and the client reads the newest state when it is ready to send. A slow
client thus costs no memory and misses frames, not the newest one.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import Literal, TypeAlias

import msgspec
from starlette.exceptions import HTTPException

from idol_runtime.serve.messages import (
    MAX_EVENTS,
    MAX_SERVED,
    Edit,
    End,
    EventMessage,
    FrameMessage,
    FromRun,
    FromServer,
    Hello,
    Reply,
    StreamInfo,
    StreamsMessage,
    Tick,
    Watch,
)
from idol_runtime.serve.metrics import Metrics
from idol_runtime.serve.security import is_local
from idol_runtime.serve.stream_view import Shown, StreamView

__all__ = ["END", "MAX_RATE", "Hub", "Subscription", "Topic"]

_MAX_CLIENTS, _MAX_EDITS = 64, 8
MAX_RATE = 30  # messages per second and client
# Share of one address that is not this machine's, of the clients.
_SHARE = 32
# A run is unhealthy without a message, or without a step of the network's loop, for this long.
_SILENT_S, _STUCK_S = 10.0, 30.0
_EDIT_S = 20.0
_LINGER_S = (
    3.0  # a stream is watched a little longer than its clients, so that polling clients change nothing
)
_THUMBNAIL_S, _MAX_THUMBNAILS = 2.0, 20  # age of a thumbnail; most per picture
_LATER = {"Retry-After": "5"}

# Name of a stream for `frame` and `picture`; empty for the others.
Topic: TypeAlias = tuple[Literal["frame", "picture", "streams", "stats", "event", "end"], str]
# The end of the run, which every client waits for.
END: Topic = ("end", "")

_log = logging.getLogger(__name__)


class Subscription:
    """A client that waits for changes.

    Attributes:
        topics: topics that it waits for.
        address: address of the client.
    """

    def __init__(self, topics: Collection[Topic], address: str, rate: float) -> None:
        self.topics = frozenset((END, *topics))
        self.address, self._interval_s = address, 1 / rate
        self._changed: set[Topic] = set()
        self._wake = asyncio.Event()
        self._last_s = 0.0

    def mark(self, topic: Topic) -> None:
        """Note a change, if the client waits for its topic."""
        if topic in self.topics:
            self._changed.add(topic)
            self._wake.set()

    async def changes(self, timeout_s: float) -> set[Topic]:
        """Return the topics that changed since the last call; wait for one, but at most `timeout_s`.

        Calls return no more often than the rate of the client allows.
        """
        await asyncio.sleep(self._last_s + self._interval_s - time.monotonic())
        # Before Python 3.12, asyncio.wait_for returns in place of a cancellation that comes together with the event.
        timer = asyncio.get_running_loop().call_later(timeout_s, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._last_s = time.monotonic()
        self._wake.clear()
        changed, self._changed = self._changed, set()
        return changed


class Hub:
    """The state of all streams and the clients.

    Args:
        hello: first message of the run.
        send: sends a message to the run.

    Attributes:
        hello: first message of the run.
        streams: streams by name.
        events: identity and JSON of the last `MAX_EVENTS` events, oldest first.
        last_event: identity of the last event; 0 for none.
        metrics: figures for Prometheus.
        draw: function that draws a frame, with thumbnails of these tracks; None draws nothing.
        ended: True once the run has told its end.
    """

    def __init__(self, hello: Hello, send: Callable[[FromServer], None]) -> None:
        self.hello, self._send = hello, send
        self.streams: dict[str, StreamView] = {}
        self.events: deque[tuple[int, bytes]] = deque(maxlen=MAX_EVENTS)
        self.last_event = 0
        self.metrics = Metrics(self)
        self.draw: Callable[[FrameMessage, Collection[int]], None] | None = None
        self.clients: set[Subscription] = set()
        self.unsent = 0
        self.ended = False
        self.stats = b""
        self._heard_s = self._stepped_s = time.monotonic()
        self._wanted: dict[str, float] = {}  # watched streams, and when a client last needed their pictures
        self._edits: dict[int, asyncio.Future[Reply]] = {}
        self._numbers = itertools.count(1)
        self._listed = 0  # number of the run's streams
        self._set_streams(hello.streams)
        for message in hello.events:
            self._tell(message)

    def receive(self, message: FromRun) -> None:
        """Take a message of the run."""
        self._heard_s = time.monotonic()
        if isinstance(message, FrameMessage):
            self._see(message)
        elif isinstance(message, Tick):
            self._stepped_s, self.unsent = self._heard_s - message.step_age_s, message.unsent
        elif isinstance(message, EventMessage):
            self._tell(message)
        elif isinstance(message, StreamsMessage):
            self._set_streams(message.streams)
            self._mark(("streams", ""))
        elif isinstance(message, End):
            self.ended = True
            self._mark(END)
        elif isinstance(message, Reply):
            edit = self._edits.get(message.id)
            if edit is not None and not edit.done():
                edit.set_result(message)

    def show(self, shown: Shown) -> None:
        """Take a drawn frame."""
        if (view := self.streams.get(shown.message.stream)) is not None:
            view.show(shown)
            self._mark(("picture", shown.message.stream))

    def tick(self) -> None:
        """Renew the figures of the last second and the watched streams; called once a second."""
        now = time.time()
        for view in self.streams.values():
            view.forget(now)
        statistics = {
            "type": "stats",
            "time": now,
            "silent_s": round(time.monotonic() - self._heard_s, 1),
            "clients": len(self.clients),
            "streams": self.streams_json(),
        }
        self.stats = msgspec.json.encode(statistics)
        self._mark(("stats", ""))
        self._watch()

    @contextlib.contextmanager
    def subscribe(
        self, topics: Collection[Topic], address: str, rate: float = MAX_RATE
    ) -> Iterator[Subscription]:
        """Yield a new client.

        Args:
            topics: changes that it waits for.
            address: address of the client.
            rate: most calls of `changes` that return per second.

        Raises:
            HTTPException: there are too many clients, or the run has ended.
        """
        if self.ended:
            raise HTTPException(503, "the run has ended", _LATER)
        same = sum(client.address == address for client in self.clients)
        if len(self.clients) >= _MAX_CLIENTS or (same >= _SHARE and not is_local(address)):
            limit = _MAX_CLIENTS if len(self.clients) >= _MAX_CLIENTS else _SHARE
            raise HTTPException(503, f"too many clients: {limit}; close one", _LATER)
        client = Subscription(topics, address, rate)
        self.clients.add(client)
        try:
            self._watch()
            yield client
        finally:
            self.clients.discard(client)

    async def picture(self, name: str, address: str, timeout_s: float = 5.0) -> Shown | None:
        """Return a picture of a stream that is at most a second old; None if there is none within `timeout_s`.

        Raises:
            HTTPException: there are too many clients.
        """
        started_s = time.monotonic()
        with self.subscribe({("picture", name)}, address) as client:
            while (view := self.streams.get(name)) is not None:
                if view.shown is not None and view.shown.made_s > started_s - 1:
                    return view.shown
                left_s = started_s + timeout_s - time.monotonic()
                if left_s <= 0:
                    break
                await client.changes(left_s)
        return None

    async def edit(
        self, *, add: dict[str, str | int | float | bool] | None = None, remove: str = ""
    ) -> Reply:
        """Have the run add or remove a stream, and return its answer.

        Raises:
            HTTPException: other requests are still in progress, or the run does not answer.
        """
        if len(self._edits) >= _MAX_EDITS:
            raise HTTPException(503, "too many changes of the streams at once; try again later", _LATER)
        number = next(self._numbers)
        future = self._edits[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(Edit(number, add, remove))
            return await asyncio.wait_for(future, _EDIT_S)
        except asyncio.TimeoutError:
            raise HTTPException(503, f"the run did not answer within {_EDIT_S:.0f} s; see its log") from None
        finally:
            del self._edits[number]

    def events_after(self, last: int) -> list[tuple[int, bytes]]:
        """Return the retained events after the one with the identity `last`."""
        return [event for event in self.events if event[0] > last] if last < self.last_event else []

    def health(self) -> str:
        """Return why the run is unhealthy; empty if it is healthy."""
        now = time.monotonic()
        if now - self._heard_s > _SILENT_S:
            return "the run is silent"
        return "the network hangs" if now - self._stepped_s > _STUCK_S else ""

    def readiness(self) -> str:
        """Return why no results can be read yet; empty if they can."""
        if self.streams and all(view.frame is None for view in self.streams.values()):
            return "no stream has a frame yet"
        return self.health()

    def streams_json(self) -> list[dict[str, object]]:
        """Return all streams with their connections and figures."""
        now = time.time()
        return [view.stats_json(now) for view in self.streams.values()]

    def _see(self, message: FrameMessage) -> None:
        view = self.streams.get(message.stream)
        if view is None:  # removed in the meantime
            return
        if view.frame is not None and message.frames < view.frame.frames:  # removed and added again
            view = self.streams[message.stream] = StreamView(view.info, self.hello.class_names)
        view.see(message)
        self.metrics.observe(message)
        if message.picture is not None and self.draw is not None and message.stream in self._wanted:
            tracks = ((i, view.tracks.get(i)) for i in message.ids)
            due = [i for i, track in tracks if track and abs(message.wall - track.thumbnail_s) > _THUMBNAIL_S]
            self.draw(message, due[:_MAX_THUMBNAILS])
        self._mark(("frame", message.stream))

    def _tell(self, message: EventMessage) -> None:
        event = message.event
        if (view := self.streams.get(event.source)) is not None:
            number = event.values.get("id")
            if event.kind == "track_leave" and isinstance(number, int) and number in view.tracks:
                view.tracks[number].left = True
        self.last_event = message.id
        self.events.append((self.last_event, msgspec.json.encode(event)))
        self._mark(("event", ""))

    def _set_streams(self, streams: list[StreamInfo]) -> None:
        if len(streams) > max(self._listed, MAX_SERVED):
            _log.warning(
                "only the first %d of %d streams are served; use several runs", MAX_SERVED, len(streams)
            )
        self._listed = len(streams)
        before, self.streams = self.streams, {}
        for info in streams[:MAX_SERVED]:
            view = before.pop(info.name, None) or StreamView(info, self.hello.class_names)
            view.info, self.streams[info.name] = info, view
        for name in before:
            self.metrics.remove(name)

    def _mark(self, topic: Topic) -> None:
        for client in self.clients:
            client.mark(topic)

    def _watch(self) -> None:
        """Tell the run which pictures are needed, if they change."""
        now, before = time.monotonic(), self._wanted.keys()
        needed = {name for client in self.clients for kind, name in client.topics if kind == "picture"}
        lingering = {name: at for name, at in self._wanted.items() if now - at < _LINGER_S}
        self._wanted = lingering | dict.fromkeys(needed & self.streams.keys(), now)
        if self._wanted.keys() != before:
            self._send(Watch(sorted(self._wanted)))
