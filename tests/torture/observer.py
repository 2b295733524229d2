"""Questions asked all the time while nodes are killed: an answer is complete, or says that it is not.

::

    acknowledged by a worker, STALE_SECONDS ago  <=  an answer that says it is complete  <=  begun until the answer

What is in a spool is not in the answers until it is drained: only what a worker acknowledged counts on the left.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from types import TracebackType
from typing import Any, Self

import aiohttp

from tests.support.cluster import FIRST, HOUR, Cluster
from tests.torture.ledger import Ledger

PAUSE_SECONDS = 0.1
ASKING = 4  # some of the questions wait for a worker
# The cache's time, and as long as an answer may have been on its way on a busy machine before it was remembered.
STALE_SECONDS = 2.0
RECENT_SLICES = 12
PROBLEMS_MAX = 20


class Observer:
    """An async context manager: asks inside.

    Attributes:
        answers: how many there were: complete, not complete, or none.
        problems: answers that were not what they said.
    """

    def __init__(self, cluster: Cluster, ledger: Ledger, *, rng: random.Random) -> None:
        self.answers = Counter[str]()
        self.problems: list[str] = []
        self._cluster = cluster
        self._ledger = ledger
        self._rng = rng
        self._task: asyncio.Task[None] | None = None
        self._past: deque[tuple[float, dict[int, Counter[str]]]] = deque()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        (result,) = await asyncio.gather(self._task, return_exceptions=True)
        if isinstance(result, Exception):
            self.problems.append(repr(result))

    async def _watch(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._remember())
            for _ in range(ASKING):
                group.create_task(self._keep_asking())

    async def _remember(self) -> None:
        while True:
            counts = {at: Counter(self._ledger.sheets[at].by_worker) for at in self._recent()}
            self._past.append((time.monotonic(), counts))
            await asyncio.sleep(PAUSE_SECONDS)

    async def _keep_asking(self) -> None:
        while len(self.problems) < PROBLEMS_MAX:
            await asyncio.sleep(PAUSE_SECONDS)
            running = [name for name, node in self._cluster.api.items() if node.runs]
            if running and (slices := self._recent()):
                await self._ask(self._rng.choice(running), self._rng.choice(slices))

    def _recent(self) -> list[int]:
        return sorted(self._ledger.sheets)[-RECENT_SLICES:]

    def _known(self, at: int) -> Counter[str]:
        """What workers had acknowledged of a slice when it must show by now."""
        while len(self._past) > 1 and self._past[1][0] < time.monotonic() - STALE_SECONDS:
            self._past.popleft()
        since, counts = self._past[0]
        return counts.get(at, Counter[str]()) if since < time.monotonic() - STALE_SECONDS else Counter[str]()

    async def _ask(self, api: str, at: int) -> None:
        low = self._known(at)
        try:
            answer = await self._cluster.get(f"?timestamp={FIRST + HOUR * at}&format=json", api=api)
        except (aiohttp.ClientError, OSError):
            self.answers["nobody"] += 1
            return
        if answer.status != 200:
            self.answers[str(answer.status)] += 1
            return
        shown = answer.json
        self.answers["complete" if shown["complete"] else "not complete"] += 1
        if shown["complete"]:
            self._compare(f"slice {at} by api-{api}", shown, low, self._ledger.sheets[at].begun)

    def _compare(self, name: str, shown: dict[str, Any], low: Counter[str], high: Counter[str]) -> None:
        for kind in high:
            count = shown["events"].get(kind, 0)
            if not low[kind] <= count <= high[kind]:
                self.problems.append(f"{name}: {count} of type {kind} while running, not {low[kind]} to {high[kind]}")
