# SPDX-License-Identifier: Apache-2.0
"""Who may talk to a viewer, and what is let through.

Every HTTP request and every socket passes here before viser sees it:

- The Origin that a browser sends must be the viewer's own address, so that no other web page can open a socket.
- A viewer on loopback answers only to loopback's names, which defeats DNS rebinding.
- A viewer that other machines can reach demands its token: in the address at first, then as a cookie that no script
  reads and no other site can have sent.
- Paths are those of viser's own files: plain names without escapes and without "..".
- Messages must be what viser's own page could have sent; a connection with any other is closed.

Fetching by other sites, framing and sniffing are refused by headers.
"""

from __future__ import annotations

import hmac
import http
import math
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from websockets.http11 import Request, Response

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")

MOST_CONNECTIONS = 64
MOST_MESSAGE_BYTES = 8 * 2**20
MOST_UPLOAD_BYTES = 512 * 2**20
"""What one connection may upload in all."""

MOST_WINDOW_PX = 16384

_PATH = re.compile(r"/[A-Za-z0-9_\-./~]{0,200}")
_HEADERS = {
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}

_NEEDS_TOKEN = """<!doctype html><meta charset="utf-8"><title>recon: the token is missing</title>
<style>body{font:16px/1.6 system-ui,sans-serif;max-width:36em;margin:4em auto;padding:0 1em}
body{background:#141414;color:#ddd}</style>
<h1 style="font-size:1.3em">This viewer needs its token</h1>
<p>Open the whole address that <code>recon</code> printed where it was started. It ends in
<code>?token=…</code> and changes each time that the viewer is started.</p>"""

Handler = Callable[[Any], Awaitable[None]]


class Gate:
    """Decides over requests, connections and messages.

    Attributes:
        token: what must be known; None where every user of this machine may look.
    """

    def __init__(self, token: str | None) -> None:
        self.token = token
        self._connections = 0

    def check(self, request: Request) -> Response | None:
        """Returns the refusal of a request, None for one that may pass."""
        host = _header(request, "Host")
        name, port = split_host(host)
        if self.token is None and name not in LOOPBACK_NAMES:
            return refusal(http.HTTPStatus.FORBIDDEN, "This viewer answers to 127.0.0.1 and localhost only.")
        origin = _header(request, "Origin")
        if origin and origin not in (f"http://{host}", f"https://{host}"):
            return refusal(http.HTTPStatus.FORBIDDEN, "Pages of other origins may not talk to this viewer.")
        path, _, query = request.path.partition("?")
        if not _PATH.fullmatch(path) or ".." in path:
            return refusal(http.HTTPStatus.NOT_FOUND, "There is no such file.")
        if self.token is not None and not self._knows_token(request, query, port):
            return refusal(http.HTTPStatus.FORBIDDEN, _NEEDS_TOKEN, "text/html; charset=utf-8")
        if _header(request, "Upgrade").lower() == "websocket" and not _speaks_viser(request):
            return refusal(http.HTTPStatus.BAD_REQUEST, "This page is of another version: reload it.")
        return None

    def dress(self, request: Request, response: Response) -> Response:
        """Adds the headers of a response that passes, and the cookie that stands for the token from now on."""
        for name, value in _HEADERS.items():
            if name not in response.headers:
                response.headers[name] = value
        if self.token is not None:
            name = cookie_name(split_host(_header(request, "Host"))[1])
            response.headers["Set-Cookie"] = f"{name}={self.token}; HttpOnly; SameSite=Strict; Path=/"
        return response

    def watch(self, handler: Handler) -> Handler:
        """Returns a handler of connections that takes no more than the most, and checks their messages."""

        async def watched(connection: Any) -> None:
            if self._connections >= MOST_CONNECTIONS:
                await connection.close(1013, "Too many browsers are connected.")
                return
            self._connections += 1
            _check_messages(connection)
            try:
                await handler(connection)
            finally:
                self._connections -= 1

        return watched

    def _knows_token(self, request: Request, query: str, port: int | None) -> bool:
        assert self.token is not None
        given = parse_qs(query).get("token", [""])[0]
        cookies = _header(request, "Cookie").split(";")
        name = cookie_name(port)
        kept = next((text.partition("=")[2] for text in map(str.strip, cookies) if text.startswith(f"{name}=")), "")
        # Both are compared, whole and in constant time, so that neither its time nor its order tells anything.
        wanted = self.token.encode()
        by_address = hmac.compare_digest(given.encode(), wanted)
        by_cookie = hmac.compare_digest(kept.encode(), wanted)
        return by_address or by_cookie


