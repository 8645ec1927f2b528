"""Routes of the HTTP API. Importing this module imports Starlette.

Names in URLs are only looked up: no path of a file is made from a request.
"""

import asyncio
import mimetypes
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qs

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from idol_runtime.json_text import JSON_ERRORS
from idol_runtime.serve import streaming
from idol_runtime.serve.history import SECONDS
from idol_runtime.serve.hub import MAX_RATE, Hub, Subscription, Topic
from idol_runtime.serve.messages import MAX_EVENTS, FrameMessage
from idol_runtime.serve.metrics import CONTENT_TYPE
from idol_runtime.serve.pictures import Pictures
from idol_runtime.serve.security import Guard, client_of
from idol_runtime.serve.stream_view import Shown, StreamView

__all__ = ["build_app"]

_PAGE = Path(__file__).parent / "page"
_LOGIN = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Log in</title>
<link rel="icon" href="/page/icon.svg">
<link rel="stylesheet" href="/page/page.css">
<form method="post" class="login">
<h1>idol_deploy</h1>
<label>Token <input type="password" name="token" autocomplete="current-password" required autofocus></label>
<p class="quiet">It is in the file that <code>--token-file</code> names on the server.</p>
<button class="main">Log in</button>
<p class="error" role="alert">%s</p>
</form>
</html>
"""
_Files: TypeAlias = dict[str, tuple[bytes, str]]  # contents and types by name
_Endpoint: TypeAlias = Callable[[Request], Awaitable[ASGIApp]]
_Chunks: TypeAlias = Callable[[Hub, Subscription], AsyncIterator[bytes]]


def build_app(hub: Hub, pictures: Pictures) -> Guard:
    """Return the ASGI application of a run.

    Args:
        hub: state of the run.
        pictures: drawer of the pictures.
    """
    api = _Api(hub, pictures)
    routes: dict[str, _Endpoint] = {"/healthz": api.healthz, "/readyz": api.readyz, "/metrics": api.metrics}
    methods = {}
    if hub.hello.page:
        stream = "/api/streams/{name:path}"
        routes |= {
            "/": partial(_page, _read_page(), "index.html"),
            "/page/{file}": partial(_page, _read_page(), None),
            "/login": api.login,
            "/api/streams": api.streams,
            "/api/events": api.events,
            "/api/events/schema.json": partial(_page, _read_schema(), "events.schema.json"),
            "/api/live": api.live,
            f"{stream}/result": api.result,
            f"{stream}/results": api.results,
            f"{stream}/video": api.video,
            f"{stream}/picture.jpg": api.picture,
            f"{stream}/tracks": api.tracks,
            f"{stream}/tracks/{{track}}.jpg": api.thumbnail,
            f"{stream}/history": api.history,
            stream: api.remove,
        }
        methods = {"/login": ["GET", "POST"], "/api/streams": ["GET", "POST"], stream: ["DELETE"]}
    table = [Route(path, end, methods=methods.get(path, ["GET"])) for path, end in routes.items()]
    return Guard(Router(table, redirect_slashes=False, default=_missing), hub.hello.token, hub.hello.hosts)


class _Api:
    def __init__(self, hub: Hub, pictures: Pictures) -> None:
        self._hub, self._pictures = hub, pictures

    async def healthz(self, _: Request) -> Response:
        problem = self._hub.health()
        return _json({"status": problem or "ok"}, 503 if problem else 200)

    async def readyz(self, _: Request) -> Response:
        problem = self._hub.readiness()
        return _json({"status": problem or "ready"}, 503 if problem else 200)

    async def metrics(self, _: Request) -> Response:
        return Response(self._hub.metrics.text(), media_type=CONTENT_TYPE)

    async def login(self, request: Request) -> Response:
        guard: Guard = request.scope["guard"]
        if guard.sessions is None:
            return RedirectResponse("/", 303)
        if request.method != "POST":
            return _html(_LOGIN % "")
        try:
            fields = parse_qs((await request.body()).decode(), max_num_fields=4)
        except ValueError:
            raise HTTPException(400, "not a form; send the field token") from None
        if not guard.log_in(request.scope, fields.get("token", [""])[0].encode()):
            return _html(_LOGIN % "This token is wrong.", 401)
        return RedirectResponse("/", 303, {"Set-Cookie": guard.sessions.cookie(request.scope)})

    async def streams(self, request: Request) -> Response:
        if request.method == "POST":
            return await self._add(request)
        return _json({"editable": self._hub.hello.editable, "streams": self._hub.streams_json()})

    async def _add(self, request: Request) -> Response:
        try:
            fields = msgspec.json.decode(
                await request.body(), type=dict[str, str | int | float | bool], strict=True
            )
        except JSON_ERRORS as error:
            raise HTTPException(400, f"not a JSON object of a stream's fields: {error}") from None
        await self._edit(add=fields)
        return _json({"name": fields.get("name", "")}, 201)

    async def remove(self, request: Request) -> Response:
        await self._edit(remove=request.path_params["name"])
        return _json({"name": request.path_params["name"]})

    async def _edit(self, **change: Any) -> None:
        if not self._hub.hello.editable:
            raise HTTPException(
                409,
                "the list of streams cannot be changed over HTTP; start serve with a .json file of streams",
            )
        reply = await self._hub.edit(**change)
        if reply.error:
            raise HTTPException(reply.status, reply.error)

    async def result(self, request: Request) -> Response:
        view = self._view(request)
        if _number(request, "masks", 0, 0, 1):
            shown = await self._shown(request)
            if shown.masked is None:
                shown.masked = asyncio.ensure_future(self._masked(view, shown.message))
            return Response(await asyncio.shield(shown.masked), media_type="application/json")
        if view.frame is None:
            raise HTTPException(503, "the stream has no frame yet; try again later", {"Retry-After": "1"})
        return Response(view.encoded, media_type="application/json")

    async def _masked(self, view: StreamView, message: FrameMessage) -> bytes:
        masks = await self._pictures.masks(message)
        frame = view.frame_json(message)
        for instance, mask in zip(frame["instances"], masks, strict=True):
            instance["mask"] = mask
        return msgspec.json.encode(frame)

    async def results(self, request: Request) -> ASGIApp:
        name = self._view(request).info.name
        topics: set[Topic] = {("frame", name), ("streams", "")}
        return self._endless(request, topics, partial(streaming.results, name), "text/event-stream")

    async def video(self, request: Request) -> ASGIApp:
        name = self._view(request).info.name
        topics: set[Topic] = {("picture", name), ("streams", "")}
        kind = "multipart/x-mixed-replace; boundary=frame"
        return self._endless(request, topics, partial(streaming.video, name), kind)

    async def picture(self, request: Request) -> Response:
        return Response((await self._shown(request)).jpeg, media_type="image/jpeg")

    async def tracks(self, request: Request) -> Response:
        view = self._view(request)
        return _json({"stream": view.info.name, "tracks": view.tracks_json()})

    async def thumbnail(self, request: Request) -> Response:
        number = request.path_params["track"]
        known = number.isascii() and number.isdecimal() and len(number) < 20
        track = self._view(request).tracks.get(int(number)) if known else None
        if track is None or not track.thumbnail:
            raise HTTPException(404, "no thumbnail; tracks have one while their stream is watched")
        return Response(track.thumbnail, media_type="image/jpeg", headers={"Cache-Control": "max-age=2"})

    async def history(self, request: Request) -> Response:
        seconds = _number(request, "seconds", SECONDS, 1, SECONDS)
        view = self._view(request)
        return _json({"stream": view.info.name, **view.history.columns(time.time(), seconds)})

    async def events(self, request: Request) -> ASGIApp:
        newest = self._hub.last_event
        last = newest - _number(request, "recent", 0, 0, MAX_EVENTS)
        header = request.headers.get("last-event-id", "")
        if header.isascii() and header.isdecimal():
            # No event of this process has a higher identity: all events are sent.
            last = int(header[:20]) if int(header[:20]) <= newest else 0
        return self._endless(request, {("event", "")}, partial(streaming.events, last), "text/event-stream")

    async def live(self, request: Request) -> ASGIApp:
        names = dict.fromkeys(request.query_params.getlist("stream"))
        for name in names:
            self._find(name)
        topics: set[Topic] = {("streams", ""), ("stats", ""), ("event", "")}
        topics |= {(kind, name) for name in names for kind in ("picture", "frame")}
        return self._endless(request, topics, partial(streaming.live, names), "application/octet-stream", 10)

    def _endless(
        self, request: Request, topics: set[Topic], chunks: _Chunks, media_type: str, rate: int = MAX_RATE
    ) -> ASGIApp:
        """Return a response that lasts until its client leaves, its stream is removed, or the run ends."""
        rate = _number(request, "rate", rate, 1, MAX_RATE)
        headers = {"X-Accel-Buffering": "no"}
        if request.method == "HEAD":
            return Response(headers=headers, media_type=media_type)

        async def respond(scope: Scope, receive: Receive, send: Send) -> None:
            with self._hub.subscribe(topics, client_of(scope), rate) as client:
                response = StreamingResponse(
                    chunks(self._hub, client), headers=headers, media_type=media_type
                )
                # Some releases of uvicorn promise that sending fails once the client has left, and it does not.
                await response({**scope, "asgi": {"spec_version": "2.3"}}, receive, send)

        return respond

    async def _shown(self, request: Request) -> Shown:
        name = self._view(request).info.name
        shown = await self._hub.picture(name, client_of(request.scope))
        if shown is None:
            raise HTTPException(503, "the stream sent no picture within 5 s; try again later")
        return shown

    def _view(self, request: Request) -> StreamView:
        return self._find(request.path_params["name"])

    def _find(self, name: str) -> StreamView:
        if (view := self._hub.streams.get(name)) is None:
            raise HTTPException(404, "no such stream; GET /api/streams lists them")
        return view


def _number(request: Request, name: str, default: int, least: int, most: int) -> int:
    """Return a parameter of the query."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and least <= int(text) <= most):
        raise HTTPException(400, f"{name} must be an integer from {least} to {most}")
    return int(text)


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _html(text: str, status: int = 200) -> Response:
    return Response(text, status, media_type="text/html")


async def _missing(scope: Scope, receive: Receive, send: Send) -> None:
    raise HTTPException(
        404,
        "no such address; docs/serve.md lists all, and a run with --metrics has only /healthz, /readyz and /metrics",
    )


def _read_page() -> _Files:
    """Return contents and types of the page's files by name."""
    paths = sorted(_PAGE.glob("*.*")) if _PAGE.is_dir() else []
    return {
        path.name: (path.read_bytes(), mimetypes.guess_type(path.name)[0] or "text/plain") for path in paths
    }


def _read_schema() -> _Files:
    path = _PAGE.parents[1] / "events.schema.json"
    return {path.name: (path.read_bytes(), "application/schema+json")} if path.is_file() else {}


async def _page(files: _Files, name: str | None, request: Request) -> Response:
    """Return a file of the page."""
    file = files.get(name or request.path_params["file"])
    if file is None:
        raise HTTPException(404, "no such file")
    return Response(file[0], media_type=file[1], headers={"Cache-Control": "no-cache"})
