"""How much may wait for the writer. Who finds it full waits in line, until a deadline."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from common.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Load:
    """What one request brings."""

    events: int
    body_bytes: int


class Room:
    """A bound on events and bytes. What is over it all by itself gets in once nothing else is there."""

    def __init__(self, *, events_max: int, bytes_max: int) -> None:
        self.events = 0
        self.body_bytes = 0
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._line: deque[tuple[Load, asyncio.Future[None]]] = deque()

    async def take(self, load: Load, *, deadline_seconds: float) -> None:
        """Take room for the load, which is given back with ``give``.

        Raises:
            Unavailable: there was none until the deadline.
        """
        if not self._line and self._fits(load):
            self._add(load)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append((load, turn))
        try:
            async with asyncio.timeout(deadline_seconds):
                await turn
        except TimeoutError:
            self._leave(load, turn)
            message = f"the writer has had no room for {deadline_seconds:g} s"
            raise Unavailable(message) from None
        except asyncio.CancelledError:
            self._leave(load, turn)
            raise

    def give(self, load: Load) -> None:
        """Give the room back; those next in line get it."""
        self.events -= load.events
        self.body_bytes -= load.body_bytes
        self._admit()

    def _leave(self, load: Load, turn: asyncio.Future[None]) -> None:
        if not turn.cancelled():
            # Let in at the very moment of leaving.
            self.give(load)
            return
        self._line = deque(entry for entry in self._line if entry[1] is not turn)
        # The one who left may have been too big for what is free, and those behind it are not.
        self._admit()

    def _admit(self) -> None:
        while self._line and (self._line[0][1].done() or self._fits(self._line[0][0])):
            load, turn = self._line.popleft()
            if not turn.done():
                self._add(load)
                turn.set_result(None)

    def _fits(self, load: Load) -> bool:
        if not self.events and not self.body_bytes:
            return True
        return self.events + load.events <= self._events_max and self.body_bytes + load.body_bytes <= self._bytes_max

    def _add(self, load: Load) -> None:
        self.events += load.events
        self.body_bytes += load.body_bytes
