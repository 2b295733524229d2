"""Draining: a stream in the spool goes to its worker, beside the live traffic, until nothing of it is left.

The batches are loaded piece by piece into a sender of the same stream, which is what makes the rules of numbering,
resending, parking and moving hold here as they do for live streams. Two things differ: a batch is let go of on disk
when it is answered for, and one that must be renumbered has its new name on disk before it is sent under it.

::

    spool --batches--> Sender --take--> POST --answered--+-- Done, Closed --> off the disk
      ^                                                  +-- Moved ---------> new name on disk, another sender
      +--------------------------------------------------+
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING

from api_node.sender import Closed, ClosedBatch, Done, Moved, Sender
from api_node.spool import SpoolKey
from common.slices import SliceId
from common.wire import STREAM_BYTES, Batch, encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from api_node.sender import Flight
    from api_node.spool_room import SpooledStream, SpoolRoom
    from common.logs import Log
    from common.wire import Receipt

LOAD_BYTES = 8 << 20  # two envelopes: while one is on its way the next is there
_LAST_SEQ = (1 << 63) - 1


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
        # Parked slices: what is behind their loaded batches waits on disk, and holds up no other slice.
        self._waiting: dict[SliceId, SpoolKey] = {}

    @property
    def streams(self) -> set[bytes]:
        """The streams that are drained here: the one given, and those that its renumbered batches go on in."""
        return {sender.stream for sender in self._senders}

    @property
    def is_done(self) -> bool:
        """Whether everything that was loaded is answered for, and nothing is left to load."""
        return self._exhausted and not self._waiting and all(sender.is_empty for sender in self._senders)

    def wake_at(self) -> float | None:
        """When a parked slice is to be tried again."""
        times = [at for sender in self._senders if (at := sender.wake_at()) is not None]
        return min(times, default=None)

    async def take(self, now: float) -> tuple[Sender[SpoolKey], Flight[SpoolKey]] | None:
        """The next envelope, and the sender whose it is; None if nothing can be sent now."""
        await self._load()
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
        for verdict in sender.answered(flight, receipts, now):
            if isinstance(verdict, Moved):
                await self._move(verdict)
            elif isinstance(verdict, (Done, Closed)):
                if isinstance(verdict, Closed):
                    self._log.error("spooled_batch_refused_by_closed_slice", slice=verdict.slice)
                gone.append(verdict.waiter)
        if gone:
            await self._room.answered(self._source, gone)

    async def _load(self) -> None:
        """Fill up what is in memory: first what waited behind slices that are parked no more."""
        first = self._senders[0]
        parked = first.parked()
        for slice_id, after in list(self._waiting.items()):
            if slice_id not in parked and first.bytes_queued < LOAD_BYTES:
                del self._waiting[slice_id]
                await self._load_from(after, only=slice_id)
        while not self._exhausted and first.bytes_queued < LOAD_BYTES:
            await self._load_from(self._cursor, only=None)

    async def _load_from(self, after: SpoolKey | None, *, only: SliceId | None) -> None:
        found = await self._room.batches(self._source, after=after, bytes_max=LOAD_BYTES)
        sender = self._senders[0]
        last = after
        for one in found:
            slice_id = one.key.slice
            if only is not None and slice_id != only:
                return
            if slice_id in sender.parked() and last is not None and last.slice == slice_id:
                self._waiting[slice_id] = last
                self._cursor = SpoolKey(self._source.stream, slice_id, _LAST_SEQ)
                return
            raw = one.raw
            if raw is None:
                self._log.error("spool_record_damaged", slice=slice_id, seq=one.key.seq, events=one.events)
                raw = encode(await self._empty_batch(slice_id, one.key.seq))
            sender.restore(
                ClosedBatch(
                    slice=slice_id, seq=one.key.seq, raw=raw, events=one.events, waiter=one.key, damaged=one.raw is None
                )
            )
            last = one.key
        if only is not None:
            if found and last is not None:
                self._waiting[only] = last  # there may be more of it
            return
        self._cursor = last
        self._exhausted = not found

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
