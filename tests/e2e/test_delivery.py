"""A bad network between an API node and a worker: envelopes get lost, doubled, broken or late, and count once.

::

    API node  -->  Proxy  -->  worker 0
              ---------------> worker 1
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from common.wire import Outcome
from tests.support import proxy as network
from tests.support.cluster import FIRST, HOUR, Answer, Cluster
from tests.support.envoy import Envoy
from tests.support.events import Model, Post, tally, user
from tests.support.load import pour
from tests.support.patience import eventually
from tests.support.proxy import Held, Proxy, Step

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

TTL = 0.2


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster_and_proxy(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Cluster, Proxy]]:
    """One API node that reaches worker 0 through the proxy, and one that reaches it directly.

    The first one has no spool, so that an event waits for its worker, however long the network is bad.
    """
    # Slices from 1000 on have both workers, the others have only the one behind the proxy.
    routing = {0: ["0"], 1000: ["0", "1"]}
    folder = tmp_path_factory.mktemp("delivery")
    cluster = Cluster(folder, apis=2, workers=2, routing=routing, cache_ttl_seconds=TTL, start=False)
    async with cluster, Proxy(cluster.worker["0"]) as proxy:
        through = {**cluster.config["worker-nodes"], "0": proxy.url}
        cluster.api["0"].file = cluster.write(
            cluster.changed(worker_nodes=through, spool_max_bytes=0), name="through.json"
        )
        await cluster.start(*cluster.nodes)
        yield cluster, proxy


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(cluster_and_proxy: tuple[Cluster, Proxy]) -> Cluster:
    cluster, _ = cluster_and_proxy
    await cluster.mend()
    return cluster


@pytest.fixture
def proxy(cluster_and_proxy: tuple[Cluster, Proxy]) -> Proxy:
    proxy = cluster_and_proxy[1]
    proxy.plan.clear()
    proxy.exchanges.clear()
    return proxy


async def click(cluster: Cluster, hour: int, name: int | str, **ask: Any) -> Answer:
    return await cluster.post(f"timestamp={hour}&user={user(name)}&click", **ask)


async def assert_shown(cluster: Cluster, hour: int, text: str) -> None:
    """At once through the node that took the events, soon through the other, and by the worker itself."""
    assert await cluster.summary(hour) == text

    async def elsewhere() -> None:
        assert await cluster.summary(hour, api="1") == text

    await eventually(elsewhere)
    own = await cluster.ask("GET", f"{cluster.worker['0'].url}?slice={(hour - FIRST) // HOUR}")
    assert own.text == text


@pytest.mark.parametrize(
    ("step", "outcomes"),
    [
        (network.lose_request, [Outcome.APPLIED]),
        (network.break_request, [Outcome.APPLIED]),
        (network.lose_reply, [Outcome.APPLIED, Outcome.DUPLICATE]),
        (network.break_reply, [Outcome.APPLIED, Outcome.DUPLICATE]),
        (network.double, [Outcome.APPLIED, Outcome.DUPLICATE]),
        (network.double_answer_second, [Outcome.APPLIED, Outcome.DUPLICATE]),
        (network.double_at_once, [Outcome.APPLIED, Outcome.DUPLICATE]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_an_event_counts_once_whatever_happens(
    cluster: Cluster, proxy: Proxy, hour: int, step: Step, outcomes: list[Outcome]
) -> None:
    """An envelope lost, broken off, doubled, or its reply lost: the event is acknowledged and counted once.

    So is the next one, so the numbers go on.
    """
    proxy.plan.append(step)
    first = await click(cluster, hour, 1)
    second = await click(cluster, hour, 1)

    assert (first.status, second.status) == (202, 202)
    assert sorted(proxy.outcomes) == sorted([*outcomes, Outcome.APPLIED])
    await assert_shown(cluster, hour, tally(1, 2, 0))


@pytest.mark.parametrize("lost", [2, 5])
async def test_replies_lost_in_a_row(cluster: Cluster, proxy: Proxy, hour: int, lost: int) -> None:
    """The same envelope is sent until a reply comes through, and all that came is counted once."""
    proxy.plan += [network.lose_reply] * lost
    taken = await click(cluster, hour, 1)

    assert taken.status == 202
    assert proxy.outcomes == [Outcome.APPLIED] + [Outcome.DUPLICATE] * lost
    assert len({exchange.batches for exchange in proxy.exchanges}) == 1
    await assert_shown(cluster, hour, tally(1, 1, 0))


async def test_a_copy_that_arrives_after_its_successor(cluster: Cluster, proxy: Proxy, hour: int) -> None:
    """A lost envelope turns up when its copy, and the next one, have long been counted: it counts nothing.

    ::

        1 held ... 1 again: counted, 2: counted, 1 arrives at last
    """
    held = Held()
    proxy.plan.append(held)
    assert (await click(cluster, hour, 1)).status == 202
    assert (await click(cluster, hour, 2)).status == 202
    outcomes = await held.release()

    assert outcomes == [Outcome.DUPLICATE]
    await assert_shown(cluster, hour, tally(2, 2, 0))


async def test_a_copy_that_arrives_before_its_successor(cluster: Cluster, proxy: Proxy, hour: int) -> None:
    """The lost one arrives between its own copy and the next envelope: it counts nothing either."""
    held = Held()
    proxy.plan.append(held)
    assert (await click(cluster, hour, 1)).status == 202
    outcomes = await held.release()
    assert (await click(cluster, hour, 2)).status == 202

    assert outcomes == [Outcome.DUPLICATE]
    await assert_shown(cluster, hour, tally(2, 2, 0))


async def test_the_held_one_arrives_first(cluster: Cluster, proxy: Proxy, hour: int) -> None:
    """The lost one arrives while its copy is still on the way: whichever comes first counts, and only that one."""
    first, second = Held(), Held()
    proxy.plan += [first, second]
    taken = asyncio.create_task(click(cluster, hour, 1))

    async def both_held() -> None:
        assert second.exchange is not None

    await eventually(both_held)
    outcomes = [*await second.release(), *await first.release()]

    assert outcomes[0] == Outcome.APPLIED or proxy.exchanges[2].outcomes == [[Outcome.APPLIED]]
    assert (await taken).status == 202
    assert sorted(proxy.outcomes) == [Outcome.APPLIED, Outcome.DUPLICATE, Outcome.DUPLICATE]
    await assert_shown(cluster, hour, tally(1, 1, 0))


async def test_a_copy_that_outlives_the_worker(cluster: Cluster, proxy: Proxy, hour: int) -> None:
    """The reply is lost, the worker restarts, and the envelope comes again: it knows that it counted it.

    So it does of a copy that turns up much later.
    """
    held = Held()
    proxy.plan += [held, network.lose_reply, *[network.lose_request] * 3]
    taken = asyncio.create_task(click(cluster, hour, 1))

    async def applied() -> None:
        assert proxy.outcomes == [Outcome.APPLIED]

    await eventually(applied)
    cluster.worker["0"].kill()
    await cluster.start(cluster.worker["0"])

    assert (await taken).status == 202
    assert await held.release() == [Outcome.DUPLICATE]
    await assert_shown(cluster, hour, tally(1, 1, 0))


async def test_a_held_envelope_of_the_process_before(cluster: Cluster, proxy: Proxy, hour: int) -> None:
    """An envelope of an API process that is gone arrives: it was never acknowledged and is counted once.

    The process after it goes on in a stream of its own.
    """
    held = Held()
    proxy.plan += [held, *[network.lose_request] * 1000]
    taken = asyncio.create_task(click(cluster, hour, 1))

    async def is_held() -> None:
        assert held.exchange is not None

    await eventually(is_held)
    cluster.api["0"].kill()
    await asyncio.gather(taken, return_exceptions=True)
    proxy.plan.clear()
    await cluster.start(cluster.api["0"])
    after = await click(cluster, hour, 2)
    outcomes = await held.release(), await held.release()

    async def both() -> None:
        assert await cluster.summary(hour) == tally(2, 2, 0)

    assert after.status == 202
    assert outcomes == ([Outcome.APPLIED], [Outcome.DUPLICATE])
    await eventually(both)


async def test_nobody_knows_before_the_reply_comes(cluster: Cluster, proxy: Proxy, hour: int) -> None:
    """No envelope comes through: after the deadline the answer is 503 outcome-unknown, and a retry with the id is safe.

    Events of another worker do not wait for it.
    """
    far = hour + 2000 * HOUR
    proxy.plan += [network.lose_request] * 10_000
    waiting = asyncio.create_task(cluster.post(f"timestamp={hour}&user={user(1)}&click&id={user('id')}"))
    envoy = await Envoy.of(cluster, cluster.worker["1"])
    apart = [n for n in range(20) if envoy.owns((far - FIRST) // HOUR, user(n), ["0", "1"])]
    others = [await click(cluster, far, n, seconds=2) for n in apart]
    answer = await waiting
    proxy.plan.clear()

    async def again() -> None:
        retried = await cluster.post(f"timestamp={hour}&user={user(1)}&click&id={user('id')}")
        assert retried.status == 202, retried

    assert {other.status for other in others} == {202}
    assert (answer.status, answer.problem) == (503, "outcome-unknown")
    assert int(answer.headers["Retry-After"]) >= 1
    await eventually(again)
    await assert_shown(cluster, hour, tally(1, 1, 0))


@pytest.mark.timeout(180)
async def test_a_thoroughly_bad_network(cluster: Cluster, proxy: Proxy, hour: int) -> None:
    """Every other envelope meets some misfortune while events pour in: all are acknowledged, each is counted once."""
    held = [Held() for _ in range(10)]
    steps: list[Step] = [
        network.lose_request,
        network.break_request,
        network.lose_reply,
        network.break_reply,
        network.double,
        network.double_answer_second,
        network.double_at_once,
        *held,
        *[network.pass_on] * 17,
    ]
    random.shuffle(steps)
    proxy.plan += steps
    posts = [Post(at=hour, user=user(random.randrange(200)), id=user(f"id-{n}")) for n in range(1000)]
    posts += [Post(at=hour, user=user(random.randrange(200)), type="impression") for n in range(1000)]
    random.shuffle(posts)
    statuses = await pour(posts, [cluster.api["0"].port], connections=30)
    late = [await one.release() for one in held if one.exchange is not None]
    model = Model(first=FIRST, length=HOUR)
    model.add(posts)

    assert statuses == {202: 2000}
    assert {outcome for outcomes in late for outcome in outcomes} <= {Outcome.DUPLICATE}
    assert proxy.outcomes.count(Outcome.DUPLICATE) > 5
    await assert_shown(cluster, hour, model.text((hour - FIRST) // HOUR))


async def test_the_same_number_with_other_content(cluster: Cluster, proxy: Proxy, hour: int) -> None:
    """Another batch stands under this stream's next number: a conflict, and the events go on in a new stream.

    No API node does that, so the test uses up the number itself.
    """
    slice_id = (hour - FIRST) // HOUR
    assert (await click(cluster, hour, 1)).status == 202
    stream = proxy.exchanges[-1].envelope.stream
    envoy = await Envoy.of(cluster, cluster.worker["0"], stream=stream)
    forged = await envoy.send(envoy.batch(slice_id, [Post(at=hour, user=user("forged"))], seq=2))
    second = await click(cluster, hour, 2)
    third = await click(cluster, hour, 3)

    assert [receipt.outcome for receipt in forged] == [Outcome.APPLIED]
    assert (second.status, third.status) == (202, 202)
    assert Outcome.CONFLICT in proxy.outcomes
    assert len({exchange.envelope.stream for exchange in proxy.exchanges}) == 2
    assert "stream_conflict" in cluster.api["0"].log_text()
    await assert_shown(cluster, hour, tally(4, 4, 0))


async def test_a_gap_is_never_bridged(cluster: Cluster, proxy: Proxy, hour: int) -> None:
    """A batch whose predecessor is missing is not applied; the receipt names the number that is expected."""
    slice_id = (hour - FIRST) // HOUR
    assert (await click(cluster, hour, 1)).status == 202
    envoy = await Envoy.of(cluster, cluster.worker["0"])
    receipts = await envoy.send(envoy.batch(slice_id, [Post(at=hour, user=user(2))], seq=3))

    assert [(receipt.outcome, receipt.expected) for receipt in receipts] == [(Outcome.GAP, 1)]
    await assert_shown(cluster, hour, tally(1, 1, 0))


async def test_a_worker_that_lost_data_is_found_out(cluster: Cluster, proxy: Proxy, hour: int) -> None:
    """A slice file is put back as it was earlier: the next event tells, is counted, and the slice is not complete.

    ::

        event 1 | copy | events 2, 3 | copy put back | event 4: gap, goes on in a new stream
    """
    worker = cluster.worker["0"]
    file = worker.data / "slices" / f"{(hour - FIRST) // HOUR}.mdb"
    copy = cluster.folder / "copy.mdb"
    statuses = [(await click(cluster, hour, 1)).status]
    await worker.stop()
    shutil.copy(file, copy)
    await cluster.start(worker)
    statuses += [(await click(cluster, hour, n)).status for n in (2, 3)]
    await worker.stop()
    shutil.copy(copy, file)
    await cluster.start(worker)
    statuses.append((await click(cluster, hour, 4)).status)
    shown = await cluster.json(hour)

    assert statuses == [202] * 4
    assert (shown["unique_users"], shown["clicks"], shown["complete"]) == (2, 2, False)
    assert "stream_regressed" in cluster.api["0"].log_text()
