"""What users in the slice cost: throughput, file and memory, from 10^4 to 10^7 users.

Each slice is filled with its users, each once; then events of which 5 %, 50 % or 100 % are of new users go in, level
after level, in rounds. Up to 10^6 users each share of new ones has a slice of its own, because they make it grow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import lmdb

from bench.events import Count, Events, draw_growing
from bench.groups.unit import SEED, SLICE_SECONDS, Scale, Unit, check, feed_values
from bench.journal import Result
from bench.peers.tallyslice import FIRST_SLICE, Cluster, cluster
from bench.servers import place, private_mb, resident_mb

LEVELS, QUICK_LEVELS = (10_000, 100_000, 1_000_000, 10_000_000), (10_000, 100_000)
SHARED = 10_000_000  # from here on a slice is too dear to be filled for each share
SHARES = {"5 % new": 0.05, "50 % new": 0.5, "100 % new": 1.0}
BATCH = 10_000
FILL_EVENTS = 500_000  # at a time: what fits into the client's memory
EVENTS_MAX = 300_000  # a round; fewer where they would make the slice grow too much


@dataclass(slots=True, kw_only=True)
class _Slice:
    """A slice that is filled, and what it must hold."""

    at: int
    users: int = 0
    clicks: int = 0
    impressions: int = 0

    def add(self, events: Events) -> None:
        count = events.count()
        self.clicks += count.clicks
        self.impressions += count.impressions

    def count(self) -> Count:
        return Count(users=self.users, clicks=self.clicks, impressions=self.impressions)


def growth(scale: Scale) -> list[Unit]:
    """One unit: filling is most of it."""
    return [Unit(group="growth", name="all", rounds=1, measure=lambda: _measure(scale))]


async def _measure(scale: Scale) -> Sequence[Result]:
    levels = QUICK_LEVELS if scale.quick else LEVELS
    results = []
    async with place("growth") as here, cluster(here) as running:
        slices: dict[tuple[int, str], _Slice] = {}
        before = scale.at
        for level in levels:
            for share in SHARES:
                if level < SHARED or share == next(iter(SHARES)):
                    before -= SLICE_SECONDS
                    slices[level, share] = _Slice(at=before)
                    results += await _fill(running, slices[level, share], level, note=level == levels[-1])
                else:
                    slices[level, share] = slices[level, next(iter(SHARES))]
            results.append(Result("size", str(level), _size(running, slices[level, next(iter(SHARES))])))
        for round_, share, level in product(range(scale.of(5, 1)), SHARES, levels):
            results.append(await _feed(running, slices[level, share], level, share, seed=SEED + round_))
        for one in slices.values():
            await check(running, one.at, one.count())
    return results


async def _fill(running: Cluster, into: _Slice, level: int, *, note: bool) -> list[Result]:
    """Each user once; where ``note``, how fast that went at each number of users."""
    results = []
    for begin in range(0, level, FILL_EVENTS):
        events = draw_growing(at=into.at, events=min(FILL_EVENTS, level - begin), known=begin, new_share=1.0, seed=SEED)
        run = await running.feed(events, batch=BATCH)
        into.users += len(events.users)
        into.add(events)
        if note:
            results.append(Result("filling", str(into.users), feed_values(run, len(events.users))))
    return results


async def _feed(running: Cluster, into: _Slice, level: int, share: str, *, seed: int) -> Result:
    number = min(EVENTS_MAX, round(level / max(SHARES[share], 0.5)))
    events = draw_growing(at=into.at, events=number, known=into.users, new_share=SHARES[share], seed=seed)
    run = await running.feed(events, batch=BATCH)
    into.users += round(number * SHARES[share])
    into.add(events)
    return Result(share, str(level), feed_values(run, number))


def _size(running: Cluster, of: _Slice) -> dict[str, float]:
    (file,) = _files(running, of.at)
    live = live_bytes(file)
    return {
        "live_bytes_per_user": live / of.users,
        "file_mb": file.stat().st_size / 1e6,
        "file_per_live": file.stat().st_size / live,
        "api_private_mb": private_mb(*running.api_pids),
        "worker_private_mb": private_mb(*running.worker_pids),
        "api_resident_mb": resident_mb(*running.api_pids),
        "worker_resident_mb": resident_mb(*running.worker_pids),
    }


def _files(running: Cluster, at: int) -> Iterator[Path]:
    first = datetime.fromisoformat(FIRST_SLICE).replace(tzinfo=UTC).timestamp()
    number = int((at - first) // SLICE_SECONDS)
    return (folder / "slices" / f"{number}.mdb" for folder in running.worker_data)


def live_bytes(file: Path) -> int:
    """What the file's pages that are in use take. Nobody may write to the file meanwhile."""
    with lmdb.open(str(file), subdir=False, readonly=True, lock=False, max_dbs=16) as env, env.begin() as txn:
        names = [bytes(name) for name, _ in txn.cursor()]
        stats = [txn.stat(env.open_db(name, txn=txn, create=False)) for name in names]
        pages = sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
        return int(pages * env.stat()["psize"])
