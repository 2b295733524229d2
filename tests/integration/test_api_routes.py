"""Settled routes: claimed in batches at a real registry, remembered, and found at the workers when it is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from api_node.membership import Membership
from api_node.peer import Peer
from api_node.registry import HostedRegistry
from api_node.settled_routes import CALL_SLICES_MAX, SettledRoutes
from common.anonymise import Anonymiser
from common.config import ClusterConfig, load_config, load_secret
from common.errors import NoAnswer, NotTaken, PeerAway, PeerError, TooManySlices
from common.routing import Route, WorkerId
from common.slices import SECOND, Micros, SliceId
from common.tasks import Tasks
from common.wire import Identity, Pins, RegistryState, Settled
from tests.support.cluster import FIRST, HOUR
from tests.support.nodes import Nodes
from tests.support.patience import eventually

SOME = SliceId(41)
ZERO, ONE = WorkerId("0"), WorkerId("1")


class Watched:
    """The registry of a real worker; counts the calls, and lets a test hold or break them.

    Attributes:
        calls: the slices of each claim.
        gate: an answer that is there is handed on when this is set.
        error: raised instead of asking, if there is one.
    """

    def __init__(self, registry: HostedRegistry) -> None:
        self.calls: list[list[SliceId]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self._registry = registry

    async def state(self) -> RegistryState:
        return await self._registry.state()

    async def initialise(self, pins: Pins) -> RegistryState:
        return await self._registry.initialise(pins)

    async def pin_worker(self, cluster: str, worker: WorkerId, uuid: str) -> RegistryState:
        return await self._registry.pin_worker(cluster, worker, uuid)

    async def claim(self, cluster: str, claims: int, routes: Mapping[SliceId, Route]) -> Settled:
        self.calls.append(list(routes))
        if self.error is not None:
            raise self.error
        settled = await self._registry.claim(cluster, claims, routes)
        await self.gate.wait()
        return settled


class Knowing:
    """The settled routes as one API node knows them, and what it knows them by."""

    def __init__(
        self,
        nodes: Nodes,
        session: aiohttp.ClientSession,
        tasks: Tasks,
        *,
        name: str,
        file: Path,
        deadline: float,
        retry: float,
    ) -> None:
        self.config: ClusterConfig = load_config(file)
        self.registry = Watched(
            HostedRegistry(peer=Peer(session=session, url=nodes.worker["0"].url, token=lambda: None))
        )
        self.held: dict[SliceId, Route] = {}
        self._peers = {
            worker: Peer(session=session, url=url, token=lambda: None)
            for worker, url in self.config.worker_nodes.items()
        }
        folder = nodes.folder / name
        folder.mkdir()
        self.membership = Membership(
            folder=folder,
            config=lambda: self.config,
            secret_id=Anonymiser(secret=load_secret(self.config)).secret_id,
            registry=self.registry,
            identities=self._identities,
            now=nodes.now,
            log=nodes.log(name),
        )
        self.routes = SettledRoutes(
            membership=self.membership,
            registry=self.registry,
            config=lambda: self.config,
            ask_workers=self._ask_workers,
            tasks=tasks,
            log=nodes.log(name),
            deadline_seconds=deadline,
            watch_seconds=retry,
        )

    async def _identities(self) -> dict[WorkerId, Identity | PeerError]:
        return {worker: await peer.get_json("/identity", Identity, seconds=1.0) for worker, peer in self._peers.items()}

    async def _ask_workers(self, slices: Sequence[SliceId]) -> Mapping[SliceId, Route]:
        return {at: self.held[at] for at in slices if at in self.held}


@asynccontextmanager
async def knowing(
    folder: Path, *proposals: list[str], joined: bool = True, deadline: float = 0.3, retry: float = 5.0, **settings: Any
) -> AsyncIterator[tuple[Nodes, list[Knowing]]]:
    """Two workers, and a node's knowledge for each of the proposed routes."""
    async with Nodes(folder, start=False, **settings) as nodes, Tasks(log=nodes.log("api")) as tasks:
        await asyncio.gather(*map(nodes.start_worker, nodes.worker))
        found = []
        for number, proposal in enumerate(proposals):
            file = nodes.write(name=f"{number}.json", routing=[{"slice": 0, "nodes": proposal}])
            found.append(
                Knowing(nodes, nodes.session, tasks, name=f"part-{number}", file=file, deadline=deadline, retry=retry)
            )
            if joined:
                await found[-1].membership.join()
        yield nodes, found


