"""What a Python shop would write: aiohttp in front of Redis, one event per request.

Run as a program it is the web server: ``python -m bench.peers.redis_single PORT REDIS_PORT``.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio
from aiohttp import web

from bench.client import HOST
from bench.events import CLICK, IMPRESSION
from bench.peers import redis_server
from bench.peers.peer import HttpRunning, Peer, Running, serve
from bench.peers.redis_server import FSYNC, Fsync, counts_key, users_key
from bench.servers import Place, free_port, python


async def _app(redis_port: int) -> web.Application:
    client = redis.asyncio.Redis(host=HOST, port=redis_port)

    async def post(request: web.Request) -> web.Response:
        query = request.query
        at = int(query["timestamp"])
        event = CLICK if CLICK in query else IMPRESSION
        pipe = client.pipeline(transaction=False)
        pipe.sadd(users_key(at), query["user"])
        pipe.hincrby(counts_key(at), event, 1)
        await pipe.execute()
        return web.Response(status=202)

    async def close(_: web.Application) -> None:
        await client.aclose()

    app = web.Application()
    app.router.add_post("/analytics", post)
    app.on_cleanup.append(close)
    return app


def _peer(fsync: Fsync) -> Peer:
    @asynccontextmanager
    async def opened(place: Place) -> AsyncIterator[Running]:
        redis_port, port = await redis_server.start(place, fsync), free_port()
        await place.start("web", python("bench.peers.redis_single", port, redis_port), port=port)
        yield HttpRunning(ports=[port], counted=lambda at: redis_server.count(redis_port, at))

    return Peer(
        name=f"redis-single-{fsync}",
        title=f"aiohttp + Redis, AOF {fsync}",
        config=(
            f"{redis_server.config(fsync)}. aiohttp on uvloop, no access log; SADD and HINCRBY in one pipeline "
            "(redis-py with hiredis) per request; users by name, not hashed"
        ),
        open=opened,
    )


PEERS = [_peer(fsync) for fsync in FSYNC]

if __name__ == "__main__":
    serve(_app(int(sys.argv[2])))
