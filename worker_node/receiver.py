"""What to do with a batch, given what is known of its stream and of the slice. Pure: no file, no loop, no clock.

::

    seq is        then
    last + 1      apply
    last          same check: duplicate, with the stored receipt; another check: conflict
    < last        duplicate, whose receipt is no longer known
    > last + 1    gap, with the number that is expected; never buffered

A stream that a slice has never heard of has last = 0. Whether the batch belongs here at all comes first: a batch of
another route, or made under another slice key, is refused without consuming its number.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from common.anonymise import USER_KEY_BYTES
from common.routing import Route, WorkerId, owner_position
from common.wire import CHECK_BYTES, Batch, Envelope, Outcome, check_of

NO_KEY = b""  # of a slice that was closed before anything came: whatever comes late says which key it is
_HEAD = struct.Struct(f">Q{CHECK_BYTES}s")
_POSITION_BYTES = 2  # a batch has at most 16,384 events
# A column is split many keys a step: half the time of one by one. Ids are as long as user keys.
_KEY = struct.Struct(f"{USER_KEY_BYTES}s")
_KEYS = struct.Struct(_KEY.format * 256)


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """What a slice remembers of a stream; stored in the same transaction as the data.

    ::

        seq     8 bytes, big-endian
        check   8 bytes
        repeats 2 bytes each, big-endian: the receipt

    Attributes:
        seq: the last number applied.
        check: tells another batch under this number.
        repeats: positions of the events of that batch whose id was known already.
    """

    seq: int
    check: bytes
    repeats: tuple[int, ...] = ()

    def to_bytes(self) -> bytes:
        """As stored."""
        return _HEAD.pack(self.seq, self.check) + struct.pack(f">{len(self.repeats)}H", *self.repeats)

    @classmethod
    def from_bytes(cls, stored: bytes) -> StreamRecord:
        """As read."""
        seq, check = _HEAD.unpack_from(stored)
        count = (len(stored) - _HEAD.size) // _POSITION_BYTES
        return cls(seq, check, struct.unpack_from(f">{count}H", stored, _HEAD.size))


@dataclass(frozen=True, slots=True)
class NumberedBatch:
    """A batch, checked in itself, with what came around it.

    Attributes:
        stream: names the stream.
        batch: the batch.
        users: its column of user keys as its keys, in the same order.
        check: 8 bytes that tell it from any other under the same number.
        position: this worker's position in the batch's route.
        spooled: whether it comes from a spool, so that a closed slice may still take it.
    """

    stream: bytes
    batch: Batch
    users: tuple[bytes, ...]
    check: bytes
    position: int
    spooled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What is written on a slice's file when its first batch arrives, and never changes.

    Attributes:
        file: 16 random bytes that name the file.
        route: the settled route of the slice.
        position: this worker's position in it.
        key_id: names the slice key that makes the user keys.
    """

    file: bytes
    route: Route
    position: int
    key_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do with a batch, or what was done. ``APPLIED`` is the only outcome that changes anything."""

    outcome: Outcome
    repeats: tuple[int, ...] | None = ()
    expected: int = 0
    detail: str = ""


APPLY = Decision(outcome=Outcome.APPLIED)
CLOSED = Decision(outcome=Outcome.CLOSED, detail="the slice is closed")


def decide(last: StreamRecord | None, seq: int, check: bytes) -> Decision:
    """What to do with the batch of this number.

    Args:
        last: the record of its stream in its slice; None if the slice has never heard of the stream.
        seq: the batch's number; at least 1.
        check: of the batch.
    """
    known = 0 if last is None else last.seq
    if seq == known + 1:
        return APPLY
    if seq > known:
        return Decision(outcome=Outcome.GAP, expected=known + 1)
    if last is None or seq < known:
        return Decision(outcome=Outcome.DUPLICATE, repeats=None)
    if check != last.check:
        return Decision(outcome=Outcome.CONFLICT, detail=f"number {seq} was applied with other content")
    return Decision(outcome=Outcome.DUPLICATE, repeats=last.repeats)


def decide_labelled(label: Label, last: StreamRecord | None, item: NumberedBatch) -> Decision:
    """What to do with a batch of a slice that is held here: whether it belongs here first, then its number."""
    batch = item.batch
    if batch.route != label.route or item.position != label.position:
        held = ", ".join(label.route)
        return Decision(outcome=Outcome.WRONG_ROUTE, detail=f"the slice is held under the route {held}")
    if batch.key_id != label.key_id:
        return Decision(outcome=Outcome.WRONG_KEY, detail="the slice holds user keys made under another slice key")
    return decide(last, batch.seq, item.check)


def address(worker: WorkerId, envelope: Envelope, batch: Batch, encoded: bytes) -> NumberedBatch | Decision:
    """Whether a batch is for this worker at all.

    Args:
        worker: this worker.
        envelope: that the batch came in.
        batch: decoded and checked.
        encoded: the same batch as it came.
    """
    route = batch.route
    if worker not in route:
        return Decision(outcome=Outcome.WRONG_ROUTE, detail=f"the route {', '.join(route)} does not name this worker")
    position = route.index(worker)
    users = split(batch.users)
    if not _all_owned(users, len(route), position):
        return Decision(outcome=Outcome.WRONG_ROUTE, detail="a user key of the batch belongs to another worker")
    return NumberedBatch(envelope.stream, batch, users, check_of(encoded), position, envelope.spooled)


def _all_owned(keys: Sequence[bytes], workers: int, position: int) -> bool:
    # Each worker holds one contiguous range of keys, so the smallest and the largest speak for all between them.
    if workers == 1 or not keys:
        return True
    return owner_position(min(keys), workers) == owner_position(max(keys), workers) == position


def split(column: bytes) -> tuple[bytes, ...]:
    """A column of user keys, or of ids, as its keys."""
    steps = len(column) // _KEYS.size * _KEYS.size
    view = memoryview(column)
    return tuple(chain.from_iterable(chain(_KEYS.iter_unpack(view[:steps]), _KEY.iter_unpack(view[steps:]))))
