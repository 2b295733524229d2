"""A bad network between API nodes and workers, one fault after the other, under a steady load.

For each fault::

    clear: load, so that all slices are settled --> fault: load goes on --> clear again
                                                                            every event that was begun has an outcome
                                                                            every node is well, by itself
                                                                            the sums

The load does not wait for answers, so how long an event takes during a fault is what a client would see.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.support.cluster import FIRST, HOUR, Cluster
from tests.support.events import user
from tests.support.patience import eventually
from tests.torture.checker import complaints, problems_on_disk, settled_answers
from tests.torture.crowd import SLICE_WINDOW, Crowd, Success, events
from tests.torture.ledger import TYPES
from tests.torture.rounds import Round
from tests.torture.storm import Wires, wired
from tests.torture.wires import CLEAR, DOWN, UP, Condition

ROUTING = {0: ["0", "1", "2"], 3: ["2", "0", "1"]}
RATE = 400.0
CLEAR_SECONDS = 1.0
HEAL_SECONDS = 20.0
P99_SECONDS = 5.0  # for success during any fault, in settled slices
AWAY_SECONDS = 4.0  # a fault that keeps a worker away for longer must be met by the spool
NEW_SLICE = 20_000  # far from those of the load; one for each fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to the network, or to a worker.

    Attributes:
        name: for people.
        seconds: how long.
        condition: of the wires concerned; None: the workers are stopped (SIGSTOP) instead.
        apis: whose wires.
        workers: to whom.
        takes_away: whether no answer of these workers gets through meanwhile.
    """

    name: str
    seconds: float
    condition: Condition | None = None
    apis: Sequence[str] = ("0", "1")
    workers: Sequence[str] = ("0", "1", "2")
    takes_away: bool = False


def faults(*, long: float, short: float, stopped: Sequence[float]) -> tuple[Fault, ...]:
    """One of each.

    Args:
        long: seconds of those that take a worker away.
        short: of those that only disturb.
        stopped: for which times a worker is stopped.
    """
    late_requests, late_replies = Condition(held=frozenset({UP})), Condition(held=frozenset({DOWN}))
    return (
        Fault(name="cut", seconds=long, condition=Condition(cut=True), workers="1", takes_away=True),
        Fault(name="half-open", seconds=long, condition=Condition(half_open=True), workers="2", takes_away=True),
        Fault(name="requests held", seconds=long, condition=late_requests, workers="1", takes_away=True),
        Fault(name="replies held", seconds=long, condition=late_replies, workers="2", takes_away=True),
        Fault(name="one way, one node", seconds=long, condition=late_replies, apis="1", workers="1", takes_away=True),
        Fault(name="delay", seconds=short, condition=Condition(delay_seconds=0.2)),
        Fault(name="cut after n bytes", seconds=short, condition=Condition(cut_after=(300, 9000))),
        Fault(name="duplicate connection", seconds=short, condition=Condition(copies=2)),
        Fault(name="registry's worker away", seconds=long, condition=Condition(cut=True), workers="0", takes_away=True),
        *(Fault(name=f"stopped for {time:g} s", seconds=time, workers="1", takes_away=True) for time in stopped),
    )


IN_CI = faults(long=4.6, short=2.0, stopped=(0.1, 1.0, 4.6))
BY_HAND = faults(long=12.0, short=8.0, stopped=(0.1, 1.0, 5.0, 30.0))


class Stage:
    """The cluster with a wire between each API node and each worker, and the crowd before it."""

    def __init__(self, cluster: Cluster, wires: Wires, crowd: Crowd) -> None:
        self.cluster = cluster
        self.crowd = crowd
        self._wires = wires

    @contextlib.contextmanager
    def suffers(self, fault: Fault) -> Iterator[None]:
        """The fault lasts inside."""
        touched = [self._wires[api, worker] for api in fault.apis for worker in fault.workers]
        nodes = [self.cluster.worker[worker] for worker in fault.workers]
        if fault.condition is None:
            for node in nodes:
                node.pause()
        else:
            for wire in touched:
                wire.become(fault.condition)
        try:
            yield
        finally:
            for node in nodes if fault.condition is None else ():
                node.resume()
            for wire in touched:
                wire.become(CLEAR)

    def disturbed(self) -> int:
        """How often anything met a fault so far."""
        return sum(wire.disturbed for wire in self._wires.values())

    async def healed(self) -> float:
        """Wait until all nodes are well and nothing is kept back; the seconds that took."""
        begun = time.monotonic()

        async def check() -> None:
            for name, node in self.cluster.api.items():
                status, text = await self.cluster.readiness(node)
                assert status == 200, f"{node.name} is not ready: {text}"
                state = await self.cluster.state(api=name)
                assert not state["problems"], state["problems"]
                assert {worker["state"] for worker in state["workers"]} == {"ok"}, state["workers"]
                assert await self.cluster.metric(node, "tallyslice_spool_events") == 0
                assert await self.cluster.metric(node, "tallyslice_queue_events") == 0

        await eventually(check, seconds=HEAL_SECONDS)
        return time.monotonic() - begun


