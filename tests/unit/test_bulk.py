"""One bulk request: what it waits for, and what it does not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import pytest

from api_node.bulk import BulkRequest
from api_node.intake import Intake
from api_node.node_metrics import ApiMetrics
from api_node.places import Place, Places
from common.anonymise import SliceKeys
from common.errors import Malformed, NotTaken
from common.events import EventTypes
from common.lines import Line, Piece
from common.routing import WorkerId
from common.slices import EARLIEST, LATEST, Micros, SliceClock, SliceId
from tests.support.configs import cluster_config

TYPES = EventTypes(frozenset({"click"}))
KNOWN, UNKNOWN = 100, 1_000_000  # seconds: of a slice that is settled, and of one that is not


class FakePlaces:
    """Slices of an hour; the first hundred are settled, and no other can be."""

    clock = SliceClock(first=Micros(0), length_seconds=3600)

    def __init__(self, *, answers: bool) -> None:
        self.asked = Counter[SliceId]()
        self._answers = answers

    def open_span(self) -> tuple[Micros, Micros]:
        return EARLIEST, LATEST

    def slice_at(self, timestamp: Micros) -> SliceId:
        return self.clock.slice_at(timestamp)

    def known(self, slice_id: SliceId) -> Place | None:
        return Place(slice_id, (WorkerId("0"),), SliceKeys(bytes(32), slice_id)) if slice_id < 100 else None

    async def settled(self, slice_id: SliceId) -> Place:
        self.asked[slice_id] += 1
        if not self._answers:
            await asyncio.Event().wait()
        raise NotTaken("nobody settles this")


class FullWorkers:
    """They take nothing."""

    def link(self, worker: WorkerId) -> None:
        raise NotTaken(f"worker {worker} is full")


def piece(*seconds: int) -> Piece:
    return Piece([Line(timestamp=at, user="u", event="click") for at in seconds])


def new_request(places: FakePlaces) -> BulkRequest:
    return BulkRequest(places=cast("Places", places), workers=cast("Any", FullWorkers()), types=TYPES)


async def test_a_slice_that_cannot_be_settled_is_asked_for_once() -> None:
    """Not once for every piece of the request: each time may take as long as the registry has to answer."""
    places = FakePlaces(answers=True)
    request = new_request(places)
    for _ in range(5):
        await request.take(piece(UNKNOWN, KNOWN))
    report = await request.finish()

    assert set(places.asked.values()) == {1}
    assert [error.detail for error in report.errors] == ["nobody settles this", "worker 0 is full"] * 5
    assert all(error.retry for error in report.errors)


async def test_all_slices_of_a_request_together_have_one_deadline() -> None:
    """A registry that says nothing holds a request up once; what was taken before must not wait for minutes."""
    places = FakePlaces(answers=False)
    request = BulkRequest(
        places=cast("Places", places),
        workers=cast("Any", FullWorkers()),
        types=TYPES,
        settle_seconds=0.05,
    )
    for at in range(200):
        await request.take(piece(UNKNOWN + at * 3600))
    report = await request.finish()

    assert report.rejected == 200
    assert {error.type.rpartition(":")[2] for error in report.errors} == {"not-taken"}


async def test_a_node_that_stops_takes_no_further_piece() -> None:
    """What it has taken is told, the rest is not taken; a line that is malformed anyway is told so."""
    intake: Intake

    def pieces() -> Iterator[Piece]:
        yield piece(KNOWN)
        intake.draining = True
        yield Piece([*piece(KNOWN).lines, Malformed("is no event")])

    config = cluster_config()
    intake = Intake(
        config=lambda: config,
        places=cast("Places", FakePlaces(answers=True)),
        workers=cast("Any", FullWorkers()),
        metrics=ApiMetrics(),
    )
    report, _ = await intake.accept_many(pieces())

    assert [error.detail for error in report.errors] == [
        "worker 0 is full",
        "this node is about to stop",
        "is no event",
    ]
    with pytest.raises(NotTaken, match="about to stop"):
        await intake.accept_many(pieces())
