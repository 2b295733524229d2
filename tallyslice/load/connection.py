"""A cheap HTTP/1.1 client: ready-made request bytes go out, and a callback gets the status and the body.

It runs beside the servers that it loads, on the same cores, so it does as little as possible: no task, no future and no
timer for each request, one request at a time on each connection, and of the head of an answer only what is needed.

::

    ask(request, heard) -> write -> data_received: head and body whole? -> heard(Reply)
                                 -> the connection ends -> heard(LOST): perhaps served
          not connected -> connect -> fails -> heard(UNREACHED): surely not served

An answer must say its length: chunked ones are refused loudly. API nodes and the servers of ``bench/`` send none.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Self, cast
from urllib.parse import urlsplit

import msgspec

LOST, UNREACHED = 0, -1
"""Instead of a status: no answer came, and the request may have been served; it was never sent."""

HEAD_BYTES_MAX, BODY_BYTES_MAX = 65_536, 64 * 1024 * 1024  # of an answer; more is no server that we know
CONNECT_SECONDS = 5.0

_END = b"\r\n\r\n"
_LENGTH, _CHUNKED, _CLOSE, _SPOOL = (
    b"\r\ncontent-length:", b"\r\ntransfer-encoding:", b"\r\nconnection: close", b"\r\nx-durability: spool"
)  # fmt: skip
_STATUS = slice(9, 12)  # HTTP/1.1 202
_BODILESS = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


class Reply(msgspec.Struct, frozen=True, gc=False):
    """What came back.

    Attributes:
        status: of HTTP; or LOST, or UNREACHED.
        body: as it came.
        spooled: whether it said that some of the request is on a spool only.
    """

    status: int
    body: bytes = b""
    spooled: bool = False

    @property
    def good(self) -> bool:
        """Whether it is success of some kind."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES


_LOST, _UNREACHED = Reply(LOST), Reply(UNREACHED)

Heard = Callable[[Reply], None]


class NotUnderstood(Exception):
    """A server's answer is not one that this client can read; the connection ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server.

    Attributes:
        host: name or address.
        port: number.
        tls: whether it is spoken to in TLS.
        context: how its certificate is checked then; None: as the system does.
        token: shown with each request.
    """

    host: str
    port: int
    tls: bool = False
    context: ssl.SSLContext | None = None
    token: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, url: str, *, context: ssl.SSLContext | None = None, token: str | None = None) -> Self:
        """The server of a URL.

        Raises:
            ValueError: it is no http or https URL with a host.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            message = "must be the URL of a server, such as http://localhost:8000"
            raise ValueError(message)
        tls = parts.scheme == "https"
        return cls(host=parts.hostname, port=parts.port or (443 if tls else 80), tls=tls, context=context, token=token)

    def get(self, path: str) -> bytes:
        """The bytes of a question, query and all."""
        return f"GET {path} HTTP/1.1\r\n{self._head}\r\n".encode()

    def post(self, path: str, body: bytes = b"", *, content_type: str = "") -> bytes:
        """The bytes of a request with a body."""
        kind = f"Content-Type: {content_type}\r\n" if content_type else ""
        head = f"POST {path} HTTP/1.1\r\n{self._head}{kind}Content-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    @property
    def _head(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        shown = "" if self.token is None else f"Authorization: Bearer {self.token}\r\n"
        return f"Host: {host}:{self.port}\r\n{shown}"


class _Head(msgspec.Struct, frozen=True, gc=False):
    """Of the head of an answer, what matters: status, where its body lies, where it is kept, whether it is the last."""

    status: int
    start: int
    end: int
    spooled: bool
    last: bool


def _head_of(head: bytes) -> _Head:
    head = head.lower()
    status = head[_STATUS]
    if not head.startswith(b"http/1.1 ") or not status.isdigit():
        raise NotUnderstood("what answers does not speak HTTP/1.1")
    start = len(head) + len(_END)
    length = 0 if int(status) in _BODILESS else _length(head)
    return _Head(int(status), start, start + length, _SPOOL in head, _CLOSE in head)


def _length(head: bytes) -> int:
    _, found, rest = head.partition(_LENGTH)
    digits = rest.partition(b"\r")[0].strip() if found else b"0"
    if _CHUNKED in head or not digits.isdigit() or (length := int(digits)) > BODY_BYTES_MAX:
        raise NotUnderstood("an answer does not say its length, or is longer than it may be")
    return length


class _Wire(asyncio.Protocol):
    """One TCP connection: lives until it ends, and is then replaced by another one."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.heard: Heard | None = None
        self._received = bytearray()
        self._head: _Head | None = None  # of an answer that is not all here yet

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It begins."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes | bytearray) -> None:
        """Tell the answer, if this is the end of it."""
        if self._received:
            self._received += data
            data = self._received
        if (head := self._whole(data)) is None:
            if data is not self._received:
                self._received += data
            return
        heard = self.heard
        if heard is None or len(data) > head.end:
            raise NotUnderstood("a server answers more than it is asked")
        self.heard = None
        body = bytes(data[head.start :])
        self._received, self._head = bytearray(), None
        if head.last and self.transport is not None:
            self.transport.close()
        heard(Reply(head.status, body, head.spooled))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whatever it was, there is no answer
        """Tell whoever waits that no answer comes."""
        self.transport = None
        heard, self.heard = self.heard, None
        if heard is not None:
            heard(_LOST)

    def _whole(self, data: bytes | bytearray) -> _Head | None:
        """The head of the answer, if all of its body is here."""
        if self._head is None:
            end = data.find(_END)
            if end < 0:
                if len(data) > HEAD_BYTES_MAX:
                    raise NotUnderstood(f"the head of an answer is longer than {HEAD_BYTES_MAX} bytes")
                return None
            self._head = _head_of(bytes(data[:end]))
        return self._head if len(data) >= self._head.end else None


