"""A worker is away for long: its events are kept on the API node's disk, and are counted once when it is back."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path

import pytest

from tests.support.cluster import FIRST, HOUR, Cluster
from tests.support.events import Model, Post, user
from tests.support.load import pour
from tests.support.patience import eventually

pytestmark = pytest.mark.e2e

TTL = 0.2
AWAY_SECONDS = 3.0  # after which events go to the spool


async def test_a_spool_outlives_its_process(tmp_path: Path) -> None:
    """Events for a worker that is away are acknowledged from the spool, the API node is killed, and all count once.

    Answers without the worker are refused, or say that they are not complete. Other workers' events do not wait.
    Those with ids are sent again through the other node; they count once too.
    """
    model = Model(first=FIRST, length=HOUR)
    numbers = itertools.count()

    def some(count: int) -> list[Post]:
        return [Post(at=FIRST, user=user(n % 70), id=user(n)) for n in itertools.islice(numbers, count)]

    async with Cluster(tmp_path, apis=2, workers=2, cache_ttl_seconds=TTL) as cluster:
        api, worker = cluster.api["0"], cluster.worker["1"]
        posts = some(100)
        assert await pour(posts, [api.port]) == {202: 100}
        worker.kill()

        begun = time.monotonic()
        waiting = some(40)
        answers = await asyncio.gather(*(cluster.post(post.query) for post in waiting))
        seconds = time.monotonic() - begun
        posts += waiting
        assert {answer.status for answer in answers} == {202}
        assert {answer.headers["X-Durability"] for answer in answers} == {"worker", "spool"}
        assert seconds < AWAY_SECONDS + 2
        spooled = [answer.headers["X-Durability"] for answer in answers].count("spool")
        assert (await cluster.state())["spool"]["events"] == spooled
        whole, part = await asyncio.gather(cluster.get(f"?timestamp={FIRST}"), partial(cluster))
        assert (whole.status, whole.problem) == (503, "no-answer")
        assert (part["complete"], part["spooled"]) == (False, spooled)

        api.kill()
        await cluster.start(api)
        posts += (more := some(40))
        assert await pour(more, [api.port], connections=40) == {202: 40}
        await cluster.start(worker)
        model.add(posts)

        async def counted() -> None:
            for name in cluster.api:
                assert await cluster.summary(FIRST, api=name) == model.text(0)
            assert (await cluster.state())["spool"]["events"] == 0

        await eventually(counted)
        assert await pour(posts, [cluster.api["1"].port]) == {202: 180}
        await eventually(counted)


async def partial(cluster: Cluster) -> dict[str, object]:
    """The sum of what answers, and of what is known to be missing."""
    answer = await cluster.get(f"?timestamp={FIRST}&partial=true&format=json")
    assert answer.status == 200
    shown: dict[str, object] = answer.json
    return shown
