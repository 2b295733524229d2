"""A unit: what is measured together, and how a peer is fed and checked in it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from bench.client import Run
from bench.events import Count, Events, draw
from bench.journal import Result
from bench.peers.peer import Peer, Running
from bench.servers import PeerFailed, place

USERS = 300_000
SLICE_SECONDS = 86_400
SEED = 4
COUNT_SECONDS_MAX = 5.0  # an API node answers for what another one took within its cache's second


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured.

    Attributes:
        quick: little, to see that everything works.
        at: the timestamp of the events: of the current slice.
    """

    quick: bool
    at: int

    def of(self, full: int, quick: int) -> int:
        """One of the two."""
        return quick if self.quick else full


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One measurement, repeated in rounds that alternate with those of the other units of its group.

    Attributes:
        group: the part of the benchmark.
        name: of the unit in the group.
        rounds: how often.
        measure: does it.
    """

    group: str
    name: str
    rounds: int
    measure: Callable[[], Awaitable[Sequence[Result]]]


@lru_cache(maxsize=4)
def drawn(at: int, events: int, *, ids: bool = False) -> Events:
    """The events of most rows; drawn once."""
    return draw(at=at, events=events, users=USERS, seed=SEED, ids=ids)


async def check(running: Running, at: int, wanted: Count) -> None:
    """See that a peer counted right.

    Raises:
        PeerFailed: it did not.
    """
    deadline = time.monotonic() + COUNT_SECONDS_MAX
    while (counted := await running.count(at)) != wanted:
        if time.monotonic() > deadline:
            raise PeerFailed(f"counted {counted}, not {wanted}")
        await asyncio.sleep(0.1)


async def fed(peer: Peer, events: Events, *, batch: int, case: str, warm_events: int) -> list[Result]:
    """Start a peer, warm it up with events of the slice before, feed it, see that it counted right."""
    async with place(peer.name) as here, peer.open(here) as running:
        await running.feed(drawn(events.at - SLICE_SECONDS, warm_events), batch=batch)
        run = await running.feed(events, batch=batch)
        if peer.counts:
            await check(running, events.at, events.count())
    return [Result(peer.name, case, feed_values(run, len(events.users)))]


def feed_values(run: Run, events: int) -> dict[str, float]:
    """What a feeding says."""
    return {
        "events_per_second": events / run.seconds,
        "seconds": run.seconds,
        "p50_ms": run.latency.at(50),
        "p99_ms": run.latency.at(99),
    }
