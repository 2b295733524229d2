"""A bad network between an API node and a worker: envelopes get lost, held, doubled or cut, as a test says.

The API node's cluster file names the proxy as the worker's URL, the worker's own file its real one::

    API node  -->  Proxy  -->  worker

It understands as much of HTTP/1.1 as these two speak: heads, and bodies with a Content-Length. Everything passes as it
is, but for ``POST /worker/batches``: each of those takes the next step of the plan, if there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from common.wire import Batch, Envelope, Outcome, Reply, decode, decode_envelope
from tests.support.cluster import Node
from tests.support.ports import PORTS

READ_MOST = 16 << 20


@dataclass(eq=False)
class Exchange:
    """One envelope on its way.

    Attributes:
        request: as the API node sent it, head and body.
        worker: where it goes.
        replies: what the worker answered to each copy that was delivered, head and body.
        hang_up: whether the connection to the API node ends after this.
    """

    request: bytes
    worker: Node
    replies: list[bytes] = field(default_factory=list)
    hang_up: bool = False

    async def deliver(self) -> bytes:
        """Hand a copy to the worker; its raw reply."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.worker.port, limit=READ_MOST)
        with contextlib.closing(writer):
            writer.write(self.request)
            reply = await read_message(reader)
        self.replies.append(reply)
        return reply

    async def deliver_half(self) -> None:
        """Begin to hand it to the worker, and break off."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.worker.port)
        with contextlib.closing(writer):
            writer.write(self.request[: len(self.request) - len(self.body) // 2])
            await writer.drain()

    @property
    def body(self) -> bytes:
        """The envelope."""
        return self.request.partition(b"\r\n\r\n")[2]

    @property
    def envelope(self) -> Envelope:
        """The same, read."""
        return decode_envelope(self.body)[0]

    @property
    def batches(self) -> tuple[Batch, ...]:
        """What is in it."""
        return decode_envelope(self.body)[1]

    @property
    def outcomes(self) -> list[list[Outcome]]:
        """What the worker did with the batches of each copy, in the order of its replies."""
        bodies = [reply.partition(b"\r\n\r\n")[2] for reply in self.replies]
        return [[receipt.outcome for receipt in decode(body, Reply).receipts] for body in bodies]


Step = Callable[[Exchange], Awaitable[bytes | None]]
"""What to do with an envelope; what it returns goes to the API node. None: the connection ends without a reply."""


async def pass_on(exchange: Exchange) -> bytes | None:
    """Nothing unusual."""
    return await exchange.deliver()


async def lose_request(exchange: Exchange) -> bytes | None:
    """The envelope never arrives."""
    return None


async def break_request(exchange: Exchange) -> bytes | None:
    """Half of the envelope arrives."""
    await exchange.deliver_half()
    return None


async def lose_reply(exchange: Exchange) -> bytes | None:
    """The envelope arrives, its reply does not."""
    await exchange.deliver()
    return None


async def break_reply(exchange: Exchange) -> bytes | None:
    """The envelope arrives, and half of its reply."""
    reply = await exchange.deliver()
    exchange.hang_up = True
    return reply[: len(reply) - 10]


async def double(exchange: Exchange) -> bytes | None:
    """Two copies arrive, one after the other; the first one is answered."""
    first = await exchange.deliver()
    await exchange.deliver()
    return first


async def double_answer_second(exchange: Exchange) -> bytes | None:
    """Two copies arrive, one after the other; the reply to the second one is what the API node sees."""
    await exchange.deliver()
    return await exchange.deliver()


async def double_at_once(exchange: Exchange) -> bytes | None:
    """Two copies arrive side by side."""
    return (await asyncio.gather(exchange.deliver(), exchange.deliver()))[0]


class Held:
    """A step that keeps the envelope back, as if lost, so that a test can let it arrive when it is long out of date."""

    def __init__(self) -> None:
        self.exchange: Exchange | None = None

    async def __call__(self, exchange: Exchange) -> bytes | None:
        """Keep it."""
        self.exchange = exchange
        return None

    async def release(self) -> list[Outcome]:
        """Let it arrive; what the worker did with it."""
        assert self.exchange is not None
        await self.exchange.deliver()
        return self.exchange.outcomes[-1]


class Proxy:
    """An async context manager; set ``plan`` for the envelopes to come, read ``exchanges`` for those that came."""

    def __init__(self, worker: Node) -> None:
        self.worker = worker
        self.port = PORTS.take()
        self.plan: deque[Step] = deque()
        self.exchanges: list[Exchange] = []
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """What the API node's cluster file has in place of the worker's own URL."""
        return f"http://127.0.0.1:{self.port}/worker"

    @property
    def outcomes(self) -> list[Outcome]:
        """What the worker did with every copy of every batch."""
        return [one for exchange in self.exchanges for copy in exchange.outcomes for one in copy]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, limit=READ_MOST)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        PORTS.give_back(self.port)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A side that is gone ends the connection, as a network would.
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                exchange = Exchange(await read_message(reader), self.worker)
                step: Step = pass_on
                if exchange.request.startswith(b"POST /worker/batches "):
                    self.exchanges.append(exchange)
                    if self.plan:
                        step = self.plan.popleft()
                reply = await step(exchange)
                if reply is None:
                    return
                writer.write(reply)
                await writer.drain()
                if exchange.hang_up:
                    return


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """A request or a response: its head, and the body that its Content-Length announces."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head + await reader.readexactly(length)
