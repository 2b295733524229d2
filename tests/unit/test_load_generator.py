"""The generator against an API node that answers as it is told to: what is sent again, and what the model keeps."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from common.slices import SECOND, Micros, SliceClock
from tallyslice.load.generator import Generator
from tallyslice.load.order import Order
from tests.support.ports import PORTS

NOW = Micros(1_700_000_000 * SECOND)
CLOCK = SliceClock(first=Micros(NOW - 50 * SECOND), length_seconds=60)
LOST = -1
"""Instead of a status: the connection ends without an answer."""


@dataclass(eq=False)
class FakeApi:
    """Keeps what it is sent, and answers with what the test chose: given the body and how often it came before."""

    answer: Callable[[bytes, int], tuple[int, str]] = lambda _, __: (202, "")
    bodies: list[bytes] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def post(self, request: web.Request) -> web.Response:
        body = await request.read()
        status, slug = self.answer(body, self.bodies.count(body))
        self.bodies.append(body)
        self.asked.set()
        if status == LOST:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if not slug:
            return web.Response(status=status)
        return web.json_response({"type": f"urn:tallyslice:problem:{slug}"}, status=status)

    @property
    def tries(self) -> Counter[bytes]:
        return Counter(self.bodies)


def first_then_taken(status: int, slug: str = "") -> Callable[[bytes, int], tuple[int, str]]:
    """Answer like this the first time that an event comes, then take it."""
    return lambda _, before: (202, "") if before else (status, slug)


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
async def node(api: FakeApi) -> AsyncIterator[str]:
    """The origin of a server with the fake."""
    app = web.Application()
    app.router.add_post("/analytics", api.post)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


@pytest.fixture
def make(node: str) -> Callable[..., Generator]:
    """A generator of twenty events within a tenth of a second, unless told otherwise."""

    def generator(*, give_up_seconds: float = 60.0, **settings: Any) -> Generator:
        wanted: dict[str, Any] = {
            "nodes": (node,),
            "rate": 200,
            "seconds": 0.1,
            "seed": 4,
            "connections": 20,
        } | settings
        return Generator(Order(**wanted), tag="t", clock=CLOCK, now=lambda: NOW, give_up_seconds=give_up_seconds)

    return generator


def sent(api: FakeApi) -> Counter[tuple[int, str]]:
    """Slice and type of each different event that arrived."""
    events = map(json.loads, set(api.bodies))
    return Counter((CLOCK.slice_at(Micros(event["timestamp"] * 1000)), event["event"]) for event in events)


def kept(generator: Generator) -> Counter[tuple[int, str]]:
    """Likewise, as the model of what was acknowledged has it."""
    return Counter(
        {(at, name): n for at, part in generator.traffic.model.acknowledged.items() for name, n in part.counts.items()}
    )


async def test_every_event_is_sent_once_and_kept(api: FakeApi, make: Callable[..., Generator]) -> None:
    """Where nothing goes wrong, the model is what arrived: late events in their own slices, users by slice."""
    generator = make()
    await generator.run()

    assert (generator.drawn, generator.acknowledged, generator.retried, generator.traffic.waiting) == (20, 20, 0, 0)
    assert set(api.tries.values()) == {1}
    assert kept(generator) == sent(api)
    names = {json.loads(body)["user"] for body in api.bodies}
    assert len({user for part in generator.traffic.model.acknowledged.values() for user in part.users}) == len(names)


@pytest.mark.parametrize(
    ("status", "slug"), [(503, "not-taken"), (503, "outcome-unknown"), (500, ""), (429, ""), (LOST, "")]
)
async def test_what_is_not_acknowledged_is_sent_again(
    api: FakeApi, make: Callable[..., Generator], status: int, slug: str
) -> None:
    """The same bytes, id and timestamp included, until they are acknowledged; each event is kept once."""
    api.answer = first_then_taken(status, slug)
    generator = make()
    await generator.run()

    assert (generator.acknowledged, generator.retried) == (20, 20)
    assert set(api.tries.values()) == {2}
    assert len(api.tries) == 20
    assert kept(generator) == sent(api)
    assert generator.traffic.model.events_unknown == 0


async def test_a_node_that_is_away_is_passed_over(api: FakeApi, node: str, make: Callable[..., Generator]) -> None:
    """Another node takes the events meant for it."""
    port = PORTS.take()
    generator = make(nodes=(f"http://127.0.0.1:{port}", node))
    await generator.run()
    PORTS.give_back(port)

    assert generator.acknowledged == 20
    assert generator.retried == 10
    assert set(api.tries.values()) == {1}


async def test_a_refused_event_is_not_sent_again(api: FakeApi, make: Callable[..., Generator]) -> None:
    """It is surely not counted, so it is not in the model at all."""
    api.answer = lambda _, __: (422, "slice-closed")
    generator = make()
    await generator.run()

    assert generator.traffic.refused == {"status 422, slice-closed": 20}
    assert (generator.acknowledged, generator.traffic.waiting) == (0, 0)
    assert set(api.tries.values()) == {1}
    assert not generator.traffic.model.slices


async def test_an_event_refused_after_a_lost_answer_may_be_counted(
    api: FakeApi, make: Callable[..., Generator]
) -> None:
    """The first try may have counted it, and nobody will ever know."""
    api.answer = lambda _, before: (422, "slice-closed") if before else (LOST, "")
    generator = make()
    await generator.run()

    assert generator.traffic.model.events_unknown == 20
    assert (generator.traffic.model.events, generator.traffic.refused.total(), generator.traffic.waiting) == (0, 0, 0)


async def test_stopping_ends_the_schedule_and_waits_for_answers(api: FakeApi, make: Callable[..., Generator]) -> None:
    """What was drawn is answered or was never sent; nothing is left open."""
    api.answer = first_then_taken(503, "not-taken")
    generator = make(seconds=1_000)
    running = asyncio.create_task(generator.run())
    await api.asked.wait()
    generator.stop()
    await running

    assert generator.drawn < 200_000
    assert generator.behind == 0
    assert generator.acknowledged + generator.traffic.undelivered == generator.drawn
    assert generator.acknowledged == generator.traffic.model.events > 0
    assert generator.traffic.waiting == 0


@pytest.mark.parametrize(("slug", "unknown"), [("outcome-unknown", True), ("not-taken", False)])
async def test_giving_up_tells_what_may_be_counted(
    api: FakeApi, make: Callable[..., Generator], slug: str, *, unknown: bool
) -> None:
    """Events that were always refused at the door are surely not counted; of the others nobody knows."""
    api.answer = lambda _, __: (503, slug)
    generator = make(seconds=1_000)
    running = asyncio.create_task(generator.run())
    await api.asked.wait()
    # A try that is under way when we give up is always of unknown outcome: wait for one that is between tries.
    while not generator.retried:
        api.asked.clear()
        await api.asked.wait()
    generator.give_up()
    await running

    assert generator.acknowledged == 0
    assert generator.traffic.waiting == 0
    assert (generator.traffic.model.events_unknown if unknown else generator.traffic.undelivered) > 0