def split_host(host: str) -> tuple[str, int | None]:
    """Returns the name and the port of a Host header; an empty name where it is none."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname or "", parts.port
    except ValueError:
        return "", None


def cookie_name(port: int | None) -> str:
    """Returns the name of a viewer's cookie: browsers do not tell ports of one host apart."""
    return f"recon-viewer-{port or 80}"


def refusal(status: http.HTTPStatus, text: str, kind: str = "text/plain; charset=utf-8") -> Response:
    """Returns a response that says no."""
    from websockets.datastructures import Headers
    from websockets.http11 import Response

    body = text.encode()
    headers = {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"}
    return Response(status.value, status.phrase, Headers(**headers), body)


def is_acceptable(message: Any) -> bool:
    """Whether a decoded message could have come from viser's own page."""
    from viser._messages import Message

    if not isinstance(message, dict) or not _is_finite(message):
        return False
    kind = message.get("type")
    if not isinstance(kind, str) or kind not in Message._subclass_from_type_string():
        return False
    if kind == "GuiUpdateMessage":
        # viser would set any attribute of a control that a message names.
        updates = message.get("updates")
        return isinstance(updates, dict) and set(updates) <= {"value"}
    if kind == "ViewerCameraMessage":
        return _is_camera(message)
    if kind == "FileTransferStartUpload":
        size, parts = message.get("size_bytes"), message.get("part_count")
        return all(isinstance(value, int) and 0 <= value <= MOST_UPLOAD_BYTES for value in (size, parts))
    return True


def _is_camera(message: dict[str, Any]) -> bool:
    sizes = [message.get(name) for name in ("image_height", "image_width")]
    if not all(isinstance(size, int) and 0 < size <= MOST_WINDOW_PX for size in sizes):
        return False
    fov = message.get("fov")
    if not isinstance(fov, (int, float)) or not 0 < fov < math.pi:
        return False
    lengths = {"wxyz": 4, "position": 3, "look_at": 3, "up_direction": 3}
    for name, length in lengths.items():
        values = message.get(name)
        if not isinstance(values, list) or len(values) != length:
            return False
        if not all(isinstance(value, (int, float)) and abs(value) < 1e9 for value in values):
            return False
    return any(abs(value) > 1e-6 for value in message["wxyz"])


def _is_finite(value: Any, depth: int = 0) -> bool:
    """Whether nothing in a message is infinite or no number, and nothing is nested without end."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return depth < 8 and all(isinstance(key, str) and _is_finite(part, depth + 1) for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return depth < 8 and all(_is_finite(part, depth + 1) for part in value)
    return True


def _check_messages(connection: Any) -> None:
    """Has a connection hand out acceptable messages only; it is closed at the first other one."""
    import msgspec.msgpack

    receive, uploaded = connection.recv, 0

    async def checked() -> Any:
        nonlocal uploaded
        raw = await receive()
        try:
            message = msgspec.msgpack.decode(raw) if isinstance(raw, bytes) else None
        except (msgspec.DecodeError, ValueError, RecursionError):
            message = None
        if isinstance(message, dict) and message.get("type") == "FileTransferPart":
            uploaded += len(raw)
        if is_acceptable(message) and uploaded <= MOST_UPLOAD_BYTES:
            return raw
        await connection.close(1008, "That was no message of this viewer's page.")
        return await receive()  # which raises that the connection is closed

    connection.recv = checked


def _speaks_viser(request: Request) -> bool:
    import viser

    offered = [name.strip() for name in _header(request, "Sec-WebSocket-Protocol").split(",")]
    return f"viser-v{viser.__version__}" in offered


def _header(request: Request, name: str) -> str:
    """Returns a header that must not be given twice; empty where it is missing."""
    values = request.headers.get_all(name)
    return values[0] if len(values) == 1 else ""
