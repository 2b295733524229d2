"""A server that says what a test tells it to, byte by byte: for clients that must bear any answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

Answer = list[bytes] | None
"""The pieces that are written one after the other; None: the connection is cut."""


def answer(status: int = 202, body: bytes = b"", *, head: str = "") -> list[bytes]:
    """A proper answer in one piece."""
    return [f"HTTP/1.1 {status} Whatever\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body]


class Speaker:
    """An async context manager: a server at a port of its own.

    Args:
        say: the answer to a request, given the request and how many came before it.

    Attributes:
        requests: all that came, whole.
        connections: how many connections there were.
        asked: set whenever a request has come.
    """

    def __init__(self, say: Callable[[bytes, int], Answer] = lambda _, __: answer()) -> None:
        self._say = say
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.StreamWriter, asyncio.Task[object] | None] = {}
        self.requests: list[bytes] = []
        self.connections = 0
        self.asked = asyncio.Event()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Likewise."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        serving = [task for task in self._open.values() if task is not None]
        self.hang_up()
        await asyncio.gather(*serving)
        await self._server.wait_closed()

    def hang_up(self) -> None:
        """End every connection."""
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open[writer] = asyncio.current_task()
        try:
            while True:
                await self._answer(await _request(reader), writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            del self._open[writer]
            writer.close()

    async def _answer(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        said = self._say(request, len(self.requests))
        self.requests.append(request)
        self.asked.set()
        if said is None:
            writer.transport.abort()
            return
        for piece in said:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)  # let the piece go by itself


async def _request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next((int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")), 0)
    return head + await reader.readexactly(length)
