"""Bodies of endless responses: server-sent events, Motion JPEG, and one response with everything that a page shows.

All formats read the same `Subscription`: they send the newest state when the client can take it.
"""

import time
from collections.abc import AsyncIterator, Collection

import msgspec

from idol_runtime.serve.hub import END, Hub, Subscription, Topic

__all__ = ["events", "live", "results", "video"]

# A sign of life, which also finds clients that are gone.
_ALIVE_S = 5.0
# A frame is sent without its picture if the last picture is older than this.
_PICTURE_S = 0.5
_RECENT_EVENTS = 100
_END_EVENT = b"event: end\ndata: {}\n\n"


async def results(name: str, hub: Hub, client: Subscription) -> AsyncIterator[bytes]:
    """Yield the results of a stream as server-sent events."""
    changed: set[Topic] = {("frame", name)}
    while (view := hub.streams.get(name)) is not None:
        if ("frame", name) in changed and view.frame is not None:
            yield b"id: %d\ndata: %s\n\n" % (view.frame.index, view.encoded)
        else:
            yield b":\n\n"
        if END in changed:
            break
        changed = await client.changes(_ALIVE_S)
    yield _END_EVENT


async def events(last: int, hub: Hub, client: Subscription) -> AsyncIterator[bytes]:
    """Yield the events of the run as server-sent events, from the one after `last`."""
    changed: set[Topic] = set()
    while True:
        new = hub.events_after(last)
        last = hub.last_event
        yield b"".join(b"id: %d\ndata: %s\n\n" % event for event in new) or b":\n\n"
        if END in changed:
            break
        changed = await client.changes(_ALIVE_S)
    yield _END_EVENT


async def video(name: str, hub: Hub, client: Subscription) -> AsyncIterator[bytes]:
    """Yield the annotated pictures of a stream as Motion JPEG, with the boundary `frame`."""
    while (view := hub.streams.get(name)) is not None:
        # A picture is repeated as a sign of life.
        if view.shown is not None and view.shown.jpeg:
            jpeg = view.shown.jpeg
            head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
            yield head + jpeg + b"\r\n"
        if END in await client.changes(_ALIVE_S):
            break


async def live(names: Collection[str], hub: Hub, client: Subscription) -> AsyncIterator[bytes]:
    """Yield records for a page: `hello`, then `streams`, `frame`, `event` and `stats` as they come, and `end`.

    A record is the length of its JSON and of its JPEG (4 bytes each, big-endian), the JSON and the JPEG.
    """
    last = hub.last_event
    yield _record(msgspec.json.encode(_hello(hub)))
    changed: set[Topic] = {("streams", ""), *(("picture", name) for name in names)}
    while True:
        parts = []
        if ("streams", "") in changed:
            streams = [view.info for view in hub.streams.values()]
            parts.append(_record(msgspec.json.encode({"type": "streams", "streams": streams})))
        for kind, name in changed:
            if (view := hub.streams.get(name)) is None:
                continue
            age_s = time.monotonic() - view.shown.made_s if view.shown else float("inf")
            if kind == "picture" and view.shown is not None:
                parts.append(_record(view.shown.record, view.shown.jpeg))
            elif kind == "frame" and age_s > _PICTURE_S:
                parts.append(_record(view.encoded))
        new = hub.events_after(last)
        last = hub.last_event
        parts += [_record(b'{"type":"event","id":%d,"event":%s}' % event) for event in new]
        if ("stats", "") in changed:
            parts.append(_record(hub.stats))
        if END in changed:
            parts.append(_record(b'{"type":"end"}'))
        if parts:
            yield b"".join(parts)
        if END in changed:
            break
        changed = await client.changes(_ALIVE_S)


def _hello(hub: Hub) -> dict[str, object]:
    hello = hub.hello
    names = ("version", "started", "backend", "graph", "device", "bundle", "class_names", "editable")
    recent = list(hub.events)[-_RECENT_EVENTS:]
    return {
        "type": "hello",
        **{name: getattr(hello, name) for name in names},
        "events": [{"id": number, "event": msgspec.Raw(event)} for number, event in recent],
    }


def _record(json: bytes, jpeg: bytes = b"") -> bytes:
    return len(json).to_bytes(4, "big") + len(jpeg).to_bytes(4, "big") + json + jpeg
