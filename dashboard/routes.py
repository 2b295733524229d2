"""``/``: the page, with what belongs to it under ``/dashboard/``. ``/live``: the figures, as server-sent events.

The page is files, served as they are: no build step, no template, nothing from elsewhere. It may load nothing that this
node does not serve (``Content-Security-Policy``), and shows every text as text. What it reads from ``/live`` it reads
with fetch(), not EventSource, so that a token can go along in a header.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import socket
from http import HTTPStatus
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import hdrs, web

from common.edge import ENDLESS
from common.errors import NotHere
from common.listener import LEAVE
from dashboard.feed import SlowViewer

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from dashboard.feed import Feed

PAGE = "index.html"
FOLDER = "/dashboard/"
SEND_BUFFER_BYTES = 64 << 10  # of the kernel, per viewer: some twenty snapshots; it would grow to megabytes

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_STREAM = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would keep the figures until its buffer is full
    "X-Content-Type-Options": "nosniff",
}


class _File(NamedTuple):
    """A file as it is served."""

    tag: str
    kind: str
    plain: bytes
    packed: bytes


class DashboardRoutes:
    """The handlers."""

    def __init__(self, *, feed: Feed) -> None:
        self._feed = feed
        self._files: dict[str, _File] = {}

    def add_to(self, app: web.Application) -> None:
        """Register the routes."""
        app.router.add_get("/", self.page)
        app.router.add_get(FOLDER + "{name}", self.file)
        app.router.add_get("/live", self.live, allow_head=False)
        app.on_startup.append(self._read)
        app[LEAVE] = [self._feed.end]
        app.on_shutdown.append(self._end)

    async def page(self, request: web.Request) -> web.Response:
        """The page."""
        return self._answer(request, self._files[PAGE])

    async def file(self, request: web.Request) -> web.Response:
        """What belongs to it."""
        found = self._files.get(request.match_info["name"])
        if found is None:
            raise NotHere("no such file")
        return self._answer(request, found)

    async def live(self, request: web.Request) -> web.StreamResponse:
        """The snapshots, for as long as the viewer wants them."""
        self._feed.admit()
        request[ENDLESS] = True
        transport = request.transport
        if transport is not None and (connection := transport.get_extra_info("socket")) is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        response = web.StreamResponse(headers=_STREAM)
        await response.prepare(request)

        async def send(event: bytes) -> None:
            await response.write(event)
            await request.writer.drain()

        try:
            await self._feed.serve(send, last_id=request.headers.get("Last-Event-ID"))
        except SlowViewer:
            if transport is not None:
                transport.abort()
        except ConnectionError:
            pass  # it has gone: there is nobody to tell
        return response

    async def _end(self, _: web.Application) -> None:
        self._feed.end()

    async def _read(self, _: web.Application) -> None:
        self._files = await asyncio.to_thread(_read_files)

    @staticmethod
    def _answer(request: web.Request, file: _File) -> web.Response:
        headers = {
            **_SAFE,
            "Content-Security-Policy": _POLICY,
            # Asked for again each time, and sent again only when it has changed: a new version is seen at once.
            "Cache-Control": "no-cache",
            "ETag": file.tag,
            "Vary": hdrs.ACCEPT_ENCODING,
        }
        if file.tag in (known.strip() for known in request.headers.get(hdrs.IF_NONE_MATCH, "").split(",")):
            return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        headers["Content-Type"] = file.kind
        body = file.plain
        if "gzip" in request.headers.get(hdrs.ACCEPT_ENCODING, ""):
            body, headers["Content-Encoding"] = file.packed, "gzip"
        return web.Response(body=body, headers=headers)


def _read_files() -> dict[str, _File]:
    """Every file of the page by its name; those of others, which lie in a folder of their own, too."""
    folder = files("dashboard") / "static"
    found = [*folder.iterdir(), *(folder / "vendor").iterdir()]
    return {one.name: _file(one) for one in found if one.is_file() and _suffix(one) in _TYPES}


def _file(one: Traversable) -> _File:
    plain = one.read_bytes()
    # Weak: the same tag for the bytes as they are, and for the packed ones.
    tag = f'W/"{hashlib.sha256(plain).hexdigest()[:16]}"'
    return _File(tag, _TYPES[_suffix(one)], plain, gzip.compress(plain, mtime=0))


def _suffix(one: Traversable) -> str:
    return "." + one.name.rpartition(".")[2]
