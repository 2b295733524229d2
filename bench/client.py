"""The client of every row that speaks HTTP: bytes that were made beforehand go out, status and length come back.

It shares two cores with what is measured, so it does as little as possible: no tasks and no futures per request, one
callback sends the next one. Closed loop: each connection sends its next request when the last one is answered. Open
loop: requests are due at fixed times, and a latency counts from when its request was due, so that a server that falls
behind cannot hide it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

HOST = "127.0.0.1"
ANSWER_SECONDS_MAX = 120.0

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length:"
_STATUS_BEGINS, _STATUS_ENDS = 9, 12  # HTTP/1.1 202
_OK, _OK_END = 200, 300

_clock = time.perf_counter


class ClientError(Exception):
    """A server answered with an error, or not at all: what was measured is worth nothing."""


@dataclass(slots=True, kw_only=True)
class Run:
    """What a client saw.

    Attributes:
        seconds: from the first request to the last answer.
        latencies: of each request, in seconds.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds


def post_ndjson(body: bytes) -> bytes:
    """A request with a batch of events."""
    head = f"POST /events HTTP/1.1\r\nHost: bench\r\nContent-Type: application/x-ndjson\r\nContent-Length: {len(body)}"
    return head.encode() + _END_OF_HEAD + body


def post_event(query: str) -> bytes:
    """A request with one event."""
    return f"POST /analytics?{query} HTTP/1.1\r\nHost: bench\r\nContent-Length: 0\r\n\r\n".encode()


def get(path: str) -> bytes:
    """A question."""
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


class _Connection(asyncio.Protocol):
    """One connection, with one request on its way at most."""

    def __init__(self, *, answered: Callable[[_Connection], None], failed: Callable[[Exception], None]) -> None:
        self.due = 0.0
        self.body = b""
        self._answered = answered
        self._failed = failed
        self._transport: asyncio.Transport | None = None
        self._read = b""
        self._waits = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def send(self, request: bytes, due: float) -> None:
        """Send a request; its latency counts from ``due``."""
        assert self._transport is not None
        self.due = due
        self._waits = True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._read += data
        end = self._read.find(_END_OF_HEAD)
        if end < 0:
            return
        head = self._read[:end].lower()
        begin = end + len(_END_OF_HEAD)
        length = 0
        if (at := head.find(_LENGTH)) >= 0:
            length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0])
        if len(self._read) < begin + length:
            return
        status = int(head[_STATUS_BEGINS:_STATUS_ENDS])
        self.body = self._read[begin : begin + length]
        if not _OK <= status < _OK_END:
            self._failed(ClientError(f"status {status}: {self.body[:300]!r}"))
            return
        self._read = b""
        self._waits = False
        self._answered(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waits:
            self._failed(ClientError(f"the connection was lost before the answer: {exc!r}"))

    def close(self) -> None:
        """End it."""
        self._waits = False
        if self._transport is not None:
            self._transport.close()


class _Loop:
    """What closed and open loop share: connections, latencies, the end."""

    def __init__(self) -> None:
        self.run = Run()
        self.connections: list[_Connection] = []
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def connect(self, ports: Sequence[int], connections: int, answered: Callable[[_Connection], None]) -> None:
        loop = asyncio.get_running_loop()
        for number in range(connections):
            _, connection = await loop.create_connection(
                lambda: _Connection(answered=answered, failed=self.fail), HOST, ports[number % len(ports)]
            )
            self.connections.append(connection)

    def fail(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)

    def finish(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    async def wait(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._done, seconds)
        finally:
            for connection in self.connections:
                connection.close()


async def closed_loop(ports: Sequence[int], requests: Iterable[bytes], *, connections: int) -> Run:
    """Send requests over so many connections, each its next one when the last one is answered.

    Raises:
        ClientError: any answer was not a success.
    """
    loop = _Loop()
    rest = iter(requests)
    away = 0

    def send(connection: _Connection) -> None:
        nonlocal away
        request = next(rest, None)
        if request is not None:
            away += 1
            connection.send(request, _clock())
        elif not away:
            loop.finish()

    def answered(connection: _Connection) -> None:
        nonlocal away
        away -= 1
        loop.run.latencies.append(_clock() - connection.due)
        send(connection)

    await loop.connect(ports, connections, answered)
    started = _clock()
    for connection in loop.connections:
        send(connection)
    await loop.wait(ANSWER_SECONDS_MAX)
    loop.run.seconds = _clock() - started
    return loop.run


async def open_loop(
    ports: Sequence[int], requests: Iterable[bytes], *, rate: float, connections: int, seconds: float
) -> Run:
    """Send requests at a fixed rate for so long, whatever the server does.

    Raises:
        ClientError: any answer was not a success, or the last ones did not come.
    """
    loop = _Loop()
    rest: Iterator[bytes] = iter(requests)
    idle: deque[_Connection] = deque()
    overdue: deque[tuple[bytes, float]] = deque()
    away = 0
    over = False

    def answered(connection: _Connection) -> None:
        nonlocal away
        away -= 1
        loop.run.latencies.append(_clock() - connection.due)
        if overdue:
            away += 1
            connection.send(*overdue.popleft())
            return
        idle.append(connection)
        if over and not away:
            loop.finish()

    await loop.connect(ports, connections, answered)
    idle.extend(loop.connections)
    started = _clock()
    sent = 0
    while (now := _clock()) < started + seconds:
        while (due := started + sent / rate) <= now and (request := next(rest, None)) is not None:
            sent += 1
            if idle:
                away += 1
                idle.popleft().send(request, due)
            else:
                overdue.append((request, due))
        # No finer than a millisecond: a loop that only looks at the clock would take a core from the server.
        await asyncio.sleep(max(0.001, started + sent / rate - _clock()))
    over = True
    if not away:
        loop.finish()
    await loop.wait(ANSWER_SECONDS_MAX)
    loop.run.seconds = _clock() - started
    return loop.run


async def ask(port: int, path: str) -> bytes:
    """The body of the answer to one question.

    Raises:
        ClientError: it was not answered with success.
    """
    loop = _Loop()
    await loop.connect([port], 1, lambda _: loop.finish())
    loop.connections[0].send(get(path), _clock())
    await loop.wait(ANSWER_SECONDS_MAX)
    return loop.connections[0].body
