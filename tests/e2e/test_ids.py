"""An event with an id counts once, however often it is sent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.cluster import FIRST, HOUR, Cluster
from tests.support.events import Model, Post, tally, user
from tests.support.load import pour
from tests.support.patience import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

TTL = 0.2
ID = user("id")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path_factory.mktemp("ids"), apis=2, workers=2, cache_ttl_seconds=TTL) as cluster:
        yield cluster


async def post_all(cluster: Cluster, *posts: Post, api: str = "0") -> None:
    """Post them one after the other; each must be acknowledged."""
    for post in posts:
        answer = await cluster.post(post.query, api=api)
        assert answer.status == 202, answer


async def assert_shown(cluster: Cluster, hour: int, text: str) -> None:
    async def check() -> None:
        for api in cluster.api:
            assert await cluster.summary(hour, api=api) == text

    await eventually(check)


async def test_the_same_event_twice_counts_once(cluster: Cluster, hour: int) -> None:
    """Sent again through the same node, and through another: acknowledged each time, counted once."""
    post = Post(at=hour, user=user(1), id=ID)
    await post_all(cluster, post, post)
    await post_all(cluster, post, api="1")

    await assert_shown(cluster, hour, tally(1, 1, 0))


async def test_the_same_event_at_the_same_moment_counts_once(cluster: Cluster, hour: int) -> None:
    """Fifty copies at once through two nodes, many in one batch: one event."""
    post = Post(at=hour, user=user(1), id=ID)
    statuses = await pour([post] * 50, cluster.ports, connections=50)

    assert statuses == {202: 50}
    await assert_shown(cluster, hour, tally(1, 1, 0))


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
async def test_an_id_outlives_a_restart(cluster: Cluster, hour: int, how: str) -> None:
    """The same events sent again after every node was restarted count once."""
    posts = [Post(at=hour, user=user(n), id=ID) for n in range(20)]
    await post_all(cluster, *posts)
    if how == "SIGTERM":
        await asyncio.gather(*map(cluster.restart, cluster.nodes))
    else:
        for node in cluster.nodes:
            node.kill()
        await cluster.start(*cluster.nodes)
    await post_all(cluster, *posts)

    await assert_shown(cluster, hour, tally(20, 20, 0))


async def test_another_type_or_user_or_slice_is_another_event(cluster: Cluster, hour: int) -> None:
    """An id is scoped to its user, its type and its slice."""
    await post_all(
        cluster,
        Post(at=hour, user=user(1), id=ID),
        Post(at=hour, user=user(1), type="impression", id=ID),
        Post(at=hour, user=user(2), id=ID),
        Post(at=hour + HOUR, user=user(1), id=ID),
        Post(at=hour, user=user(1), id=ID + "'"),
    )

    await assert_shown(cluster, hour, tally(2, 3, 1))
    await assert_shown(cluster, hour + HOUR, tally(1, 1, 0))


async def test_another_time_in_the_slice_is_the_same_event(cluster: Cluster, hour: int) -> None:
    """A retry may carry any timestamp of the slice."""
    await post_all(cluster, Post(at=hour, user=user(1), id=ID), Post(at=hour + HOUR - 0.5, user=user(1), id=ID))

    await assert_shown(cluster, hour, tally(1, 1, 0))


async def test_without_an_id_every_request_counts(cluster: Cluster, hour: int) -> None:
    """A repeated request without id repeats the counts, never the unique users."""
    post = Post(at=hour, user=user(1))
    await post_all(cluster, post, post, post)

    await assert_shown(cluster, hour, tally(1, 3, 0))


async def test_with_and_without_ids_mixed(cluster: Cluster, hour: int) -> None:
    """Events with and without id, some sent many times, over many connections and both nodes: as a model has it."""
    posts = [Post(at=hour, user=user(n % 50), id=user(n // 3)) for n in range(600)]
    posts += [Post(at=hour, user=user(n % 80), type="impression") for n in range(300)]
    posts += posts[:400]
    random.shuffle(posts)
    statuses = await pour(posts, cluster.ports, connections=40)
    model = Model(first=FIRST, length=HOUR)
    model.add(posts)

    assert statuses == {202: 1300}
    await assert_shown(cluster, hour, model.text(model.slices[0]))
