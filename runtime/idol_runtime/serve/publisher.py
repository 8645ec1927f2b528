"""The run's side of the live server: frames and events of a run become messages for the server process.

    with Publisher(access) as publisher, Run(streams, tell=publisher.tell, observe=publisher.observe) as run:
        run.add(RunOptions("rtsp://door/live", name="door"))
        publisher.start(streams, run)
        run.wait()

The thread of the network does nothing for it. The threads that write outputs queue a small message per frame, and one
thread of the publisher sends, and scales the pictures of the streams that somebody watches. No client and no fault of
the server slows the run down: what the server does not take in time is dropped.
"""

import importlib.util
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from idol_runtime.errors import IdolError, MissingDependencyError
from idol_runtime.events import Event
from idol_runtime.optional import load_cv2
from idol_runtime.pipeline import LoadedNetwork
from idol_runtime.run.observer import FrameReport
from idol_runtime.run.run import Run
from idol_runtime.serve.access import Access
from idol_runtime.serve.messages import (
    MAX_EVENTS,
    Edit,
    End,
    EventMessage,
    FrameMessage,
    FromRun,
    FromServer,
    Hello,
    Picture,
    Reply,
    StreamInfo,
    StreamsMessage,
    Tick,
    Watch,
)
from idol_runtime.serve.outbox import Outbox
from idol_runtime.serve.supervisor import Supervisor
from idol_runtime.sources.opening import reader_kind

__all__ = ["Publisher"]

# Longest side of a picture in pixels.
_MAX_PICTURE = 960
# Time between two signs of life.
_TICK_S = 1.0
# Events that change the state of a stream.
_STATES = ("waiting", "connected", "lost", "back", "ended")

_log = logging.getLogger(__name__)