async def test_the_first_claim_wins(tmp_path: Path) -> None:
    """Two nodes propose different routes of a slice; both go by the one that was there first."""
    async with knowing(tmp_path, ["0", "1"], ["1"]) as (_, (one, other)):
        first = await one.routes.settle(SOME)
        second = await other.routes.settle(SOME)
        at_once = await asyncio.gather(one.routes.settle(SliceId(42)), other.routes.settle(SliceId(42)))

        assert first == second == (ZERO, ONE)
        assert at_once[0] == at_once[1]
        assert one.routes.known(SOME) == other.routes.known(SOME) == (ZERO, ONE)
        assert one.membership.named >= {ZERO, ONE}


async def test_whoever_a_learned_route_names_holds_settled_slices(tmp_path: Path) -> None:
    """Told by a worker, or found in a spool: an older registry may not name that worker, and it must not go."""
    async with knowing(tmp_path, ["0"]) as (_, (one,)):
        one.routes.learn(SOME, (ZERO, ONE))

        assert one.membership.named == {ZERO, ONE}


async def test_what_is_wanted_at_once_is_one_call(tmp_path: Path) -> None:
    """Thousands of slices take a few calls, and each gets its route."""
    async with knowing(tmp_path, ["1"], deadline=20) as (_, (one,)):
        slices = [SliceId(at) for at in range(-500, 2 * CALL_SLICES_MAX)]

        found = await asyncio.gather(*map(one.routes.settle, slices))

        assert found == [(ONE,)] * len(slices)
        assert [len(call) for call in one.registry.calls] == [CALL_SLICES_MAX, CALL_SLICES_MAX, 500]
        assert one.membership.claims == len(slices)


async def test_who_comes_during_a_call_wants_the_next(tmp_path: Path) -> None:
    """Also for the same slice: by then the file may propose another route."""
    async with knowing(tmp_path, ["1"]) as (_, (one,)):
        one.registry.gate.clear()
        first = asyncio.create_task(one.routes.find(SOME))
        await eventually(lambda: calls(one, 1))
        others = [asyncio.create_task(one.routes.settle(SliceId(at))) for at in (41, 42, 43)]
        await asyncio.sleep(0)
        one.registry.gate.set()

        assert await first is None
        assert await asyncio.gather(*others) == [(ONE,)] * 3
        assert one.registry.calls == [[41], [41, 42, 43]]


async def calls(one: Knowing, number: int) -> None:
    assert len(one.registry.calls) == number


async def test_not_settled_is_remembered_for_a_time(tmp_path: Path) -> None:
    """Another node settles the slice meanwhile: this one hears of it when the time is over, not before."""
    async with knowing(tmp_path, ["0"], ["1"], cache_ttl_seconds=0.2) as (_, (one, other)):
        assert await one.routes.find(SOME) is None
        await other.routes.settle(SOME)
        assert await one.routes.find(SOME) is None
        assert len(one.registry.calls) == 1

        async def heard() -> None:
            assert await one.routes.find(SOME) == (ONE,)

        await eventually(heard)
        assert len(one.registry.calls) == 2


async def test_not_settled_is_never_remembered_over_a_route(tmp_path: Path) -> None:
    """The answer "not settled" is on its way while a receipt tells the route."""
    async with knowing(tmp_path, ["0"], cache_ttl_seconds=30) as (_, (one,)):
        one.registry.gate.clear()
        asked = asyncio.create_task(one.routes.find(SOME))
        await eventually(lambda: calls(one, 1))
        one.routes.learn(SOME, (ONE,))
        one.registry.gate.set()

        assert await asked == (ONE,)
        assert await one.routes.find(SOME) == (ONE,)


async def test_settled_replaces_not_settled_at_once(tmp_path: Path) -> None:
    """By this node's own claim, by what a worker tells, and by a new config."""
    async with knowing(tmp_path, ["0"], cache_ttl_seconds=30) as (_, (one,)):
        for at in (1, 2, 3):
            assert await one.routes.find(SliceId(at)) is None
        await one.routes.settle(SliceId(1))
        one.routes.learn(SliceId(2), (ONE,))
        one.routes.learn(SliceId(3), ())

        assert await one.routes.find(SliceId(1)) == (ZERO,)
        assert await one.routes.find(SliceId(2)) == (ONE,)
        assert len(one.registry.calls) == 4
        one.routes.follow(one.config)
        assert await one.routes.find(SliceId(3)) is None
        assert len(one.registry.calls) == 5


