"""``tallyslice close``: a slice ends for good at every worker of its route, or it is told why not.

Slices of an hour in 2017, at two workers and two API nodes, that never close by themselves.
"""

from __future__ import annotations

import asyncio
import json
import os
import pty
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.cluster import FIRST, HOUR, Cluster
from tests.support.command import PROGRAM, Said, tallyslice
from tests.support.events import tally, user
from tests.support.patience import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

USERS = 20  # with so many, both workers have some


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path_factory.mktemp("close"), apis=2, workers=2, cache_ttl_seconds=0) as cluster:
        yield cluster


def slice_of(hour: int) -> int:
    return (hour - FIRST) // HOUR


async def close(cluster: Cluster, hour: int, *options: object) -> Said:
    return await tallyslice("close", slice_of(hour), "--cluster", cluster.file, "--yes", *options)


async def posted(cluster: Cluster, hour: int, *, users: int = USERS, api: str = "0") -> list[tuple[int, str]]:
    """Status, and durability or problem, of an event of each user."""
    posts = (cluster.post(f"timestamp={hour}&user={user(n)}&click", api=api) for n in range(users))
    answers = await asyncio.gather(*posts)
    return [(answer.status, answer.headers.get("X-Durability") or answer.problem) for answer in answers]


async def test_it_ends_for_good(cluster: Cluster, hour: int) -> None:
    """Its counts stay; every event that comes is 422, through each API node; its files are gone. Again is no harm."""
    assert await posted(cluster, hour) == [(202, "worker")] * USERS
    first, again = await close(cluster, hour), await close(cluster, hour, "--json")
    refused = [one for api in cluster.api for one in await posted(cluster, hour, api=api)]
    files = [path for node in cluster.worker.values() for path in (node.data / "slices").glob(f"{slice_of(hour)}.mdb*")]

    assert (first.code, again.code) == (0, 0), first
    assert f"Slice {slice_of(hour)} is closed: {USERS} users, {USERS} clicks." in first.out
    assert (again.json["closed"], again.json["unique_users"], again.json["events"]) == (True, USERS, {"click": USERS})
    assert [one["was_closed"] for one in again.json["workers"]] == [True, True]
    assert refused == [(422, "slice-closed")] * 2 * USERS
    assert [await cluster.summary(hour, api=api) for api in cluster.api] == [tally(USERS, USERS, 0)] * 2
    assert (await cluster.json(hour))["complete"]
    assert files == []


async def test_a_worker_that_holds_nothing_of_it_closes_it_too(cluster: Cluster, hour: int) -> None:
    """One user is at one worker; events of all others are refused as well, also after both were killed."""
    assert await posted(cluster, hour, users=1) == [(202, "worker")]
    said = await close(cluster, hour)
    for node in cluster.worker.values():
        node.kill()
    await cluster.start(*cluster.worker.values())
    await met_again(cluster)

    assert said.code == 0
    assert await posted(cluster, hour) == [(422, "slice-closed")] * USERS
    assert await cluster.summary(hour) == tally(1, 1, 0)


async def test_what_has_not_ended_is_not_closed(cluster: Cluster, hour: int) -> None:
    """Nor what was never settled; nothing is changed, with or without --force."""
    now = await tallyslice("close", "now", "--cluster", cluster.file, "--yes", "--force")
    never = await close(cluster, hour)
    nobody = await tallyslice("close", 0, "--cluster", cluster.file)
    # The worker does not trust the command's clock either.
    worker = cluster.worker["0"]
    identity = (await cluster.ask("GET", f"{worker.url}/identity")).json
    message = {"cluster": identity["cluster"], "worker": identity["uuid"], "route": ["0", "1"]}
    asked = [await posted_close(cluster, {**message, "slice": at}) for at in (10**9, slice_of(int(time.time())))]

    assert (now.code, never.code, nobody.code) == (1, 1, 64)
    assert "has not ended" in now.err
    assert "never settled" in never.err
    assert "--yes" in nobody.err
    assert asked == [(409, "conflict")] * 2
    assert await posted(cluster, hour, users=1) == [(202, "worker")]


async def met_again(cluster: Cluster) -> None:
    """Until then what comes goes to the spool, and would be counted as late."""

    async def all_well() -> None:
        assert {worker["state"] for worker in (await cluster.state())["workers"]} == {"ok"}

    await eventually(all_well)


async def posted_close(cluster: Cluster, message: dict[str, Any]) -> tuple[int, str]:
    answer = await cluster.ask(
        "POST",
        f"{cluster.worker['0'].url}/close",
        body=json.dumps(message),
        headers={"Content-Type": "application/json"},
    )
    return answer.status, answer.problem


async def test_a_worker_that_is_away_keeps_it_from_closing(cluster: Cluster, hour: int) -> None:
    """Exit status 70, and nothing was closed; once it is back, the same command closes it."""
    assert await posted(cluster, hour) == [(202, "worker")] * USERS
    await cluster.worker["1"].stop()
    away = await close(cluster, hour)
    await cluster.start(cluster.worker["1"])
    await met_again(cluster)
    counted = await posted(cluster, hour)
    back = await close(cluster, hour)

    assert (away.code, back.code) == (70, 0)
    assert "nothing was closed" in away.err
    assert counted == [(202, "worker")] * USERS
    assert await cluster.summary(hour) == tally(USERS, 2 * USERS, 0)


async def test_what_waits_in_a_spool_keeps_it_from_closing(cluster: Cluster, hour: int) -> None:
    """An API node that is away may have some; with its spool delivered, the slice is closed, and complete."""
    api, worker = cluster.api["1"], cluster.worker["1"]
    assert await posted(cluster, hour) == [(202, "worker")] * USERS
    await worker.stop()
    spooled = await posted(cluster, hour, api="1")
    await api.stop()
    await cluster.start(worker)
    away = await close(cluster, hour)
    await cluster.start(api)

    async def closed() -> None:
        assert (await close(cluster, hour)).code == 0

    assert (202, "spool") in spooled
    assert away.code == 1
    assert "api-1 does not tell" in away.err
    assert "--force" in away.err
    await eventually(closed)
    assert await cluster.summary(hour) == tally(USERS, 2 * USERS, 0)
    assert (await cluster.json(hour))["complete"]


async def test_while_events_are_still_taken_it_needs_force(cluster: Cluster, hour: int) -> None:
    """By the cluster file they are: so it says until when, and closes it only if it is told to."""
    assert await posted(cluster, hour) == [(202, "worker")] * USERS
    file = cluster.write(cluster.changed(close_after_seconds=10**10), name="later.json")
    options = (slice_of(hour), "--cluster", file, "--yes")
    refused = await tallyslice("close", *options)
    forced = await tallyslice("close", *options, "--force")

    assert (refused.code, forced.code) == (1, 0)
    assert "are taken until" in refused.err


async def test_it_asks_first(cluster: Cluster, hour: int) -> None:
    """On a terminal it says what goes, and does nothing unless it is told yes."""
    assert await posted(cluster, hour) == [(202, "worker")] * USERS

    async def answered(text: bytes) -> tuple[int | None, str]:
        master, slave = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            PROGRAM, "close", str(slice_of(hour)), "--cluster", cluster.file,
            stdin=slave, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        os.close(slave)
        os.write(master, text)
        _, err = await process.communicate()
        os.close(master)
        return process.returncode, err.decode()

    no, asked = await answered(b"n\n")
    still = await posted(cluster, hour, users=1)
    yes, _ = await answered(b"y\n")

    assert (no, yes) == (1, 0)
    assert f"with {USERS} users and {USERS} events, at workers 0, 1?" in asked
    assert still == [(202, "worker")]
