"""The guard before every request: limits, the names of the server, the origin of changes, and the token.

- A browser that was led to this server under another name (DNS rebinding) is refused: the Host header must be an IP
  address or a name of `Hello.hosts`.
- A request of another site's page is refused, except for a link to this one: an Origin header must name this server,
  and `Sec-Fetch-Site` this site.
- With a token, a program sends `Authorization: Bearer TOKEN`, and a browser a cookie that `/login` sets. The cookie is
  signed with a key made of the token, so that it survives a restart and ends with the token.
"""

import hashlib
import hmac
import ipaddress
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Buckets", "Guard", "Sessions", "client_address", "client_of", "is_local"]

_MAX_BODY, _MAX_HEADERS = 64_000, 16_000
# Requests per second of one address, and how many may come at once.
_RATE, _BURST = 400.0, 800.0
# Wrong tokens of one address: six a minute, ten at once.
_ATTEMPTS, _ATTEMPTS_BURST = 0.1, 10.0
_SESSION_S = 12 * 3600
_PUBLIC = ("/healthz", "/readyz", "/login")
_LOG_S = 10.0
_HEADERS = {
    "cache-control": "no-store",  # unless the application allows it
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}
_ENCODED_HEADERS = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]

_log = logging.getLogger(__name__)


class Buckets:
    """Token buckets by address: a limit of events per second that allows short bursts.

    Args:
        rate: events per second.
        burst: most events at once.
        addresses: most addresses that are remembered; the one that was seen longest ago is forgotten first.
    """

    def __init__(self, rate: float, burst: float, addresses: int = 1024) -> None:
        self._rate, self._burst, self._most = rate, burst, addresses
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str, now: float, amount: float = 1.0) -> bool:
        """Return whether an event is allowed, and count `amount` if it is."""
        left, then = self._left.pop(address, (self._burst, now))
        left = min(left + (now - then) * self._rate, self._burst)
        allowed = left >= 1
        self._left[address] = (left - amount if allowed else left), now
        if len(self._left) > self._most:
            self._left.popitem(last=False)
        return allowed


class Sessions:
    """Signed cookies: a random number and its end, with a signature that only a holder of the token can make.

    Args:
        token: token of the server.
    """

    def __init__(self, token: str) -> None:
        # A slow function, so that nobody finds a short token by trying signatures.
        self._key = hashlib.scrypt(token.encode(), salt=b"idol-session", n=2**14, r=8, p=1)

    def cookie(self, scope: Scope) -> str:
        """Return the value of a Set-Cookie header for a new session."""
        text = f"{secrets.token_urlsafe(16)}.{int(time.time()) + _SESSION_S}"
        secure = "; Secure" if scope["scheme"] == "https" else ""
        return (
            f"{_cookie_name(scope)}={text}.{self._sign(text)}; Path=/; Max-Age={_SESSION_S}; HttpOnly; "
            f"SameSite=Strict{secure}"
        )

    def valid(self, scope: Scope, header: str) -> bool:
        """Return whether a Cookie header has a session that has not ended.

        Browsers send the cookies of all ports of a host, so that the others have any form, and any number the name.
        """
        pairs = (part.strip().partition("=") for part in header.split(";"))
        return any(self._is_session(value) for name, _, value in pairs if name == _cookie_name(scope))

    def _is_session(self, value: str) -> bool:
        text, _, signature = value.rpartition(".")
        signed = hmac.compare_digest(self._sign(text).encode(), signature.encode())
        return signed and time.time() < int(text.rpartition(".")[2])

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