# --- the registry away


async def test_without_the_registry_a_slice_that_a_worker_holds_goes_on(tmp_path: Path) -> None:
    """For questions and for events; what nobody holds is not known, and not taken, once the deadline has passed."""
    async with knowing(tmp_path, ["0"]) as (_, (one,)):
        one.registry.error = PeerAway("the registry is away")
        one.held = {SliceId(1): (ONE,), SliceId(2): (ONE, ZERO)}

        assert await one.routes.find(SliceId(1)) == (ONE,)
        assert await one.routes.settle(SliceId(2)) == (ONE, ZERO)
        with pytest.raises(NoAnswer, match="the route of slice 41 is not known: the registry is away"):
            await one.routes.find(SOME)
        with pytest.raises(NotTaken, match="the route of slice 41 cannot be settled: the registry is away"):
            await one.routes.settle(SOME)
        assert one.routes.registry_problem == "the registry is away"

        one.registry.error = None
        assert await one.routes.settle(SOME) == (ZERO,)
        assert one.routes.registry_problem is None


async def test_the_registrys_trouble_ends_by_itself(tmp_path: Path) -> None:
    """Nobody wants anything of it any more, and still nobody reads of a trouble that is over."""

    async def asks_again() -> None:
        assert len(one.registry.calls) > asked

    async def check() -> None:
        assert one.routes.registry_problem is None

    async with knowing(tmp_path, ["0"], retry=0.05) as (nodes, (one,)), Tasks(log=nodes.log("watch")) as tasks:
        tasks.start("watch-registry", one.routes.watch_registry())
        one.registry.error = PeerAway("the registry is away")
        with pytest.raises(NotTaken):
            await one.routes.settle(SOME)
        asked = len(one.registry.calls)
        await eventually(asks_again)
        problem = one.routes.registry_problem
        one.registry.error = None

        assert problem == "the registry is away"
        await eventually(check)
        assert one.routes.known(SOME) is None


async def test_a_short_absence_of_the_registry_goes_unnoticed(tmp_path: Path) -> None:
    async with knowing(tmp_path, ["0"]) as (_, (one,)):
        one.registry.error = PeerAway("restarting")
        waiting = asyncio.create_task(one.routes.settle(SOME))
        await eventually(lambda: calls(one, 1))
        one.registry.error = None

        assert await waiting == (ZERO,)


async def test_what_is_learnt_while_waiting_ends_the_wait(tmp_path: Path) -> None:
    async with knowing(tmp_path, ["0"]) as (_, (one,)):
        one.registry.error = PeerAway("away")
        waiting = asyncio.create_task(one.routes.find(SOME))
        await eventually(lambda: calls(one, 1))
        one.routes.learn(SOME, (ONE,))

        assert await waiting == (ONE,)


async def test_a_registry_that_says_nothing_is_waited_for_until_the_deadline_only(tmp_path: Path) -> None:
    """Whoever gave up does not take the answer from the others."""
    async with knowing(tmp_path, ["0"]) as (_, (one,)):
        one.registry.gate.clear()

        with pytest.raises(NotTaken, match=r"no answer within 0\.3 s"):
            await one.routes.settle(SOME)
        with pytest.raises(NoAnswer, match=r"no answer within 0\.3 s"):
            await one.routes.find(SliceId(42))
        one.registry.gate.set()
        assert await one.routes.find(SOME) == (ZERO,)
        assert await one.routes.find(SliceId(42)) is None


async def test_a_node_that_has_not_joined_settles_nothing(tmp_path: Path) -> None:
    async with knowing(tmp_path, ["0"], joined=False) as (_, (one,)):
        with pytest.raises(NotTaken, match="has not joined its cluster yet"):
            await one.routes.settle(SOME)

        assert one.registry.calls == []


