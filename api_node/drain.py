"""Draining: a stream in the spool goes to its worker, beside the live traffic, until nothing of it is left.

The batches are loaded piece by piece into a sender of the same stream, which is what makes the rules of numbering,
resending, parking and moving hold here as they do for live streams. Two things differ: a batch is let go of on disk
when it is answered for, and one that must be renumbered has its new name on disk before it is sent under it.

::

    spool --batches--> Sender --take--> POST --answered--+-- Done, Closed --> off the disk
      ^                                                  +-- Moved ---------> new name on disk, another sender
      +--------------------------------------------------+-- parked --------> out of memory, until it is due

A slice that its worker refuses waits on disk, so that however many it refuses, the others are loaded and memory is
bounded. When it is due its first batch is loaded and tried; the rest follows when that is taken. A damaged record whose
route nobody can tell right now waits in the same way, with what is behind it in its slice.
"""

from __future__ import annotations

import math
import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from api_node.sender import PARKED_MOST_SECONDS, Closed, ClosedBatch, Done, Moved, Sender
from api_node.spool import SpoolKey
from common.errors import NoAnswer
from common.slices import SliceId
from common.wire import STREAM_BYTES, Batch, encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from api_node.sender import Flight
    from api_node.spool import SpooledBatch
    from api_node.spool_room import SpooledStream, SpoolRoom
    from common.logs import Log
    from common.wire import Receipt

LOAD_BYTES = 8 << 20  # two envelopes: while one is on its way the next is there
ROUTE_RETRY_SECONDS = 5.0  # asking waits as long as a question does, and holds up the other slices meanwhile
_LAST_SEQ = (1 << 63) - 1
_AT_ONCE = -math.inf


@dataclass(frozen=True, slots=True)
class _Later:
    """What of a slice waits on disk, though its turn in the stream has passed.

    Attributes:
        after: what is in memory, or was, of the slice.
        at: when to go on.
        delay: between two tries, if its worker refuses the slice: then only the next batch is tried; else 0.
    """

    after: SpoolKey
    at: float = _AT_ONCE
    delay: float = 0.0


