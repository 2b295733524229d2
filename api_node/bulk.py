"""The events of one bulk request, from its lines to what became of each.

::

    piece of lines --Sorter--> columns, one per slice and worker --link.extend--> batches, a future each
                       |                                                             |
                       +-- slices that are not settled: settled, and sorted again    +--> Report: accepted, repeated
                       +-- lines that cannot be taken -------------------------------+--> and an error for each other
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from api_node.columns import Sorter
from api_node.sender import Closed, Done, Events, Spooled
from common.errors import Malformed, NotTaken, OutcomeUnknown, RequestError, SliceClosed
from common.events import TIMESTAMP
from common.problems import problem_type
from common.wire import NO_ID

if TYPE_CHECKING:
    from api_node.columns import Column
    from api_node.delivery import Fate, Waiter
    from api_node.places import Places
    from api_node.sender import Placed
    from api_node.worker_pool import WorkerPool
    from common.events import EventTypes
    from common.lines import Piece
    from common.slices import SliceId

WORKER, SPOOL = "worker", "spool"
"""Whose disk an event is on when it is answered with success."""

# For the routes of all slices of a request together: what it has already put into batches is on its way.
SETTLE_SECONDS = 3.0
_SETTLE_TRIES = 2  # a route that was settled just now is known, unless a hundred thousand others pushed it out


class LineError(msgspec.Struct, frozen=True, kw_only=True):
    """Why an event of many was not taken, or may not have been.

    Attributes:
        index: which one, counted from 0.
        type: the problem type.
        field: the field that it is about, if it is about one.
        detail: for people; never quotes the event.
        retry: whether sending it again can help, and counts it once in any case.
    """

    index: int
    type: str
    field: str | None
    detail: str
    retry: bool


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the events of a request. What is not among the errors is done: it need not be sent again.

    Attributes:
        accepted: how many were taken, including those that were known already.
        repeated: how many of them were known already, by their id; None where that cannot be known.
        rejected: how many are among the errors.
        errors: ascending by index.
    """

    accepted: int
    repeated: int | None
    rejected: int
    errors: tuple[LineError, ...]


