"""Posting many events over many connections: a small HTTP/1.1 client, so that the nodes are the slow part."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

from tests.support.events import Post

PATIENCE_SECONDS = 30.0  # for an event that is sent again until it is acknowledged


class Connection:
    """One kept-alive connection to a node; made again when it breaks."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def request(self, method: str, target: str, *, seconds: float = 30) -> tuple[int, str]:
        """Ask, and read status and body.

        Raises:
            OSError: no answer came; it is not known whether the request was served. A TimeoutError is one.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._request(
                    f"{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n".encode()
                )
        except asyncio.IncompleteReadError as error:
            self.close()
            raise ConnectionResetError("the connection ended before the answer") from error
        except OSError:
            self.close()
            raise

    async def post(self, post: Post) -> tuple[int, str]:
        """Post an event."""
        return await self.request("POST", f"/analytics?{post.query}")

    async def _request(self, head: bytes) -> tuple[int, str]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(head)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, length, keep = int(answer[9:12]), 0, True
        for line in answer.split("\r\n")[1:]:
            name, _, value = line.partition(":")
            if name.lower() == "content-length":
                length = int(value)
            elif name.lower() == "connection":
                keep = value.strip().lower() != "close"
        body = (await reader.readexactly(length)).decode()
        if not keep:
            self.close()
        return status, body


async def pour(posts: Iterable[Post], ports: Sequence[int], *, connections: int = 20) -> Counter[int]:
    """Post every event once, over connections shared evenly among the API nodes at ``ports``.

    Returns:
        How often each status was answered.
    """
    todo = iter(posts)
    statuses = Counter[int]()

    async def work(port: int) -> None:
        async with Connection(port) as connection:
            for post in todo:
                status, _ = await connection.post(post)
                statuses[status] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(connections):
            group.create_task(work(ports[number % len(ports)]))
    return statuses


async def pour_until_taken(posts: Iterable[Post], ports: Sequence[int], *, connections: int = 20) -> Counter[str]:
    """Post every event again and again until it is acknowledged, as a careful client does; each must have an id.

    Returns:
        How often each way to fail was met: statuses as text, and ``no answer``.

    Raises:
        AssertionError: an event was refused for good, or not taken within PATIENCE_SECONDS.
    """
    todo = iter(posts)
    failures = Counter[str]()

    async def work(number: int) -> None:
        port = ports[number % len(ports)]
        async with Connection(port) as connection:
            for post in todo:
                assert post.id is not None
                await _insist(connection, post, failures)

    async with asyncio.TaskGroup() as group:
        for number in range(connections):
            group.create_task(work(number))
    return failures


async def _insist(connection: Connection, post: Post, failures: Counter[str]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            status, body = await connection.post(post)
        except OSError:
            failures["no answer"] += 1
        else:
            if status in (202, 204):
                return
            failures[str(status)] += 1
            assert status == 503, f"{status}: {body}"
        assert time.monotonic() < deadline, f"an event was not taken in {PATIENCE_SECONDS:g} s: {failures}"
        await asyncio.sleep(0.05)


class Stream:
    """Events without end, until told to stop: load that runs beside what a test does.

    ``sent`` are those acknowledged.
    """

    def __init__(
        self, posts: Iterator[Post], ports: Sequence[int], *, connections: int = 8, insist: bool = False
    ) -> None:
        self._posts = posts
        self._ports = ports
        self._connections = connections
        self._insist = insist
        self._stopped = False
        self._task: asyncio.Task[None] | None = None
        self.sent: list[Post] = []
        self.failures = Counter[str]()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Stop, and wait for what is under way to be answered."""
        assert self._task is not None
        self._stopped = True
        if error is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            return
        await self._task

    async def grow(self, more: int, *, seconds: float = 20) -> None:
        """Wait until that many more events are acknowledged."""
        goal, deadline = len(self.sent) + more, time.monotonic() + seconds
        while len(self.sent) < goal:
            assert self._task is not None
            assert not self._task.done(), self._task.exception()
            assert time.monotonic() < deadline, f"{len(self.sent)} of {goal} events in {seconds} s; {self.failures}"
            await asyncio.sleep(0.01)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._connections):
                group.create_task(self._work(self._ports[number % len(self._ports)]))

    async def _work(self, port: int) -> None:
        async with Connection(port) as connection:
            while not self._stopped:
                post = next(self._posts)
                if self._insist:
                    await _insist(connection, post, self.failures)
                else:
                    status, body = await connection.post(post)
                    assert status == 202, f"{status}: {body}"
                self.sent.append(post)
