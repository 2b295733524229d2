"""Slices end: their files go, their numbers stay, and what comes late is counted once, as late.

The cluster starts without closing, is given events of 2017, and then a file that closes slices at once.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from common.wire import Outcome
from tests.support.cluster import FIRST, HOUR, Cluster
from tests.support.envoy import Envoy
from tests.support.events import Post, tally, user
from tests.support.load import pour
from tests.support.patience import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

TTL = 0.2
ONE, BOTH = range(10), range(10, 20)
"""Slices held by worker 0 alone, and by both workers."""
USERS, CLICKS = 20, 40

_one, _both = itertools.cycle(ONE), itertools.cycle(BOTH)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """All slices are closed, each with 20 users, 40 clicks and 20 impressions; the impressions had ids."""
    folder = tmp_path_factory.mktemp("closing")
    routing = {0: ["0"], BOTH.start: ["0", "1"]}
    async with Cluster(folder, apis=2, workers=2, routing=routing, cache_ttl_seconds=TTL) as cluster:
        for slice_id in (*ONE, *BOTH):
            posts = [Post(at=at(slice_id), user=user(n % USERS)) for n in range(CLICKS)]
            posts += [Post(at=at(slice_id), user=user(n), type="impression", id=user("id")) for n in range(USERS)]
            assert await pour(posts, cluster.ports, connections=10) == {202: 60}
        assert sum(name.endswith(".mdb") for name in files(cluster)) == len(ONE) + 2 * len(BOTH)
        cluster.write(cluster.changed(close_after_seconds=0, close_grace_seconds=0))

        async def closed() -> None:
            assert not files(cluster)
            # The API nodes too: they have read the same file.
            for api in cluster.api:
                answer = await cluster.post(f"timestamp={at(0)}&user={user(1)}&click", api=api)
                assert (answer.status, answer.problem) == (422, "slice-closed")

        await eventually(closed, seconds=20)
        yield cluster


@pytest.fixture
def one() -> int:
    """A closed slice that worker 0 held alone, and that no other test changes."""
    return next(_one)


@pytest.fixture
def both() -> int:
    """The same, of both workers."""
    return next(_both)


WHOLE = tally(USERS, CLICKS, USERS)


def at(slice_id: int) -> int:
    return FIRST + slice_id * HOUR


def files(cluster: Cluster) -> list[str]:
    """The slice files at the workers; those of now aside, which are not closed."""
    names = [path.name for node in cluster.worker.values() for path in (node.data / "slices").glob("*")]
    return [name for name in names if int(name.split(".")[0]) < BOTH.stop]


async def worker_text(cluster: Cluster, worker: str, slice_id: int) -> str:
    answer = await cluster.ask("GET", f"{cluster.worker[worker].url}?slice={slice_id}")
    assert answer.status == 200
    return answer.text


async def test_a_closed_slice_keeps_its_counts(cluster: Cluster, both: int) -> None:
    """Its numbers stay, in every kind of answer, and it is complete."""
    shown = [await cluster.json(at(both), api=api) for api in cluster.api]
    parts = (await cluster.get(f"/perworker?timestamp={at(both)}&format=json")).json["workers"]
    listed = (await cluster.get(f"/allslices?timestamp={at(both)}&format=json")).json["slices"]

    assert [await cluster.summary(at(both), api=api) for api in cluster.api] == [WHOLE, WHOLE]
    assert all(one["complete"] and "late" not in one for one in shown)
    assert [part["worker"] for part in parts] == ["0", "1"]
    assert sum(part["unique_users"] for part in parts) == USERS
    assert next(one for one in listed if one["slice"] == both) == shown[0]


async def test_its_files_are_gone(cluster: Cluster, one: int) -> None:
    """Nothing of the slice is left in the workers' slice folders; the worker still answers for it and lists it."""
    listed = (await cluster.ask("GET", f"{cluster.worker['0'].url}/slices")).json["slices"]

    assert files(cluster) == []
    assert await worker_text(cluster, "0", one) == WHOLE
    assert set(ONE) | set(BOTH) <= set(listed)


async def test_new_events_are_refused(cluster: Cluster, both: int) -> None:
    """An event for a closed slice is 422 slice-closed at every API node, and changes nothing."""
    answers = [await cluster.post(f"timestamp={at(both)}&user={user('new')}&click", api=api) for api in cluster.api]

    assert [(answer.status, answer.problem) for answer in answers] == [(422, "slice-closed")] * 2
    assert [answer.json["field"] for answer in answers] == ["timestamp"] * 2
    assert await cluster.summary(at(both)) == WHOLE


async def test_a_batch_that_was_under_way_is_refused(cluster: Cluster, one: int) -> None:
    """A batch that reaches the worker after the closing, and is not from a spool, applies nothing."""
    envoy = await Envoy.of(cluster, cluster.worker["0"])
    receipts = await envoy.send(envoy.batch(one, [Post(at=at(one), user=user("new"))]))

    assert [receipt.outcome for receipt in receipts] == [Outcome.CLOSED]
    assert await worker_text(cluster, "0", one) == WHOLE


