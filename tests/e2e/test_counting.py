"""What goes in comes out: one cluster of two API nodes and three workers, a slice of its own for every test."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.cluster import FIRST, HOUR, Cluster
from tests.support.events import Model, Post, tally, user
from tests.support.forms import TYPE, form_of
from tests.support.load import Connection, pour
from tests.support.patience import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

TTL = 0.3

# The slices from 1000 on change nodes, their number and their order; the fixture ``hour`` stays below.
TEN = {
    1000: ["0"],
    1001: ["1", "0"],
    1002: ["0", "1"],
    1003: ["2", "1", "0"],
    1004: ["2"],
    1005: ["0", "2"],
    1006: ["1"],
    1007: ["1", "2"],
    1008: ["0", "1", "2"],
    1009: ["1", "2", "0"],
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    routing = {0: ["0", "1", "2"], **TEN}
    folder = tmp_path_factory.mktemp("counting")
    async with Cluster(folder, apis=2, workers=3, routing=routing, cache_ttl_seconds=TTL) as cluster:
        yield cluster


def slice_of(at: int) -> int:
    return (at - FIRST) // HOUR


async def test_an_empty_slice_is_three_zeros(cluster: Cluster, hour: int) -> None:
    """A slice that nothing was sent to answers 200 and three zeros, at every API node."""
    answers = [await cluster.get(f"?timestamp={hour}", api=api) for api in cluster.api]

    assert {(answer.status, answer.text) for answer in answers} == {(200, tally(0, 0, 0))}
    assert {answer.headers["Content-Type"] for answer in answers} == {"text/plain; charset=utf-8"}


@pytest.mark.parametrize("path", ["/worker", "/workers"])
async def test_an_empty_slice_is_three_zeros_at_a_worker(cluster: Cluster, hour: int, path: str) -> None:
    """So does every worker, under both of its names."""
    workers = cluster.worker.values()
    answers = [await cluster.ask("GET", f"{worker.base}{path}?slice={slice_of(hour)}") for worker in workers]

    assert {(answer.status, answer.text) for answer in answers} == {(200, tally(0, 0, 0))}


async def test_an_event_counts_at_once(cluster: Cluster, hour: int) -> None:
    """One event is one user and one count: at once where it was taken, and everywhere when caches have expired."""
    taken = await cluster.post(f"timestamp={hour}&user={user(1)}&impression")
    at_once = await cluster.summary(hour)

    async def elsewhere() -> None:
        assert await cluster.summary(hour, api="1") == tally(1, 0, 1)

    assert (taken.status, taken.text, taken.headers["X-Durability"]) == (202, "", "worker")
    assert at_once == tally(1, 0, 1)
    await eventually(elsewhere, seconds=2 * TTL)
    await asyncio.sleep(1.5 * TTL)
    assert await cluster.summary(hour) == tally(1, 0, 1)


async def test_zeros_seen_before_the_first_event_are_not_kept(cluster: Cluster, hour: int) -> None:
    """A node that has answered zeros shows the first event at once, the other one within the cache's time."""
    before = [await cluster.summary(hour, api=api) for api in cluster.api]
    taken = await cluster.post(f"timestamp={hour}&user={user(1)}&click")
    at_once = await cluster.summary(hour)

    async def elsewhere() -> None:
        assert await cluster.summary(hour, api="1") == tally(1, 1, 0)

    assert before == [tally(0, 0, 0)] * 2
    assert taken.status == 202
    assert at_once == tally(1, 1, 0)
    await eventually(elsewhere, seconds=3 * TTL)


async def test_an_event_named_by_its_field_is_answered_204(cluster: Cluster, hour: int) -> None:
    """``event=click`` counts like the flag ``click``, and is answered 204."""
    answer = await cluster.post(f"timestamp={hour}&user={user(1)}&event=click")

    assert (answer.status, answer.text) == (204, "")
    assert await cluster.summary(hour) == tally(1, 1, 0)


