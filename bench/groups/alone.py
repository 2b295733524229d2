"""What Tallyslice costs by itself: at rest, and against the number of workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial

from bench.client import ask
from bench.groups.questions import ASK
from bench.groups.unit import Scale, Unit, check, drawn, feed_values
from bench.journal import Result
from bench.peers.tallyslice import cluster
from bench.servers import place, resident_mb

WORKERS, QUICK_WORKERS = (1, 4, 16, 64), (1, 4)
IDLE_SECONDS = 2.0  # after the start, until its memory is looked at


def idle(scale: Scale) -> list[Unit]:
    """Memory and first answer of one API node and one worker."""
    return [Unit(group="idle", name="start", rounds=scale.of(3, 1), measure=_start)]


async def _start() -> Sequence[Result]:
    async with place("idle") as here:
        started = time.perf_counter()
        async with cluster(here) as running:
            await ask(running.ports[0], "/analytics")
            seconds = time.perf_counter() - started
            await asyncio.sleep(IDLE_SECONDS)
            values = {
                "first_answer_seconds": seconds,
                "resident_mb": resident_mb(*running.api_pids, *running.worker_pids),
                "api_resident_mb": resident_mb(*running.api_pids),
                "worker_resident_mb": resident_mb(*running.worker_pids),
            }
    return [Result("tallyslice", "start", values)]


def workers(scale: Scale) -> list[Unit]:
    """One unit for each number of workers."""
    numbers = QUICK_WORKERS if scale.quick else WORKERS
    # To start 64 processes on two cores takes longer than all that is measured then.
    return [
        Unit(
            group="workers",
            name=str(number),
            rounds=scale.of(3 if number < 16 else 1, 1),
            measure=partial(_spread, scale, number),
        )
        for number in numbers
    ]


async def _spread(scale: Scale, number: int) -> Sequence[Result]:
    """One API node, so many workers on this machine, little load; no cache, so that every question asks all."""
    bulk, one_by_one = drawn(scale.at, 100_000), drawn(scale.at - 86_400, 5_000)
    async with place("workers") as here:
        started = time.perf_counter()
        async with cluster(here, workers=number, cache_ttl_seconds=0) as running:
            ready = time.perf_counter() - started
            await running.feed(drawn(scale.at - 2 * 86_400, 20_000), batch=1_000)
            fed = await running.feed(bulk, batch=1_000)
            singles = await running.feed(one_by_one, batch=1)
            await check(running, scale.at, bulk.count())
            await running.send([ASK] * 20, connections=1)
            asked = await running.send([ASK] * 300, connections=1)
            values = {
                **feed_values(fed, len(bulk.users)),
                "single_per_second": singles.rate,
                "question_p50_ms": asked.latency.at(50),
                "question_p99_ms": asked.latency.at(99),
                "resident_mb": resident_mb(*running.api_pids, *running.worker_pids),
                "ready_seconds": ready,
            }
    return [Result("tallyslice", str(number), values)]