class Drain:
    """One stream on its way out of the spool. No HTTP in here: ``take`` and ``answered``, as a sender has them."""

    def __init__(
        self,
        *,
        source: SpooledStream,
        room: SpoolRoom,
        empty_batch: Callable[[SliceId, int], Awaitable[Batch]],
        log: Log,
    ) -> None:
        """Take the parts.

        Args:
            source: the stream.
            room: where it is.
            empty_batch: makes a batch without events of a slice, under a number, to stand for a damaged one.
            log: of the node.
        """
        self._source = source
        self._room = room
        self._empty_batch = empty_batch
        self._log = log
        # The stream itself, then those that its renumbered batches go on in.
        self._senders: deque[Sender[SpoolKey]] = deque([_drained(source.stream)])
        self._cursor: SpoolKey | None = None
        self._exhausted = False
        self._later: dict[SliceId, _Later] = {}
        self._tried: dict[SliceId, float] = {}  # refused slices of which one batch is loaded -> their delay
        self._moved: dict[SpoolKey, int] = {}  # what goes on under another name -> its bytes
        self._moved_bytes = 0

    @property
    def streams(self) -> set[bytes]:
        """The streams that are drained here: the one given, and those that its renumbered batches go on in."""
        return {sender.stream for sender in self._senders}

    @property
    def is_done(self) -> bool:
        """Whether everything that was loaded is answered for, and nothing is left to load."""
        return self._exhausted and not self._later and all(sender.is_empty for sender in self._senders)

    def wake_at(self) -> float | None:
        """When a parked slice is to be tried again."""
        times = [at for sender in self._senders if (at := sender.wake_at()) is not None]
        if self._has_room:
            times += [later.at for later in self._later.values() if later.at != _AT_ONCE]
        return min(times, default=None)

    async def take(self, now: float) -> tuple[Sender[SpoolKey], Flight[SpoolKey]] | None:
        """The next envelope, and the sender whose it is; None if nothing can be sent now."""
        await self._load(now)
        for sender in self._senders:
            if (flight := sender.take(now)) is not None:
                return sender, flight
        return None

    async def answered(
        self, sender: Sender[SpoolKey], flight: Flight[SpoolKey], receipts: Sequence[Receipt], now: float
    ) -> None:
        """Do what the receipts mean, on disk.

        Raises:
            WireError: they are not receipts for this flight; call ``sender.failed``.
        """
        gone: list[SpoolKey] = []
        is_first = sender is self._senders[0]
        for verdict in sender.answered(flight, receipts, now):
            if isinstance(verdict, Moved):
                await self._move(verdict)
                slice_id = verdict.slice
            elif isinstance(verdict, (Done, Closed)):
                slice_id = verdict.waiter.slice
                if isinstance(verdict, Closed):
                    self._log.error("spooled_batch_refused_by_closed_slice", slice=slice_id)
                gone.append(verdict.waiter)
                self._moved_bytes -= self._moved.pop(verdict.waiter, 0)
            if is_first and self._tried.pop(slice_id, None) is not None:
                # Refused no more: what was tried leaves the disk, and the rest is what is there.
                self._later[slice_id] = _Later(self._key(slice_id, 0))
        if gone:
            await self._room.answered(self._source, gone)

    @property
    def _has_room(self) -> bool:
        return self._senders[0].bytes_queued < LOAD_BYTES and self._moved_bytes < LOAD_BYTES

    async def _load(self, now: float) -> None:
        """Fill up what is in memory: first what had to wait and is due."""
        self._put_aside()
        for slice_id, later in list(self._later.items()):
            if later.at <= now and self._has_room:
                del self._later[slice_id]
                await self._load_later(slice_id, later, now)
        while not self._exhausted and self._has_room:
            await self._load_next(now)

    def _put_aside(self) -> None:
        """Take what is parked out of memory."""
        first = self._senders[0]
        parked = first.parked()
        if not parked:
            return
        self._senders[0] = _drained(first.stream)
        for batch in first.spill():  # all the others; numbers are as on disk, so nothing is lost with the old sender
            self._senders[0].restore(batch)
        for slice_id, why in parked.items():
            delay = min(self._tried.pop(slice_id, 0.0) * 2, PARKED_MOST_SECONDS) or why.delay
            self._later[slice_id] = _Later(self._key(slice_id, 0), why.retry_at + delay - why.delay, delay)
            self._skip(slice_id)

    async def _load_later(self, slice_id: SliceId, later: _Later, now: float) -> None:
        bytes_max = 1 if later.delay else LOAD_BYTES
        found = await self._room.batches(self._source, after=later.after, bytes_max=bytes_max)
        batches = [one for one in found if one.key.slice == slice_id]
        for one in batches:
            if not await self._restore(one):
                self._wait_for_route(one.key, now, delay=later.delay)
                return
        if not batches:
            return
        if later.delay:
            self._tried[slice_id] = later.delay
        elif len(batches) == len(found):
            self._later[slice_id] = _Later(batches[-1].key)  # there may be more of it

    async def _load_next(self, now: float) -> None:
        found = await self._room.batches(self._source, after=self._cursor, bytes_max=LOAD_BYTES)
        for one in found:
            self._cursor = one.key
            if one.key.slice not in self._later and not await self._restore(one):
                self._wait_for_route(one.key, now)
        self._exhausted = not found
        if self._cursor is not None and self._cursor.slice in self._later:
            self._skip(self._cursor.slice)

    async def _restore(self, one: SpooledBatch) -> bool:
        """Load a batch; whether it could be: one in place of a damaged one needs the route of its slice."""
        raw = one.raw
        if raw is None:
            try:
                raw = encode(await self._empty_batch(one.key.slice, one.key.seq))
            except NoAnswer as error:
                self._log.error("drain_failed", slice=one.key.slice, error=error)
                return False
            self._log.error("spool_record_damaged", slice=one.key.slice, seq=one.key.seq, events=one.events)
        self._senders[0].restore(
            ClosedBatch(
                slice=one.key.slice,
                seq=one.key.seq,
                raw=raw,
                events=one.events,
                waiter=one.key,
                damaged=one.raw is None,
            )
        )
        return True

    def _wait_for_route(self, key: SpoolKey, now: float, *, delay: float = 0.0) -> None:
        self._later[key.slice] = _Later(self._key(key.slice, key.seq - 1), now + ROUTE_RETRY_SECONDS, delay)

    def _skip(self, slice_id: SliceId) -> None:
        """Whatever is behind the cursor in this slice is loaded later."""
        if self._cursor is not None and self._cursor.slice == slice_id:
            self._cursor = self._key(slice_id, _LAST_SEQ)

    def _key(self, slice_id: SliceId, seq: int) -> SpoolKey:
        return SpoolKey(self._source.stream, slice_id, seq)

    async def _move(self, moved: Moved[SpoolKey]) -> None:
        what = "stream_regressed" if moved.regressed else "stream_conflict"
        self._log.error(what, slice=moved.slice, batches=len(moved.batches), spooled=True)
        if len(self._senders) == 1 or self._senders[-1].retired:
            self._senders.append(Sender(stream=os.urandom(STREAM_BYTES), new_waiter=_no_waiter))
        sender = self._senders[-1]
        renamed = []
        for batch in moved.batches:
            adopted = sender.adopt(batch, regressed=moved.regressed)
            key = SpoolKey(sender.stream, adopted.slice, adopted.seq)
            renamed.append((batch.waiter, sender.stream, adopted.raw))
            self._moved[key] = len(adopted.raw)
            self._moved_bytes += len(adopted.raw) - self._moved.pop(batch.waiter, 0)
            adopted.waiter = key
        # On disk before anything is sent under the new names.
        await self._room.rename(self._source, renamed)


def _drained(stream: bytes) -> Sender[SpoolKey]:
    sender: Sender[SpoolKey] = Sender(stream=stream, new_waiter=_no_waiter)
    sender.retired = True  # takes no events
    return sender


def _no_waiter() -> SpoolKey:
    message = "a drained stream takes no new events"
    raise RuntimeError(message)
