"""The load generator's client against a server that says anything."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tallyslice.load.connection import HEAD_BYTES_MAX, LOST, UNREACHED, Connection, NotUnderstood, Reply, Target
from tests.support.ports import PORTS
from tests.support.speaker import Answer, Speaker, answer

REQUEST = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi"


async def ask(connection: Connection, request: bytes = REQUEST) -> Reply:
    heard: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    connection.ask(request, heard.set_result)
    return await heard


@contextmanager
def connected(speaker: Speaker) -> Iterator[Connection]:
    connection = Connection(Target.of(speaker.url))
    yield connection
    connection.close()


async def heard_of(say: Callable[[bytes, int], Answer]) -> Reply:
    async with Speaker(say) as speaker:
        with connected(speaker) as connection:
            return await ask(connection)


@contextmanager
def complaints() -> Iterator[list[type[BaseException]]]:
    """What the loop hears of, in place of standard error."""
    found: list[type[BaseException]] = []

    def note(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        found.append(type(context["exception"]))

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(note)
    yield found
    loop.set_exception_handler(None)


@pytest.mark.parametrize("cut", [1, 9, 30, 60, 70, 71])
async def test_an_answer_in_pieces_is_one_answer(cut: int) -> None:
    """Wherever it is cut: in the head, between the two, in the body."""
    (whole,) = answer(202, b"0123456789", head="X-Durability: spool\r\n")
    reply = await heard_of(lambda _, __: [whole[:cut], whole[cut:]])

    assert reply == Reply(202, b"0123456789", spooled=True)
    assert reply.good


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\ncontent-LENGTH:0\r\n\r\n",
    ],
)
async def test_an_answer_may_have_no_body(said: bytes) -> None:
    assert await heard_of(lambda _, __: [said]) == Reply(204)


async def test_one_connection_carries_many_requests() -> None:
    """The bytes go out as they were made, one after the other."""
    async with Speaker() as speaker:
        with connected(speaker) as connection:
            replies = [await ask(connection) for _ in range(5)]

    assert [reply.status for reply in replies] == [202] * 5
    assert speaker.requests == [REQUEST] * 5
    assert speaker.connections == 1


async def test_a_connection_that_the_server_ends_is_made_again() -> None:
    """Said in the head, or done between two requests: the next request goes over a new one."""
    async with Speaker(lambda _, before: answer(head="" if before else "Connection: close\r\n")) as speaker:
        with connected(speaker) as connection:
            replies = [await ask(connection) for _ in range(3)]

    assert [reply.status for reply in replies] == [202] * 3
    assert speaker.connections == 2


async def test_a_connection_that_breaks_is_a_lost_answer() -> None:
    """Nobody knows whether the request was served; the next one gets a new connection."""
    async with Speaker(lambda _, before: answer() if before else None) as speaker:
        with connected(speaker) as connection:
            replies = [await ask(connection) for _ in range(2)]

    assert [reply.status for reply in replies] == [LOST, 202]
    assert not replies[0].good


async def test_where_nobody_listens_nothing_was_sent() -> None:
    port = PORTS.take()
    reply = await ask(Connection(Target(host="127.0.0.1", port=port)))
    PORTS.give_back(port)

    assert reply.status == UNREACHED
    assert not reply.good


async def test_an_answer_that_takes_too_long_is_lost() -> None:
    """Only if it was asked for before the time that is given."""
    async with Speaker(lambda _, __: []) as speaker:
        with connected(speaker) as connection:
            before = time.monotonic()
            waiting = asyncio.create_task(ask(connection))
            await speaker.asked.wait()
            connection.expire(before)
            patient = not waiting.done() and connection.busy
            connection.expire(time.monotonic())
            reply = await waiting

    assert patient
    assert reply.status == LOST


async def test_whoever_hangs_up_hears_nothing_more() -> None:
    """Neither an answer nor that there is none; also while it still connects."""
    heard: list[Reply] = []
    async with Speaker(lambda _, __: []) as speaker:
        asked, connecting = Connection(Target.of(speaker.url)), Connection(Target.of(speaker.url))
        asked.ask(REQUEST, heard.append)
        await speaker.asked.wait()
        asked.close()
        connecting.ask(REQUEST, heard.append)
        connecting.close()
        await asyncio.sleep(0)

    assert heard == []
    assert len(speaker.requests) == 1


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\n\r\nuntil it ends",
        b"x" * (HEAD_BYTES_MAX + 1),
    ],
)
async def test_what_cannot_be_read_is_said_loudly(said: bytes) -> None:
    """The answer counts as lost, and the loop is told why."""
    with complaints() as found:
        reply = await heard_of(lambda _, __: [said])

    assert reply.status == LOST
    assert found == [NotUnderstood]


def test_requests_are_proper_http() -> None:
    target = Target.of("http://[::1]:8000/whatever")

    assert target.get("/analytics?timestamp=1") == b"GET /analytics?timestamp=1 HTTP/1.1\r\nHost: [::1]:8000\r\n\r\n"
    assert target.post("/a", b"{}", content_type="application/json") == (
        b"POST /a HTTP/1.1\r\nHost: [::1]:8000\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )
    assert target.post("/a?b") == b"POST /a?b HTTP/1.1\r\nHost: [::1]:8000\r\nContent-Length: 0\r\n\r\n"


def test_a_target_is_read_from_a_url() -> None:
    assert Target.of("http://a.example") == Target(host="a.example", port=80)
    assert Target.of("https://a.example/x") == Target(host="a.example", port=443, tls=True)
    for wrong in ("a.example:80", "ftp://a.example", "http://"):
        with pytest.raises(ValueError, match="must be the URL of a server"):
            Target.of(wrong)
