"""Puts connections, a pace and some work together: whatever is due is sent when a connection is free.

::

    a lane is free -> pace: is one due? -> work: draw it -> ask ... answer -> work: settled? -> the lane is free
                      not yet: set an alarm                                   not yet: pause, then the next server

A lane carries one request at a time, and has a connection to each server for itself. No tasks, no queue: of requests
that are due and not sent yet there is only a number. Everything happens in callbacks of the loop, so that a request
costs some fifteen microseconds here and the servers are what is measured.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from tallyslice.load.alarm import Alarm
from tallyslice.load.connection import Connection, Reply, Target
from tallyslice.load.pace import Pace

TRY_SECONDS = 15.0  # a node answers within its own deadline; this is for one that is frozen
SWEEP_SECONDS = 1.0  # between looks for such: a timer per request would cost more than the request
PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.05, 2.0  # between tries, doubled each time
GIVE_UP_SECONDS = 60.0  # after the last request was due: longer than any restart takes

ItemT = TypeVar("ItemT")


class Work(Protocol[ItemT]):
    """What is to be sent, and what the answers mean."""

    def draw(self) -> ItemT | None:
        """The next one; None: there is no more."""

    def request(self, item: ItemT, server: int) -> bytes:
        """The bytes of it for one of the servers."""

    def settle(self, item: ItemT, reply: Reply, seconds: float) -> ItemT | None:
        """Take over an answer, that many seconds after the item was due; what must be sent again, if anything."""

    def leave(self, item: ItemT, *, under_way: bool) -> None:
        """It is given up: between two tries, or while its answer is waited for."""


class Driver(Generic[ItemT]):
    """Sends some work to some servers, once.

    Args:
        targets: the servers; each connection has one that it asks first, tries beyond the first go to the next.
        work: what to send.
        pace: when.
        connections: how many requests may be under way at a time.
        try_seconds: how long an answer is waited for.
        give_up_seconds: how long, after the pace is over, for the last ones.

    Attributes:
        sent: how many of the requests were sent, whatever became of them.
        retried: tries beyond the first.
        seconds: from the start to the newest answer.
    """

    def __init__(
        self,
        *,
        targets: Sequence[Target],
        work: Work[ItemT],
        pace: Pace,
        connections: int,
        try_seconds: float = TRY_SECONDS,
        give_up_seconds: float = GIVE_UP_SECONDS,
    ) -> None:
        self._work = work
        self._pace = pace
        self._try_seconds = try_seconds
        self._give_up_seconds = give_up_seconds
        self._lanes = [_Lane(driver=self, work=work, targets=targets, first=n) for n in range(connections)]
        self._free = deque(self._lanes)
        self._alarm = Alarm(self._rings)
        self._alarm_of = -1  # which request it is set for
        self._stopped = False
        self._done = asyncio.Event()
        self._failure: Exception | None = None
        self._started = 0.0  # of time.monotonic; 0 before
        self._sweeping: asyncio.TimerHandle | None = None
        self.sent = self.retried = 0
        self.seconds = 0.0

    @property
    def elapsed_seconds(self) -> float:
        """Since the start; 0 before it."""
        return time.monotonic() - self._started if self._started else 0.0

    @property
    def behind(self) -> int:
        """How many requests are due and not sent; after the end: how many never were. None, if told to stop."""
        return 0 if self._stopped or not self._started else self._pace.behind(self.sent, self.elapsed_seconds)

    def stop(self) -> None:
        """Send nothing new; what is under way goes on until it has its answer."""
        self._stopped = True
        if self._started:
            self._send_due()

    def give_up(self) -> None:
        """Also wait for no answer any more."""
        self._stopped = True
        self._done.set()

    async def run(self) -> None:
        """Connect, start the clock, and send until the pace is over and everything has its answer or is given up."""
        try:
            await asyncio.gather(*(lane.open() for lane in self._lanes))
            with self._alarm:
                self._started = time.monotonic()
                self._sweep()
                self._send_due()
                await self._done.wait()
        finally:
            if self._sweeping is not None:
                self._sweeping.cancel()
            for lane in self._lanes:
                lane.leave()
        if self._failure is not None:
            raise self._failure

    def free(self, lane: _Lane[ItemT]) -> None:
        """A lane has its answer."""
        self.seconds = self.elapsed_seconds
        self._free.append(lane)
        self._send_due()

    def fail(self, error: Exception) -> None:
        """End the run with an error."""
        self._failure = self._failure or error
        self.give_up()

    def _send_due(self) -> None:
        while self._free:
            elapsed = self.elapsed_seconds
            due = None if self._stopped else self._pace.due(self.sent, elapsed)
            if due is not None and due > elapsed:
                self._wake(due - elapsed)
                return
            item = None if due is None else self._work.draw()
            if due is None or item is None:
                if len(self._free) == len(self._lanes):
                    self._done.set()
                return
            lane = self._free.popleft()
            self.sent += 1
            lane.start(item, self._started + due)

    def _wake(self, seconds: float) -> None:
        """Come back when the next one is due; each lane that becomes free until then asks for the same."""
        if self._alarm_of != self.sent:
            self._alarm_of = self.sent
            self._alarm.set(seconds)

    def _rings(self) -> None:
        self._alarm_of = -1  # if it rang a moment too early, it is set again
        self._send_due()

    def _sweep(self) -> None:
        """Now and then: lose connections that do not answer, and give up when it has been long enough."""
        self._sweeping = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
        for lane in self._lanes:
            lane.expire(time.monotonic() - self._try_seconds)
        if self.elapsed_seconds > self._pace.length_seconds + self._give_up_seconds:
            self._done.set()  # not told to stop: what is behind now was never sent


class _Lane(Generic[ItemT]):
    """One request at a time, from when it is sent to its last answer.

    Args:
        driver: is told when it is free again.
        work: knows what is sent.
        targets: the servers.
        first: which of them it asks first, counted round and round.
    """

    def __init__(self, *, driver: Driver[ItemT], work: Work[ItemT], targets: Sequence[Target], first: int) -> None:
        self._driver = driver
        self._work = work
        self._connections = [Connection(target) for target in targets]
        self._item: ItemT | None = None
        self._first = first
        self._attempt = 0
        self._due = 0.0
        self._pause: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Connect to the server that is asked first, so that no latency has a connect in it."""
        await self._connections[self._server].open()

    def start(self, item: ItemT, due: float) -> None:
        """Send something that was due at this time of ``time.monotonic``."""
        self._item, self._due, self._attempt = item, due, 0
        self._ask()

    def expire(self, before: float) -> None:
        """Lose what is asked since before that time."""
        for connection in self._connections:
            connection.expire(before)

    def leave(self) -> None:
        """Give up what is not done, and hang up."""
        for connection in self._connections:
            connection.close()
        if self._pause is not None:
            self._pause.cancel()
        item, self._item = self._item, None
        if item is not None:
            self._work.leave(item, under_way=self._pause is None)

    @property
    def _server(self) -> int:
        return (self._first + self._attempt) % len(self._connections)

    def _ask(self) -> None:
        self._pause = None
        if self._item is not None:
            self._connections[self._server].ask(self._work.request(self._item, self._server), self._heard)

    def _heard(self, reply: Reply) -> None:
        # What is raised in a callback is nobody's: it must end the run, not one connection of it.
        try:
            self._go_on(reply)
        except Exception as error:  # noqa: BLE001 - as said
            self._driver.fail(error)

    def _go_on(self, reply: Reply) -> None:
        if self._item is not None:
            self._item = self._work.settle(self._item, reply, time.monotonic() - self._due)
        if self._item is None:
            self._driver.free(self)
            return
        self._driver.retried += 1
        self._pause = asyncio.get_running_loop().call_later(_pause_seconds(self._attempt), self._ask)
        self._attempt += 1


def _pause_seconds(attempt: int) -> float:
    """Doubled with each try, up to a bound, and spread so that many lanes do not come back at once."""
    return min(PAUSE_SECONDS * 2.0 ** min(attempt, 10), PAUSE_SECONDS_MAX) * random.uniform(0.5, 1)
