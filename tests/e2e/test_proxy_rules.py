"""What the proxies of ``deploy/`` do with single requests: seen from scripted nodes behind them.

``docs/deploy.md`` lists the rules.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.events import CANARY
from tests.support.front import Front
from tests.support.load import Connection
from tests.support.patience import eventually
from tests.support.ports import PORTS

pytestmark = pytest.mark.e2e

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLIENT = "127.0.0.9"  # all of 127/8 is this machine; the nodes are at 127.0.0.1
MIB = 1 << 20

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def answer_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


@dataclass(eq=False)
class Scripted:
    """A node that is ready, and for the rest does what its script says with each request; ``heads`` are what came."""

    port: int
    script: Script = answer_ok
    heads: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                if head.startswith("GET /readyz "):
                    writer.write(OK)
                else:
                    self.heads.append(head)
                    await self.script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest_asyncio.fixture
async def nodes() -> AsyncIterator[list[Scripted]]:
    found = [Scripted(PORTS.take()) for _ in range(2)]
    servers = [await asyncio.start_server(node.serve, "127.0.0.1", node.port, limit=64 * MIB) for node in found]
    yield found
    for server, node in zip(servers, found, strict=True):
        server.close()
        PORTS.give_back(node.port)


@pytest_asyncio.fixture(params=["haproxy", "nginx"])
async def front(nodes: list[Scripted], tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Front]:
    async with Front(request.param, [node.port for node in nodes], tmp_path) as front:
        await eventually(lambda: knows_both(front, nodes))
        yield front


async def knows_both(front: Front, nodes: list[Scripted]) -> None:
    async with Connection(front.port) as connection:
        for _ in nodes:
            assert (await connection.request("GET", "/known"))[0] == 200
    assert all(node.heads for node in nodes)
    for node in nodes:
        node.heads.clear()


async def connect(front: Front) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As a client with an address of its own."""
    return await asyncio.open_connection("127.0.0.1", front.port, local_addr=(CLIENT, 0))


