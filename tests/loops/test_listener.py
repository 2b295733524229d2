"""Connections within deadlines and bounds: over real sockets, on the loop of the product and on asyncio's own."""

from __future__ import annotations

import asyncio
import io
import resource
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from common.bodies import Bodies, read_body
from common.edge import Edge
from common.errors import Malformed
from common.hot import HOT, HotRoutes, quick_answer
from common.lane import HELD_BYTES_MAX, Head, PlainHandler, Send
from common.listener import (
    CONNECTIONS_MAX,
    DESCRIPTORS_WANTED,
    HEAD_BYTES_MAX,
    HEADERS_MAX,
    LINE_BYTES_MAX,
    SMALL_BYTES,
    Limits,
    Runner,
    connections_bound,
    free_descriptors,
    raise_descriptors,
)
from common.logs import new_log
from common.metrics import Metrics
from common.web import Health, add_probes
from tests.support.codings import CODINGS
from tests.support.events import CANARY
from tests.support.patience import eventually
from tests.support.ports import PORTS

PLENTY = Limits(linger_seconds=0.1)
BODY_MAX = 100_000
BIG = 32 << 20  # more than the kernel's buffers of both ends take
WHOLE = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"


class Client:
    """One connection, and the bytes that came over it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *pieces: bytes) -> None:
        self.writer.write(b"".join(pieces))

    async def drip(self, text: bytes, *, seconds: float) -> None:
        """A byte at a time, until all are sent or the other side has had enough."""
        for at in range(len(text)):
            if self.writer.is_closing() or self.reader.at_eof():
                return
            self.writer.write(text[at : at + 1])
            await asyncio.sleep(seconds)

    async def rest(self) -> bytes:
        """Everything until the other side ends the connection."""
        try:
            async with asyncio.timeout(10):
                return await self.reader.read()
        except ConnectionError:
            return b""

    async def answer(self) -> tuple[int, bytes]:
        """One answer of the connection: status and body."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            size = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0
            )
            return int(head.split(b" ", 2)[1]), await self.reader.readexactly(size)


class Place:
    """A served application."""

    def __init__(self, port: int, metrics: Metrics, log: io.StringIO, runner: Runner) -> None:
        self.end = runner.cleanup
        self.metrics = metrics
        self.log = log
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers.append(writer)
        return Client(reader, writer)

    async def ask(self, *pieces: bytes) -> bytes:
        """Send some bytes on a connection of their own; all that comes back."""
        client = await self.connect()
        client.send(*pieces)
        return await client.rest()

    def leave(self) -> None:
        for writer in self._writers:
            writer.close()

    def ended(self, reason: str) -> float:
        """How many connections the node ended for a reason."""
        name = "tallyslice_connections_ended_total"
        return self.metrics.registry.get_sample_value(name, {"reason": reason}) or 0.0

    @property
    def open(self) -> float:
        return self.metrics.registry.get_sample_value("tallyslice_connections") or 0.0


async def echo(request: web.Request) -> web.StreamResponse:
    return web.Response(body=await read_body(request, seconds=0.2))


async def big(_: web.Request) -> web.StreamResponse:
    return web.Response(body=bytes(BIG))


async def quick(_: web.Request) -> web.StreamResponse:
    return quick_answer(200, body=bytes(BIG))


async def short(request: web.Request) -> web.StreamResponse:
    return quick_answer(200, body=(await read_body(request)) or b"nothing")


def plain(_: str, __: Head, send: Send) -> None:
    send(quick_answer(200, body=bytes(BIG)))


WAYS = pytest.mark.parametrize("path", [b"/big", b"/quick", b"/plain"], ids=["application", "hot", "lane"])