async def test_a_defect_reaches_those_who_wait_and_nobody_after_them(tmp_path: Path) -> None:
    """A dropped connection would tell a client nothing at all."""
    async with knowing(tmp_path, ["0"]) as (_, (one,)):
        one.registry.error = KeyError("a defect")
        with pytest.raises(KeyError):
            await one.routes.settle(SOME)
        one.registry.error = None

        assert await one.routes.settle(SOME) == (ZERO,)


async def test_who_waits_is_let_go_when_the_node_ends(tmp_path: Path) -> None:
    async with knowing(tmp_path, ["0"]) as (nodes, (one,)):
        async with Tasks(log=nodes.log("api")) as tasks:
            ending = SettledRoutes(
                membership=one.membership,
                registry=one.registry,
                config=lambda: one.config,
                ask_workers=one._ask_workers,  # noqa: SLF001 - the same workers
                tasks=tasks,
                log=nodes.log("api"),
            )
            one.registry.gate.clear()
            waiting = asyncio.create_task(ending.find(SOME))
            await eventually(lambda: calls(one, 1))
        await asyncio.wait([waiting])

        assert waiting.cancelled()


# --- bounds, and claiming ahead


async def test_one_slice_too_many_is_refused_but_never_the_current_or_the_next(tmp_path: Path) -> None:
    """What is over the bound is still no settled slice, so it holds nothing."""
    async with knowing(tmp_path, ["0"], max_slices=2) as (nodes, (one,)):
        current = SliceId(int((nodes.now.seconds - FIRST) // HOUR))
        # The registry's worker knows the time of a slice once it has joined.
        await nodes.start_api("0")
        await eventually(lambda: settled(one, 1))
        await one.routes.settle(SliceId(10))

        with pytest.raises(TooManySlices, match="slice 11 would be one more than max-slices = 2") as refused:
            await one.routes.settle(SliceId(11))
        assert refused.value.field == "timestamp"
        assert await one.routes.find(SliceId(11)) is None
        assert await one.routes.settle(SliceId(10)) == (ZERO,)
        assert await one.routes.settle(current) == (ZERO, ONE)
        assert await one.routes.settle(SliceId(current + 1)) == (ZERO,)


async def settled(one: Knowing, number: int) -> None:
    assert len((await one.registry.state()).recent) == number


@pytest.mark.parametrize(("before_end", "claimed"), [(HOUR / 2, [0]), (11, [0]), (10, [0, 1]), (0.5, [0, 1])])
async def test_the_next_slice_is_claimed_shortly_before_it_begins(
    tmp_path: Path, before_end: float, claimed: list[int]
) -> None:
    """The current one at start; of an hour's slice, the next one in its last ten seconds."""
    async with knowing(tmp_path, ["0"]) as (nodes, (one,)):
        nodes.now.seconds = FIRST + HOUR - before_end
        async with Tasks(log=nodes.log("api")) as tasks:
            tasks.start("claim-ahead", one.routes.claim_ahead(nodes.now))

            await eventually(lambda: settled(one, len(claimed)))
            assert [one.slice for one in (await one.registry.state()).recent] == claimed


async def test_claiming_ahead_goes_on_from_slice_to_slice(tmp_path: Path) -> None:
    """Slices of a second: each is claimed; a registry that is away for one of them is no end.

    ::

        0 ......... 0.95  awake in the lead: claims 0 and 1      1.05: claims 1
    """
    async with knowing(tmp_path, ["0"], length_of_time_slice=1) as (nodes, (one,)):
        nodes.now.seconds = FIRST + 0.95
        one.registry.error = PeerAway("restarting")
        async with Tasks(log=nodes.log("api")) as tasks:
            tasks.start("claim-ahead", one.routes.claim_ahead(nodes.now))
            await eventually(lambda: logged(nodes, "claim_ahead_failed"))
            one.registry.error = None
            nodes.now.seconds = FIRST + 1.95

            await eventually(lambda: settled(one, 2))
            assert {one.slice for one in (await one.registry.state()).recent} <= {0, 1, 2}


async def logged(nodes: Nodes, event: str) -> None:
    assert f"event={event}" in nodes.written.getvalue()


async def test_the_time_of_the_nodes_counts(tmp_path: Path) -> None:
    """The clock that the tests set is the one that the parts read."""
    async with knowing(tmp_path, ["0"]) as (nodes, _):
        assert nodes.now() == Micros(int((FIRST + HOUR / 2) * SECOND))