@dataclass(eq=False, slots=True)
class Connection:
    """A connection to one server, made again whenever it is needed and not there.

    Args:
        target: the server.
    """

    target: Target
    _wire: _Wire | None = None
    _asked: float = 0.0  # when; only of meaning while something is asked
    _connecting: asyncio.Task[None] | None = field(default=None, repr=False)

    @property
    def busy(self) -> bool:
        """Whether an answer is waited for."""
        return self._connecting is not None or (self._wire is not None and self._wire.heard is not None)

    async def open(self) -> bool:
        """Connect before anything is asked; whether that was possible."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, self._wire = await asyncio.get_running_loop().create_connection(
                    _Wire,
                    self.target.host,
                    self.target.port,
                    ssl=(self.target.context or True) if self.target.tls else None,
                )
        except OSError:  # a TimeoutError is one
            return False
        return True

    def ask(self, request: bytes, heard: Heard) -> None:
        """Send a request, and have its answer told; not before that of the one before was."""
        wire = self._wire
        if wire is None or wire.transport is None or wire.transport.is_closing():
            self._connecting = asyncio.get_running_loop().create_task(self._connect_and_ask(request, heard))
            return
        self._asked = time.monotonic()  # the loop's own time of uvloop has only milliseconds
        wire.heard = heard
        wire.transport.write(request)

    def expire(self, before: float) -> None:
        """Lose the connection if its answer is waited for since before that time of ``time.monotonic``."""
        if self._connecting is None and self._wire is not None and self._wire.heard and self._asked < before:
            self._abort()

    def close(self) -> None:
        """Give up: the answer that is waited for is never told."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._wire is not None:
            self._wire.heard = None
            self._abort()

    def _abort(self) -> None:
        if self._wire is not None and self._wire.transport is not None:
            self._wire.transport.abort()

    async def _connect_and_ask(self, request: bytes, heard: Heard) -> None:
        connected = await self.open()
        self._connecting = None
        if connected:
            self.ask(request, heard)
        else:
            heard(_UNREACHED)