@asynccontextmanager
async def served(
    limits: Limits = PLENTY,
    *,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]] = echo,
    in_lane: PlainHandler = plain,
) -> AsyncIterator[Place]:
    written, metrics = io.StringIO(), Metrics()
    edge = Edge(metrics=metrics, log=new_log("api-0", stream=written))
    app = web.Application(middlewares=[edge.middleware], client_max_size=BODY_MAX)
    app.router.add_post("/echo", handler)
    app.router.add_get("/big", big)
    app.router.add_get("/quick", quick)
    app.router.add_get("/plain", quick)
    app.router.add_post("/plain", short)
    app.router.add_route("*", "/short", short)
    hot = app[HOT] = HotRoutes()
    hot.add("GET", "/quick", edge.hot("GET", "/quick", quick))
    hot.plain[b"GET /plain"] = edge.plain("GET", "/plain", in_lane)
    for method in ("GET", "POST"):
        hot.add(method, "/short", edge.hot(method, "/short", short))
    add_probes(app, health=Health(), metrics=metrics)
    runner = Runner(app, limits=limits)
    port = PORTS.take()
    place = Place(port, metrics, written, runner)
    try:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield place
    finally:
        place.leave()
        await runner.cleanup()
        PORTS.give_back(port)
    assert CANARY not in written.getvalue()


# --- the head


@pytest.mark.parametrize("begun", [b"", b"GET /livez HTTP/1.1\r\nHost: x\r\n", b"\r\n"])
async def test_a_head_that_does_not_come_is_408(begun: bytes) -> None:
    """Whether nothing comes at all, or not everything."""
    async with served(Limits(head_seconds=0.1)) as place:
        answer = await place.ask(begun)

        assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b"Connection: close\r\n" in answer
        assert b"urn:tallyslice:problem:too-slow" in answer
        assert place.ended("late_head") == 1


async def test_a_dripping_head_is_408_too() -> None:
    """The time is for all of it, not from byte to byte."""
    async with served(Limits(head_seconds=0.2)) as place:
        client = await place.connect()
        dripping = asyncio.create_task(client.drip(b"GET /livez HTTP/1.1\r\nX-Long: " + b"x" * 1000, seconds=0.02))
        answer = await client.rest()
        await dripping

        assert answer.startswith(b"HTTP/1.1 408 ")


async def test_the_next_head_of_a_connection_has_its_own_time() -> None:
    """It begins with its first byte: an idle connection is not a slow one."""
    async with served(Limits(head_seconds=0.1)) as place:
        client = await place.connect()
        client.send(WHOLE)
        first = await client.answer()
        await asyncio.sleep(0.2)
        client.send(WHOLE)
        second = await client.answer()
        client.send(WHOLE[:20])
        late = await client.rest()

        assert first == second == (200, b"abc")
        assert late.startswith(b"HTTP/1.1 408 ")


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with served(Limits(idle_seconds=0.1)) as place:
        client = await place.connect()
        client.send(WHOLE)
        answer = await client.answer()

        assert answer == (200, b"abc")
        assert await client.rest() == b""


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /livez?" + CANARY.encode() + b"x" * LINE_BYTES_MAX + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + CANARY.encode() + b"x" * LINE_BYTES_MAX + b"\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n" + (b"X: " + CANARY.encode() + b"\r\n") * HEADERS_MAX + b"\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n" + (b"X: " + CANARY.encode() * 300 + b"\r\n") * 20, 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + CANARY.encode(), 400),
        (CANARY.encode() + b" /livez HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ],
    ids=["line", "header", "headers", "all", "tls", "method"],
)
async def test_a_head_over_its_bounds_is_refused_and_not_quoted(head: bytes, status: int) -> None:
    async with served() as place:
        answer = await place.ask(head)

        assert answer.startswith(b"HTTP/1.%d %d " % (answer[7] - 48, status))
        assert CANARY.encode()[:6] not in answer
        assert place.ended("not_http" if status == 400 else "head_too_large") == 1


