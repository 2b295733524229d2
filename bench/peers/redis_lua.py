"""Redis with one Lua call per event, pipelined 100 deep: no web server in front, the client talks to Redis itself.

Two forms of the client. ``redis-lua`` is redis-py with hiredis, as a program would use it; what it costs is part of the
row. ``redis-lua-packed`` has made its commands beforehand and keeps two pipelines on their way, so that Redis never
waits: what the server itself can do.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import hiredis
import redis

from bench.client import HOST, ClientError, Run
from bench.events import Count, Events
from bench.peers import redis_server
from bench.peers.peer import Peer, Running
from bench.peers.redis_server import FSYNC, Fsync
from bench.servers import Place

DEPTH = 100
IN_FLIGHT = 2
SCRIPT = "redis.call('SADD', KEYS[1], ARGV[1]) redis.call('HINCRBY', KEYS[2], ARGV[2], 1) return 1"
_RECEIVE_BYTES = 1 << 16

Feed = Callable[[int, Events], Run]


@dataclass(slots=True, kw_only=True)
class _Lua:
    port: int
    feeding: Feed

    async def feed(self, events: Events, *, batch: int) -> Run:
        """Whatever the batch: a command carries one event."""
        del batch
        return await asyncio.to_thread(self.feeding, self.port, events)

    async def count(self, at: int) -> Count:
        return await redis_server.count(self.port, at)


def feed_with_redis_py(port: int, events: Events) -> Run:
    """As a program would: redis-py, one pipeline after the other."""
    client = redis.Redis(host=HOST, port=port)
    script = client.script_load(SCRIPT)
    users, counts = redis_server.users_key(events.at), redis_server.counts_key(events.at)
    pairs = list(zip(events.names(), events.types, strict=True))
    run = Run()
    started = time.perf_counter()
    for begin in range(0, len(pairs), DEPTH):
        sent = time.perf_counter()
        pipe = client.pipeline(transaction=False)
        for user, event in pairs[begin : begin + DEPTH]:
            pipe.evalsha(script, 2, users, counts, user, event)
        pipe.execute()
        run.latency.record(time.perf_counter() - sent)
    run.seconds = time.perf_counter() - started
    client.close()
    return run


def feed_packed(port: int, events: Events) -> Run:
    """As fast as Redis takes it: commands made beforehand, two pipelines on their way."""
    client = redis.Redis(host=HOST, port=port)
    script = client.script_load(SCRIPT)
    client.close()
    users, counts = redis_server.users_key(events.at), redis_server.counts_key(events.at)
    commands = [
        hiredis.pack_command(("EVALSHA", script, 2, users, counts, user, event))
        for user, event in zip(events.names(), events.types, strict=True)
    ]
    pipelines = [commands[begin : begin + DEPTH] for begin in range(0, len(commands), DEPTH)]
    requests = [(b"".join(pipeline), len(pipeline)) for pipeline in pipelines]
    run = Run()
    reader = hiredis.Reader()
    away: deque[tuple[int, float]] = deque()
    with socket.create_connection((HOST, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started = time.perf_counter()
        for request, replies in requests:
            if len(away) == IN_FLIGHT:
                _receive(connection, reader, run, *away.popleft())
            away.append((replies, time.perf_counter()))
            connection.sendall(request)
        while away:
            _receive(connection, reader, run, *away.popleft())
        run.seconds = time.perf_counter() - started
    return run


def _receive(connection: socket.socket, reader: hiredis.Reader, run: Run, replies: int, sent: float) -> None:
    while replies:
        reply = reader.gets()
        if reply is False:
            reader.feed(connection.recv(_RECEIVE_BYTES))
        elif reply == 1:
            replies -= 1
        else:
            raise ClientError(f"Redis: {reply!r}")
    run.latency.record(time.perf_counter() - sent)


def _peer(fsync: Fsync, name: str, title: str, client: str, feeding: Feed) -> Peer:
    @asynccontextmanager
    async def opened(place: Place) -> AsyncIterator[Running]:
        yield _Lua(port=await redis_server.start(place, fsync), feeding=feeding)

    return Peer(
        name=f"{name}-{fsync}",
        title=f"{title}, AOF {fsync}",
        config=f"{redis_server.config(fsync)}. Client: {client}; users by name, not hashed. `{SCRIPT}`",
        open=opened,
    )


PEERS = [
    *(
        _peer(
            fsync,
            "redis-lua",
            "Redis, Lua per event",
            "redis-py with hiredis, EVALSHA, pipelines of 100, one after the other",
            feed_with_redis_py,
        )
        for fsync in FSYNC
    ),
    _peer(
        "everysec",
        "redis-lua-packed",
        "Redis, Lua per event, commands packed beforehand",
        "a plain socket, EVALSHA packed before the clock starts, two pipelines of 100 on their way",
        feed_packed,
    ),
]
