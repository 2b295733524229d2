"""What every peer offers to the rows, and what the peers that are web servers of ours share."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import uvloop
from aiohttp import web

from bench.client import HOST, Run, closed_loop, post_event, post_ndjson
from bench.events import Count, Events
from bench.servers import Place

# Bulk: enough that no server ever waits for the client, few enough that each request is answered soon.
CONNECTIONS = 8
# One event, or a few, per request: as many clients as a small site has at a time.
MANY_CONNECTIONS, MANY_BATCH_MAX = 64, 100


class Running(Protocol):
    """A peer that runs."""

    async def feed(self, events: Events, *, batch: int) -> Run:
        """Feed events in batches, and wait until all are taken.

        Args:
            events: of one slice.
            batch: how many a request; 1: the call for a single event.
        """

    async def count(self, at: int) -> Count:
        """What it counted in the slice of a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One thing that is measured.

    Attributes:
        name: as in the JSON lines and on the command line.
        title: as in the tables.
        config: how it runs: what a reader needs in order to judge whether it is fair.
        open: starts it in a place; stops it at the end.
        counts: whether it counts at all.
    """

    name: str
    title: str
    config: str
    open: Callable[[Place], AbstractAsyncContextManager[Running]]
    counts: bool = True


@dataclass(slots=True, kw_only=True)
class HttpRunning:
    """A peer that is fed over HTTP.

    Attributes:
        ports: of its servers; connections are dealt out to them evenly.
        counted: asks for the count of the slice of a time.
    """

    ports: Sequence[int]
    counted: Callable[[int], Awaitable[Count]]

    async def feed(self, events: Events, *, batch: int) -> Run:
        """Feed events in batches over HTTP."""
        connections = CONNECTIONS if batch > MANY_BATCH_MAX else MANY_CONNECTIONS
        return await self.send(requests(events, batch=batch), connections=connections)

    async def send(self, ready: Sequence[bytes], *, connections: int) -> Run:
        """Send requests that are made already, as fast as they are answered."""
        return await closed_loop(self.ports, ready, connections=connections)

    async def count(self, at: int) -> Count:
        """What it counted."""
        return await self.counted(at)


def requests(events: Events, *, batch: int) -> list[bytes]:
    """Events as HTTP requests of so many events each; 1: the call for a single one."""
    if batch == 1:
        return [post_event(query) for query in events.queries()]
    return [post_ndjson(body) for body in events.bodies(batch)]


def serve(app: Awaitable[web.Application]) -> None:
    """Run a web application of a peer: on uvloop, without access log. Its port is the first argument."""
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    web.run_app(
        app,
        host=HOST,
        port=int(sys.argv[1]),
        access_log=None,
        print=None,
        loop=loop,
        shutdown_timeout=1.0,
        keepalive_timeout=600.0,
    )