class Guard:
    """ASGI middleware that refuses what must not reach the application, and adds headers to every response.

    Args:
        app: application.
        token: token that clients must know; empty for none.
        hosts: names of the server.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: list[str]) -> None:
        self._app, self._token = app, token.encode()
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self.sessions = Sessions(token) if token else None
        self._requests, self._attempts = Buckets(_RATE, _BURST), Buckets(_ATTEMPTS, _ATTEMPTS_BURST)
        self._logged_s = float("-inf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; an unexpected error is logged and becomes status 500."""
        if scope["type"] != "http":
            return
        answer = _Answer(scope, send)
        scope["guard"] = scope["app"] = self  # with an app, Starlette raises its refusals
        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            self._check(scope, headers)
            await self._app(scope, _limited(receive), answer.send)
        except HTTPException as refusal:
            await answer.refuse(refusal)
        except ClientDisconnect:  # the client left while it sent its request
            pass
        except Exception:
            if time.monotonic() - self._logged_s > _LOG_S:
                self._logged_s = time.monotonic()
                _log.exception("a request failed: %s %r", scope["method"], scope["path"])
            if answer.started:
                raise
            await answer.refuse(HTTPException(500, "internal error; see the log of the server"))

    def log_in(self, scope: Scope, token: bytes) -> bool:
        """Return whether a token is correct; too many wrong ones of one address are refused.

        Raises:
            HTTPException: the address has tried too many.
        """
        address, now = client_of(scope), time.monotonic()
        correct = hmac.compare_digest(token, self._token)
        if not self._attempts.take(address, now, amount=not correct):
            raise HTTPException(429, "too many wrong tokens; wait a minute", {"Retry-After": "60"})
        return correct

    def _check(self, scope: Scope, headers: Mapping[str, str]) -> None:
        method, path = scope["method"], scope["path"]
        name = _split(f"//{headers.get('host', '')}").hostname or ""
        if name not in self._hosts and not _is_address(name):
            raise HTTPException(
                403, "unknown host name; start the server with --allow-host NAME, or use its address"
            )
        if not self._requests.take(client_of(scope), time.monotonic()):
            raise HTTPException(429, f"more than {_RATE:.0f} requests per second", {"Retry-After": "1"})
        if sum(len(name) + len(value) for name, value in scope["headers"]) > _MAX_HEADERS:
            raise HTTPException(
                400, f"the headers have more than {_MAX_HEADERS} bytes", {"Connection": "close"}
            )
        if "transfer-encoding" in headers and "content-length" in headers:  # proxies read it in two ways
            raise HTTPException(400, "two lengths of the body; send one", {"Connection": "close"})
        if method in ("GET", "HEAD"):
            if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
                raise HTTPException(400, "a GET request has a body; send none", {"Connection": "close"})
        elif method == "POST" and path != "/login":
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise HTTPException(415, "send Content-Type: application/json", {"Connection": "close"})
        if _is_foreign(method, headers):
            raise HTTPException(403, "a request of another site", {"Connection": "close"})
        if not (path in _PUBLIC or path.startswith("/page/") or self._is_known(scope, headers)):
            if path == "/" and method == "GET":
                raise HTTPException(303, "log in", {"Location": "/login"})
            raise HTTPException(
                401,
                "the token is missing or wrong; send Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )

    def _is_known(self, scope: Scope, headers: Mapping[str, str]) -> bool:
        if self.sessions is None:
            return True
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.log_in(scope, token.strip().encode("latin-1"))
        return self.sessions.valid(scope, headers.get("cookie", ""))


class _Answer:
    """The sending side of a request.

    Attributes:
        started: True once the status is sent.
    """

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self._connection = scope.get("state", {}).get("connection")
        self.started = False

    async def send(self, message: Message) -> None:
        """Send a message of the application, with the headers of every response."""
        if message["type"] == "http.response.start":
            self.started = True
            headers = dict([*_ENCODED_HEADERS, *message.get("headers", ())])
            message["headers"] = list(headers.items())
        elif self._connection is not None:
            self._connection.sent += len(message.get("body", b""))
        await self._send(message)

    async def refuse(self, refusal: HTTPException) -> None:
        """Send an error."""
        headers = {"content-type": "application/json", **(refusal.headers or {})}
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": refusal.status_code, "headers": encoded})
        detail = refusal.detail if refusal.status_code != 405 else f"wrong method; use {headers['Allow']}"
        body = b"" if self._scope["method"] == "HEAD" else msgspec.json.encode({"error": detail})
        await self.send({"type": "http.response.body", "body": body})


def client_address(host: str) -> str:
    """Return the address that counts as one client: of an IPv6 address its /64 network.

    A socket of IPv6 has IPv4 clients as `::ffff:10.0.0.5`, which is one network.
    """
    try:
        address = ipaddress.ip_address(host[:64])
    except ValueError:
        return host[:64]
    if address.version == 4 or address.is_loopback:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False).network_address)


def client_of(scope: Scope) -> str:
    """Return the address of the client of a request, which a proxy on this machine may have named."""
    host, _ = scope.get("client") or ("", 0)
    return client_address(host or "")  # None in releases of uvicorn, behind proxies of this machine alone


def is_local(address: str) -> bool:
    """Return whether an address is this machine's, which may also be that of a proxy for many clients."""
    return address == "::1" or address.startswith("127.")


def _cookie_name(scope: Scope) -> str:
    """Return the name of the cookie: browsers do not keep the cookies of two ports apart."""
    return f"idol_session_{scope['server'][1] if scope.get('server') else 0}"


def _split(url: str) -> SplitResult:
    """Return the parts of a URL, which are empty if it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _is_foreign(method: str, headers: Mapping[str, str]) -> bool:
    """Return whether the page of another site sends a request; it may only lead the browser to this one."""
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return method not in ("GET", "HEAD") or headers.get("sec-fetch-mode") != "navigate"
    origin = headers.get("origin")
    return origin is not None and _split(origin).netloc.lower() != headers["host"].lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _limited(receive: Receive) -> Receive:
    """Return a function that receives the body of a request and refuses a long one."""
    left = _MAX_BODY

    async def receive_limited() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(413, f"the body has more than {_MAX_BODY} bytes", {"Connection": "close"})
        return message

    return receive_limited
