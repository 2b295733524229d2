"""The floor under one event per request and under questions: handlers that do nothing.

As many routes as our API node has, tried in the same order, so that aiohttp's router has the same work.

Run as a program it is the web server: ``python -m bench.peers.empty PORT``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from bench.events import Count
from bench.peers.peer import HttpRunning, Peer, serve
from bench.servers import Place, free_port, python

# What `GET /analytics` answers for 300,000 users.
SUMMARY = "unique_users,259342\nclicks,200072\nimpressions,399928\n"


async def _post(_: web.Request) -> web.Response:
    return web.Response(status=202, headers={"X-Durability": "worker"})


async def _get(_: web.Request) -> web.Response:
    return web.Response(text=SUMMARY, headers={"Cache-Control": "no-store"})


async def _app() -> web.Application:
    app = web.Application()
    for path in ("/analytics", "/analytics/perworker", "/analytics/allslices"):
        app.router.add_get(path, _get)
        app.router.add_get(path + "/", _get)
    for path in ("/analytics", "/analytics/", "/events", "/events/"):
        app.router.add_post(path, _post)
    for path in ("/cluster", "/cluster/", "/livez", "/readyz", "/metrics"):
        app.router.add_get(path, _get)
    app.router.add_post("/cluster/routes", _post)
    return app


async def _nothing_counted(at: int) -> Count:
    raise NotImplementedError(at)


@asynccontextmanager
async def opened(place: Place) -> AsyncIterator[HttpRunning]:
    """Start it."""
    port = free_port()
    await place.start("web", python("bench.peers.empty", port), port=port)
    yield HttpRunning(ports=[port], counted=_nothing_counted)


PEER = Peer(
    name="empty",
    title="empty aiohttp handler (floor)",
    config="aiohttp on uvloop, no access log, as many routes as our API node; counts nothing",
    open=opened,
    counts=False,
)

if __name__ == "__main__":
    serve(_app())
