"""One snapshot a second for all who look; nothing at all while nobody does.

::

    collect --once a tick--> snapshot --encoded once--> the latest frame <-- each viewer: send the latest one that it
       ^                                                                      has not sent yet, wait for the next
       +-- only while there are viewers

There is no queue: a viewer that is slower than the ticks finds the newest frame when it comes back, and those between
are gone. One that does not take a frame within ``SLOW_SECONDS`` is dropped; it asks again when it can. So what a viewer
costs is bounded, in time and in memory, whatever it does.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from common.errors import Unavailable

if TYPE_CHECKING:
    from common.logs import Log
    from common.tasks import Tasks
    from dashboard.snapshot import Snapshot

TICK_SECONDS = 1.0
SLOW_SECONDS = 5.0  # to take one frame of some kilobytes
VIEWERS_MAX = 512  # of a process; a screen in every office has room
RETRY_MILLISECONDS = 1000  # until a viewer asks again; pages add some of their own

Send = Callable[[bytes], Awaitable[None]]

_GOODBYE = b"retry: %d\nevent: leave\ndata: {}\n\n" % RETRY_MILLISECONDS


class SlowViewer(Exception):
    """It did not take a frame in time; end its connection."""


class _Frame(NamedTuple):
    """A snapshot as it goes over the wire."""

    id: str
    event: bytes


class Feed:
    """The snapshots of one process.

    Args:
        collect: makes a snapshot.
        tasks: own the ticking.
        log: is told when no snapshot can be made.
        tick_seconds: between two snapshots.
        slow_seconds: for a viewer to take one.
        viewers_max: how many there may be.
    """

    def __init__(
        self,
        *,
        collect: Callable[[], Awaitable[Snapshot]],
        tasks: Tasks,
        log: Log,
        tick_seconds: float = TICK_SECONDS,
        slow_seconds: float = SLOW_SECONDS,
        viewers_max: int = VIEWERS_MAX,
    ) -> None:
        self.viewers = 0
        self.dropped = 0
        self.ticks = False  # whether snapshots are being made
        self._collect = collect
        self._tasks = tasks
        self._log = log
        self._tick_seconds = tick_seconds
        self._slow_seconds = slow_seconds
        self._viewers_max = viewers_max
        # Names this process's snapshots: a viewer may come back to another one, which counts its own.
        self._name = secrets.token_hex(4)
        self._number = 0
        self._latest: _Frame | None = None
        self._news = asyncio.Event()
        self._ended = False

    def admit(self) -> None:
        """Whether one more viewer may come.

        Raises:
            Unavailable: it may not, for now.
        """
        if self._ended:
            raise Unavailable("this node is about to stop")
        if self.viewers >= self._viewers_max:
            raise Unavailable(f"{self._viewers_max} viewers look already", retry_after_seconds=10)

    async def serve(self, send: Send, *, last_id: str | None = None) -> None:
        """Send the newest snapshot again and again, until there will be no more.

        Args:
            send: returns when the viewer has taken it.
            last_id: of the snapshot that the viewer has already.

        Raises:
            Unavailable: there are too many viewers.
            SlowViewer: this one does not take what it is sent.
            ConnectionError: it is gone.
        """
        self.admit()
        self.viewers += 1
        try:
            self._tick()
            while (frame := await self._newer(last_id)) is not None:
                await self._hand(send, frame.event)
                last_id = frame.id
            await self._hand(send, _GOODBYE)
        finally:
            self.viewers -= 1

    def end(self) -> None:
        """The node leaves: tell all viewers to ask again, which reaches another one, or the next one here."""
        self._ended = True
        self._news.set()

    async def _hand(self, send: Send, event: bytes) -> None:
        try:
            async with asyncio.timeout(self._slow_seconds):
                await send(event)
        except TimeoutError:
            self.dropped += 1
            raise SlowViewer from None

    async def _newer(self, than: str | None) -> _Frame | None:
        """The latest frame, once it is another one; None when the node leaves."""
        while not self._ended:
            if self._latest is not None and self._latest.id != than:
                return self._latest
            await self._news.wait()
        return None

    def _tick(self) -> None:
        if not self.ticks:
            self.ticks = True
            self._tasks.start("dashboard", self._keep_ticking())

    async def _keep_ticking(self) -> None:
        """Make snapshots while somebody looks; a task's body."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            while self.viewers and not self._ended:
                await self._make()
                # Not faster after a slow one: what is late is left out.
                due = max(due + self._tick_seconds, loop.time())
                await asyncio.sleep(due - loop.time())
        finally:
            # Who comes next is not shown what was true when the last viewer left.
            self.ticks, self._latest = False, None

    async def _make(self) -> None:
        try:
            snapshot = await self._collect()
        except Exception as error:  # noqa: BLE001 - a defect of the dashboard must not take the node out of service
            self._log.error("dashboard_failed", error=error)
            return
        self._number += 1
        name = f"{self._name}-{self._number}"
        self._latest = _Frame(name, b"id: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(snapshot)))
        # Another one for the next frame: who sends at this moment looks for it before it waits.
        news, self._news = self._news, asyncio.Event()
        news.set()
