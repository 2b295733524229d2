"""A bad network below HTTP: a TCP proxy between one API node and one worker, whose condition can change at any moment.

::

    api-0 --> Wire --> worker-0         each API node's cluster file names its wires as the workers' URLs,
    api-0 --> Wire --> worker-1         each worker's own file its real one
    api-1 --> Wire --> worker-0
    ...

``tests/support/proxy.py`` loses and doubles whole envelopes as a test says; here bytes get lost, late, doubled or cut
wherever they happen to be.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.support.cluster import Node
from tests.support.ports import PORTS

_GONE = (OSError, RuntimeError)  # uvloop says the latter of a transport that was aborted
CHUNK_BYTES = 64 << 10
UP, DOWN = 0, 1  # to the worker; from the worker


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """How a wire is.

    Attributes:
        cut: connections are reset, the ones there are and every new one.
        half_open: what is sent is lost in both directions, and nobody is told; a connection that has seen this never
            recovers, as if the other side had been replaced.
        held: directions in which nothing arrives for now. What was sent arrives in the end, however late, even if the
            sender has given up the connection meanwhile.
        delay_seconds: how much later everything arrives.
        cut_after: each connection is reset after so many bytes, drawn between the two.
        copies: how many connections to the worker carry the same requests; the first one's replies are used.
    """

    cut: bool = False
    half_open: bool = False
    held: frozenset[int] = frozenset()
    delay_seconds: float = 0.0
    cut_after: tuple[int, int] | None = None
    copies: int = 1


CLEAR = Condition()


@dataclass(eq=False, slots=True)
class _Connection:
    """One connection of the API node, and those to the worker that carry it on."""

    near: asyncio.StreamWriter
    far: list[asyncio.StreamWriter] = field(default_factory=list)
    dead: bool = False
    budget: int | None = None  # bytes until it is cut

    def abort(self) -> None:
        for writer in (self.near, *self.far):
            writer.transport.abort()


class Wire:
    """An async context manager; set ``condition`` by ``become``.

    Attributes:
        accepted: how many connections there were.
        disturbed: how many chunks of bytes, or connections, met something else than a clear network.
    """

    def __init__(self, worker: Node, *, rng: random.Random) -> None:
        self.worker = worker
        self.port = PORTS.take()
        self.condition = CLEAR
        self.accepted = 0
        self.disturbed = 0
        self._rng = rng
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """What the API node's cluster file has in place of the worker's own URL."""
        return f"http://127.0.0.1:{self.port}/worker"

    def become(self, condition: Condition) -> None:
        """Change, at once and for everything on the way."""
        self.condition = condition
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        for connection in list(self._connections):
            connection.dead = connection.dead or condition.half_open
            connection.budget = self._budget()
            # Copies are made when a connection is: those of another number make place.
            if condition.cut or len(connection.far) != condition.copies:
                self.disturbed += condition.cut
                connection.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, backlog=512)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        PORTS.give_back(self.port)

    def _budget(self) -> int | None:
        return None if self.condition.cut_after is None else self._rng.randint(*self.condition.cut_after)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(writer, dead=self.condition.half_open, budget=self._budget())
        if self.condition.cut:
            self.disturbed += 1
            connection.abort()
            return
        self._connections.add(connection)
        try:
            pumps = []
            for copy in range(self.condition.copies):
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.worker.port)
                connection.far.append(far_writer)
                to = writer if copy == 0 else None
                pumps.append(self._pump(connection, far_reader, DOWN, to))
            self.disturbed += len(connection.far) - 1
            await asyncio.gather(self._pump(connection, reader, UP, None), *pumps)
        except _GONE:
            pass  # a side that is gone ends the connection, as a network would
        finally:
            self._connections.discard(connection)
            connection.abort()

    async def _pump(
        self, connection: _Connection, reader: asyncio.StreamReader, way: int, to: asyncio.StreamWriter | None
    ) -> None:
        """Carry bytes one way until they end; upwards to every copy, downwards to ``to``, or nowhere."""
        targets = connection.far if way == UP else [to] if to is not None else []
        while chunk := await reader.read(CHUNK_BYTES):
            if not await self._passes(connection, way):
                continue
            if connection.budget is not None:
                chunk, rest = chunk[: connection.budget], chunk[connection.budget :]
                connection.budget -= len(chunk)
                if rest:
                    self.disturbed += 1
                    for target in targets:
                        target.write(chunk)
                        with contextlib.suppress(*_GONE):
                            await target.drain()
                    raise ConnectionResetError("its bytes are used up")
            for target in targets:
                target.write(chunk)
                await target.drain()
        # The end travels the same way as the bytes before it.
        if await self._passes(connection, way):
            for target in targets:
                with contextlib.suppress(*_GONE):
                    target.write_eof()

    async def _passes(self, connection: _Connection, way: int) -> bool:
        """Wait as long as what goes this way is kept; whether it arrives at all."""
        if self.condition.delay_seconds:
            self.disturbed += 1
            await asyncio.sleep(self.condition.delay_seconds * (0.5 + self._rng.random()))
        if way in self.condition.held:
            self.disturbed += 1
        while way in self.condition.held:
            await self._changed.wait()
        if connection.dead:
            self.disturbed += 1
        return not connection.dead
