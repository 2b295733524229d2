"""PostgreSQL: a prepared upsert per event, behind aiohttp.

One row per slice, user and type, so that two requests seldom meet at the same row. A single row of totals per slice
would be the simpler table and the slower one: each commit would wait for the one before it.

Run as a program it is the web server: ``python -m bench.peers.postgres PORT POSTGRES_PORT``.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
from aiohttp import web

from bench.client import HOST
from bench.events import CLICK, IMPRESSION, Count
from bench.peers.peer import HttpRunning, Peer, Running, serve
from bench.servers import PeerFailed, Place, as_user, free_port, python

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
USER = "postgres"  # what Debian's package makes; PostgreSQL refuses to run as root
SLICE_SECONDS = 86_400
POOL = 64  # as many as there are requests on their way: commits then share their flushes
TABLE = """
CREATE TABLE events (slice int, name text, event text, n bigint NOT NULL, PRIMARY KEY (slice, name, event))
"""
UPSERT = """
INSERT INTO events VALUES ($1, $2, $3, 1) ON CONFLICT (slice, name, event) DO UPDATE SET n = events.n + 1
"""
COUNT = """
SELECT count(DISTINCT name), coalesce(sum(n) FILTER (WHERE event = 'click'), 0),
       coalesce(sum(n) FILTER (WHERE event = 'impression'), 0)
FROM events WHERE slice = $1
"""


async def _app(postgres_port: int) -> web.Application:
    pool = await _pool(postgres_port)

    async def post(request: web.Request) -> web.Response:
        query = request.query
        event = CLICK if CLICK in query else IMPRESSION
        # asyncpg prepares a statement once per connection and keeps it.
        await pool.execute(UPSERT, int(query["timestamp"]) // SLICE_SECONDS, query["user"], event)
        return web.Response(status=202)

    async def close(_: web.Application) -> None:
        await pool.close()

    app = web.Application()
    app.router.add_post("/analytics", post)
    app.on_cleanup.append(close)
    return app


async def _pool(port: int) -> asyncpg.Pool:
    return await asyncpg.create_pool(
        host=HOST, port=port, user=USER, database="postgres", min_size=POOL, max_size=POOL, ssl=False
    )


async def _connect(port: int) -> asyncpg.Connection:
    return await asyncpg.connect(host=HOST, port=port, user=USER, database="postgres", ssl=False)


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Running]:
    """A new database cluster, with the settings that initdb gives it."""
    data, postgres_port, port = place.folder / "data", free_port(), free_port()
    data.mkdir(mode=0o700)
    if os.getuid() == 0:
        shutil.chown(data, USER, USER)
    await _run(as_user(USER, [str(PROGRAMS / "initdb"), "-D", str(data), "-U", USER, "-A", "trust", "--no-sync"]))
    command = [str(PROGRAMS / "postgres"), "-D", str(data), "-p", str(postgres_port), "-h", HOST, "-k", ""]
    await place.start("postgres", as_user(USER, command), port=postgres_port)
    await place.until(lambda: _made(postgres_port), what="PostgreSQL takes commands", log=place.folder / "postgres.log")
    await place.start("web", python("bench.peers.postgres", port, postgres_port), port=port)

    async def counted(at: int) -> Count:
        connection = await _connect(postgres_port)
        try:
            users, clicks, impressions = await connection.fetchrow(COUNT, at // SLICE_SECONDS)
        finally:
            await connection.close()
        return Count(users=users, clicks=int(clicks), impressions=int(impressions))

    yield HttpRunning(ports=[port], counted=counted)


async def _made(port: int) -> bool:
    """Make the table; False while the server still starts."""
    with suppress(OSError, asyncpg.CannotConnectNowError):
        connection = await _connect(port)
        try:
            await connection.execute(TABLE)
        finally:
            await connection.close()
        return True
    return False


async def _run(command: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, cwd="/", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise PeerFailed(f"{command[-1]}: {output.decode(errors='replace')[-2000:]}")


PEER = Peer(
    name="postgres",
    title="aiohttp + PostgreSQL",
    config=(
        "PostgreSQL 15 as initdb makes it (fsync and synchronous_commit on); aiohttp on uvloop, no access log; asyncpg "
        f"with {POOL} connections, a prepared upsert per request: `{' '.join(UPSERT.split())}`; users by name, "
        "not hashed"
    ),
    open=opened,
)

if __name__ == "__main__":
    serve(_app(int(sys.argv[2])))