async def ask(front: Front, head: str, body: bytes = b"") -> int:
    """The status of the answer."""
    reader, writer = await connect(front)
    writer.write(f"{head}\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    line = await asyncio.wait_for(reader.readline(), 20)
    writer.close()
    return int(line.split()[1])


async def test_an_event_that_was_sent_is_not_sent_again(front: Front, nodes: list[Scripted]) -> None:
    """A node that hangs up instead of answering may have counted it: the client is told, no other node is asked."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise ConnectionError

    for node in nodes:
        node.script = hang_up
    statuses = [
        await ask(front, "POST /analytics?user=ada&click HTTP/1.1"),
        await ask(front, "POST /events HTTP/1.1", b'{"user": "ada"}'),
    ]

    assert statuses == [502, 502]
    assert sum(len(node.heads) for node in nodes) == 2


async def test_an_event_goes_on_to_a_node_that_listens(nodes: list[Scripted], tmp_path: Path) -> None:
    """Where no connection comes about nothing was sent: nginx, which asks nobody for health, goes to the other node."""
    nobody = PORTS.take()
    async with Front("nginx", [nobody, nodes[0].port], tmp_path) as front:
        statuses = [await ask(front, "POST /events HTTP/1.1", b"{}") for _ in range(4)]
    PORTS.give_back(nobody)

    assert statuses == [200] * 4
    assert len(nodes[0].heads) == 4


async def test_a_node_that_is_not_ready_gets_nothing_from_haproxy(nodes: list[Scripted], tmp_path: Path) -> None:
    """It says so a second before it leaves: by then it has to be noticed."""
    not_ready = Scripted(PORTS.take())

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        not_ready.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", not_ready.port)
    async with Front("haproxy", [not_ready.port, nodes[0].port], tmp_path) as front:

        async def noticed() -> None:
            before = len(not_ready.heads)
            assert [await ask(front, "POST /events HTTP/1.1", b"{}") for _ in range(4)] == [200] * 4
            assert not [head for head in not_ready.heads[before:] if not head.startswith("GET /readyz ")]

        await eventually(noticed, seconds=20)
        assert "api-0 is DOWN" in front.logged
    server.close()
    PORTS.give_back(not_ready.port)


async def test_the_clients_address_is_set_not_added_to(front: Front, nodes: list[Scripted]) -> None:
    """Whoever claims another one is not believed; the nodes hear of the address, and of http or https."""
    assert await ask(front, "GET /cluster HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https") == 200
    (head,) = [head for node in nodes for head in node.heads]
    lines = [line.lower() for line in head.split("\r\n")]

    assert f"x-forwarded-for: {CLIENT}" in lines
    assert "x-forwarded-proto: http" in lines
    assert "192.0.2.1" not in head
    assert "https" not in head


async def test_what_is_logged_names_nobody(front: Front, nodes: list[Scripted]) -> None:
    """Of a request that failed: method, path and status; never the query, the body or the client's address."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise ConnectionError

    for node in nodes:
        node.script = hang_up
    assert await ask(front, f"GET /analytics?user={CANARY} HTTP/1.1") == 502
    assert await ask(front, f"POST /events HTTP/1.1\r\nX-Name: {CANARY}", CANARY.encode()) == 502
    # No HTTP at all, which is quoted gladly.
    _, writer = await connect(front)
    writer.write(f"{CANARY} {CANARY}\r\n\r\n".encode())
    writer.close()

    async def logged() -> None:
        assert "GET /analytics -> 502" in front.logged
        assert "POST /events -> 502" in front.logged

    await eventually(logged)
    assert CANARY not in front.logged
    assert CLIENT not in front.logged


async def test_bodies_as_large_as_the_nodes_take(front: Front, nodes: list[Scripted]) -> None:
    """16 MiB reach the node, byte by byte."""
    body = bytes(range(256)) * (16 * MIB // 256)
    got: list[bytes] = []

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readexactly(len(body)))
        writer.write(OK)

    for node in nodes:
        node.script = read

    assert await ask(front, "POST /events HTTP/1.1", body) == 200
    assert got == [body]


async def test_live_is_handed_on_as_it_comes(front: Front, nodes: list[Scripted]) -> None:
    """Each event of the stream reaches the client while the next one is not even there."""
    heard = asyncio.Event()

    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: 1\n\n")
        await heard.wait()
        writer.write(b"data: 2\n\n")
        raise ConnectionError

    for node in nodes:
        node.script = stream
    reader, writer = await connect(front)
    writer.write(b"GET /live HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(20):
        first = await reader.readuntil(b"data: 1\n\n")
        heard.set()
        rest = await reader.read()
    writer.close()

    assert first.startswith(b"HTTP/1.1 200")
    assert b"data: 2\n\n" in rest


async def test_websocket_passes(front: Front, nodes: list[Scripted]) -> None:
    """The connection is upgraded, and bytes go both ways."""
    key = "dGhlIHNhbXBsZSBub25jZQ=="  # with what belongs to it, from RFC 6455
    upgraded = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

    async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 101 Switching Protocols\r\n{upgraded}".encode())
        writer.write((await reader.readexactly(4)).upper())

    for node in nodes:
        node.script = upgrade
    reader, writer = await connect(front)
    writer.write(
        b"GET /events HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        + f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"ping")
        back = await reader.readexactly(4)
    writer.close()

    assert head.startswith(b"HTTP/1.1 101")
    assert back == b"PING"


async def test_metrics_are_not_handed_on(front: Front, nodes: list[Scripted]) -> None:
    """They would be one node's, whichever it is. However the path is written: nodes decode it."""
    assert await ask(front, "GET /metrics HTTP/1.1") == 404
    assert await ask(front, "GET /%6detrics HTTP/1.1") == 404
    assert await ask(front, "GET /metrics?a=b HTTP/1.1") == 404
    assert not [head for node in nodes for head in node.heads]


async def test_connections_to_the_nodes_are_kept(front: Front, nodes: list[Scripted]) -> None:
    """A client's requests share few connections: the nodes see no new one for each."""
    made: list[object] = []

    async def remember(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.append(writer.get_extra_info("peername"))
        writer.write(OK)

    for node in nodes:
        node.script = remember
    async with Connection(front.port) as connection:
        for _ in range(20):
            assert (await connection.request("POST", "/analytics?click"))[0] == 200

    assert len(made) == 20
    assert len(set(made)) <= 4
