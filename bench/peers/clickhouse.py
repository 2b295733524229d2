"""ClickHouse's engine (chdb): the same NDJSON batches into a MergeTree, ``uniqExact`` for the question.

It is a library. To be fed like the others it stands behind a web server, which hands each body over as it came, on a
thread, so that the next one is read meanwhile. ``clickhouse-library`` is the same without network and client: what the
engine itself can do when it has the machine for itself.

Run as a program it is the process that holds it: ``python -m bench.peers.clickhouse PORT FOLDER FSYNC`` or, fed by
standard input, ``python -m bench.peers.clickhouse FOLDER FSYNC``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from aiohttp import web
from chdb.session import Session

from bench.client import ask
from bench.events import Count
from bench.peers.child import Child, child, obey, timed, told
from bench.peers.peer import HttpRunning, Peer, serve
from bench.servers import Place, free_port, python

SLICE_SECONDS = 86_400
BODY_BYTES_MAX = 16 << 20
TABLE = """
CREATE TABLE bench.events (timestamp UInt32, user String, event LowCardinality(String))
ENGINE = MergeTree ORDER BY timestamp SETTINGS fsync_after_insert = {fsync}
"""
QUESTION = """
SELECT uniqExact(user), countIf(event = 'click'), countIf(event = 'impression')
FROM bench.events WHERE timestamp >= {begin} AND timestamp < {end} FORMAT JSONCompactEachRow
"""


class Store:
    """A table in a folder."""

    def __init__(self, folder: Path, *, fsync: bool) -> None:
        self._session = Session(str(folder))
        self._session.query("CREATE DATABASE bench")
        self._session.query(TABLE.format(fsync=int(fsync)))

    def take(self, bodies: Sequence[bytes]) -> None:
        """One INSERT per batch."""
        for body in bodies:
            self._session.query(f"INSERT INTO bench.events FORMAT JSONEachRow {body.decode()}")

    def count(self, at: int) -> Count:
        """The question."""
        begin = at // SLICE_SECONDS * SLICE_SECONDS
        answer = self._session.query(QUESTION.format(begin=begin, end=begin + SLICE_SECONDS))
        users, clicks, impressions = json.loads(answer.bytes())
        return Count(users=int(users), clicks=int(clicks), impressions=int(impressions))

    def question_seconds(self, at: int) -> float:
        """How long the question takes."""
        started = time.perf_counter()
        self.count(at)
        return time.perf_counter() - started


async def _app(folder: Path, *, fsync: bool) -> web.Application:
    thread = ThreadPoolExecutor(max_workers=1)  # a session is for one thread at a time
    loop = asyncio.get_running_loop()
    store = await loop.run_in_executor(thread, partial(Store, folder, fsync=fsync))

    async def post(request: web.Request) -> web.Response:
        body = await request.read()
        await loop.run_in_executor(thread, store.take, [body])
        return web.json_response({"accepted": body.count(b"\n")}, status=202)

    async def get(request: web.Request) -> web.Response:
        count = await loop.run_in_executor(thread, store.count, int(request.query["timestamp"]))
        return web.json_response(told(count))

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_post("/events", post)
    app.router.add_get("/count", get)
    return app


def _peer(*, fsync: bool) -> Peer:
    @asynccontextmanager
    async def opened(place: Place) -> AsyncIterator[HttpRunning]:
        port = free_port()
        await place.start("web", python("bench.peers.clickhouse", port, place.folder / "store", int(fsync)), port=port)

        async def counted(at: int) -> Count:
            return Count(**json.loads(await ask(port, f"/count?timestamp={at}")))

        yield HttpRunning(ports=[port], counted=counted)

    return Peer(
        name="clickhouse-fsync" if fsync else "clickhouse",
        title=f"bulk endpoint in aiohttp + chdb{', fsync' if fsync else ''}",
        config=(
            "aiohttp on uvloop, no access log; each body goes to chdb as it came, on a thread: one INSERT ... FORMAT "
            f"JSONEachRow into a MergeTree in a folder, {_words(fsync=fsync)}; users by name, not hashed"
        ),
        open=opened,
    )


def _words(*, fsync: bool) -> str:
    return (
        "fsync_after_insert = 1"
        if fsync
        else "fsync_after_insert = 0 (the default: an acknowledged batch may be lost with the machine)"
    )


@asynccontextmanager
async def _library(place: Place) -> AsyncIterator[Child]:
    async with child(place, "bench.peers.clickhouse", 0) as running:
        yield running


PEER = _peer(fsync=False)
LIBRARY = Peer(
    name="clickhouse-library",
    title="chdb as a library (no network, no client)",
    config=f"one process that takes one batch after the other from memory, one INSERT each, {_words(fsync=False)}",
    open=_library,
)
PEERS = [PEER, _peer(fsync=True), LIBRARY]

if __name__ == "__main__":
    if sys.argv[1].isdecimal():
        serve(_app(Path(sys.argv[2]), fsync=sys.argv[3] == "1"))
    else:
        store = Store(Path(sys.argv[1]), fsync=sys.argv[2] == "1")
        obey(
            {
                "feed": timed(store.take),
                "count": lambda at: told(store.count(at)),
                "question": store.question_seconds,
            }
        )
