"""``GET /analytics``: while nothing else happens, while events are written, and beside ``uniqExact``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from bench.client import Run, get, open_loop
from bench.events import draw
from bench.groups.unit import SEED, SLICE_SECONDS, USERS, Scale, Unit, check, drawn
from bench.journal import Result
from bench.numbers import percentile
from bench.peers import clickhouse, empty, tallyslice
from bench.peers.child import Child
from bench.peers.peer import CONNECTIONS, MANY_CONNECTIONS, HttpRunning, Peer, requests
from bench.servers import place

ASK = get("/analytics")
ASK_RATE = 200.0  # beside the writing: enough for a p99, too few to be a load
ASK_CONNECTIONS = 8
GROUP = "questions"


def questions(scale: Scale) -> list[Unit]:
    """All of them."""
    rounds = scale.of(5, 1)
    return [
        Unit(group=GROUP, name="tallyslice idle", rounds=rounds, measure=lambda: _idle(scale, tallyslice.ONE)),
        Unit(group=GROUP, name="empty idle", rounds=rounds, measure=lambda: _idle(scale, empty.PEER)),
        Unit(group=GROUP, name="under bulk", rounds=scale.of(3, 1), measure=lambda: _under(scale, 1_000)),
        Unit(group=GROUP, name="under single", rounds=scale.of(3, 1), measure=lambda: _under(scale, 1)),
        Unit(group=GROUP, name="tallyslice 2 million", rounds=1, measure=lambda: _two_million(scale)),
        Unit(group=GROUP, name="clickhouse 2 million", rounds=1, measure=lambda: _unique_exact(scale)),
    ]


def _values(run: Run) -> dict[str, float]:
    return {"p50_ms": run.latency.at(50), "p99_ms": run.latency.at(99), "requests_per_second": run.rate}


async def _idle(scale: Scale, peer: Peer) -> Sequence[Result]:
    """As many questions as 64 connections can ask, of a slice that holds users."""
    async with place(peer.name) as here, peer.open(here) as running:
        web = cast("HttpRunning", running)
        await web.feed(drawn(scale.at, 100_000), batch=1_000)
        await web.send([ASK] * 2_000, connections=MANY_CONNECTIONS)
        run = await web.send([ASK] * scale.of(30_000, 4_000), connections=MANY_CONNECTIONS)
    return [Result(peer.name, "idle", _values(run))]


async def _under(scale: Scale, batch: int) -> Sequence[Result]:
    """Questions while events are written at half of what the cluster can take."""
    seconds = float(scale.of(8, 3))
    connections = MANY_CONNECTIONS if batch == 1 else CONNECTIONS
    async with place("tallyslice") as here, tallyslice.cluster(here) as cluster:
        tried = drawn(scale.at - SLICE_SECONDS, 200 * batch if batch > 1 else 8_000)
        await cluster.feed(tried, batch=batch)
        most = await cluster.feed(tried, batch=batch)
        rate = most.rate / 2
        events = draw(at=scale.at, events=round(rate * seconds) * batch, users=USERS, seed=SEED)
        ready = requests(events, batch=batch)
        writing, asking = await asyncio.gather(
            open_loop(cluster.ports, ready, rate=rate, connections=connections),
            open_loop(cluster.ports, [ASK] * round(ASK_RATE * seconds), rate=ASK_RATE, connections=ASK_CONNECTIONS),
        )
        await check(cluster, scale.at, events.count())
    written = {"written_per_second": writing.rate * batch, "most_per_second": most.rate * batch}
    return [Result("tallyslice", "under bulk" if batch > 1 else "under single", {**_values(asking), **written})]


async def _two_million(scale: Scale) -> Sequence[Result]:
    """One question after the other, of a slice that took two million events."""
    events = drawn(scale.at, scale.of(2_000_000, 200_000))
    async with place("tallyslice") as here, tallyslice.cluster(here) as cluster:
        await cluster.feed(events, batch=10_000)
        await check(cluster, scale.at, events.count())
        run = await cluster.send([ASK] * 2_000, connections=1)
    return [Result("tallyslice", "2 million", {"median_ms": run.latency.at(50), "p99_ms": run.latency.at(99)})]


async def _unique_exact(scale: Scale) -> Sequence[Result]:
    """``uniqExact`` over as many rows."""
    events = drawn(scale.at, scale.of(2_000_000, 200_000))
    async with place("clickhouse") as here, clickhouse.LIBRARY.open(here) as running:
        child = cast("Child", running)
        await child.feed(events, batch=10_000)
        await check(child, scale.at, events.count())
        taken = [float(await child.ask("question", scale.at)) * 1_000 for _ in range(20)]
    return [Result("clickhouse", "2 million", {"median_ms": percentile(taken, 0.5), "p99_ms": percentile(taken, 0.99)})]
