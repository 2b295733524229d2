"""Rounds of SIGKILL: a cluster under load, nodes killed at random moments and at named points, and then the sums.

A round has a folder and a seed of its own, so it can be looked at afterwards and run again alone. What is random in it
comes from the seed; what the machine does in between does not.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path

from tests.support.cluster import Cluster
from tests.torture.checker import complaints, problems_on_disk, settled_answers
from tests.torture.crowd import Crowd, events
from tests.torture.keeper import Keepers, launch
from tests.torture.ledger import TYPES
from tests.torture.observer import Observer
from tests.torture.rounds import Round
from tests.torture.storm import stormy, wired

ROUTING = {-1_000_000: ["0"], 0: ["1", "2"], 2: ["2", "0", "1"], 5: ["1"], 6: ["0", "1", "2"]}
WORKERS, APIS = 3, 2
ROUND_SECONDS = 600.0


async def kill_round(
    folder: Path,
    *,
    seed: int,
    kills: int,
    acknowledged: int,
    storm: bool = False,
    wrong: str | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Round:
    """One round, until so many nodes were killed and so many events acknowledged.

    Args:
        folder: empty.
        seed: of everything that is random.
        kills: at least.
        acknowledged: likewise.
        storm: whether the network between the nodes is bad meanwhile, too.
        wrong: the planted bug that all workers have.
        progress: told what happens.
    """
    rng = random.Random(seed)
    begun = time.monotonic()
    cluster = Cluster(
        folder, apis=APIS, workers=WORKERS, routing=ROUTING, start=False, cache_ttl_seconds=0.3, event_types=TYPES
    )
    async with cluster, AsyncExitStack() as stack:
        wires = await stack.enter_async_context(wired(cluster, rng=rng)) if storm else {}
        if wrong:
            for node in cluster.worker.values():
                launch(node, "tests.torture.worker_with_points", "--wrong", wrong)
            await cluster.start(*cluster.api.values())
        else:
            await cluster.start(*cluster.nodes)
        async with Keepers(cluster, rng=rng, wrong=wrong) as keepers:
            crowd = Crowd(events(rng), cluster.ports, rng=rng, on_success=keepers.acknowledged)
            observer = Observer(cluster, crowd.ledger, rng=rng)
            async with observer, crowd, stormy(wires, rng=rng) if wires else nullcontext():
                crowd.start()
                while keepers.deaths.total() < kills or crowd.taken < acknowledged:
                    assert time.monotonic() < begun + ROUND_SECONDS, f"{keepers.deaths.total()} kills, {crowd.taken}"
                    progress(f"{keepers.deaths.total():5} kills {crowd.taken:9,} acknowledged")
                    await asyncio.sleep(rng.uniform(0.05, 0.7))
                    if keepers.deaths.total() < kills:
                        keepers.kill_one()
                        # Now and then another one while the first is still starting.
                        if rng.random() < 0.7:
                            await keepers.until_whole()
                    else:
                        await keepers.disarm()
                await keepers.disarm()
            keepers.rest()
            progress("waits for the sums")
            shown, problems = await settled_answers(cluster, crowd.ledger)
        problems += keepers.crashes + crowd.surprises + observer.problems
    problems += complaints(cluster) + problems_on_disk(cluster, crowd.ledger, shown)
    totals = crowd.ledger.total()
    return Round(
        seed=seed,
        seconds=time.monotonic() - begun,
        faults=dict(keepers.deaths),
        sent=crowd.drawn,
        attempts=dict(crowd.attempts),
        acknowledged=totals["acknowledged"],
        unknown=totals["unknown"],
        counted=sum(Counter(answer["events"]).total() for answer in shown.values()),
        users=sum(answer["unique_users"] for answer in shown.values()),
        whole_seconds=keepers.whole.seconds,
        whole_acknowledged=keepers.whole.acknowledged,
        problems=problems,
        asked=dict(observer.answers),
    )
