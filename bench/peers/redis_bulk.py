"""The strong form of Redis: a bulk endpoint like ours in aiohttp, one pipelined SADD + HINCRBY per request.

Run as a program it is the web server: ``python -m bench.peers.redis_bulk PORT REDIS_PORT``.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import blake2b

import msgspec
import redis.asyncio
from aiohttp import web

from bench.client import HOST
from bench.peers import redis_server
from bench.peers.peer import HttpRunning, Peer, Running, serve
from bench.peers.redis_server import FSYNC, SLICE_SECONDS, Fsync, counts_key, users_key
from bench.servers import Place, free_port, python

BODY_BYTES_MAX = 16 << 20


class Line(msgspec.Struct, gc=False):
    """One event."""

    timestamp: int
    user: str
    event: str


class Bulk:
    """``POST /events``: decode, hash, one round trip to Redis, 202."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._decoder = msgspec.json.Decoder(Line)
        self._secret = os.urandom(32)
        self._bases: dict[int, blake2b] = {}

    async def post(self, request: web.Request) -> web.Response:
        """Take a batch."""
        lines = self._decoder.decode_lines(await request.read())
        by_slice: dict[int, list[Line]] = {}
        for line in lines:
            by_slice.setdefault(line.timestamp // SLICE_SECONDS, []).append(line)
        pipe = self._client.pipeline(transaction=False)
        for number, part in by_slice.items():
            at = number * SLICE_SECONDS
            copy = self._base(number).copy
            keys = []
            for line in part:
                digest = copy()
                digest.update(line.user.encode())
                keys.append(digest.digest())
            pipe.sadd(users_key(at), *keys)
            for event, times in Counter([line.event for line in part]).items():
                pipe.hincrby(counts_key(at), event, times)
        await pipe.execute()
        body = msgspec.json.encode({"accepted": len(lines)})
        return web.Response(status=202, body=body, content_type="application/json")

    def _base(self, number: int) -> blake2b:
        base = self._bases.get(number)
        if base is None:
            key = blake2b(number.to_bytes(8, "big", signed=True), key=self._secret, digest_size=32).digest()
            base = self._bases[number] = blake2b(key, digest_size=16)
        return base


async def _app(redis_port: int) -> web.Application:
    client = redis.asyncio.Redis(host=HOST, port=redis_port)

    async def close(_: web.Application) -> None:
        await client.aclose()

    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.router.add_post("/events", Bulk(client).post)
    app.on_cleanup.append(close)
    return app


def _peer(fsync: Fsync) -> Peer:
    @asynccontextmanager
    async def opened(place: Place) -> AsyncIterator[Running]:
        redis_port, port = await redis_server.start(place, fsync), free_port()
        await place.start("web", python("bench.peers.redis_bulk", port, redis_port), port=port)
        yield HttpRunning(ports=[port], counted=lambda at: redis_server.count(redis_port, at))

    return Peer(
        name=f"redis-bulk-{fsync}",
        title=f"bulk endpoint in aiohttp + Redis, AOF {fsync}",
        config=(
            f"{redis_server.config(fsync)}. aiohttp on uvloop, no access log; msgspec decodes the NDJSON body, users "
            "are hashed with BLAKE2b under a key per slice, one SADD and one HINCRBY per type go to Redis in one "
            "pipeline (redis-py with hiredis), then 202"
        ),
        open=opened,
    )


PEERS = [_peer(fsync) for fsync in FSYNC]

if __name__ == "__main__":
    serve(_app(int(sys.argv[2])))
