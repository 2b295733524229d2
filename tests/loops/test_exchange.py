"""The lean client between the nodes, over real sockets, on the loop of the product and on asyncio's own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import pytest

from api_node.exchange import Exchange, NoConnection, NotHttp, Reply, TooLong
from tests.support.ports import PORTS

BODY_MAX = 100_000
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[object, object, None]]


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[str]:
    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    async with await asyncio.start_server(one, "127.0.0.1", 0) as server:
        yield "http://127.0.0.1:{1}/worker".format(*server.sockets[0].getsockname())


async def request_of(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """One request: its head and its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    size = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
    return head, await reader.readexactly(size)


def answering(*answers: bytes) -> tuple[Serve, list[list[tuple[bytes, bytes]]]]:
    """A server that gives these answers on each connection, then ends it; and what each connection was asked."""
    seen: list[list[tuple[bytes, bytes]]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked: list[tuple[bytes, bytes]] = []
        seen.append(asked)
        for answer in answers:
            asked.append(await request_of(reader))
            for piece in (answer[:10], answer[10:]):
                writer.write(piece)
                await writer.drain()
        await reader.read()

    return serve, seen


@pytest.fixture
async def exchange() -> AsyncIterator[Exchange]:
    async with Exchange(body_bytes_max=BODY_MAX) as found, asyncio.timeout(10):
        yield found


async def test_a_connection_serves_one_call_after_the_other(exchange: Exchange) -> None:
    """Head and body as they were given."""
    serve, seen = answering(OK, OK)
    async with serving(serve) as url:
        replies = [await exchange.post(url + "/batches", body, {"X-A": "b"}) for body in (b"one", b"")]
        host = url.split("/")[2].encode()

    assert replies == [Reply(200, b"ok")] * 2
    assert seen == [
        [
            (b"POST /worker/batches HTTP/1.1\r\nHost: %s\r\nX-A: b\r\nContent-Length: 3\r\n\r\n" % host, b"one"),
            (b"POST /worker/batches HTTP/1.1\r\nHost: %s\r\nX-A: b\r\nContent-Length: 0\r\n\r\n" % host, b""),
        ]
    ]


async def test_calls_at_the_same_time_have_a_connection_each(exchange: Exchange) -> None:
    """None waits for another's answer."""
    both, come = asyncio.Event(), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal come
        _, body = await request_of(reader)
        come += 1
        if come == 2:
            both.set()
        await both.wait()
        writer.write(OK[:-2] + body)

    async with serving(serve) as url:
        replies = await asyncio.gather(*(exchange.post(url, body, {}) for body in (b"aa", b"bb")))

    assert replies == [Reply(200, b"aa"), Reply(200, b"bb")]


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", Reply(503, b"abc")),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, Reply(200, b"ok")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", Reply(204, b"")),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", Reply(302, b"")),
    ],
    ids=["in chunks", "announced", "no body", "elsewhere"],
)
async def test_answers_are_read_as_http_has_them(exchange: Exchange, answer: bytes, reply: Reply) -> None:
    """Proxies between the nodes may write them in their own way; no redirection is followed."""
    serve, _ = answering(answer)
    async with serving(serve) as url:
        found = await exchange.post(url, b"x", {})

    assert found == reply


@pytest.mark.parametrize(
    "last",
    [OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), OK.replace(b"1.1", b"1.0")],
    ids=["says so", "older"],
)
async def test_a_connection_that_ends_is_not_used_again(exchange: Exchange, last: bytes) -> None:
    serve, seen = answering(last)
    async with serving(serve) as url:
        replies = [await exchange.post(url, b"x", {}) for _ in range(2)]

    assert replies == [Reply(200, b"ok")] * 2
    assert [len(asked) for asked in seen] == [1, 1]


@pytest.mark.parametrize("answer", [b"", OK[:-1], b"HTTP/1.1 200 OK\r\n"], ids=["nothing", "cut body", "cut head"])
async def test_an_end_before_the_answer_is_told(exchange: Exchange, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(answer)

    async with serving(serve) as url:
        with pytest.raises(ConnectionResetError):
            await exchange.post(url, b"x", {})


async def test_an_answer_may_end_with_its_connection(exchange: Exchange) -> None:
    """As proxies that refuse something still answer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\nno")

    async with serving(serve) as url:
        found = await exchange.post(url, b"x", {})

    assert found == Reply(403, b"no")


async def test_what_is_no_http_is_told(exchange: Exchange) -> None:
    serve, _ = answering(b"SSH-2.0\r\n\r\n")
    async with serving(serve) as url:
        with pytest.raises(NotHttp):
            await exchange.post(url, b"x", {})


@pytest.mark.parametrize("coded", [b"Content-Length: 100001\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n186a1\r\n"])
async def test_an_answer_over_its_bound_is_told(exchange: Exchange, coded: bytes) -> None:
    """However it says its length; up to the bound it is read."""
    serve, _ = answering(b"HTTP/1.1 200 OK\r\n" + coded + bytes(BODY_MAX + 1))
    fits, _ = answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BODY_MAX + bytes(BODY_MAX))
    async with serving(serve) as url, serving(fits) as other:
        with pytest.raises(TooLong):
            await exchange.post(url, b"x", {})

        assert (await exchange.post(other, b"x", {})).body == bytes(BODY_MAX)


async def test_nobody_there_is_told(exchange: Exchange) -> None:
    port = PORTS.take()

    with pytest.raises(NoConnection):
        await exchange.post(f"http://127.0.0.1:{port}/", b"x", {})
    with pytest.raises(socket.gaierror):
        await exchange.post("http://nobody.invalid/", b"x", {})
    PORTS.give_back(port)


async def test_a_call_that_is_given_up_takes_its_connection_along(exchange: Exchange) -> None:
    """Its answer, which comes late, must not pass for the next one's."""
    late, seen = asyncio.Event(), []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, body = await request_of(reader)
        seen.append(body)
        if body == b"slow":
            await late.wait()
        writer.write(OK[:-2] + body[:2])
        await reader.read()

    async with serving(serve) as url:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await exchange.post(url, b"slow", {})
        late.set()
        found = await exchange.post(url, b"next", {})

    assert found == Reply(200, b"ne")
    assert seen == [b"slow", b"next"]


async def test_an_answer_that_nobody_asked_for_ends_the_connection(exchange: Exchange) -> None:
    serve, seen = answering(OK + OK)
    async with serving(serve) as url:
        replies = [await exchange.post(url, b"x", {}) for _ in range(2)]

    assert replies == [Reply(200, b"ok")] * 2
    assert len(seen) == 2


async def test_of_a_server_that_is_gone_nothing_is_kept(exchange: Exchange) -> None:
    """Workers move, and certificates are renewed, for as long as a node runs."""
    for _ in range(3):
        serve, _ = answering(OK)
        async with serving(serve) as url:
            await exchange.post(url, b"x", {})
            exchange.free[url.removesuffix("/worker"), None][0].close()

    assert len(exchange.free) == 1
