"""The load: events of three types over slices that come and go, posted the way each type asks for."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.support.cluster import FIRST, HOUR
from tests.support.events import Post, user
from tests.torture.client import Attempt, Fate, Line
from tests.torture.ledger import KEYED, POOLED, SOLO, Ledger

POOL_USERS = 400
SLICE_WINDOW = 6
EVENTS_PER_STEP = 1500  # the window moves on by a slice, so that routes are claimed and files made all the time
REPEATS = 0.04  # of the events with an id are sent once more after their success
PATIENCE_SECONDS = 60.0  # for an event that is sent until it is taken: whatever happens, the cluster heals before that
CONNECTIONS = 64


def moving(number: int) -> int:
    """The first slice of the window for the ``number``-th event, moving on: some slices are before the first one."""
    return number // EVENTS_PER_STEP - SLICE_WINDOW // 2


def events(rng: random.Random, *, window: Callable[[int], int] = moving) -> Iterator[Post]:
    """Events without end, over some slices at a time.

    Args:
        rng: draws slice, type and user.
        window: number of the event -> first of the slices that it may fall into.
    """
    number = 0
    while True:
        at = FIRST + HOUR * (window(number) + rng.randrange(SLICE_WINDOW)) + rng.randrange(HOUR)
        pooled = user(rng.randrange(POOL_USERS))
        draw = rng.random()
        if draw < 0.5:
            yield Post(at=at, user=pooled, type=KEYED, id=user(f"id-{number}"))
        elif draw < 0.75:
            yield Post(at=at, user=pooled, type=POOLED)
        else:
            yield Post(at=at, user=user(f"solo-{number}"), type=SOLO)
        number += 1


@dataclass(frozen=True, slots=True)
class Success:
    """An acknowledged event: when it was first sent (monotonic), how long that took, where it is."""

    begun: float
    seconds: float
    durability: str


class Crowd:
    """Clients of all API nodes: an async context manager, left when everything that was begun has an outcome.

    Attributes:
        ledger: what was sent and became known.
        drawn: events begun.
        taken: events acknowledged.
        attempts: requests by fate, and by whose disk the event is on.
        surprises: what no event should ever be answered.
        successes: each acknowledged event, if ``keep_times``.
    """

    def __init__(
        self,
        posts: Iterator[Post],
        ports: Sequence[int],
        *,
        rng: random.Random,
        on_success: Callable[[], None] = lambda: None,
        keep_times: bool = False,
    ) -> None:
        self.ledger = Ledger()
        self.drawn = 0
        self.taken = 0
        self.attempts = Counter[str]()
        self.surprises: list[str] = []
        self.successes: list[Success] = []
        self._posts = posts
        self._ports = ports
        self._rng = rng
        self._on_success = on_success
        self._keep_times = keep_times
        self._idle: dict[int, list[Line]] = {port: [] for port in ports}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._stopping = True
        if error is not None:
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for lines in self._idle.values():
            for line in lines:
                line.close()

    def start(self, *, connections: int = CONNECTIONS) -> None:
        """Keep that many events under way until the crowd is left."""

        async def client() -> None:
            while not self._stopping:
                await self.send(next(self._posts))

        for _ in range(connections):
            self._start(client())

    async def pour(self, *, seconds: float, rate: float) -> None:
        """Begin ``rate`` events a second for a while, however many of them are still under way."""
        begun = time.monotonic()
        sent = 0
        while (now := time.monotonic()) < begun + seconds:
            while sent < (now - begun) * rate:
                self._start(self.send(next(self._posts)))
                sent += 1
            await asyncio.sleep(0.005)

    async def finished(self) -> None:
        """Wait until every event that was begun has an outcome."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def send(self, post: Post) -> None:
        """Post an event as its type asks for, until its outcome is as well known as it can be."""
        self.drawn += 1
        self.ledger.begun(post)
        begun = time.monotonic()
        doubtful = False
        while True:
            attempt = await self._attempt(post)
            if attempt.fate is Fate.ACKNOWLEDGED:
                break
            doubtful = doubtful or attempt.fate is Fate.UNKNOWN
            if attempt.fate is Fate.REFUSED:
                self.surprises.append(attempt.text)
            elif time.monotonic() - begun > PATIENCE_SECONDS:
                self.surprises.append(f"not taken in {PATIENCE_SECONDS:g} s: {attempt.text}")
            elif not doubtful or post.id is not None:
                await asyncio.sleep(0.02 + self._rng.random() / 10)
                continue
            if doubtful:
                self.ledger.unknown(post)
            return
        self.taken += 1
        self.ledger.acknowledged(post, durability=attempt.durability)
        self._on_success()
        if self._keep_times:
            self.successes.append(Success(begun, time.monotonic() - begun, attempt.durability))
        if post.id is not None and self._rng.random() < REPEATS:
            await self._attempt(post)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.surprises.append(repr(error))

    async def _attempt(self, post: Post) -> Attempt:
        async with self._line(self._rng.choice(self._ports)) as line:
            attempt = await line.post(post)
        self.attempts[f"{attempt.fate.value} {attempt.durability}".strip()] += 1
        return attempt

    @contextlib.asynccontextmanager
    async def _line(self, port: int) -> AsyncIterator[Line]:
        idle = self._idle[port]
        line = idle.pop() if idle else Line(port)
        yield line
        idle.append(line)
