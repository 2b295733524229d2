"""``tallyslice send``: every line is counted once, or told by its number; nobody's name is ever seen."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from tests.support.cluster import FIRST, HOUR, Cluster
from tests.support.command import tallyslice
from tests.support.events import tally, user
from tests.support.ports import PORTS

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

EVENTS = 12_000  # several parcels


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path_factory.mktemp("send"), workers=2, cache_ttl_seconds=0) as cluster:
        yield cluster


def line(n: int, at: int, **more: object) -> str:
    return json.dumps({"timestamp": at, "user": user(n % 1000), "event": "click", **more})


async def test_a_file_is_counted_and_what_is_wrong_in_it_is_told(cluster: Cluster, tmp_path: Path, hour: int) -> None:
    """By the numbers that an editor shows; sent again with the same ids, nothing is counted twice."""
    lines = [line(n, hour) for n in range(EVENTS)]
    lines[41:41] = ["", "nonsense", line(1, hour, event="purchase")]
    file, rejects = tmp_path / "events", tmp_path / "rejects"
    file.write_text("\n".join(lines))
    first = await tallyslice("send", file, "--url", cluster.api["0"].url, "--ids", "test", "--rejects", rejects)
    again = await tallyslice("send", file, "--url", cluster.api["0"].url, "--ids", "test", "--json")

    assert first.code == again.code == 1
    head, *told = first.out.splitlines()
    assert head == f"{EVENTS + 2:,} events: {EVENTS:,} accepted, 2 rejected."
    assert [text.split(":")[0] for text in told] == ["  line 43", "  line 44"]
    assert "accepted: click, impression" in told[1]
    assert [json.loads(text)["line"] for text in rejects.read_text().splitlines()] == [43, 44]
    assert [again.json[name] for name in ("accepted", "repeated", "rejected")] == [EVENTS, EVENTS, 2]
    assert await cluster.summary(hour) == tally(1000, EVENTS, 0)


async def test_what_is_piped_in_is_counted(cluster: Cluster, hour: int) -> None:
    """Packed, too; with a progress nowhere, since nobody watches."""
    content = "\n".join(line(n, hour) for n in range(1000)).encode()
    said = await tallyslice("send", "-", "--cluster", cluster.file, stdin=gzip.compress(content))

    assert (said.code, said.out, said.err) == (0, "1,000 events: 1,000 accepted.\n", "")
    assert await cluster.summary(hour) == tally(1000, 1000, 0)


async def test_one_event_by_its_fields(cluster: Cluster, hour: int) -> None:
    """Its time as people say it, its user from standard input; counted once by its id."""
    slice_id = (hour - FIRST) // HOUR
    options = ("--user", "-", "--event", "click", "--at", slice_id, "--id", user("id"), "--cluster", cluster.file)
    said = [await tallyslice("send", *options, stdin=user(1).encode() + b"\n") for _ in range(2)]
    wrong = await tallyslice("send", *options, "--event", "purchase", stdin=user(1).encode())

    assert [one.code for one in (*said, wrong)] == [0, 0, 1]
    assert said[1].out == "1 events: 1 accepted, 1 of them counted before.\n"
    assert "  event: is not an accepted event type" in wrong.out
    assert await cluster.summary(hour) == tally(1, 1, 0)


class Door:
    """An API node behind bad doors: it drops a connection, then is full, then takes ten lines at a time at most."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.refusals = 0

    async def post(self, request: web.Request) -> web.Response:
        lines = (await request.text()).splitlines()
        self.refusals += 1
        if self.refusals == 1:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if self.refusals == 2:
            return web.json_response(
                {"type": "urn:tallyslice:problem:not-taken"}, status=503, headers={"Retry-After": "0"}
            )
        if len(lines) > 10:
            return web.Response(status=413)
        self.taken += lines
        return web.json_response({"accepted": len(lines), "repeated": 0, "rejected": 0, "errors": []}, status=202)


@pytest_asyncio.fixture(loop_scope="module")
async def door() -> AsyncIterator[tuple[Door, str]]:
    one, app = Door(), web.Application()
    app.router.add_post("/events", one.post)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port := PORTS.take())
    await site.start()
    yield one, f"http://127.0.0.1:{port}"
    await runner.cleanup()
    PORTS.give_back(port)


async def test_what_was_not_taken_is_sent_again(door: tuple[Door, str]) -> None:
    """A dropped connection, a full node, a proxy with a small bound: with ids each line arrives in the end."""
    content = "\n".join(line(n, FIRST, place=n) for n in range(35)).encode()
    said = await tallyslice("send", "--url", door[1], "--ids", "test", stdin=content)

    assert (said.code, said.out) == (0, "35 events: 35 accepted.\n"), said
    assert sorted(json.loads(one)["place"] for one in door[0].taken) == [*range(35)]


async def test_what_nobody_knows_of_is_told(door: tuple[Door, str]) -> None:
    """Without ids, what was under way when the connection broke is not sent again: it might be counted twice."""
    said = await tallyslice("send", "--url", door[1], stdin=line(1, FIRST).encode())

    assert said.code == 1
    assert said.out.startswith("1 events: 0 accepted, 1 may or may not be counted.\n  line 1: ")
    assert "--ids" in said.out
    assert door[0].taken == []


async def test_it_gives_up_where_nobody_answers(tmp_path: Path) -> None:
    """Exit status 70, and it is told which lines were tried; the rest of the file is not."""
    port = PORTS.take()
    file = tmp_path / "events"
    file.write_text("\n".join(line(n, FIRST) for n in range(100_000)))
    try:
        said, missing = await asyncio.gather(
            tallyslice("send", file, "--url", f"http://127.0.0.1:{port}", "--give-up", "0.1"),
            tallyslice("send", tmp_path / "nothing", "--url", f"http://127.0.0.1:{port}"),
        )
    finally:
        PORTS.give_back(port)

    assert (said.code, missing.code) == (70, 70)
    assert "cannot connect" in said.out
    assert "not tried" in said.out
    assert "No such file" in missing.err
