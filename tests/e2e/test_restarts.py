"""Workers and API nodes go away and come back, under load: nothing fails that need not, nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
import pytest_asyncio

from tests.support.cluster import FIRST, HOUR, Answer, Cluster, Node
from tests.support.events import Model, Post, tally, user
from tests.support.load import Connection, Stream, pour
from tests.support.patience import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

TTL = 0.3
DEADLINE = 3.0  # of a question
EXIT_SECONDS = 10.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path_factory.mktemp("restarts"), apis=2, workers=3, cache_ttl_seconds=TTL) as cluster:
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(shared_cluster: Cluster) -> Cluster:
    await shared_cluster.mend()
    return shared_cluster


def posts_with_ids(hour: int, *, users: int = 300) -> Iterator[Post]:
    """Events without end, each with an id, half of them sent a second time later on."""
    for number in itertools.count():
        kind = "click" if number % 3 else "impression"
        post = Post(at=hour + number % HOUR, user=user(number % users), type=kind, id=user(f"id-{number}"))
        yield post
        if number % 2:
            yield post


async def assert_counted(cluster: Cluster, hour: int, posts: list[Post]) -> None:
    """Every API node shows exactly these events, in one slice."""
    model = Model(first=FIRST, length=HOUR)
    model.add(posts)

    async def check() -> None:
        for api in cluster.api:
            assert await cluster.summary(hour, api=api) == model.text(model.slices[0])

    await eventually(check, seconds=5)


async def restart(cluster: Cluster, node: Node, how: str) -> float:
    """Restart the node; for how many seconds it was away."""
    if how == "SIGTERM":
        await node.stop()
    else:
        node.kill()
    gone = time.monotonic()
    await cluster.start(node)
    return time.monotonic() - gone


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("worker", ["0", "1", "2"])
async def test_a_worker_restarts_under_load(cluster: Cluster, hour: int, worker: str, how: str) -> None:
    """Any worker restarted under load, the registry's too: not one failed question, all acknowledged events there once.

    Questions are asked all the time of both API nodes, about a slice that only grows and must never seem to shrink.
    """
    asked: list[tuple[str, Answer]] = []

    async def ask(api: str) -> None:
        while True:
            asked.append((api, await cluster.get(f"?timestamp={hour}&format=json", api=api)))
            await asyncio.sleep(0.01)

    async with Stream(posts_with_ids(hour), cluster.ports, insist=True) as stream:
        # A machine that is busy with other things may need longer than a question waits; then the claim is another one.
        for _ in range(3):
            asked.clear()
            await stream.grow(100)
            questions = [asyncio.create_task(ask(api)) for api in cluster.api]
            away = await restart(cluster, cluster.worker[worker], how)
            await stream.grow(300)
            for question in questions:
                question.cancel()
            await asyncio.gather(*questions, return_exceptions=True)
            if away < DEADLINE - 0.5:
                break

    assert away < DEADLINE - 0.5
    assert len(asked) > 20
    assert [answer for _, answer in asked if answer.status != 200] == []
    for api in cluster.api:
        totals = [shown.json["clicks"] + shown.json["impressions"] for name, shown in asked if name == api]
        assert totals == sorted(totals)
    await assert_counted(cluster, hour, stream.sent)


async def test_a_question_waits_for_a_worker_that_restarts(cluster: Cluster, hour: int) -> None:
    """Asked while the worker is away, a question is answered once it is back, within its deadline."""
    await pour([Post(at=hour, user=user(n)) for n in range(30)], cluster.ports)
    node = cluster.worker["1"]
    await node.stop()
    # The API nodes' caches have expired meanwhile, so the answer has to come from the workers.
    questions = [
        asyncio.create_task(cluster.get(f"{path}?timestamp={hour}")) for path in ("", "/perworker", "/allslices")
    ]
    await asyncio.sleep(0.2)
    none_answered = not any(question.done() for question in questions)
    await cluster.start(node)
    answers = await asyncio.gather(*questions)

    assert none_answered
    assert [answer.status for answer in answers] == [200, 200, 200], answers
    assert answers[0].text == tally(30, 30, 0)


async def test_a_question_gives_up_after_its_deadline(cluster: Cluster, hour: int) -> None:
    """With a worker away a question is answered 503 and names it, after at most some 3 s; with partial=true by a sum.

    The sum says that it is not complete; the worker's own entry of /perworker does too.
    """
    await pour([Post(at=hour, user=user(n)) for n in range(30)], cluster.ports[:1])
    parts = (await cluster.get(f"/perworker?timestamp={hour}&format=json")).json["workers"]
    node = cluster.worker["2"]
    await node.stop()

    async def ask(path: str) -> tuple[float, Answer]:
        begun = time.monotonic()
        answer = await cluster.get(f"{path}timestamp={hour}")
        return time.monotonic() - begun, answer

    whole = ["?", "/perworker?", "/allslices?"]
    partial = [f"{path}partial=true&format=json&" for path in whole]
    answers = await asyncio.gather(*map(ask, [*whole, *partial]))
    after = await asyncio.gather(*map(ask, partial))
    await cluster.start(node)

    for seconds, answer in answers[:3]:
        assert (answer.status, answer.problem) == (503, "no-answer"), answer
        assert "worker 2" in answer.json["detail"]
        assert int(answer.headers["Retry-After"]) >= 1
        assert seconds < DEADLINE + 1
    assert {answer.headers["X-Complete"] for _, answer in (*answers[3:], *after)} == {"false"}
    for shown in (answers[3:], after):
        summary, per_worker, all_slices = (answer.json for _, answer in shown)
        rest = sum(part["unique_users"] for part in parts if part["worker"] != "2")
        assert (summary["unique_users"], summary["clicks"], summary["complete"]) == (rest, rest, False)
        assert {one["worker"]: one["complete"] for one in per_worker["workers"]} == {"0": True, "1": True, "2": False}
        assert "unique_users" not in next(one for one in per_worker["workers"] if one["worker"] == "2")
        mine = next(one for one in all_slices["slices"] if one["slice"] == summary["slice"])
        assert (mine["unique_users"], mine["complete"]) == (rest, False)
    assert await cluster.summary(hour) == tally(30, 30, 0)


async def test_a_hanging_worker_is_like_one_away(cluster: Cluster, hour: int) -> None:
    """A worker that keeps its connections but says nothing: 503 after the deadline, right again when it goes on."""
    await pour([Post(at=hour, user=user(n)) for n in range(30)], cluster.ports)
    await asyncio.sleep(1.5 * TTL)
    node = cluster.worker["1"]
    node.pause()
    try:
        begun = time.monotonic()
        answer = await cluster.get(f"?timestamp={hour}")
        seconds = time.monotonic() - begun
    finally:
        node.resume()

    async def right() -> None:
        assert await cluster.summary(hour) == tally(30, 30, 0)

    assert (answer.status, answer.problem) == (503, "no-answer")
    assert "worker 1" in answer.json["detail"]
    assert seconds < DEADLINE + 1
    await eventually(right)


async def test_an_api_node_drains_before_it_ends(cluster: Cluster, hour: int) -> None:
    """SIGTERM: /readyz is 503 while the node still serves for a second, then it ends with 0; all accepted is there."""
    node = cluster.api["1"]
    posts = (Post(at=hour, user=user(n)) for n in itertools.count())
    taken: list[Post] = []

    async def post_until_gone() -> float:
        """When the last event was taken."""
        last = 0.0
        async with Connection(node.port) as connection:
            for post in posts:
                try:
                    status, _ = await connection.post(post)
                except OSError:
                    break
                assert status in (202, 503)
                if status == 202:
                    taken.append(post)
                    last = time.monotonic()
        return last

    senders = [asyncio.create_task(post_until_gone()) for _ in range(4)]
    await asyncio.sleep(0.2)
    begun = time.monotonic()
    node.ask_to_stop()
    told = await eventually(lambda: draining(cluster, node))
    code = await node.exited()
    seconds = time.monotonic() - begun
    last = max(await asyncio.gather(*senders))
    # What was begun and got no answer may be counted too, an event per connection: they have no ids.
    users = (await cluster.json(hour))["unique_users"]
    await cluster.start(node)

    assert told == "draining\n"
    assert code == 0
    assert seconds < EXIT_SECONDS
    assert last - begun > 0.7
    assert len(taken) <= users <= len(taken) + len(senders)


async def draining(cluster: Cluster, node: Node) -> str:
    status, text = await cluster.readiness(node)
    assert status == 503, (status, text)
    return text


async def test_a_worker_drains_before_it_ends(cluster: Cluster, hour: int) -> None:
    """So does a worker: 503 at /readyz, still serving, then exit code 0, and everything accepted is there again."""
    node = cluster.worker["1"]
    async with Stream(posts_with_ids(hour), cluster.ports, insist=True) as stream:
        await stream.grow(200)
        begun = time.monotonic()
        node.ask_to_stop()
        told = await eventually(lambda: draining(cluster, node))
        served = await cluster.ask("GET", f"{node.url}?slice={(hour - FIRST) // HOUR}")
        code = await node.exited()
        seconds = time.monotonic() - begun
        await cluster.start(node)
        await stream.grow(100)

    assert "draining" in told
    assert served.status == 200
    assert code == 0
    assert 0.7 < seconds < EXIT_SECONDS
    await assert_counted(cluster, hour, stream.sent)


async def test_an_api_node_with_a_worker_away_ends_in_time(cluster: Cluster, hour: int) -> None:
    """SIGTERM while events wait for workers that hang: they go to the spool, and the node ends with 0 in time.

    Its next process delivers them; sent again with their ids they count once.
    """
    assert (await cluster.post(f"timestamp={hour}&user={user('before')}&click", api="1")).status == 202
    api, worker = cluster.api["1"], cluster.worker
    for node in worker.values():
        node.pause()
    try:
        waiting = [
            asyncio.create_task(cluster.post(f"timestamp={hour}&user={user(n)}&click&id={user(n)}", api="1"))
            for n in range(10)
        ]
        await asyncio.sleep(0.3)
        begun = time.monotonic()
        api.ask_to_stop()
        answers = await asyncio.gather(*waiting)
        code = await api.exited()
        seconds = time.monotonic() - begun
    finally:
        for node in worker.values():
            node.resume()
    await cluster.start(api)
    again = await pour([Post(at=hour, user=user(n), id=user(n)) for n in range(10)], cluster.ports)

    assert {(answer.status, answer.headers["X-Durability"]) for answer in answers} == {(202, "spool")}
    assert (code, seconds < EXIT_SECONDS) == (0, True)
    assert again == {202: 10}
    await eventually(lambda: shows(cluster, hour, tally(11, 11, 0)))


async def shows(cluster: Cluster, hour: int, text: str) -> None:
    for api in cluster.api:
        assert await cluster.summary(hour, api=api) == text


async def test_all_at_once(cluster: Cluster, hour: int) -> None:
    """Every process killed at the same moment under load, and started again: acknowledged events are there, once."""
    stream = Stream(posts_with_ids(hour), cluster.ports, insist=True)
    async with stream:
        await stream.grow(300)
        for node in cluster.nodes:
            node.kill()
        await cluster.start(*cluster.nodes)
        await stream.grow(100)

    assert stream.failures
    await assert_counted(cluster, hour, stream.sent)


async def test_nobody_listens_after_the_end(cluster: Cluster) -> None:
    """A stopped node's port is closed, so that a load balancer goes elsewhere at once."""
    node = cluster.api["1"]
    await node.stop()
    with pytest.raises(aiohttp.ClientConnectorError):
        await cluster.get(api="1")
    await cluster.start(node)
