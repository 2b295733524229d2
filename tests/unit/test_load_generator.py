"""The feeder against an API node that answers as it is told to: what is sent again, and what the model keeps."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from common.slices import SECOND, Micros, SliceClock
from tallyslice.crowd import Crowd
from tallyslice.feeder import Answer, Feeder, answer_of
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
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def make(session: aiohttp.ClientSession, node: str) -> Callable[..., Feeder]:
    """A feeder of twenty events within a tenth of a second, unless told otherwise."""

    def feeder(**settings: Any) -> Feeder:
        wanted: dict[str, Any] = {"nodes": [node], "rate": 200, "seconds": 0.1} | settings
        return Feeder(session=session, crowd=Crowd(tag="t", seed=4), clock=CLOCK, now=lambda: NOW, **wanted)

    return feeder


def sent(api: FakeApi) -> Counter[tuple[int, str]]:
    """Slice and type of each different event that arrived."""
    events = map(json.loads, set(api.bodies))
    return Counter((CLOCK.slice_at(Micros(event["timestamp"] * 1000)), event["event"]) for event in events)


def kept(feeder: Feeder) -> Counter[tuple[int, str]]:
    """Likewise, as the model of what was acknowledged has it."""
    return Counter({(at, name): n for at, part in feeder.model.acknowledged.items() for name, n in part.counts.items()})


async def test_every_event_is_sent_once_and_kept(api: FakeApi, make: Callable[..., Feeder]) -> None:
    """Where nothing goes wrong, the model is what arrived: late events in their own slices, users by slice."""
    feeder = make()
    await feeder.run()

    assert (feeder.total, feeder.drawn, feeder.acknowledged, feeder.retried, feeder.waiting) == (20, 20, 20, 0, 0)
    assert set(api.tries.values()) == {1}
    assert kept(feeder) == sent(api)
    names = {json.loads(body)["user"] for body in api.bodies}
    assert len({user for part in feeder.model.acknowledged.values() for user in part.users}) == len(names)


@pytest.mark.parametrize(
    ("status", "slug"), [(503, "not-taken"), (503, "outcome-unknown"), (500, ""), (429, ""), (LOST, "")]
)
async def test_what_is_not_acknowledged_is_sent_again(
    api: FakeApi, make: Callable[..., Feeder], status: int, slug: str
) -> None:
    """The same bytes, id and timestamp included, until they are acknowledged; each event is kept once."""
    api.answer = first_then_taken(status, slug)
    feeder = make()
    await feeder.run()

    assert (feeder.acknowledged, feeder.retried) == (20, 20)
    assert set(api.tries.values()) == {2}
    assert len(api.tries) == 20
    assert kept(feeder) == sent(api)
    assert feeder.model.events_unknown == 0


async def test_a_node_that_is_away_is_passed_over(api: FakeApi, node: str, make: Callable[..., Feeder]) -> None:
    """Another node takes the events meant for it."""
    port = PORTS.take()
    feeder = make(nodes=[f"http://127.0.0.1:{port}", node])
    await feeder.run()
    PORTS.give_back(port)

    assert feeder.acknowledged == 20
    assert feeder.retried == 10
    assert set(api.tries.values()) == {1}


async def test_a_refused_event_is_not_sent_again(api: FakeApi, make: Callable[..., Feeder]) -> None:
    """It is surely not counted, so it is not in the model at all."""
    api.answer = lambda _, __: (422, "slice-closed")
    feeder = make()
    await feeder.run()

    assert (feeder.refused, feeder.acknowledged, feeder.waiting) == ({422: 20}, 0, 0)
    assert set(api.tries.values()) == {1}
    assert not feeder.model.slices


async def test_an_event_refused_after_a_lost_answer_may_be_counted(api: FakeApi, make: Callable[..., Feeder]) -> None:
    """The first try may have counted it, and nobody will ever know."""
    api.answer = lambda _, before: (422, "slice-closed") if before else (LOST, "")
    feeder = make()
    await feeder.run()

    assert feeder.model.events_unknown == 20
    assert (feeder.model.events, feeder.refused.total(), feeder.waiting) == (0, 0, 0)


async def test_stopping_ends_the_schedule_and_waits_for_answers(api: FakeApi, make: Callable[..., Feeder]) -> None:
    """What was drawn is answered or was never sent; nothing is left open."""
    api.answer = first_then_taken(503, "not-taken")
    feeder = make(seconds=1_000)
    running = asyncio.create_task(feeder.run())
    await api.asked.wait()
    feeder.stop()
    await running

    assert feeder.drawn < feeder.total
    assert feeder.acknowledged + feeder.undelivered == feeder.drawn
    assert feeder.acknowledged == feeder.model.events > 0
    assert feeder.waiting == 0


@pytest.mark.parametrize(("slug", "unknown"), [("outcome-unknown", True), ("not-taken", False)])
async def test_giving_up_tells_what_may_be_counted(
    api: FakeApi, make: Callable[..., Feeder], slug: str, *, unknown: bool
) -> None:
    """Events that were always refused at the door are surely not counted; of the others nobody knows."""
    api.answer = lambda _, __: (503, slug)
    feeder = make(seconds=1_000)
    running = asyncio.create_task(feeder.run())
    await api.asked.wait()
    # A try that is under way when we give up is always of unknown outcome: wait for one that is between tries.
    while not feeder.retried:
        api.asked.clear()
        await api.asked.wait()
    feeder.give_up()
    await running

    assert feeder.acknowledged == 0
    assert feeder.waiting == 0
    assert (feeder.model.events_unknown if unknown else feeder.undelivered) > 0


@pytest.mark.parametrize(
    ("status", "body", "answer"),
    [
        (202, b"", Answer.TAKEN),
        (204, b"", Answer.TAKEN),
        (302, b"", Answer.REFUSED),
        (400, b"", Answer.REFUSED),
        (408, b"", Answer.NOT_TAKEN),
        (422, b"", Answer.REFUSED),
        (429, b"", Answer.NOT_TAKEN),
        (500, b"oops", Answer.UNKNOWN),
        (503, b'{"type": "urn:tallyslice:problem:not-taken"}', Answer.NOT_TAKEN),
        (503, b'{"type": "urn:tallyslice:problem:outcome-unknown"}', Answer.UNKNOWN),
        (503, b"", Answer.UNKNOWN),  # of a proxy between us
        (503, b"[]", Answer.UNKNOWN),
    ],
)
def test_what_an_answer_means(status: int, body: bytes, answer: Answer) -> None:
    """Only what says so was surely not taken."""
    assert answer_of(status, body) is answer
