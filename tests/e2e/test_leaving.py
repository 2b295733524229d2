"""A node leaves while clients keep coming, each with a connection of its own: who gets through to it is served.

::

    SIGTERM ---- drain, 1 s ---- last call ---- nobody listens
              connect: served      connect: refused, a little later: whoever it is may ask another node
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.cluster import FIRST, Cluster
from tests.support.events import Post, tally, user

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a connection that waits to be accepted is reset"),
]

CLIENTS = 8


async def come_until_refused(port: int, number: int, seen: Counter[str]) -> None:
    """Post an event over a new connection, again and again, until nobody listens."""
    for one in itertools.count():
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            return
        post = Post(at=FIRST, user=user(f"{number}-{one}"))
        try:
            writer.write(f"POST /analytics?{post.query} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n".encode())
            seen[(await reader.readline()).decode().strip() or "connection ended"] += 1
        except ConnectionError as error:
            seen[repr(error)] += 1
        finally:
            writer.close()


@pytest.mark.parametrize("options", [(), ("--processes", "2")], ids=["one process", "two processes"])
async def test_whoever_gets_through_to_a_node_that_leaves_is_served(tmp_path: Path, options: tuple[str, ...]) -> None:
    """No connection that came about is reset, or answered with 503, however late: the node counts all of them."""
    async with Cluster(tmp_path, start=False) as cluster:
        node = cluster.api["0"]
        node.options = options
        await cluster.start(*cluster.nodes)
        seen = Counter[str]()
        clients = [asyncio.create_task(come_until_refused(node.port, number, seen)) for number in range(CLIENTS)]
        while seen.total() < 100:
            await asyncio.sleep(0)
        node.ask_to_stop()
        await asyncio.gather(*clients)
        code = await node.exited()
        await cluster.start(node)
        counted = await cluster.summary(FIRST)

    assert dict(seen) == {"HTTP/1.1 202 Accepted": seen.total()}
    assert counted == tally(seen.total(), seen.total(), 0)
    assert code == 0
