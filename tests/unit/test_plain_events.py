"""Whoever sends an event in the fast lane is answered, whatever becomes of it."""

from __future__ import annotations

import asyncio
import io
from typing import Any

from aiohttp import web

from api_node.routes.analytics import AnalyticsRoutes
from common.edge import Edge
from common.lane import Head
from common.logs import new_log
from common.metrics import Metrics


class Defective:
    """An intake that takes an event, and then fails in a way that nobody foresaw."""

    def __init__(self) -> None:
        self.waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(self, _: object) -> asyncio.Future[None]:
        return self.waiter

    def durability(self, _: object) -> str:
        raise ValueError


async def test_a_defect_after_the_fate_is_known_is_answered_too() -> None:
    """A callback's error reaches nobody: the client would wait until its own patience ends."""
    intake: Any = Defective()
    none: Any = None
    routes = AnalyticsRoutes(config=none, membership=none, intake=intake, queries=none, spooled=dict, now=none)
    routes.add_to(web.Application(), Edge(metrics=Metrics(), log=new_log("api-0", stream=io.StringIO())))
    answered: asyncio.Future[web.StreamResponse] = asyncio.get_running_loop().create_future()

    routes.plain_post("user=ada", Head(), answered.set_result)
    intake.waiter.set_result(None)
    async with asyncio.timeout(5):
        answer = await answered

    assert answer.status == 500
