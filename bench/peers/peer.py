"""What every peer offers to the rows, and what the peers that are web servers of ours share."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import uvloop
from aiohttp import web

from bench.client import HOST, Run, closed_loop, post_event, post_ndjson
from bench.events import Count, Events
from bench.servers import Place

CONNECTIONS = 8  # bulk: enough that no server ever waits for the client, few enough that each request is answered soon


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
    """

    name: str
    title: str
    config: str
    open: Callable[[Place], AbstractAsyncContextManager[Running]]


@dataclass(slots=True, kw_only=True)
class HttpRunning:
    """A peer that is fed over HTTP.

    Attributes:
        ports: of its servers; connections are dealt out to them evenly.
        counted: asks for the count of the slice of a time.
        connections: for single events; bulk has its own number.
    """

    ports: Sequence[int]
    counted: Callable[[int], Awaitable[Count]]
    connections: int = 64

    async def feed(self, events: Events, *, batch: int) -> Run:
        """Feed events in batches over HTTP."""
        if batch == 1:
            return await self.send([post_event(query) for query in events.queries()], connections=self.connections)
        return await self.send([post_ndjson(body) for body in events.bodies(batch)], connections=CONNECTIONS)

    async def send(self, requests: Iterable[bytes], *, connections: int) -> Run:
        """Send requests that are made already."""
        return await closed_loop(self.ports, requests, connections=connections)

    async def count(self, at: int) -> Count:
        """What it counted."""
        return await self.counted(at)


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