async def test_bodies_count_like_queries(cluster: Cluster, hour: int) -> None:
    """The same user in a query, a form, a form in parts and a JSON body is one user with four events."""
    url = cluster.api["0"].url
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    json = {"Content-Type": "application/json"}
    statuses = [
        (await cluster.post(f"timestamp={hour}&user={user('%C3%A9')}&click")).status,
        (
            await cluster.ask("POST", url, body=f"timestamp={hour}&user={user('%C3%A9')}&impression", headers=form)
        ).status,
        (
            await cluster.ask(
                "POST", url, body=f'{{"timestamp":{hour},"user":"{user("é")}","event":"click"}}', headers=json
            )
        ).status,
        (
            await cluster.ask(
                "POST",
                url,
                body=form_of([("timestamp", f"{hour}"), ("user", user("é")), ("impression", "")]),
                headers={"Content-Type": TYPE},
            )
        ).status,
    ]

    assert statuses == [202, 202, 202, 202]
    assert await cluster.summary(hour) == tally(1, 2, 2)


async def test_every_form_of_a_timestamp_falls_into_its_slice(cluster: Cluster, hour: int) -> None:
    """Seconds, fractions, milliseconds and RFC 3339 mean the same instant; the next slice begins on the microsecond."""
    rfc = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(hour + HOUR))
    inside = [hour, f"{hour}.5", hour * 1000, f"{hour + HOUR - 1}.999999"]
    behind = [f"{rfc}Z", f"{rfc}%2B00:00"]
    for at in (*inside, *behind):
        assert (await cluster.post(f"timestamp={at}&user={user(1)}&click")).status == 202

    assert await cluster.summary(hour) == tally(1, len(inside), 0)
    assert await cluster.summary(hour + HOUR) == tally(1, len(behind), 0)


async def test_slices_before_the_first_count_too(cluster: Cluster, hour: int) -> None:
    """A time before first-slice is in a negative slice, which counts like any other."""
    at = FIRST - (hour - FIRST)
    taken = await cluster.post(f"timestamp={at}&user={user(1)}&click")
    shown = await cluster.json(at)

    assert taken.status == 202
    assert (shown["slice"], shown["unique_users"], shown["clicks"]) == (-slice_of(hour), 1, 1)


async def test_a_question_without_time_is_about_now(cluster: Cluster) -> None:
    """GET /analytics without a timestamp answers for the slice of now."""
    taken = await cluster.post(f"timestamp={time.time()}&user={user(1)}&click")

    assert taken.status == 202
    assert await cluster.text("") == tally(1, 1, 0)


async def test_json_shows_the_same_numbers(cluster: Cluster, hour: int) -> None:
    """The JSON form carries the text form's numbers, the slice's span, and that it is complete."""
    await cluster.post(f"timestamp={hour}&user={user(1)}&click")
    await cluster.post(f"timestamp={hour}&user={user(2)}&impression")
    by_accept = await cluster.get(f"?timestamp={hour}", headers={"Accept": "application/json"})
    shown = await cluster.json(hour)

    assert by_accept.json == shown
    assert shown == {
        "slice": slice_of(hour),
        "start": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(hour)),
        "end": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(hour + HOUR)),
        "unique_users": 2,
        "clicks": 1,
        "impressions": 1,
        "events": {"click": 1, "impression": 1},
        "complete": True,
    }


async def test_the_workers_parts_add_up(cluster: Cluster, hour: int) -> None:
    """/perworker shows each worker of the route in order, each user at exactly one; the workers themselves agree."""
    # Through the node that is asked: what another one took shows only when the cache has expired.
    await pour([Post(at=hour, user=user(n)) for n in range(90)], cluster.ports[:1])
    shown = (await cluster.get(f"/perworker?timestamp={hour}&format=json")).json
    text = await cluster.text(f"/perworker?timestamp={hour}")
    own = [await cluster.ask("GET", f"{node.url}?slice={slice_of(hour)}") for node in cluster.worker.values()]

    parts = shown["workers"]
    expected = "".join(
        f"slice,{slice_of(hour)}\nworker,{part['url']}\n{tally(part['unique_users'], part['clicks'], 0)}"
        for part in parts
    )
    assert [(part["worker"], part["url"]) for part in parts] == [
        (node.id, node.url) for node in cluster.worker.values()
    ]
    assert sum(part["unique_users"] for part in parts) == sum(part["clicks"] for part in parts) == 90
    assert all(10 < part["unique_users"] < 60 for part in parts)
    assert text == expected
    assert [answer.text for answer in own] == [tally(part["unique_users"], part["clicks"], 0) for part in parts]


