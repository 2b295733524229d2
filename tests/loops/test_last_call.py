"""The last call of a node that leaves: nobody new gets through, and nobody who got through is turned away."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterator

import pytest
from aiohttp import web

from common.last_call import last_call, refuse_newcomers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can")


LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def is_there(family: socket.AddressFamily) -> bool:
    """Whether this machine speaks it."""
    try:
        with socket.socket(family) as one:
            one.bind((LOOPBACK[family], 0))
    except OSError:
        return False
    return True


@pytest.fixture(params=[family for family in LOOPBACK if is_there(family)], ids=lambda family: family.name)
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    with socket.socket(request.param) as one:
        one.bind((LOOPBACK[request.param], 0))
        one.listen()
        yield one


def test_nobody_new_gets_through(listener: socket.socket) -> None:
    """As if it was lost, not refused: the client asks again, and is refused when nobody listens any more."""
    refuse_newcomers([listener])
    with socket.socket(listener.family) as client:
        client.settimeout(0.1)

        with pytest.raises(TimeoutError):
            client.connect(listener.getsockname())


def test_who_got_through_is_accepted_and_heard(listener: socket.socket) -> None:
    """Also what was sent after that, and what waited to be accepted."""
    with socket.create_connection(listener.getsockname()[:2]) as client:
        refuse_newcomers([listener])
        client.sendall(b"before")
        accepted, _ = listener.accept()
        with accepted:
            client.sendall(b" and after")

            assert accepted.recv(16, socket.MSG_WAITALL) == b"before and after"
            accepted.sendall(b"answer")
            assert client.recv(100) == b"answer"


async def test_it_reaches_the_sockets_of_a_runner() -> None:
    """Whoever made them: those that the loop made of a host and port too."""
    runner = web.AppRunner(web.Application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    (address,) = runner.addresses
    reader, writer = await asyncio.open_connection(*address)
    await last_call(runner)
    writer.write(b"GET /none HTTP/1.1\r\nHost: test\r\n\r\n")
    answered = await reader.readline()
    with socket.socket() as client:
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.connect(address)
    writer.close()
    await runner.cleanup()

    assert answered == b"HTTP/1.1 404 Not Found\r\n"
