"""TLS listeners over real sockets, on the loop of the product and on asyncio's own."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from common.listener import Limits, Runner
from common.metrics import Metrics
from common.web import Health, add_probes
from tests.support.authority import Authority
from tests.support.patience import eventually
from tests.support.ports import PORTS

WHOLE = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
BIG = 8 << 20
PLENTY = Limits()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    found = Authority(tmp_path)
    found.issue()
    return found


def context_of(authority: Authority, name: str = "node") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.folder / f"{name}.crt", authority.folder / f"{name}.key")
    return context


async def echo(request: web.Request) -> web.StreamResponse:
    return web.Response(body=await request.read())


async def big(_: web.Request) -> web.StreamResponse:
    return web.Response(body=bytes(BIG))


class Place:
    """A TLS listener, and its metrics."""

    def __init__(self, port: int, metrics: Metrics) -> None:
        self.port = port
        self._metrics = metrics

    def metric(self, name: str, **labels: str) -> float:
        return self._metrics.registry.get_sample_value(name, labels) or 0.0

    def ended(self, reason: str) -> float:
        return self.metric("tallyslice_connections_ended_total", reason=reason)

    async def connect(self, tls: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host = None if tls is None else "localhost"
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=tls, server_hostname=host)

    async def ask(self, tls: ssl.SSLContext | None, request: bytes) -> bytes:
        reader, writer = await self.connect(tls)
        writer.write(request.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n"))
        try:
            async with asyncio.timeout(10):
                return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def served(context: Callable[[], ssl.SSLContext], *, limits: Limits = PLENTY) -> AsyncIterator[Place]:
    app = web.Application(client_max_size=1 << 20)
    app.router.add_post("/echo", echo)
    app.router.add_get("/big", big)
    metrics = Metrics()
    add_probes(app, health=Health(), metrics=metrics)
    runner = Runner(app, limits=limits, tls=context)
    await runner.setup()
    port = PORTS.take()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield Place(port, metrics)
    finally:
        await runner.cleanup()
        PORTS.give_back(port)


async def test_requests_are_answered_in_tls(authority: Authority) -> None:
    """Small ones, and answers larger than all buffers on their way."""
    context = context_of(authority)
    async with served(lambda: context) as place:
        small = await place.ask(authority.client(), WHOLE)
        large = await place.ask(authority.client(), b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")

    assert small.startswith(b"HTTP/1.1 200 ")
    assert small.endswith(b"\r\n\r\nabc")
    assert len(large.partition(b"\r\n\r\n")[2]) == BIG


async def test_an_older_version_than_1_2_is_not_spoken(authority: Authority) -> None:
    """Neither by those who ask for it."""
    context = context_of(authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    old = authority.client()
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    async with served(lambda: context) as place:
        with pytest.raises(ssl.SSLError):
            await place.ask(old, WHOLE)


async def test_who_speaks_plain_http_is_counted_and_nothing_is_written(
    authority: Authority, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """No traceback: scanners and wrong URLs are everybody's every day."""
    context = context_of(authority)
    async with served(lambda: context) as place:
        answer = await place.ask(None, WHOLE)
        await eventually_is(lambda: place.ended("tls_failed"), 1)
        after = await place.ask(authority.client(), WHOLE)

    assert not answer.startswith(b"HTTP")
    assert after.endswith(b"abc")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


async def test_who_does_not_trust_the_certificate_is_counted(authority: Authority, tmp_path: Path) -> None:
    """A client that says so by an alert."""
    stranger = Authority(tmp_path / "other")
    context = context_of(authority)

    def knock(port: int) -> None:
        # asyncio's clients leave without that alert.
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
            stranger.client().wrap_socket(plain, server_hostname="localhost")

    async with served(lambda: context) as place:
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.to_thread(knock, place.port)
        await eventually_is(lambda: place.ended("tls_failed"), 1)


async def test_who_begins_no_handshake_is_closed(authority: Authority) -> None:
    """After its deadline; and who leaves before is not worth a count."""
    context = context_of(authority)
    async with served(lambda: context, limits=Limits(handshake_seconds=0.1)) as place:
        _, writer = await place.connect(None)
        writer.close()
        reader, waiting = await place.connect(None)

        assert await asyncio.wait_for(reader.read(), 10) == b""
        waiting.close()
        await eventually_is(lambda: place.ended("late_handshake"), 1)
        assert place.ended("tls_failed") == 0


async def test_handshakes_under_way_are_connections(authority: Authority) -> None:
    """They count for the bound; and give their place back."""
    context = context_of(authority)
    async with served(lambda: context, limits=Limits(connections_max=2)) as place:
        silent = [await place.connect(None) for _ in range(2)]
        await eventually_is(lambda: place.metric("tallyslice_connections"), 2)
        reader, writer = await place.connect(None)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        assert place.ended("too_many") == 1
        writer.close()
        for _, one in silent:
            one.close()
        await eventually_is(lambda: place.metric("tallyslice_connections"), 0)

        answers = [await place.ask(authority.client(), WHOLE) for _ in range(3)]

    assert all(answer.endswith(b"abc") for answer in answers)


async def test_the_next_handshake_uses_the_context_of_its_moment(authority: Authority) -> None:
    """While connections that are open go on with theirs."""
    contexts = [context_of(authority)]
    async with served(lambda: contexts[-1]) as place:
        reader, writer = await place.connect(authority.client())
        first = writer.get_extra_info("peercert")["serialNumber"]
        authority.issue()
        contexts.append(context_of(authority))
        _, other = await place.connect(authority.client())
        second = other.get_extra_info("peercert")["serialNumber"]

        writer.write(WHOLE)
        assert await asyncio.wait_for(reader.readuntil(b"abc"), 10)
        assert first != second
        writer.close()
        other.close()


async def test_a_slow_head_is_answered_in_tls_too(authority: Authority) -> None:
    """With the problem, though one direction of TLS cannot be ended alone."""
    context = context_of(authority)
    async with served(lambda: context, limits=Limits(head_seconds=0.1, linger_seconds=0.1)) as place:
        reader, writer = await place.connect(authority.client())
        writer.write(b"GET / HT")

        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_leaving_ends_handshakes_under_way(authority: Authority) -> None:
    """At once, whatever their deadline."""
    context = context_of(authority)
    async with served(lambda: context) as place:
        reader, writer = await place.connect(None)
        await eventually_is(lambda: place.metric("tallyslice_connections"), 1)

    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def eventually_is(look: Callable[[], float], wanted: float) -> None:
    async def check() -> None:
        assert look() == wanted

    await eventually(check)
