"""Latency against rate: single events in an open loop, faster and faster, until the server cannot follow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

from bench.client import open_loop
from bench.events import draw
from bench.groups.unit import SEED, USERS, Scale, Unit, drawn
from bench.journal import Result
from bench.peers import empty, postgres, redis_single, tallyslice
from bench.peers.peer import MANY_CONNECTIONS, HttpRunning, Peer, requests
from bench.servers import place

RATES = (500, 1_000, 2_000, 4_000, 6_000, 8_000, 10_000, 12_000, 15_000)
QUICK_RATES = (500, 2_000, 6_000)
PEERS = [tallyslice.ONE, redis_single.PEERS[0], postgres.PEER, empty.PEER]
LATE_MS = 200.0  # in the median: the server does not follow any more, and the next rate would say nothing new


def rates(scale: Scale) -> list[Unit]:
    """One unit per peer."""
    return [Unit(group="rates", name=peer.name, rounds=1, measure=partial(_measure, scale, peer)) for peer in PEERS]


async def _measure(scale: Scale, peer: Peer) -> Sequence[Result]:
    results = []
    seconds = scale.of(3, 1)
    async with place(peer.name) as here, peer.open(here) as running:
        web = cast("HttpRunning", running)
        await web.feed(drawn(scale.at, 2_000), batch=1)
        for rate in QUICK_RATES if scale.quick else RATES:
            events = draw(at=scale.at, events=rate * seconds, users=USERS, seed=SEED + rate)
            run = await open_loop(web.ports, requests(events, batch=1), rate=rate, connections=MANY_CONNECTIONS)
            values = {
                "p50_ms": run.latency.at(50),
                "p90_ms": run.latency.at(90),
                "p99_ms": run.latency.at(99),
                "p999_ms": run.latency.at(99.9),
            }
            results.append(Result(peer.name, str(rate), values))
            if values["p50_ms"] > LATE_MS:
                break
    return results
