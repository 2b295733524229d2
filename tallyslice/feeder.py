"""Feeds a crowd's events to API nodes at a steady rate, each until it is acknowledged.

::

    schedule (open loop: an event is drawn when it is due, however the cluster does)
        -> queue -> 256 senders, each with one event at a time
                      taken    -> into the model
                      refused  -> counted by status; if an earlier try may have been taken: unknown
                      else     -> the same bytes again, to the next node

The ``id`` in each event makes sending it again safe. Whoever gives up on an event knows whether it may have been
counted: not if each try was refused at the door or could not even connect.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum, auto
from http import HTTPStatus
from itertools import count

import aiohttp
import msgspec

from common.slices import Micros, SliceClock
from tallyslice.crowd import Crowd, CrowdEvent
from tallyslice.reconcile import Model

SENDERS = 256  # at 2,000 a second, enough for answers that take 0.1 s
QUEUE_EVENTS_MAX = 50_000  # some 20 MB; beyond it the schedule waits, and says that it is behind
TICK_SECONDS = 0.01  # one timer per tick, not per event: thousands of timers a second cost more than the events
TRY_SECONDS = 15.0  # a node answers within its own deadline; this is for one that is frozen
PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.05, 2.0  # between tries, doubled each time
GIVE_UP_SECONDS = 60.0  # after the last event was drawn: longer than any restart takes

_TAKEN = (HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT)
_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
_TRY_TIMEOUT = aiohttp.ClientTimeout(total=TRY_SECONDS)
_JSON = {"Content-Type": "application/json"}
_NOT_TAKEN = ":not-taken"  # the end of the problem type of an event that was refused at the door


class Answer(Enum):
    """What one try to send an event came to."""

    TAKEN = auto()
    REFUSED = auto()  # for good
    NOT_TAKEN = auto()  # surely not counted; worth another try
    UNKNOWN = auto()  # perhaps counted; another try with the same id tells


class _Problem(msgspec.Struct, frozen=True):
    type: str = ""


class Feeder:
    """One feed, from its first event to its last answer.

    Args:
        session: carries the requests; not closed here.
        nodes: the origins of the API nodes.
        crowd: draws the events.
        clock: which slice an event falls into.
        rate: events a second.
        seconds: how long to draw events.
        now: the time of day.

    Attributes:
        model: what was acknowledged.
        total: how many events the schedule has.
        drawn: how many of them were drawn.
        acknowledged: how many of those were answered with success.
        retried: how many tries beyond the first were made.
        refused: events refused for good, by status.
        undelivered: events given up on that are surely not counted.
        behind: how many events are due and not drawn.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        nodes: Sequence[str],
        crowd: Crowd,
        clock: SliceClock,
        rate: float,
        seconds: float,
        now: Callable[[], Micros],
    ) -> None:
        self._session = session
        self._urls = [f"{node}/analytics" for node in nodes]
        self._crowd = crowd
        self._clock = clock
        self._rate = rate
        self._now = now
        self._queue: asyncio.Queue[CrowdEvent] = asyncio.Queue(QUEUE_EVENTS_MAX)
        self._stopped = asyncio.Event()
        self._gave_up = asyncio.Event()
        self.model = Model()
        self.total = round(rate * seconds)
        self.drawn = self.acknowledged = self.retried = self.undelivered = self.behind = 0
        self.refused = Counter[int]()

    @property
    def waiting(self) -> int:
        """How many events were drawn and have no final answer yet."""
        settled = self.acknowledged + self.undelivered + self.refused.total() + self.model.events_unknown
        return self.drawn - settled

    def stop(self) -> None:
        """Draw no more events; those under way are still sent until they are acknowledged."""
        self._stopped.set()

    def give_up(self) -> None:
        """Also stop sending again what is not acknowledged."""
        self.stop()
        self._gave_up.set()

    async def run(self) -> None:
        """Feed until the schedule is through and every event has its answer, or is given up."""
        async with asyncio.TaskGroup() as group:
            senders = [group.create_task(self._send(first)) for first in range(SENDERS)]
            await self._schedule()
            if self._stopped.is_set():
                self._drop_unsent()
            await self._until_answered()
            for sender in senders:
                sender.cancel()
        self._drop_unsent()

    async def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        while self.drawn < self.total and not self._stopped.is_set():
            due = min(int((loop.time() - started) * self._rate) + 1, self.total)
            while self.drawn < due and not self._queue.full():
                self._queue.put_nowait(self._crowd.draw(self._now()))
                self.drawn += 1
            self.behind = due - self.drawn
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), TICK_SECONDS)

    def _drop_unsent(self) -> None:
        while not self._queue.empty():
            self._queue.get_nowait()
            self._queue.task_done()
            self.undelivered += 1

    async def _until_answered(self) -> None:
        joined, gave_up = asyncio.create_task(self._queue.join()), asyncio.create_task(self._gave_up.wait())
        try:
            await asyncio.wait((joined, gave_up), timeout=GIVE_UP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            joined.cancel()
            gave_up.cancel()

    async def _send(self, first: int) -> None:
        """Send events, one at a time, for ever."""
        for turn in count(first):
            event = await self._queue.get()
            await self._deliver(event, turn)
            self._queue.task_done()

    async def _deliver(self, event: CrowdEvent, turn: int) -> None:
        """Send one event until its outcome is known."""
        unsure = False
        try:
            for attempt in count():
                # Until its answer is read, it may be counted.
                before, unsure = unsure, True
                answer, status = await self._try(self._urls[(turn + attempt) % len(self._urls)], event.body)
                unsure = before or answer is Answer.UNKNOWN
                if answer is Answer.TAKEN:
                    self.acknowledged += 1
                    self.model.acknowledged[self._clock.slice_at(event.at)].add(event.user, event.type)
                    return
                if answer is Answer.REFUSED:
                    break
                self.retried += 1
                await asyncio.sleep(_pause_seconds(attempt))
            if not unsure:
                self.refused[status] += 1
                return
        except asyncio.CancelledError:
            self._leave(event, unsure=unsure)
            raise
        self._leave(event, unsure=True)

    def _leave(self, event: CrowdEvent, *, unsure: bool) -> None:
        """Give up on an event."""
        if unsure:
            self.model.unknown[self._clock.slice_at(event.at)].add(event.user, event.type)
        else:
            self.undelivered += 1

    async def _try(self, url: str, body: bytes) -> tuple[Answer, int]:
        """Send an event once; the status is 0 where none came."""
        try:
            async with self._session.post(
                url, data=body, headers=_JSON, timeout=_TRY_TIMEOUT, allow_redirects=False
            ) as response:
                return answer_of(response.status, await response.read()), response.status
        except aiohttp.ClientConnectorError:
            return Answer.NOT_TAKEN, 0  # not even connected
        except (aiohttp.ClientError, TimeoutError, OSError):
            return Answer.UNKNOWN, 0


def answer_of(status: int, body: bytes) -> Answer:
    """What an answer to an event means."""
    if status in _TAKEN:
        return Answer.TAKEN
    if status in _AGAIN:
        return Answer.NOT_TAKEN
    if status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return Answer.REFUSED
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except msgspec.DecodeError:
        return Answer.UNKNOWN
    return Answer.NOT_TAKEN if problem.type.endswith(_NOT_TAKEN) else Answer.UNKNOWN


def _pause_seconds(attempt: int) -> float:
    """Doubled with each try, up to a bound, and spread so that many senders do not come back at once."""
    return min(PAUSE_SECONDS * 2.0 ** min(attempt, 10), PAUSE_SECONDS_MAX) * random.uniform(0.5, 1)
