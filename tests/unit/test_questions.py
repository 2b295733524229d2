"""How many questions an API node asks at a time, whatever is asked of it."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest

from api_node.node_metrics import ApiMetrics
from api_node.queries import QUESTIONS_MAX, Queries
from api_node.summary_cache import SummaryCache
from common.errors import NoAnswer
from common.logs import new_log
from common.routing import WorkerId
from common.slices import SliceId
from common.tasks import Tasks


class SilentLink:
    """A link to a worker that never answers, and counts what it is asked."""

    worker = WorkerId("0")
    trouble = None

    def __init__(self) -> None:
        self.cache = SummaryCache(ttl_seconds=1, timer=lambda: 0.0)
        self.asked = 0

    async def ask(self, _: object, *, request_id: str) -> None:
        self.asked += 1
        await asyncio.Event().wait()


class Parts:
    """What Queries needs of the routes and of the pool."""

    def __init__(self, link: SilentLink) -> None:
        self._link = link
        self.links = {link.worker: link}

    def known(self, _: SliceId) -> tuple[WorkerId, ...]:
        return (self._link.worker,)

    async def find(self, _: SliceId) -> tuple[WorkerId, ...]:
        return (self._link.worker,)

    def link(self, _: WorkerId) -> SilentLink:
        return self._link


async def test_so_many_questions_are_under_way_and_the_others_wait() -> None:
    """Each needs a connection: with a worker that does not answer, they must not take all descriptors."""
    link = SilentLink()
    parts: Any = Parts(link)
    nothing: Any = None
    async with Tasks(log=new_log("api-0", stream=io.StringIO())) as tasks:
        queries = Queries(
            config=nothing,
            membership=nothing,
            routes=parts,
            workers=parts,
            metrics=ApiMetrics(),
            tasks=tasks,
            deadline_seconds=0.3,
        )
        asked = [queries.summary(SliceId(at)) for at in range(QUESTIONS_MAX + 20)]
        answers = await asyncio.gather(*asked, return_exceptions=True)

    assert link.asked == QUESTIONS_MAX
    assert {type(answer) for answer in answers} == {NoAnswer}
    with pytest.raises(NoAnswer, match="under way already"):
        raise next(answer for answer in answers[QUESTIONS_MAX:] if isinstance(answer, NoAnswer))
