"""Bulk, single, and what lies between: the same events into every peer, as fast as it takes them."""

from __future__ import annotations

from collections.abc import Sequence

from bench.groups.unit import Scale, Unit, drawn, fed
from bench.journal import Result
from bench.peers import clickhouse, empty, pipeline, postgres, redis_bulk, redis_lua, redis_single, tallyslice
from bench.peers.peer import Peer

BULK = [
    tallyslice.ONE,
    tallyslice.MANY,
    *redis_bulk.PEERS,
    *clickhouse.PEERS,
    pipeline.PEER,
    pipeline.GROUPED,
]
SINGLE = [tallyslice.ONE, tallyslice.MANY, *redis_single.PEERS, postgres.PEER, empty.PEER]
SIZES = [tallyslice.ONE, *redis_bulk.PEERS, clickhouse.PEER, pipeline.PEER]
# Rows that no goal names get fewer rounds.
NAMED = {
    "tallyslice",
    "redis-lua-everysec",
    "redis-bulk-always",
    "clickhouse",
    "pipeline",
    "empty",
    "redis-single-everysec",
    "postgres",
}


def bulk(scale: Scale) -> list[Unit]:
    """Batches of 1,000 and 10,000 events."""
    events, fewer = scale.of(600_000, 100_000), scale.of(60_000, 20_000)
    units = []
    for batch in (1_000, 10_000):
        units += [_unit(scale, "bulk", peer, events, batch) for peer in BULK]
        if batch == 1_000:
            # A command of theirs carries one event, so the size of a batch is no matter.
            slow = ("redis-lua-always",)  # each pipeline waits for the disk
            units += [_unit(scale, "bulk", peer, fewer if peer.name in slow else events, 1) for peer in redis_lua.PEERS]
            units.append(_unit(scale, "bulk", tallyslice.ONE, events, batch, ids=True))
    return units


def single(scale: Scale) -> list[Unit]:
    """One event per request, 64 connections; as many as take each peer some four seconds."""
    events = {"empty": 60_000, "tallyslice": 30_000, "tallyslice-2-4": 30_000, "postgres": 10_000}
    return [_unit(scale, "single", peer, scale.of(events.get(peer.name, 20_000), 4_000), 1) for peer in SINGLE]


def sizes(scale: Scale) -> list[Unit]:
    """Batches of 10 and 100 events: with bulk and single, the whole curve."""
    units = []
    for batch in (10, 100):
        for peer in SIZES:
            if peer is clickhouse.PEER and batch < 100:
                continue  # a part on disk for each ten events: it refuses after some hundred
            # Those that wait for the disk with every batch would take minutes.
            waits = peer in (pipeline.PEER, clickhouse.PEER)
            events = batch * (300 if waits else scale.of(4_000, 1_000))
            units.append(_unit(scale, "sizes", peer, events, batch))
    return units


def _unit(scale: Scale, group: str, peer: Peer, events: int, batch: int, *, ids: bool = False) -> Unit:
    case = f"{batch}{' with ids' if ids else ''}"
    rounds = 2 if group == "sizes" else 5 if peer.name in NAMED else 3
    # Enough that every connection and every line of Python was there once.
    warm_events = min(batch * 100, events // 4) if batch > 1 else 1_000

    async def measure() -> Sequence[Result]:
        return await fed(peer, drawn(scale.at, events, ids=ids), batch=batch, case=case, warm_events=warm_events)

    return Unit(group=group, name=f"{peer.name} {case}", rounds=scale.of(rounds, 1), measure=measure)