class BulkRequest:
    """One request: ``take`` its pieces, then ``finish``.

    Attributes:
        outcomes: events by what became of them, as the metric counts them.
        failures: the errors behind the report's, by index.
        durability: whose disks the events are on that were taken: ``worker``, or ``spool`` if some are only there.
    """

    def __init__(
        self, *, places: Places, workers: WorkerPool, types: EventTypes, settle_seconds: float = SETTLE_SECONDS
    ) -> None:
        self.outcomes = Counter[str]()
        self.failures: dict[int, RequestError] = {}
        self.durability = WORKER
        self._places = places
        self._workers = workers
        self._sorter = Sorter(places=places, types=types, fail=self._fail)
        self._placed: list[tuple[Column, list[Placed[Waiter]]]] = []
        self._refused: dict[SliceId, RequestError] = {}  # slices whose route could not be settled
        self._settle_seconds = settle_seconds
        self._settle_until: float | None = None
        self._unretriable: set[int] = set()  # may be counted, and have no id that would tell
        self._lines = 0

    async def take(self, piece: Piece) -> None:
        """Put the next lines into their batches; waits for routes, not for receipts.

        Raises:
            NotTaken: the node has not met its cluster yet.
        """
        unsettled = self._sorter.sort(piece, self._lines)
        for _ in range(_SETTLE_TRIES):
            if not unsettled:
                break
            indexes = await self._settle(unsettled)
            unsettled = self._sorter.sort(piece, self._lines, indexes)
        for slice_id, indexes in unsettled.items():
            self._fail_all(indexes, NotTaken(f"the route of slice {slice_id} is not known"))
        for column in self._sorter.take_columns():
            self._put(column)
        self._lines += len(piece.lines)

    async def finish(self) -> Report:
        """Wait for the receipts, and tell."""
        accepted, repeated, repeats_known = 0, 0, True
        for column, placed in self._placed:
            start = 0
            for part in placed:
                lines = column.lines[start : start + part.events]
                fate = await part.waiter
                if isinstance(fate, Done | Spooled):
                    accepted += part.events
                    self.outcomes["counted" if isinstance(fate, Done) else "spooled"] += part.events
                    if isinstance(fate, Spooled):
                        self.durability = SPOOL
                    if column.ids:
                        repeats = fate.receipt.repeats if isinstance(fate, Done) else None
                        repeats_known = repeats_known and repeats is not None
                        repeated += _between(repeats or (), part.position, part.position + part.events)
                else:
                    error = error_of(fate)
                    if isinstance(error, OutcomeUnknown):
                        ids = column.ids[start : start + part.events] or [NO_ID] * part.events
                        self._unretriable.update(
                            line for line, id_key in zip(lines, ids, strict=True) if id_key is NO_ID
                        )
                    for line in lines:
                        self._fail(line, error)
                start += part.events
        self.outcomes.update(error.slug for error in self.failures.values())
        return Report(
            accepted=accepted,
            repeated=repeated if repeats_known else None,
            rejected=len(self.failures),
            errors=tuple(self._told(index) for index in sorted(self.failures)),
        )

    def turn_away(self, piece: Piece, error: RequestError) -> None:
        """Take none of the next lines."""
        for line in piece.lines:
            self._fail(self._lines, line if isinstance(line, Malformed) else error)
            self._lines += 1

    async def _settle(self, unsettled: dict[SliceId, list[int]]) -> list[int]:
        """Settle the routes of slices; lines of those that cannot be fail.

        Returns:
            The lines of the others.
        """
        loop = asyncio.get_running_loop()
        if self._settle_until is None:
            self._settle_until = loop.time() + self._settle_seconds
        asked = {at: loop.create_task(self._places.settled(at)) for at in unsettled if at not in self._refused}
        if asked:
            await asyncio.wait(asked.values(), timeout=max(0.0, self._settle_until - loop.time()))
        for slice_id, task in asked.items():
            if not task.done():
                task.cancel()
                self._refused[slice_id] = NotTaken(f"the route of slice {slice_id} could not be settled in time")
            elif isinstance(error := task.exception(), RequestError):
                self._refused[slice_id] = error
            else:
                task.result()
        settled: list[int] = []
        for slice_id, indexes in unsettled.items():
            if (refusal := self._refused.get(slice_id)) is None:
                settled += indexes
            else:
                self._fail_all(indexes, refusal)
        return sorted(settled)

    def _put(self, column: Column) -> None:
        place = column.place
        events = Events(tuple(column.names), bytes(column.kinds), b"".join(column.users), b"".join(column.ids))
        column.users.clear()
        try:
            link = self._workers.link(column.worker)
            placed = link.extend(place.slice, place.route, place.keys.key_id, events)
        except (NotTaken, SliceClosed) as error:
            placed = []
            for line in column.lines:
                self._fail(line, error)
        self._placed.append((column, placed))

    def _fail_all(self, indexes: list[int], error: RequestError) -> None:
        """Lines of the piece that is being taken cannot be."""
        for index in indexes:
            self._fail(self._lines + index, error)

    def _fail(self, line: int, error: RequestError) -> None:
        self.failures[line] = error

    def _told(self, index: int) -> LineError:
        error = self.failures[index]
        retry = isinstance(error, NotTaken | OutcomeUnknown) and index not in self._unretriable
        return LineError(index=index, type=problem_type(error), field=error.field, detail=error.detail, retry=retry)


def error_of(fate: Fate) -> RequestError:
    """Why events of a batch are not counted, or may not be.

    Args:
        fate: neither Done nor Spooled.
    """
    if fate is None:
        return OutcomeUnknown("the worker has not answered yet; retry with an id, so that it is counted once")
    if isinstance(fate, Closed):
        return SliceClosed(f"slice {fate.slice} is closed", field=TIMESTAMP)
    assert not isinstance(fate, Done | Spooled)  # noqa: S101 - as said
    return NotTaken(fate.reason)


def _between(positions: tuple[int, ...], start: int, stop: int) -> int:
    """How many of the ascending positions lie in a range."""
    return bisect_left(positions, stop) - bisect_left(positions, start)