@asynccontextmanager
async def staged(folder: Path, *, rng: random.Random, window: Callable[[int], int]) -> AsyncIterator[Stage]:
    """A running cluster on a stage."""
    cluster = Cluster(folder, apis=2, workers=3, routing=ROUTING, start=False, cache_ttl_seconds=0.3, event_types=TYPES)
    async with cluster, AsyncExitStack() as stack:
        wires = await stack.enter_async_context(wired(cluster, rng=rng))
        await cluster.start(*cluster.nodes)
        crowd = await stack.enter_async_context(
            Crowd(events(rng, window=window), cluster.ports, rng=rng, keep_times=True)
        )
        yield Stage(cluster, wires, crowd)


async def network_round(
    folder: Path, *, seed: int, faults: Sequence[Fault], progress: Callable[[str], None] = lambda text: None
) -> Round:
    """All faults, one after the other."""
    begun = time.monotonic()
    rng = random.Random(seed)
    problems: list[str] = []
    notes: list[str] = []
    done = Counter[str]()
    whole_seconds, whole_acknowledged = 0.0, 0
    order = list(faults)
    rng.shuffle(order)
    async with staged(folder, rng=rng, window=lambda _: done.total() * SLICE_WINDOW) as stage:
        cluster, crowd = stage.cluster, stage.crowd
        for number, fault in enumerate(order):
            progress(f"{number + 1} of {len(order)}: {fault.name}")
            before, at = crowd.taken, time.monotonic()
            await crowd.pour(seconds=CLEAR_SECONDS, rate=RATE)
            await crowd.finished()
            whole_seconds += time.monotonic() - at
            whole_acknowledged += crowd.taken - before
            crowd.successes.clear()
            disturbed = stage.disturbed()
            new_slice = f"timestamp={FIRST + HOUR * (NEW_SLICE + number)}&user={user('new')}&click&id={user('new')}"
            with stage.suffers(fault):
                refused = asyncio.create_task(cluster.post(new_slice))
                await crowd.pour(seconds=fault.seconds, rate=RATE)
            answer = await refused
            if fault.takes_away and "0" in fault.workers and (answer.status != 503 or answer.problem != "not-taken"):
                problems.append(f"{fault.name}: a slice that could not be settled was answered {answer}")
            await crowd.finished()
            try:
                healed = await stage.healed()
                await eventually(partial(_taken, cluster, new_slice), seconds=HEAL_SECONDS)
            except AssertionError as error:
                problems.append(f"{fault.name}: does not heal: {error}")
                healed = float("nan")
            _, wrong = await settled_answers(cluster, crowd.ledger)
            problems += [f"{fault.name}: {text}" for text in wrong]
            times = crowd.successes
            notes.append(f"{fault.name:24} {fault.seconds:5.1f} s: {summed(times)}; well {healed:.1f} s after it")
            problems += [f"{fault.name}: {text}" for text in too_slow(fault, times)]
            if fault.condition is not None and stage.disturbed() == disturbed:
                problems.append(f"{fault.name}: the fault met nothing")
            done[fault.name] += 1
        shown, wrong = await settled_answers(cluster, crowd.ledger)
        problems += wrong + crowd.surprises
    problems += complaints(cluster) + problems_on_disk(cluster, crowd.ledger, shown)
    totals = crowd.ledger.total()
    return Round(
        seed=seed,
        seconds=time.monotonic() - begun,
        faults=dict(done),
        sent=crowd.drawn,
        attempts=dict(crowd.attempts),
        acknowledged=totals["acknowledged"],
        unknown=totals["unknown"],
        counted=sum(Counter(answer["events"]).total() for answer in shown.values()),
        users=sum(answer["unique_users"] for answer in shown.values()),
        whole_seconds=whole_seconds,
        whole_acknowledged=whole_acknowledged,
        problems=problems,
        notes=notes,
    )


def too_slow(fault: Fault, times: Sequence[Success]) -> list[str]:
    """What is wrong with how long success took during a fault."""
    found = []
    if (p99 := percentile(times, 0.99)) > P99_SECONDS:
        found.append(f"success took {p99:.2f} s (p99), more than {P99_SECONDS:g} s")
    if fault.takes_away and fault.seconds > AWAY_SECONDS and not any(one.durability == "spool" for one in times):
        found.append("a worker was away, and nothing was spooled")
    return found


def summed(times: Sequence[Success]) -> str:
    """How long success took, in a line."""
    spooled = sum(one.durability == "spool" for one in times)
    p50, p99, most = (percentile(times, share) for share in (0.5, 0.99, 1.0))
    return f"{len(times):6,} taken, {spooled:5,} by the spool; p50 {p50:.3f}, p99 {p99:.2f}, most {most:.2f} s"


def percentile(times: Sequence[Success], share: float) -> float:
    """Seconds within which that share of events succeeded."""
    ordered = sorted(one.seconds for one in times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


async def _taken(cluster: Cluster, query: str) -> None:
    assert (answer := await cluster.post(query)).status == 202, answer
