"""Bad weather: wires whose condition changes all the time, for kills that happen meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from tests.support.cluster import Cluster
from tests.torture.wires import CLEAR, DOWN, UP, Condition, Wire

CONDITIONS = (
    Condition(cut=True),
    Condition(half_open=True),
    Condition(held=frozenset({UP})),
    Condition(held=frozenset({DOWN})),
    Condition(delay_seconds=0.1),
    Condition(cut_after=(300, 9000)),
    Condition(copies=2),
)
LULL_SECONDS, GUST_SECONDS = 0.4, 1.2  # at most

Wires = Mapping[tuple[str, str], Wire]
"""API node and worker -> what is between them."""


@asynccontextmanager
async def wired(cluster: Cluster, *, rng: random.Random) -> AsyncIterator[Wires]:
    """A wire between each API node and each worker of a cluster that has not been started."""
    async with AsyncExitStack() as stack:
        wires = {}
        for api in cluster.api.values():
            for worker in cluster.worker.values():
                wires[api.id, worker.id] = await stack.enter_async_context(Wire(worker, rng=rng))
            urls = {worker: wires[api.id, worker].url for worker in cluster.worker}
            api.file = cluster.write(cluster.changed(worker_nodes=urls), name=f"{api.name}.json")
        yield wires


@asynccontextmanager
async def stormy(wires: Wires, *, rng: random.Random) -> AsyncIterator[None]:
    """One wire after the other is bad for a moment inside; all are clear afterwards."""

    async def blow() -> None:
        while True:
            await asyncio.sleep(rng.random() * LULL_SECONDS)
            wire = rng.choice(list(wires.values()))
            wire.become(rng.choice(CONDITIONS))
            await asyncio.sleep(rng.random() * GUST_SECONDS)
            wire.become(CLEAR)

    gusts = [asyncio.create_task(blow()) for _ in range(2)]
    try:
        yield
    finally:
        for gust in gusts:
            gust.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*gusts)
        for wire in wires.values():
            wire.become(CLEAR)