async def test_all_slices_up_to_a_time(cluster: Cluster, hour: int) -> None:
    """/allslices shows the slices that hold data, oldest first, up to the time asked for."""
    # Far in the past and after everything that other tests of this module send, so only these are between the marks.
    first = hour + 5000 * HOUR
    for step in (0, 2, 3):
        for number in range(step + 1):
            assert (await cluster.post(f"timestamp={first + step * HOUR}&user={user(number)}&click")).status == 202
    text = await cluster.text(f"/allslices?timestamp={first + 2 * HOUR}")
    shown = (await cluster.get(f"/allslices?timestamp={first + 3 * HOUR}&format=json")).json

    numbers = [slice_of(first) + step for step in (0, 2)]
    assert text.endswith("".join(f"slice,{n}\n{tally(c, c, 0)}" for n, c in zip(numbers, (1, 3), strict=True)))
    assert [(one["slice"], one["clicks"]) for one in shown["slices"][-3:]] == [
        (slice_of(first), 1),
        (slice_of(first) + 2, 3),
        (slice_of(first) + 3, 4),
    ]


async def test_ten_slices_over_a_changing_routing(cluster: Cluster) -> None:
    """Ten slices in a row over a routing that changes nodes and their order: each has exactly its events and users."""
    model = Model(first=FIRST, length=HOUR)
    posts = [
        Post(
            at=FIRST + random.randrange(1000 * HOUR, 1010 * HOUR),
            user=user(random.randrange(60)),
            type=random.choice(["click", "impression"]),
        )
        for _ in range(3000)
    ]
    statuses = await pour(posts, cluster.ports)
    model.add(posts)

    async def everywhere() -> None:
        for api in cluster.api:
            for at in TEN:
                assert await cluster.summary(FIRST + at * HOUR, api=api) == model.text(at)

    assert statuses == {202: 3000}
    assert model.slices == list(TEN)
    await eventually(everywhere, seconds=5 * TTL)
    for at, route in TEN.items():
        shown = (await cluster.get(f"/perworker?timestamp={FIRST + at * HOUR}&format=json")).json
        assert [part["worker"] for part in shown["workers"]] == route
        assert sum(part["unique_users"] for part in shown["workers"]) == len(model.users[at])


@pytest.mark.parametrize(
    "count",
    [
        10_000,
        pytest.param(100_000, marks=[pytest.mark.e2e_full, pytest.mark.timeout(900)]),
    ],
)
@pytest.mark.timeout(240)
async def test_a_thousand_users_over_many_connections(cluster: Cluster, hour: int, count: int) -> None:
    """Posts from many connections by 1,000 users through one API node to three workers, alone and mixed with reads.

    Counts add up and uniques are exact: at once, after the cache expired, and through the other API node. A read beside
    the posts shows at least what was acknowledged before it and at most what was begun.
    """
    port = [cluster.api["0"].port]
    posts = [
        Post(at=hour + n % HOUR, user=user(n % 1000), type="click" if n % 3 else "impression") for n in range(count)
    ]
    clicks = sum(post.type == "click" for post in posts)
    alone = await pour(posts, port, connections=100)
    after_alone = await cluster.summary(hour)

    begun, acknowledged, reads = 0, 0, 0

    async def write(share: list[Post]) -> None:
        nonlocal begun, acknowledged
        async with Connection(port[0]) as connection:
            for post in share:
                begun += 1
                status, body = await connection.post(post)
                assert status == 202, body
                acknowledged += 1

    async def read() -> None:
        nonlocal reads
        while acknowledged < count:
            least = acknowledged
            shown = await cluster.json(hour)
            assert least <= shown["clicks"] + shown["impressions"] - count <= begun
            assert shown["unique_users"] == 1000
            reads += 1

    async with asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task(write(posts[number::40]))
        for _ in range(4):
            group.create_task(read())
    at_once = await cluster.summary(hour)
    await asyncio.sleep(1.5 * TTL)

    assert alone == {202: count}
    assert after_alone == tally(1000, clicks, count - clicks)
    assert reads > 0
    assert at_once == tally(1000, 2 * clicks, 2 * (count - clicks))
    assert await cluster.summary(hour) == at_once
    assert await cluster.summary(hour, api="1") == at_once
