"""HAProxy and nginx before two API nodes, as ``deploy/`` has them: what clients see while every node is restarted.

::

    clients --+                  +-- api-0 --+-- worker-0
    clients --+-- HAProxy/nginx -+           |
    clients --+                  +-- api-1 --+-- worker-1
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Self

import aiohttp
import pytest
import pytest_asyncio

from tests.support.cluster import FIRST, HOUR, Cluster, Node
from tests.support.events import CANARY, Model, Post, user
from tests.support.front import Front
from tests.support.load import Connection, Stream
from tests.support.patience import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

TTL = 0.3
DEADLINE = 3.0  # of a question
BULK = 50


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path_factory.mktemp("proxies"), apis=2, workers=2, cache_ttl_seconds=TTL) as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(shared_cluster: Cluster) -> Cluster:
    await shared_cluster.mend()
    return shared_cluster


@pytest_asyncio.fixture(loop_scope="module", params=["haproxy", "nginx"])
async def front(cluster: Cluster, request: pytest.FixtureRequest) -> AsyncIterator[Front]:
    async with Front(request.param, cluster.ports, cluster.folder) as front:
        await eventually(lambda: ready(front))
        yield front


async def ready(front: Front) -> None:
    async with Connection(front.port) as connection:
        assert (await connection.request("GET", "/readyz"))[0] == 200


def posts(hour: int, name: str) -> Iterator[Post]:
    """Events without end and without ids: one that were sent twice would be counted twice."""
    for number in itertools.count():
        kind = "click" if number % 3 else "impression"
        yield Post(at=hour + number % HOUR, user=user(f"{name}-{number % 300}"), type=kind)


class Traffic:
    """All that goes through a proxy: events one by one and in bulk, over connections old and new, and questions.

    A request that fails ends it with that failure.
    """

    def __init__(self, front: Front, hour: int) -> None:
        self._front = front
        self._hour = hour
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False
        self.kept = Stream(posts(hour, "kept"), [front.port], connections=6)
        self.fresh: list[Post] = []
        self.bulk: list[Post] = []
        self.late: list[str] = []  # questions that a worker was away for too long for
        self.asked = 0

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self.kept)
        work = [self._post_fresh("fresh-0"), self._post_fresh("fresh-1"), self._post_bulk(), self._ask()]
        self._tasks = [asyncio.create_task(one) for one in work]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._stopped = True
        try:
            await asyncio.gather(*self._tasks)
        finally:
            await self._stack.__aexit__(*error)  # type: ignore[arg-type] # as they came

    @property
    def sent(self) -> list[Post]:
        """Every event that was acknowledged."""
        return [*self.kept.sent, *self.fresh, *self.bulk]

    async def goes_on(self) -> None:
        """Wait until more of each kind got through."""
        before = (len(self.fresh), len(self.bulk), self.asked)
        await self.kept.grow(100)

        async def more() -> None:
            for task in self._tasks:
                if task.done():
                    await task
            assert all(map(int.__gt__, (len(self.fresh), len(self.bulk), self.asked), before))

        await eventually(more, seconds=20)

    async def _post_fresh(self, name: str) -> None:
        for post in posts(self._hour, name):
            if self._stopped:
                return
            async with Connection(self._front.port) as connection:
                status, body = await connection.post(post)
            assert status == 202, f"{status}: {body}"
            self.fresh.append(post)

    async def _post_bulk(self) -> None:
        events = posts(self._hour, "bulk")
        async with aiohttp.ClientSession() as session:
            while not self._stopped:
                some = list(itertools.islice(events, BULK))
                rows = [{"timestamp": post.at, "user": post.user, "event": post.type} for post in some]
                async with session.post(f"http://127.0.0.1:{self._front.port}/events", json=rows) as response:
                    body = await response.text()
                    assert response.status == 202, f"{response.status}: {body}"
                self.bulk += some

    async def _ask(self) -> None:
        async with Connection(self._front.port) as connection:
            while not self._stopped:
                status, body = await connection.request("GET", f"/analytics?timestamp={self._hour}&format=json")
                if status == 503 and json.loads(body)["type"].endswith("no-answer"):
                    self.late.append(body)
                else:
                    assert status == 200, f"{status}: {body}"
                    self.asked += 1


async def takes_events(cluster: Cluster, node: Node) -> None:
    """Whether the proxy sends it some, as it does when it has noticed that the node is back."""
    assert await cluster.metric(node, "tallyslice_events_total") > 0


async def test_every_node_is_restarted_and_no_request_fails(front: Front, cluster: Cluster, hour: int) -> None:
    """One after the other, workers and API nodes, under load through the proxy; afterwards every count is exact.

    Questions wait 3 s for a worker: on a machine so slow that its restart takes longer they may get the documented 503,
    and nothing else.
    """
    async with Traffic(front, hour) as traffic:
        await traffic.goes_on()
        away = 0.0
        for worker in cluster.worker.values():
            await worker.stop()
            begun = time.monotonic()
            await cluster.start(worker)
            away = max(away, time.monotonic() - begun)
            await traffic.goes_on()
        for api in cluster.api.values():
            await cluster.restart(api)
            await eventually(lambda api=api: takes_events(cluster, api))  # type: ignore[misc] # bound here
            await traffic.goes_on()

    assert traffic.late == [] or away > DEADLINE - 0.5
    model = Model(first=FIRST, length=HOUR)
    model.add(traffic.sent)

    async def counted() -> None:
        for name in cluster.api:
            assert await cluster.summary(hour, api=name) == model.text(model.slices[0])

    await eventually(counted)
    assert CANARY not in front.logged
