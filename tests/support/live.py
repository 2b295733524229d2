"""The dashboard with snapshots that a test makes, and a viewer of it without a browser."""

from __future__ import annotations

import io
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web

from common.edge import Edge
from common.listener import Runner
from common.logs import new_log
from common.metrics import Metrics
from common.tasks import Tasks
from dashboard.feed import Feed
from dashboard.routes import DashboardRoutes
from dashboard.snapshot import Snapshot
from tests.support.ports import PORTS


class Stage:
    """An async context manager: a server of nothing but the dashboard.

    Args:
        collect: makes the snapshots.
        settings: of the feed.
    """

    def __init__(self, collect: Callable[[], Awaitable[Snapshot]], **settings: Any) -> None:
        self._collect = collect
        self._settings = settings
        self._life = AsyncExitStack()
        self.port = PORTS.take()
        self.base = f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        log = new_log("api-0", stream=io.StringIO())
        tasks = await self._life.enter_async_context(Tasks(log=log))
        self.feed = Feed(collect=self._collect, tasks=tasks, log=log, **self._settings)
        app = web.Application(middlewares=[Edge(metrics=Metrics(), log=log).middleware])
        DashboardRoutes(feed=self.feed).add_to(app)
        self.runner = Runner(app)
        self._life.push_async_callback(self.runner.cleanup)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._life.aclose()
        PORTS.give_back(self.port)


class LiveStream:
    """An async context manager: reads ``/live`` of a node, snapshot by snapshot."""

    def __init__(self, base: str, *, last_id: str | None = None, door: Path | None = None) -> None:
        self._url = f"{base}/live"
        self._door = door
        self._headers = {} if last_id is None else {"Last-Event-ID": last_id}
        self._session: aiohttp.ClientSession | None = None
        self._answer: aiohttp.ClientResponse | None = None
        self.fields: dict[str, str] = {}  # of the last event

    @property
    def answer(self) -> aiohttp.ClientResponse:
        """The head of the answer."""
        assert self._answer is not None
        return self._answer

    async def __aenter__(self) -> Self:
        door = self._door
        connector = aiohttp.TCPConnector() if door is None else aiohttp.UnixConnector(path=str(door))
        self._session = aiohttp.ClientSession(connector=connector)
        timeout = aiohttp.ClientTimeout(total=None, sock_read=20)
        self._answer = await self._session.get(self._url, headers=self._headers, timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        self.answer.close()
        await self._session.close()

    async def event(self) -> dict[str, str] | None:
        """The fields of the next event; None at the end."""
        fields: dict[str, str] = {}
        while line := await self.answer.content.readline():
            if line == b"\n":
                self.fields = fields
                return fields
            name, _, value = line.decode().rstrip("\n").partition(": ")
            fields[name] = value
        return None

    async def snapshot(self) -> dict[str, Any]:
        """The next snapshot."""
        fields = await self.event()
        assert fields is not None
        assert "event" not in fields
        found: dict[str, Any] = json.loads(fields["data"])
        return found
