"""The registry, as an API node sees it: the registry of a real worker, over HTTP."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp.test_utils import BaseTestServer, TestServer

from api_node.peer import Peer
from api_node.registry import HostedRegistry, Registry
from common.errors import PeerAway, PeerRefuses
from common.logs import new_log
from common.routing import WorkerId
from common.slices import SliceId
from common.wire import Identity, Pins, SettledRoute
from tests.support.configs import cluster_fields
from tests.support.worker_parts import no_failure
from worker_node.app import Place, open_worker

ZERO, ONE = WorkerId("0"), WorkerId("1")
SLICE, OTHER_SLICE = SliceId(7), SliceId(8)


@asynccontextmanager
async def hosted(folder: Path) -> AsyncIterator[tuple[Registry, Pins, BaseTestServer]]:
    """The registry at a fresh worker, pins that this worker can hold, and the worker's server."""
    file = folder / "cluster.json"
    file.write_text(json.dumps(cluster_fields()))
    place = Place(worker=ZERO, cluster_file=file, folder=folder / "data")
    async with (
        open_worker(place, log=new_log("worker", stream=io.StringIO()), fail=no_failure) as node,
        TestServer(node.app) as server,
        aiohttp.ClientSession() as session,
    ):
        peer = Peer(session=session, url=str(server.make_url("/worker")), token=lambda: None)
        uuid = (await peer.get_json("/identity", Identity, seconds=1)).uuid
        pins = Pins(cluster="c", first=0, length_seconds=60, secret_id="s", registry=ZERO, workers={ZERO: uuid})
        yield HostedRegistry(peer=peer), pins, server


async def test_the_first_pins_hold_for_whoever_proposes_others(tmp_path: Path) -> None:
    """None before the first contact; later proposals are told what holds."""
    async with hosted(tmp_path) as (registry, pins, _):
        before = await registry.state()
        first = await registry.initialise(pins)
        second = await registry.initialise(msgspec.structs.replace(pins, cluster="d"))

        assert before.pins is None
        assert first.pins == second.pins == pins
        assert (await registry.state()).pins == pins


async def test_the_first_data_directory_of_a_worker_holds(tmp_path: Path) -> None:
    """Proposing it again changes nothing; another one is refused."""
    async with hosted(tmp_path) as (registry, pins, _):
        await registry.initialise(pins)
        first = await registry.pin_worker("c", ONE, "its own")
        again = await registry.pin_worker("c", ONE, "its own")
        with pytest.raises(PeerRefuses, match="pinned to the data directory its own, not another") as refused:
            await registry.pin_worker("c", ONE, "another")

        assert refused.value.slug == "wrong-worker"
        assert (await registry.state()).pins == first.pins == again.pins
        assert first.pins == msgspec.structs.replace(pins, workers={**pins.workers, ONE: "its own"})


async def test_the_first_claim_settles_a_route_and_no_route_only_asks(tmp_path: Path) -> None:
    """What is not settled is not in the answer."""
    async with hosted(tmp_path) as (registry, pins, _):
        await registry.initialise(pins)
        asked = await registry.claim("c", 0, {SLICE: ()})
        first = await registry.claim("c", 0, {SLICE: (ZERO, ONE)})
        second = await registry.claim("c", 1, {SLICE: (ONE,), OTHER_SLICE: ()})

        assert (asked.claims, asked.routes) == (0, ())
        assert first.routes == second.routes == (SettledRoute(slice=SLICE, route=(ZERO, ONE), number=1),)
        assert (await registry.state()).claims == second.claims == 1


async def test_a_registry_that_will_not_says_why(tmp_path: Path) -> None:
    """It is of another cluster, or older than what the caller knows: neither passes for an answer."""
    async with hosted(tmp_path) as (registry, pins, _):
        await registry.initialise(pins)
        with pytest.raises(PeerRefuses) as foreign:
            await registry.claim("d", 0, {SLICE: (ZERO,)})
        with pytest.raises(PeerRefuses) as behind:
            await registry.claim("c", 5, {SLICE: (ZERO,)})

        assert (foreign.value.slug, behind.value.slug) == ("wrong-cluster", "registry-behind")
        assert (await registry.state()).claims == 0


async def test_a_registry_that_is_gone_is_away(tmp_path: Path) -> None:
    """Every call tells the same, so that a caller need not ask first."""
    async with hosted(tmp_path) as (registry, pins, server):
        await server.close()
        calls = (
            registry.state(),
            registry.initialise(pins),
            registry.pin_worker("c", ONE, "u"),
            registry.claim("c", 0, {SLICE: (ZERO,)}),
        )

        for call in calls:
            with pytest.raises(PeerAway):
                await call