class Publisher:
    """A listening socket and a server process; a context manager.

    Attributes:
        url: URL of the server.
    """

    def __init__(self, access: Access, *, page: bool = True) -> None:
        """Check the packages and listen; clients wait until `start`.

        Args:
            access: address and conditions.
            page: serve the page and the API; False: health and metrics alone.

        Raises:
            MissingDependencyError: a package of the server is not installed.
            ConfigError: the address cannot be used; see `Access.listen`.
        """
        for module in ("starlette", "uvicorn", "prometheus_client"):
            if importlib.util.find_spec(module) is None:
                package = module.replace("_", "-")
                raise MissingDependencyError(package, "serve", "serving over HTTP")
        self._cv2 = load_cv2("the live page") if page else None
        self._access, self._page, self._started = access, page, time.time()
        self._listener = access.listen()
        self.url = access.url(self._listener)
        self._outbox = Outbox(self._picture)
        self._lock = threading.Lock()
        self._infos: dict[str, StreamInfo] = {}
        self._recent: deque[EventMessage] = deque(maxlen=MAX_EVENTS)
        self._number = int(1e3 * self._started)  # of the last event
        self._changed = False
        self._tick_s = 0.0
        self._closing = False
        self._end: End | None = None
        self._edit: Callable[[Edit], Reply] | None = None
        self._run: Run | None = None
        self._supervisor: Supervisor | None = None
        self._hello: Hello | None = None

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, _: object, error: object, __: object) -> None:
        if isinstance(error, IdolError | None):
            self._end = End()
        self._closing = True
        self._outbox.finish()
        if self._supervisor is not None:
            self._supervisor.close()
        self._listener.close()

    def start(
        self,
        network: LoadedNetwork,
        run: Run,
        *,
        bundle: str = "",
        edit: Callable[[Edit], Reply] | None = None,
    ) -> None:
        """Start the server process, once the first sources are added.

        Args:
            network: network of the run.
            run: run that reports to `observe` and `tell`.
            bundle: file name of the bundle.
            edit: function that changes the list of streams; None if it cannot be changed.
        """
        engine, _, place = network.backend.name.partition(" (")
        self._hello = Hello(
            version=version("idol-deploy"),
            pid=os.getpid(),
            started=self._started,
            backend=engine,
            graph=network.backend.graph or "",
            device=place.rstrip(")").partition(",")[0],
            bundle=bundle,
            class_names=list(network.config.class_names),
            page=self._page,
            editable=edit is not None,
            token=self._access.token,
            hosts=self._access.hosts,
            streams=[],
            events=[],
        )
        self._run, self._edit = run, edit
        with self._lock:
            for options in run.options:
                self._follow(Event("added", options.name, "", time=self._started))
        self._supervisor = Supervisor(self._listener, self._begin, self._take, self._receive)

    def observe(self, report: FrameReport) -> None:
        """Queue a frame; an `Observe` function."""
        frame, result = report.frame, report.result
        message = FrameMessage(
            stream=report.source,
            index=frame.index,
            time_s=frame.time_s,
            wall=time.time(),
            size=result.size,
            ids=result.ids.tolist(),
            labels=result.labels.tolist(),
            scores=result.scores.tolist(),
            boxes_xyxy=result.boxes_xyxy.tolist(),
            stages=dict(report.stages),
            age_s=report.age_s,
            frames=report.frames,
            dropped=report.dropped,
            tracks=report.tracks,
        )
        self._outbox.put_frame(message, report)

    def tell(self, event: Event) -> None:
        """Queue an event; a `Tell` function."""
        with self._lock:
            self._number += 1
            message = EventMessage(event, self._number)
            self._recent.append(message)
            self._outbox.put(message)
            self._follow(event)

    def _follow(self, event: Event) -> None:
        """Change the list of streams as an event says."""
        name, kind, info = event.source, event.kind, self._infos.get(event.source)
        if kind == "added":
            source, live = "", False
            for options in self._run.options if self._run is not None else ():
                if options.name == name:
                    reader = reader_kind(options.source)
                    source, live = reader.title(options.source), reader.live
            info = StreamInfo(name, source, live, kind, event.time)
        elif info is None:  # its thread goes on for a moment after it was removed
            return
        elif kind == "removed":
            del self._infos[name]
            self._changed = True
            return
        elif kind in _STATES:
            reconnects = info.reconnects + (kind == "back")
            info = replace(info, state=kind, since=event.time, message=event.message, reconnects=reconnects)
        elif kind in ("output_stopped", "output_back"):
            output = str(event.values.get("output", ""))
            others = [other for other in info.stopped_outputs if other != output]
            info = replace(info, stopped_outputs=[*others, *[output] * (kind == "output_stopped")])
        else:
            return
        self._infos[name], self._changed = info, True

    def _begin(self) -> Hello:
        """Return the first message for a new server, with the state of the streams and the last events."""
        assert self._hello is not None
        with self._lock:
            self._outbox.clear()
            self._changed = False
            streams, events = list(self._infos.values()), list(self._recent)
        return replace(self._hello, streams=streams, events=events)

    def _take(self) -> FromRun | None:
        """Return the list of streams if it has changed, a sign of life if one is due, or the next queued message.

        After the last one come the end of the run, unless it failed, and None.
        """
        while True:
            with self._lock:
                changed, self._changed = self._changed, False
                if changed:
                    return StreamsMessage(list(self._infos.values()))
            now = time.monotonic()
            if now >= self._tick_s + _TICK_S and self._run is not None:
                self._tick_s = now
                return Tick(self._run.step_age_s, self._outbox.unsent)
            message = self._outbox.get(self._tick_s + _TICK_S - now)
            if message is not None:
                return message
            if self._closing:
                end, self._end = self._end, None
                return end

    def _receive(self, message: FromServer) -> None:
        if isinstance(message, Watch):
            self._outbox.watch(frozenset(message.streams))
            return
        try:
            assert self._edit is not None  # the server was told so
            reply = self._edit(message)
        except Exception:  # noqa: BLE001 - logged
            _log.exception("a change of the streams failed")
            reply = Reply(message.id, "internal error; see the log of the run", 500)
        self._outbox.put(reply)

    def _picture(self, report: FrameReport) -> Picture:
        """Return a frame of at most `_MAX_PICTURE` pixels per side, and its masks."""
        image, placement = report.frame.image, report.result.placement
        height, width = image.shape[:2]
        scale = _MAX_PICTURE / max(height, width)
        if scale < 1:
            assert self._cv2 is not None
            height, width = max(1, round(scale * height)), max(1, round(scale * width))
            # The mean of areas takes ten times as long where their sides are no integers.
            if (side := int(1 / scale)) > 1:
                small = image.shape[1] // side, image.shape[0] // side
                image = self._cv2.resize(image, small, interpolation=self._cv2.INTER_AREA)
            image = self._cv2.resize(image, (width, height), interpolation=self._cv2.INTER_LINEAR)
        masks = report.result.mask_logits.astype(np.float32, copy=False)
        return Picture(
            size=(height, width),
            rgb=_bytes(image),
            masks=_bytes(masks),
            mask_size=(masks.shape[1], masks.shape[2]),
            network=placement.network,
            content=placement.content,
        )


def _bytes(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
