"""Calls to a worker: each ends in the typed answer, ``PeerAway``, ``PeerRefuses`` or ``WireError``, within its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from api_node.app import run_node
from api_node.peer import ANSWER_BYTES_MAX, Peer
from common.errors import ConfigRefused, PeerAway, PeerRefuses, WireError
from common.web import NodeArguments
from common.wire import Answer, Question, Settled, encode
from tests.support.configs import cluster_bytes
from tests.support.nodes import Silent
from tests.support.ports import PORTS

SETTLED = Settled(claims=3, routes=())
QUESTION = Question(cluster="c", worker="w", claims=1)


@asynccontextmanager
async def answering(
    body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None, token: str | None = None
) -> AsyncIterator[tuple[Peer, list[web.Request]]]:
    """A peer that gives this answer to everything, and what it was asked."""
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.Response:
        await request.read()
        seen.append(request)
        return web.Response(status=status, body=body, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handler)
    runner = web.AppRunner(app)
    port = PORTS.take()
    try:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        async with aiohttp.ClientSession() as session:
            yield Peer(session=session, url=f"http://127.0.0.1:{port}/worker", token=lambda: token), seen
    finally:
        await runner.cleanup()
        PORTS.give_back(port)


async def test_a_call_brings_the_token_and_the_typed_answer() -> None:
    """JSON and msgpack; no token where none is configured."""
    async with answering(b'{"claims": 3, "routes": []}', token="sesame") as (peer, seen):
        assert await peer.get_json("/registry", Settled, seconds=1) == SETTLED
        assert await peer.post_json("/registry/claims", QUESTION, Settled, seconds=1) == SETTLED
        assert [one.headers["Authorization"] for one in seen] == ["Bearer sesame"] * 2
        assert [one.path for one in seen] == ["/worker/registry", "/worker/registry/claims"]

    answer = Answer(worker="w", claims=1, held=())
    async with answering(encode(answer)) as (peer, seen):
        assert await peer.post_packed("/summaries", QUESTION, Answer, seconds=1) == answer
        assert "Authorization" not in seen[0].headers


@pytest.mark.parametrize("status", [408, 502, 503, 504])
async def test_a_node_that_cannot_right_now_is_away(status: int) -> None:
    body = b'{"type": "urn:tallyslice:problem:unavailable", "detail": "stopping"}'
    async with answering(body, status=status) as (peer, _):
        with pytest.raises(PeerAway, match=f"answers {status}: stopping"):
            await peer.get_json("/identity", Settled, seconds=1)


@pytest.mark.parametrize("status", [302, 401, 404, 409, 500])
async def test_a_node_that_will_not_refuses(status: int) -> None:
    """The problem's type tells why, for programs; a redirection is not followed anywhere."""
    body = b'{"type": "urn:tallyslice:problem:wrong-worker", "detail": "another"}'
    headers = {"Location": "http://127.0.0.1:1/"} if status == 302 else {}
    async with answering(body, status=status, headers=headers) as (peer, _):
        with pytest.raises(PeerRefuses, match=f"answers {status}: another") as refused:
            await peer.post_packed("/batches", QUESTION, Answer, seconds=1)

        assert refused.value.slug == "wrong-worker"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"type": 1}', b"\xff"])
async def test_a_refusal_need_not_explain_itself(body: bytes) -> None:
    async with answering(body, status=404) as (peer, _):
        with pytest.raises(PeerRefuses, match=r"answers 404: \(no explanation\)") as refused:
            await peer.get_json("/identity", Settled, seconds=1)

        assert refused.value.slug == ""


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff\xfe", b'{"claims": "3"}'])
async def test_an_answer_of_another_kind_is_none(body: bytes) -> None:
    async with answering(body) as (peer, _):
        with pytest.raises(WireError, match="not a valid settled"):
            await peer.get_json("/registry", Settled, seconds=1)
        with pytest.raises(WireError, match="not a valid answer"):
            await peer.post_packed("/summaries", QUESTION, Answer, seconds=1)


async def test_nobody_there_is_away() -> None:
    port = PORTS.take()
    async with aiohttp.ClientSession() as session:
        peer = Peer(session=session, url=f"http://127.0.0.1:{port}/worker", token=lambda: None)

        with pytest.raises(PeerAway, match=rf"^http://127.0.0.1:{port}/worker cannot be reached: cannot connect$"):
            await peer.get_json("/identity", Settled, seconds=1)
    PORTS.give_back(port)


async def test_what_went_wrong_is_said_in_plain_words() -> None:
    """And of whom, if it has a name: what people read is not made for those who wrote the library."""

    async def ends(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def chats(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0\r\n\r\n")
        writer.close()

    said = []
    async with aiohttp.ClientSession() as session:
        for answer in (ends, chats):
            async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
                url = "http://127.0.0.1:{1}/worker".format(*server.sockets[0].getsockname())
                peer = Peer(session=session, url=url, token=lambda: None, name="worker 7")
                with pytest.raises(PeerAway) as away:
                    await peer.get_json("/identity", Settled, seconds=5)
                said.append(str(away.value).replace(url, "URL"))

    assert said == [
        "worker 7 (URL) cannot be reached: the connection ended before the answer did",
        "worker 7 (URL) cannot be reached: what answers there is not HTTP",
    ]


async def test_a_node_that_says_nothing_is_away_when_the_time_is_over() -> None:
    port = PORTS.take()
    async with Silent(port), aiohttp.ClientSession() as session:
        peer = Peer(session=session, url=f"http://127.0.0.1:{port}/worker", token=lambda: None)

        with pytest.raises(PeerAway, match=r"did not answer within 0\.05 s"):
            await peer.get_json("/identity", Settled, seconds=0.05)
    PORTS.give_back(port)


async def test_a_node_that_is_not_in_the_file_does_not_start(tmp_path: Path) -> None:
    file = tmp_path / "cluster.json"
    file.write_bytes(cluster_bytes())

    with pytest.raises(ConfigRefused, match='api-nodes: no API node "7"; known: "0"'):
        await run_node(NodeArguments(node="7", cluster_file=file, data=tmp_path / "data"), asyncio.Event())


async def test_an_answer_over_its_bound_is_none() -> None:
    """Whoever answers there, this node does not fill its memory with it."""
    async with answering(bytes(ANSWER_BYTES_MAX + 1)) as (peer, _):
        with pytest.raises(WireError, match="more than"):
            await peer.get_json("/registry", Settled, seconds=10)