async def test_who_still_sends_a_head_that_is_too_large_sees_why() -> None:
    """The connection stays for a moment: closed with something unread, it would take the answer along."""
    async with served(Limits(linger_seconds=0.2)) as place:
        client = await place.connect()
        client.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
        for _ in range(200):
            client.send(b"X: " + b"x" * 8000 + b"\r\n")
        answer = await client.answer()
        await eventually(lambda: said(place.open == 0))

        assert answer[0] == 431


async def test_as_many_headers_as_are_allowed_pass() -> None:
    async with served() as place:
        answer = await place.ask(
            b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", b"X: y\r\n" * (HEADERS_MAX - 2), b"\r\n"
        )

        assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_long_head_in_pieces_passes_below_the_bound() -> None:
    async with served() as place:
        client = await place.connect()
        client.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
        for _ in range(4):
            client.send(b"X: " + b"x" * (HEAD_BYTES_MAX // 5) + b"\r\n")
            await asyncio.sleep(0.01)
        client.send(b"\r\n")

        assert (await client.answer())[0] == 200


# --- the body


async def test_a_dripping_body_is_408() -> None:
    async with served() as place:
        client = await place.connect()
        client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        dripping = asyncio.create_task(client.drip(b"x" * 1000, seconds=0.02))
        answer = await client.answer()
        client.writer.close()
        await dripping

        assert answer[0] == 408


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def posted(*headers: bytes) -> bytes:
    return b"\r\n".join((b"POST /echo HTTP/1.1", b"Host: x", b"Connection: close", *headers, b"", b""))


CHUNKED = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize("over", [0, 1])
async def test_chunks_up_to_the_bound(over: int) -> None:
    """Exactly the bound is taken, one byte more is 413."""
    pieces = [b"x" * 1000] * (BODY_MAX // 1000) + [b"x"] * over
    async with served() as place:
        answer = await place.ask(posted(CHUNKED), chunked(*pieces))

        assert answer.startswith(b"HTTP/1.1 413 " if over else b"HTTP/1.1 200 ")


async def test_a_length_over_the_bound_is_413_before_the_body_comes() -> None:
    async with served(Limits(linger_seconds=0.1)) as place:
        client = await place.connect()
        client.send(posted(b"Content-Length: %d" % (BODY_MAX + 1)))

        assert (await client.answer())[0] == 413


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("sent", ["whole", "chunked"])
async def test_a_compressed_body_is_inflated(coding: str, sent: str) -> None:
    content = b"user=ada&click" * 1000
    body = CODINGS[coding](content)
    how = CHUNKED if sent == "chunked" else b"Content-Length: %d" % len(body)
    async with served() as place:
        answer = await place.ask(
            posted(b"Content-Encoding: " + coding.encode(), how),
            chunked(body[:9], body[9:]) if sent == "chunked" else body,
        )

        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\n" + content)


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_bomb_is_413(coding: str) -> None:
    """A body that would become a thousand times its size."""
    bomb = CODINGS[coding](bytes(50 * BODY_MAX))
    async with served() as place:
        answer = await place.ask(
            posted(b"Content-Encoding: " + coding.encode(), b"Content-Length: %d" % len(bomb)), bomb
        )

        assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("coding", [None, *CODINGS])
@pytest.mark.parametrize("more", [0, 1], ids=["at the bound", "over it"])
async def test_a_handler_may_take_more_than_the_rest_of_its_node(coding: str | None, more: int) -> None:
    """Up to a bound of its own, as it came and inflated, whatever the application's is."""
    bound = 16 << 20

    async def large(request: web.Request) -> web.StreamResponse:
        body = await read_body(request, bytes_max=bound)
        return web.Response(text=f"{len(body)} {body == bytes(len(body))}")

    body = bytes(bound + more) if coding is None else CODINGS[coding](bytes(bound + more))
    heads = [b"Content-Length: %d" % len(body)] + [b"Content-Encoding: " + (coding or "").encode()] * bool(coding)
    async with served(handler=large) as place:
        client = await place.connect()
        client.send(posted(*heads), body)
        status, text = await client.answer()

        assert (status, text) == (200, b"%d True" % bound) if not more else status == 413


class Counted(ThreadPoolExecutor):
    """The loop's threads; counts what they are given to do."""

    given = 0

    def submit(self, fn, /, *args, **kwargs):
        self.given += 1
        return super().submit(fn, *args, **kwargs)


@pytest.mark.parametrize("coding", CODINGS)
async def test_a_large_body_is_inflated_beside_the_loop(coding: str) -> None:
    """What takes the loop's time is done in a thread; a little is done at once, since a thread takes longer."""

    async def large(request: web.Request) -> web.StreamResponse:
        return web.Response(text=f"{len(await read_body(request, bytes_max=1 << 20))}")

    with Counted() as threads:
        asyncio.get_running_loop().set_default_executor(threads)
        async with served(handler=large) as place:
            for size, beside in ((70_000, 0), (1 << 20, 1)):
                body, before = CODINGS[coding](bytes(size)), threads.given
                answer = await place.ask(
                    posted(b"Content-Encoding: " + coding.encode(), b"Content-Length: %d" % len(body)), body
                )

                assert answer.endswith(b"\r\n\r\n%d" % size)
                assert threads.given - before == beside


async def test_another_coding_is_415() -> None:
    async with served() as place:
        answer = await place.ask(posted(b"Content-Encoding: br", b"Content-Length: 1"), b"x")

        assert answer.startswith(b"HTTP/1.1 415 ")


async def test_all_bodies_together_have_a_bound() -> None:
    """What is over it is 503; when the others are answered there is room again."""
    bodies, go_on, begun = Bodies(bytes_max=1500), asyncio.Event(), asyncio.Event()

    async def holds(request: web.Request) -> web.StreamResponse:
        await read_body(request, bodies=bodies)
        begun.set()
        try:
            await go_on.wait()
        finally:
            bodies.release(request)
        return web.Response()

    async with served(handler=holds) as place:
        body = posted(b"Content-Length: 1000") + b"x" * 1000
        first = asyncio.create_task(place.ask(body))
        await begun.wait()
        second = await place.ask(body)
        go_on.set()
        third = await place.ask(body)

        assert (await first).startswith(b"HTTP/1.1 200 ")
        assert second.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1\r\n" in second
        assert third.startswith(b"HTTP/1.1 200 ")


async def test_what_a_body_becomes_counts_too() -> None:
    """A few hundred bytes may become as much as a body may have, many times over."""
    bodies = Bodies(bytes_max=1500)

    async def holds(request: web.Request) -> web.StreamResponse:
        try:
            await read_body(request, bodies=bodies)
            return web.Response(text=f"{bodies.held_bytes}")
        finally:
            bodies.release(request)

    async with served(handler=holds) as place:
        fits, more = CODINGS["zstd"](bytes(1000)), CODINGS["zstd"](bytes(2000))
        first, second, third = [
            await place.ask(posted(b"Content-Encoding: zstd", b"Content-Length: %d" % len(body)) + body)
            for body in (fits, more, fits)
        ]

        assert first.endswith(b"\r\n\r\n%d" % (1000 + len(fits)))
        assert second.startswith(b"HTTP/1.1 503 ")
        assert third.startswith(b"HTTP/1.1 200 ")


async def test_bodies_are_let_go_of_when_they_are_answered() -> None:
    """By the edge, for every handler; whatever became of the request."""
    async with served() as place:
        await place.ask(posted(b"Content-Length: 1000") + b"x" * 1000)
        await place.ask(posted(b"Content-Length: 1000", b"Content-Encoding: gzip") + b"x" * 1000)
        small = CODINGS["gzip"](bytes(1000))
        await place.ask(posted(b"Content-Length: %d" % len(small), b"Content-Encoding: gzip") + small)
        held = place.metrics.registry.get_sample_value("tallyslice_bodies_bytes")

        assert held == 0


# --- the answer


@WAYS
async def test_an_answer_that_is_not_taken_ends_the_connection(path: bytes) -> None:
    """A client that asks for much and reads nothing must not keep it in memory here."""
    async with served(Limits(answer_seconds=0.2)) as place:
        client = await place.connect()
        client.send(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        await eventually(lambda: said(place.ended("late_answer") == 1))
        await eventually(lambda: said(place.open == 0))

        assert len(await client.rest()) < BIG


@WAYS
async def test_closing_does_not_wait_for_a_client_that_reads_nothing(path: bytes) -> None:
    async with served(Limits(answer_seconds=0.2)) as place:
        client = await place.connect()
        client.send(b"GET " + path + b" HTTP/1.0\r\nHost: x\r\n\r\n")
        await eventually(lambda: said(place.open == 0))

        assert place.ended("late_answer") == 1


@WAYS
async def test_a_slow_client_gets_all_of_its_answer(path: bytes) -> None:
    async with served(Limits(answer_seconds=5)) as place:
        client = await place.connect()
        client.send(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.2)
        status, body = await client.answer()

        assert (status, len(body)) == (200, BIG)
        assert place.ended("late_answer") == 0


@WAYS
async def test_all_answers_together_have_a_bound(path: bytes) -> None:
    """What is over it is 503, until somebody has taken theirs."""
    async with served(Limits(linger_seconds=0.1, answers_bytes_max=BIG)) as place:
        first, second = await place.connect(), await place.connect()
        first.send(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.1)
        second.send(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        refused = await second.answer()
        taken = await first.answer()
        second.send(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")

        assert refused[0] == 503
        assert (taken[0], len(taken[1])) == (200, BIG)
        assert (await second.answer())[0] == 200


async def test_what_was_done_is_not_answered_as_if_it_was_not() -> None:
    """However much others have not taken: a short answer goes out, and for a long one it is said that nobody knows.

    Whoever reads 503 unavailable sends his events again, and those that are counted would be counted twice.
    """
    async with served(Limits(linger_seconds=0.1, answers_bytes_max=BIG)) as place:
        slow, client = await place.connect(), await place.connect()
        slow.send(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        await eventually_holds(place)
        client.send(b"POST /short HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        in_a_hot_route = await client.answer()
        client.send(WHOLE)
        in_the_application = await client.answer()
        long = b"x" * (SMALL_BYTES + 1)
        client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(long), long)
        refused = await client.answer()

        assert [in_a_hot_route, in_the_application] == [(200, b"abc"), (200, b"abc")]
        assert refused[0] == 503
        assert b"urn:tallyslice:problem:outcome-unknown" in refused[1]


async def eventually_holds(place: Place) -> None:
    """Until an answer that nobody takes is under way."""

    async def looked() -> None:
        assert place.metrics.registry.get_sample_value("tallyslice_answers_bytes") == BIG

    await eventually(looked)


@WAYS
async def test_requests_behind_an_answer_that_nobody_takes_are_not_answered(path: bytes) -> None:
    """Else one client that asks on and on, and never reads, would have all its answers made."""
    made = 0

    async def count(_: web.Request) -> web.StreamResponse:
        nonlocal made
        made += 1
        return quick_answer(200, body=bytes(BIG)) if path == b"/quick" else web.Response(body=bytes(BIG))

    async with served(handler=count) as place:
        client = await place.connect()
        client.send(*[b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"] * 20)
        other = await place.connect()
        for _ in range(20):  # each a turn of the same loop in which the next answer could have been made
            other.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            await other.answer()

        assert made == 1


async def test_hot_routes_answer_as_others_do() -> None:
    """With a body or none, to HEAD (through the application), to older clients, and to those who want to leave."""
    async with served() as place:
        client = await place.connect()
        client.send(b"POST /short?x=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        posted_body = await client.answer()
        client.send(b"POST /short HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        invited = await client.answer()
        client.send(b"ab")
        after = await client.answer()
        head = await place.ask(b"HEAD /short HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        old = await place.ask(b"GET /short HTTP/1.0\r\n\r\n")
        leaving = await place.ask(b"GET /short HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

        assert [posted_body, invited, after] == [(200, b"abc"), (100, b""), (200, b"ab")]
        assert b"Content-Length: 7\r\n" in head
        assert head.endswith(b"\r\n\r\n")
        for answer in (old, leaving):
            assert b"Connection: close\r\n" in answer
            assert answer.endswith(b"\r\n\r\nnothing")


# --- the lane

PLAIN = b"GET /plain?at=now HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n"


class Asked:
    """A handler of the lane that answers when the test says so."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, Head]] = []
        self.came = asyncio.Event()
        self._sends: list[Send] = []

    def __call__(self, query: str, head: Head, send: Send) -> None:
        self.requests.append((query, head))
        self._sends.append(send)
        self.came.set()

    async def answer(self, body: bytes) -> None:
        await self.came.wait()
        self.came.clear()
        self._sends.pop(0)(quick_answer(200, body=body))


async def test_a_plain_request_is_answered_in_the_lane() -> None:
    """One after the other on a connection; the next one may bring another head."""
    asked = Asked()
    async with served(in_lane=asked) as place:
        client = await place.connect()
        client.send(PLAIN)
        await asked.answer(b"1")
        first = await client.answer()
        client.send(PLAIN.replace(b"text/plain", b"application/json").replace(b"now", b"7"))
        await asked.answer(b"2")

        assert [first, await client.answer()] == [(200, b"1"), (200, b"2")]
        assert asked.requests == [("at=now", Head(accept="text/plain")), ("at=7", Head(accept="application/json"))]


async def test_what_comes_before_the_answer_waits_for_it() -> None:
    """However it is cut; what is behind a plain request is the library's, and answers keep their order."""
    asked = Asked()
    async with served(in_lane=asked) as place:
        client = await place.connect()
        client.send(PLAIN)
        await asked.came.wait()
        client.send(WHOLE[:20])
        client.send(WHOLE[20:], PLAIN)
        await asked.answer(b"1")

        assert [await client.answer() for _ in range(2)] == [(200, b"1"), (200, b"abc")]
        assert (await client.answer())[0] == 200
        assert len(asked.requests) == 1


async def test_a_connection_that_was_not_plain_is_the_librarys_for_good() -> None:
    """So no byte between two of its requests is ever read by two parsers."""
    asked = Asked()
    async with served(in_lane=asked) as place:
        client = await place.connect()
        client.send(WHOLE)
        echoed = await client.answer()
        client.send(PLAIN)

        assert echoed == (200, b"abc")
        assert len((await client.answer())[1]) == BIG
        assert not asked.requests


@pytest.mark.parametrize("cut", [1, 30, len(PLAIN) - 1])
async def test_a_plain_request_in_pieces_is_the_librarys(cut: int) -> None:
    async with served() as place:
        client = await place.connect()
        client.send(PLAIN[:cut])
        await eventually(lambda: said(place.open == 1))
        client.send(PLAIN[cut:])

        assert len((await client.answer())[1]) == BIG


async def test_a_flood_behind_a_plain_request_is_not_read() -> None:
    """Beyond a bound the client has to wait, and its bytes stay where they are."""
    asked = Asked()
    async with served(in_lane=asked) as place:
        client = await place.connect()
        client.send(PLAIN)
        await asked.came.wait()
        client.send(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (BODY_MAX - 1), b"x" * (BODY_MAX - 1)
        )
        client.send(bytes(BIG))
        await asyncio.sleep(0.1)
        unsent = client.writer.transport.get_write_buffer_size()
        await asked.answer(b"1")

        assert unsent > BIG // 2
        assert HELD_BYTES_MAX < BODY_MAX
        assert await client.answer() == (200, b"1")
        assert await client.answer() == (200, b"x" * (BODY_MAX - 1))


async def test_a_plain_client_that_half_closes_gets_its_answer() -> None:
    """And the connection ends, whether its end or the answer came first."""
    asked = Asked()
    async with served(in_lane=asked) as place:
        client = await place.connect()
        client.send(PLAIN)
        client.writer.write_eof()
        await asked.answer(b"1")
        answer = await client.rest()

        assert answer.endswith(b"\r\n\r\n1")


@pytest.mark.parametrize(
    ("behind", "answers"),
    [(PLAIN, 2), (WHOLE, 2), (WHOLE * 3, 4), (WHOLE + PLAIN[:30], 2), (WHOLE[:-1], 1), (PLAIN[:30], 1)],
    ids=["plain", "not plain", "several", "and a part", "a cut body", "a cut head"],
)
async def test_what_waits_behind_a_plain_request_is_answered_too(behind: bytes, answers: int) -> None:
    """Though the client has said that it sends no more; and then the connection ends, at once."""
    asked = Asked()
    async with served(in_lane=asked) as place:
        client = await place.connect()
        client.send(PLAIN)
        await asked.came.wait()
        client.send(behind)
        client.writer.write_eof()
        await asyncio.sleep(0.05)  # so that it is seen before the answer
        await asked.answer(b"1")
        if behind == PLAIN:
            async with asyncio.timeout(10):
                await asked.answer(b"2")
        rest = await client.rest()
        await eventually(lambda: said(place.open == 0))

        assert rest.count(b"HTTP/1.1 200 OK") == rest.count(b"HTTP/1.1 ") == answers
        assert place.ended("late_head") == 0


async def test_a_plain_client_that_is_gone_harms_nobody() -> None:
    """Its answer comes too late, is counted, and goes nowhere."""
    asked = Asked()
    async with served(in_lane=asked) as place:
        client = await place.connect()
        client.send(PLAIN)
        await asked.came.wait()
        # So that it is a reset: an end alone may still be waiting for its answer.
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.writer.transport.abort()
        await eventually(lambda: said(place.open == 0))
        await asked.answer(b"1")
        labels = {"method": "GET", "route": "/plain", "status": "200"}

        assert place.metrics.registry.get_sample_value("tallyslice_http_requests_total", labels) == 1


async def test_a_plain_request_outlasts_the_time_between_two() -> None:
    """The connection is not idle while it waits for its answer."""
    asked = Asked()
    async with served(Limits(idle_seconds=0.05), in_lane=asked) as place:
        client = await place.connect()
        client.send(PLAIN)
        await asyncio.sleep(0.2)
        await asked.answer(b"1")

        assert await client.answer() == (200, b"1")
        assert await client.rest() == b""


async def test_a_node_that_leaves_answers_what_is_under_way_in_the_lane() -> None:
    """And ends the connection with it."""
    asked = Asked()
    async with served(in_lane=asked) as place:
        client = await place.connect()
        client.send(PLAIN)
        await asked.came.wait()
        ending = asyncio.create_task(place.end())
        await asyncio.sleep(0.1)
        waits = not ending.done()
        await asked.answer(b"1")
        answer = await client.rest()
        await ending

        assert waits
        assert b"Connection: close\r\n" in answer
        assert answer.endswith(b"\r\n\r\n1")


async def test_what_fails_in_the_lane_is_a_problem_like_any_other() -> None:
    """At once or later; the connection goes on."""

    async def later(error: Exception) -> web.StreamResponse:
        raise error

    def fails(query: str, _: Head, __: Send) -> Coroutine[object, object, web.StreamResponse]:
        error = ValueError(CANARY) if "own" in query else Malformed("is wrong", field="at")
        if "later" in query:
            return later(error)
        raise error

    async with served(in_lane=fails) as place:
        client = await place.connect()
        answers = []
        for query in (b"now", b"later", b"own", b"own-later"):
            client.send(PLAIN.replace(b"now", query))
            answers.append(await client.answer())

        assert [status for status, _ in answers] == [400, 400, 500, 500]
        assert b"at: is wrong" in answers[0][1]
        assert CANARY.encode() not in b"".join(body for _, body in answers)


async def said(what: bool) -> None:  # noqa: FBT001 - the claim is the point
    assert what


# --- what must go on working


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    """More of them than are parsed ahead."""
    async with served() as place:
        client = await place.connect()
        for number in range(100):
            client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n%02d" % number)

        assert [await client.answer() for _ in range(100)] == [(200, b"%02d" % number) for number in range(100)]


async def test_expect_continue() -> None:
    async with served() as place:
        client = await place.connect()
        client.send(posted(b"Expect: 100-continue", b"Content-Length: 3"))
        invited = await client.answer()
        client.send(b"abc")

        assert invited == (100, b"")
        assert await client.answer() == (200, b"abc")


async def test_http_1_0_and_head() -> None:
    async with served() as place:
        old = await place.ask(b"GET /livez HTTP/1.0\r\n\r\n")
        head = await place.ask(b"HEAD /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

        assert old.startswith(b"HTTP/1.0 200 OK\r\n")
        assert old.endswith(b"\r\n\r\nok\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("requests", [1, 3])
async def test_a_client_that_half_closes_gets_what_it_asked_for(requests: int) -> None:
    async with served() as place:
        client = await place.connect()
        client.send(WHOLE * requests)
        client.writer.write_eof()
        answers = await client.rest()

        assert answers.count(b"HTTP/1.1 200 OK") == requests
        assert answers.endswith(b"abc")


@pytest.mark.parametrize("begun", [WHOLE[:20], WHOLE[:-1]], ids=["head", "body"])
async def test_a_client_that_half_closes_in_a_request_is_gone(begun: bytes) -> None:
    async with served() as place:
        client = await place.connect()
        client.send(begun)
        client.writer.write_eof()
        await client.rest()
        await eventually(lambda: said(place.open == 0))


async def test_a_client_that_leaves_just_as_it_is_answered_is_gone() -> None:
    """Between the answer and the wait for a next request, nothing else would end the connection for 75 s."""

    async def answered_and_left(request: web.Request) -> web.StreamResponse:
        # After the answer, which is written without a pause, and before the connection waits again.
        asyncio.get_running_loop().call_soon(request.protocol.eof_received)
        return web.Response()

    async with served(handler=answered_and_left) as place:
        answer = await place.ask(WHOLE)

        assert answer.startswith(b"HTTP/1.1 200 OK")
        await eventually(lambda: said(place.open == 0))


# --- how many


async def test_a_client_is_served_while_others_hold_all_connections() -> None:
    """Those beyond the bound are closed at once; when there is room again, new ones are let in."""
    async with served(Limits(connections_max=10)) as place:
        client = await place.connect()
        client.send(WHOLE)
        before = await client.answer()
        idle = [await place.connect() for _ in range(9)]
        await eventually(lambda: said(place.open == 10))
        over = [await place.connect() for _ in range(20)]
        refused = [await one.rest() for one in over]
        client.send(WHOLE)
        meanwhile = await client.answer()
        for one in idle:
            one.writer.close()
        await eventually(lambda: said(place.open == 1))
        again = await place.ask(b"GET /livez HTTP/1.0\r\n\r\n")

        assert before == meanwhile == (200, b"abc")
        assert refused == [b""] * 20
        assert place.ended("too_many") == 20
        assert place.metrics.registry.get_sample_value("tallyslice_connections_max") == 10
        assert again.startswith(b"HTTP/1.0 200 ")


def test_connections_leave_room_for_other_descriptors() -> None:
    """At most half of those that are free."""
    assert connections_bound() <= max(4, min(CONNECTIONS_MAX, free_descriptors() // 2))
    assert free_descriptors() > 0


def test_the_process_takes_the_descriptors_that_it_may_have() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
        few = connections_bound()
        raise_descriptors()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    assert few < 128
    assert soft == min(DESCRIPTORS_WANTED, hard)
