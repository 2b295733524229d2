"""The calls that carry events, as cheap as HTTP can be: ready-made bytes out, a C parser's callbacks in.

::

    call -> a connection that is free, or a new one -> head and body -> httptools -> status and body -> free again
                                                                          |
                                                         anything else: the connection ends, and the call with an error

aiohttp's client, which every other call takes, builds a request object, a writer, a stream and a context for each: 80
microseconds, for an envelope that at a busy node comes six hundred times a second and holds up all events in it.

One call at a time on a connection; those that are free wait for the next. A call that fails, or is given up, takes its
connection along, so no answer is ever read for another's.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, NamedTuple, Self, cast
from urllib.parse import SplitResult, urlsplit

import httptools

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

# Below the 75 s for which nodes keep an idle connection, so that it hardly ever ends just as it is used again.
IDLE_SECONDS = 30.0
URLS_MAX = 1024  # whose parts are remembered: a few for each worker, and for those that have moved
_FINAL = 200  # below are statuses that announce another


class NoConnection(OSError):
    """None was to be had: the request was never sent."""


class NotHttp(ValueError):
    """What answers speaks something else."""


class TooLong(ValueError):
    """An answer is over its bound."""


class Reply(NamedTuple):
    """What came back."""

    status: int
    body: bytes


class _Wire(asyncio.Protocol):
    """One connection, and the call that is under way on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, body_bytes_max: int) -> None:
        self.transport: asyncio.Transport | None = None
        self.free_since = 0.0
        self._loop = loop
        self._body_bytes_max = body_bytes_max
        self._reply: asyncio.Future[Reply] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._size = 0
        self._until_end = True  # an answer that tells no length ends with its connection
        self._has_head = False

    @property
    def is_open(self) -> bool:
        """Whether another call can be made."""
        return self.transport is not None and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if exc is None and self._has_head and self._until_end:
            self.on_message_complete()
        self._fail(ConnectionResetError("the connection ended before the answer did"))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(NotHttp("what answers is not HTTP"))
            self.close()

    def call(self, head: bytes, body: bytes) -> asyncio.Future[Reply]:
        """Send a request; what gets its answer."""
        assert self.transport is not None  # noqa: S101 - is_open was asked
        reply = self._reply = self._loop.create_future()
        self.transport.writelines((head, body))
        return reply

    def close(self) -> None:
        """End it; an answer that is under way is nobody's."""
        if self.transport is not None:
            self.transport.abort()

    # The parser's calls.

    def on_header(self, name: bytes, _: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._until_end = False

    def on_headers_complete(self) -> None:
        self._has_head = True

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > self._body_bytes_max:
            self._fail(TooLong(f"an answer of more than {self._body_bytes_max} bytes"))
            self.close()
            self._body.clear()
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        body, self._body, self._size = b"".join(self._body), [], 0
        self._until_end, self._has_head = True, False
        if status < _FINAL:
            return
        reply, self._reply = self._reply, None
        if reply is None or not self._parser.should_keep_alive():
            self.close()  # after nobody's question, too
        if reply is not None and not reply.done():
            reply.set_result(Reply(status, body))

    def _fail(self, error: Exception) -> None:
        reply, self._reply = self._reply, None
        if reply is not None and not reply.done():
            reply.set_exception(error)


class Exchange:
    """Connections to servers, kept for the next call. An async context manager.

    Args:
        body_bytes_max: of an answer.

    Attributes:
        free: connections that wait for the next call, by server and by what TLS there is.
    """

    def __init__(self, *, body_bytes_max: int) -> None:
        self._body_bytes_max = body_bytes_max
        self.free: dict[tuple[str, ssl.SSLContext | None], list[_Wire]] = {}
        self._urls: dict[str, tuple[SplitResult, bytes]] = {}

    async def __aenter__(self) -> Self:
        """Begin without connections."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """End all of them."""
        for wires in self.free.values():
            for wire in wires:
                wire.close()
        self.free.clear()

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, tls: ssl.SSLContext | None = None
    ) -> Reply:
        """POST a body. Give it a deadline: it has none of its own.

        Raises:
            NoConnection, socket.gaierror, ssl.SSLError: the request was not sent.
            OSError: the connection ended before the answer did: the request may have been served.
            NotHttp, TooLong: what came is no answer.
        """
        parts, line = self._split(url)
        key = f"{parts.scheme}://{parts.netloc}", tls
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = line + f"{fields}Content-Length: {len(body)}\r\n\r\n".encode("latin-1")
        wire = self._taken(key) or await self._connected(parts, tls)
        try:
            reply = await wire.call(head, body)
        except BaseException:
            wire.close()
            raise
        if wire.is_open:
            wire.free_since = asyncio.get_running_loop().time()
            self.free.setdefault(key, []).append(wire)
        return reply

    def _taken(self, key: tuple[str, ssl.SSLContext | None]) -> _Wire | None:
        """The connection that was used last, if it can be used again."""
        free = self.free.get(key)
        if free and free[-1].is_open and self._is_fresh(free[-1]):
            return free.pop()
        # Before another is made, which is seldom: look after all, since URLs and certificates change now and then.
        for other, wires in list(self.free.items()):
            self.free[other] = [wire for wire in wires if wire.is_open and self._is_fresh(wire)]
            for wire in set(wires).difference(self.free[other]):
                wire.close()
            if not self.free[other]:
                del self.free[other]
        free = self.free.get(key)
        return free.pop() if free else None

    @staticmethod
    def _is_fresh(wire: _Wire) -> bool:
        return asyncio.get_running_loop().time() - wire.free_since < IDLE_SECONDS

    async def _connected(self, parts: SplitResult, tls: ssl.SSLContext | None) -> _Wire:
        loop = asyncio.get_running_loop()
        is_tls = parts.scheme == "https"
        try:
            _, wire = await loop.create_connection(
                lambda: _Wire(loop, body_bytes_max=self._body_bytes_max),
                parts.hostname or "",
                parts.port or (443 if is_tls else 80),
                ssl=(tls or True) if is_tls else None,
            )
        except (socket.gaierror, ssl.SSLError):
            raise
        except OSError as error:
            raise NoConnection(error.errno, "no connection") from error
        return wire

    def _split(self, url: str) -> tuple[SplitResult, bytes]:
        """The parts of a URL, and the beginning of a request for it."""
        known = self._urls.get(url)
        if known is None:
            if len(self._urls) >= URLS_MAX:
                self._urls.clear()
            parts = urlsplit(url)
            line = f"POST {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc.rpartition('@')[2]}\r\n"
            known = self._urls[url] = parts, line.encode("ascii")
        return known