async def test_a_late_batch_is_counted_once(cluster: Cluster, one: int) -> None:
    """A spooled batch for a closed slice: its events count once, as late, however often it comes.

    Those without id are added to the counts; users, and events with id, which may be repeats, are only in ``late``.
    The summary is not complete any more, in every answer.
    """
    envoy = await Envoy.of(cluster, cluster.worker["0"])
    late = [
        Post(at=at(one), user=user("new")),
        Post(at=at(one), user=user(1), type="impression"),
        Post(at=at(one), user=user(2), type="impression", id=user("late id")),
    ]
    batch = envoy.batch(one, late)
    outcomes = [(await envoy.send(batch, spooled=True))[0].outcome for _ in range(3)]
    expected = tally(USERS, CLICKS + 1, USERS + 1) + "late,3\n"

    async def shown() -> None:
        for api in cluster.api:
            assert await cluster.summary(at(one), api=api) == expected
            json = await cluster.json(at(one), api=api)
            assert (json["late"], json["complete"]) == (3, False)

    assert outcomes == [Outcome.APPLIED, Outcome.DUPLICATE, Outcome.DUPLICATE]
    assert await worker_text(cluster, "0", one) == expected
    await eventually(shown)
    # The next number of the stream goes on, and everything outlives a crash.
    second = await envoy.send(envoy.batch(one, late[:1], seq=2), spooled=True)
    cluster.worker["0"].kill()
    await cluster.start(cluster.worker["0"])
    again = await envoy.send(envoy.batch(one, late[:1], seq=2), spooled=True)
    gap = await envoy.send(envoy.batch(one, late[:1], seq=4), spooled=True)
    assert [second[0].outcome, again[0].outcome] == [Outcome.APPLIED, Outcome.DUPLICATE]
    assert (gap[0].outcome, gap[0].expected) == (Outcome.GAP, 3)
    assert await worker_text(cluster, "0", one) == tally(USERS, CLICKS + 2, USERS + 1) + "late,4\n"


async def test_a_batch_applied_before_the_closing_is_still_known(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A batch was applied, its reply lost, the slice closed: the same batch, spooled meanwhile, counts nothing."""
    async with Cluster(tmp_path_factory.mktemp("known"), cache_ttl_seconds=TTL) as cluster:
        assert (await cluster.post(f"timestamp={at(0)}&user={user(1)}&click")).status == 202
        envoy = await Envoy.of(cluster, cluster.worker["0"])
        batch = envoy.batch(0, [Post(at=at(0), user=user(2))])
        before = await envoy.send(batch)
        cluster.write(cluster.changed(close_after_seconds=0, close_grace_seconds=0))

        async def closed() -> None:
            assert not files(cluster)

        await eventually(closed)
        after = await envoy.send(batch, spooled=True)

        assert [before[0].outcome, after[0].outcome] == [Outcome.APPLIED, Outcome.DUPLICATE]
        assert await worker_text(cluster, "0", 0) == tally(2, 2, 0)


async def test_a_wrong_late_batch_is_refused(cluster: Cluster, one: int) -> None:
    """A closed slice still knows its route: a spooled batch under another one is refused and counts nothing."""
    envoy = await Envoy.of(cluster, cluster.worker["0"])
    mine = next(user(n) for n in range(100) if envoy.owns(one, user(n), ["0", "1"]))
    receipts = await envoy.send(envoy.batch(one, [Post(at=at(one), user=mine)], route=["0", "1"]), spooled=True)

    assert [receipt.outcome for receipt in receipts] == [Outcome.WRONG_ROUTE]
    assert await worker_text(cluster, "0", one) == WHOLE


async def test_a_closed_slice_outlives_restarts(cluster: Cluster, both: int) -> None:
    """After every node was killed and started again: the same numbers, no files, still closed."""
    for node in cluster.nodes:
        node.kill()
    await cluster.start(*cluster.nodes)

    assert [await cluster.summary(at(both), api=api) for api in cluster.api] == [WHOLE, WHOLE]
    assert files(cluster) == []
    assert (await cluster.post(f"timestamp={at(both)}&user={user(1)}&click")).problem == "slice-closed"


async def test_a_left_over_file_is_removed(cluster: Cluster, one: int) -> None:
    """The file of a closed slice that a crash left behind is gone after the next start; the closed numbers stand."""
    worker = cluster.worker["0"]
    await worker.stop()
    left = worker.data / "slices" / f"{one}.mdb"
    left.write_bytes(b"whatever a crash between two steps left here" * 1000)
    await cluster.start(worker)

    assert not left.exists()
    assert await worker_text(cluster, "0", one) == WHOLE


async def test_a_slice_closes_by_itself_when_its_time_has_come(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Slices of two seconds, closed two seconds after their end: events of now count, and later the slice is closed."""
    settings: dict[str, Any] = {
        "first_slice": "system",
        "length_of_time_slice": 2,
        "close_after_seconds": 2,
        "close_grace_seconds": 0.5,
    }
    folder = tmp_path_factory.mktemp("by-itself")
    async with Cluster(folder, apis=1, workers=2, cache_ttl_seconds=TTL, **settings) as cluster:
        start = time.time()
        posts = [Post(at=start, user=user(n)) for n in range(20)]
        statuses = await pour(posts, cluster.ports, connections=10)
        shown = await cluster.json(start)
        slice_id = shown["slice"]

        async def closed() -> None:
            for node in cluster.worker.values():
                assert not (node.data / "slices" / f"{slice_id}.mdb").exists()

        assert statuses == {202: 20}
        await eventually(closed, seconds=15)
        answer = await cluster.post(f"timestamp={start}&user={user(1)}&click")
        assert (answer.status, answer.problem) == (422, "slice-closed")
        await asyncio.sleep(2 * TTL)
        assert await cluster.json(start) == shown
        assert (shown["unique_users"], shown["clicks"], shown["complete"]) == (20, 20, True)
