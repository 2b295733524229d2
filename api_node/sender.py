"""One stream from this API process to one worker: numbering, closing, resending, and what a receipt means.

A state machine without sockets or clocks: events go in by ``add``, an envelope's worth of batches comes out by
``take``, and ``answered`` or ``failed`` says what became of it. ``delivery.py`` drives it.

::

    add --> open batch --take--> closed batch, numbered --> in flight --+-- applied, duplicate --> Done
            (one per slice)      (immutable from here on)  |   ^        +-- closed ------------> Closed
                                                               |        +-- gap, conflict -----> Moved (new stream)
                                                               +--------+-- no reply: sent again
                                                           |   +--------+-- refused: the slice is parked
                                                           +--spill, spilled--> Spooled (the worker is away)

Rules that keep the count right: numbers of a (stream, slice) have no gaps; a closed batch never changes; it stays here
until the worker has answered for it; a number is never used for other bytes; a counter is never forgotten while the
stream lives. At most one envelope is in flight, so batches of a slice arrive in order. A batch leaves for the spool
only with or after every lower unanswered number of its slice; once one has left, none of the slice is sent from here.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import msgspec

from common.anonymise import ID_KEY_BYTES, USER_KEY_BYTES
from common.errors import NotTaken, SliceClosed, WireError
from common.events import TIMESTAMP
from common.wire import (
    BATCH_BYTES_MAX,
    BATCH_EVENTS_MAX,
    ENVELOPE_BATCHES_MAX,
    ENVELOPE_BYTES_MAX,
    ENVELOPE_SLICES_MAX,
    NAMES_MAX,
    NO_ID,
    Batch,
    Outcome,
    Receipt,
    decode_batch,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from common.routing import Route
    from common.slices import SliceId

W = TypeVar("W")
"""What waits for a batch; the sender only hands it back. One per batch, shared by all its events."""

# What a sender holds in memory at most, parked slices apart: about what a worker takes in a second.
QUEUE_EVENTS_MAX = 131_072
QUEUE_BYTES_MAX = 16 << 20
# What parked slices hold beside that: a slice can bring a full queue along, and must not hold up the others by it. A
# worker that refuses four of them has more trouble than with a slice, and no slice of it takes new events.
PARKED_EVENTS_MAX = 4 * QUEUE_EVENTS_MAX

# A counter is two machine words; but no stream needs to span more slices than this, and its end costs nothing.
COUNTERS_MAX = 10_000

PARKED_FIRST_SECONDS = 0.2
PARKED_MOST_SECONDS = 5.0

_REFUSALS = frozenset(
    {
        Outcome.WRONG_CLUSTER,
        Outcome.WRONG_WORKER,
        Outcome.WRONG_ROUTE,
        Outcome.WRONG_KEY,
        Outcome.NO_SPACE,
        Outcome.QUARANTINED,
        Outcome.VERIFYING,
    }
)
_BYTES_PER_EVENT = 33  # kind, user key, id key


class OpenBatch(Generic[W]):
    """Events of one slice that will form the next batch, in columns."""

    __slots__ = ("_index", "ids", "key_id", "kinds", "names", "route", "slice", "users", "waiter")

    def __init__(self, slice_id: SliceId, route: Route, key_id: bytes, waiter: W) -> None:
        self.slice = slice_id
        self.route = route
        self.key_id = key_id
        self.waiter = waiter
        self.names: list[str] = []
        self._index: dict[str, int] = {}
        self.kinds = bytearray()
        self.users = bytearray()
        self.ids = bytearray()

    def add(self, event_type: str, user_key: bytes, id_key: bytes | None) -> int:
        """Append one event; its position in the batch."""
        position = len(self.kinds)
        kind = self._index.get(event_type)
        if kind is None:
            kind = self._index[event_type] = len(self.names)
            self.names.append(event_type)
        self.kinds.append(kind)
        self.users += user_key
        if id_key is not None:
            if not self.ids:
                self.ids = bytearray(NO_ID * position)
            self.ids += id_key
        elif self.ids:
            self.ids += NO_ID
        return position

    def extend(self, events: Events, start: int) -> int:
        """Append events from ``start`` on, as many as there is room for; how many that were."""
        position = len(self.kinds)
        stop = min(len(events.kinds), start + BATCH_EVENTS_MAX - position)
        kinds = events.kinds[start:stop]
        if tuple(self.names) != events.names:
            kinds = kinds.translate(self._translation(events.names))
        self.kinds += kinds
        self.users += events.users[start * USER_KEY_BYTES : stop * USER_KEY_BYTES]
        if events.ids:
            if not self.ids:
                self.ids = bytearray(NO_ID * position)
            self.ids += events.ids[start * ID_KEY_BYTES : stop * ID_KEY_BYTES]
        elif self.ids:
            self.ids += NO_ID * (stop - start)
        return stop - start

    def _translation(self, names: tuple[str, ...]) -> bytes:
        """From an index into those names to an index into these."""
        for name in names:
            if name not in self._index:
                self._index[name] = len(self.names)
                self.names.append(name)
        return bytes(self._index[name] for name in names).ljust(NAMES_MAX, b"\0")

    def has_room_for(self, names: tuple[str, ...]) -> bool:
        """Whether an event more fits in, of any of these types; so many also fit into BATCH_BYTES_MAX."""
        return len(self.kinds) < BATCH_EVENTS_MAX and (
            len(self.names) + len(names) <= NAMES_MAX or len(self._index.keys() | names) <= NAMES_MAX
        )


class Events(NamedTuple):
    """Many events of one slice for one worker, in the columns of a batch (see common/wire.py)."""

    names: tuple[str, ...]
    kinds: bytes
    users: bytes
    ids: bytes = b""


class Placed(NamedTuple, Generic[W]):
    """Where events went: into the batch that ``waiter`` waits for, from ``position`` on."""

    waiter: W
    position: int
    events: int


@dataclass(slots=True, kw_only=True, eq=False)
class ClosedBatch(Generic[W]):
    """A numbered batch: the bytes that will be sent until the worker has answered for them."""

    slice: SliceId
    seq: int
    raw: bytes
    events: int
    waiter: W
    damaged: bool = False  # stands for a spooled batch that could not be read: whatever the worker knows is the answer


@dataclass(frozen=True, slots=True)
class Flight(Generic[W]):
    """The batches of one envelope, in order."""

    batches: tuple[ClosedBatch[W], ...]


@dataclass(frozen=True, slots=True)
class Done(Generic[W]):
    """The batch is counted, now or earlier. ``receipt.repeats`` tells the events that were known already."""

    waiter: W
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Closed(Generic[W]):
    """The slice is closed: none of the events is counted, nor ever will be."""

    waiter: W
    slice: SliceId


@dataclass(frozen=True, slots=True)
class TurnedAway(Generic[W]):
    """The events were never sent, and will not be: the slice was parked before their batch was closed."""

    waiter: W
    slice: SliceId
    reason: str


@dataclass(frozen=True, slots=True)
class Moved(Generic[W]):
    """These batches are proven unapplied, and must go on in another stream; this one is retired.

    Attributes:
        regressed: the worker lost batches that it had answered for; otherwise it knew another batch of that number.
    """

    batches: tuple[ClosedBatch[W], ...]
    slice: SliceId
    regressed: bool


@dataclass(frozen=True, slots=True)
class Spooled(Generic[W]):
    """The batch is on this node's disk, and will be delivered from there."""

    waiter: W


Verdict = Done[W] | Closed[W] | TurnedAway[W] | Moved[W]


@dataclass(slots=True)
class Parked:
    """Why a slice takes no events, and when its first batch is tried again."""

    outcome: Outcome
    detail: str
    retry_at: float
    delay: float = PARKED_FIRST_SECONDS


@dataclass(slots=True)
class _Queue(Generic[W]):
    """A slice with something to send."""

    closed: deque[ClosedBatch[W]] = field(default_factory=deque)
    open: OpenBatch[W] | None = None
    parked: Parked | None = None


class Sender(Generic[W]):
    """The sending end of one stream."""

    def __init__(
        self,
        *,
        stream: bytes,
        new_waiter: Callable[[], W],
        is_over: Callable[[W], bool] = lambda _: False,
        events_max: int = QUEUE_EVENTS_MAX,
        bytes_max: int = QUEUE_BYTES_MAX,
        parked_events_max: int = PARKED_EVENTS_MAX,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Take the bounds.

        Args:
            stream: its name.
            new_waiter: makes what waits for a batch.
            is_over: whether somebody who joins that waiter would wait in vain; the batch takes no further event then.
            events_max: in memory at a time, parked slices apart.
            bytes_max: likewise.
            parked_events_max: of parked slices.
            jitter: from 0 to 1.
        """
        self.stream = stream
        self.retired = False
        self.events_queued = 0
        self.bytes_queued = 0
        self.parked_events = 0
        self._new_waiter = new_waiter
        self._is_over = is_over
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._parked_events_max = parked_events_max
        self._jitter = jitter
        self._last_seq: dict[SliceId, int] = {}
        self._queues: dict[SliceId, _Queue[W]] = {}
        # Slices that an envelope had no room for, or whose envelope was lost: they go first. A dict keeps their order.
        self._first: dict[SliceId, None] = {}
        self._ended: set[SliceId] = set()
        self._spooled: set[SliceId] = set()  # slices whose lower numbers are in the spool
        self._in_flight: Flight[W] | None = None

    def add(  # noqa: PLR0917 - once per event: keywords cost a tenth of the call
        self, slice_id: SliceId, route: Route, key_id: bytes, event_type: str, user_key: bytes, id_key: bytes | None
    ) -> tuple[W, int]:
        """Take an event.

        Returns:
            What waits for its batch, and its position in the batch.

        Raises:
            NotTaken: the queue is full, or the slice is parked.
            SliceClosed: the worker has closed the slice.
        """
        queue = self._admit(slice_id)
        batch = queue.open
        if batch is None or not batch.has_room_for((event_type,)) or self._is_over(batch.waiter):
            batch = self._begin(queue, slice_id, route, key_id)
        position = batch.add(event_type, user_key, id_key)
        self.events_queued += 1
        self.bytes_queued += _BYTES_PER_EVENT
        return batch.waiter, position

    def extend(self, slice_id: SliceId, route: Route, key_id: bytes, events: Events) -> list[Placed[W]]:
        """Take many events at once: all, or none. The queue may go over its bound by those of one call.

        Returns:
            In which batches they are, in their order.

        Raises:
            NotTaken: the queue is full, or the slice is parked.
            SliceClosed: the worker has closed the slice.
        """
        queue = self._admit(slice_id)
        placed: list[Placed[W]] = []
        start = 0
        while start < len(events.kinds):
            batch = queue.open
            if batch is None or not batch.has_room_for(events.names) or self._is_over(batch.waiter):
                batch = self._begin(queue, slice_id, route, key_id)
            position = len(batch.kinds)
            count = batch.extend(events, start)
            placed.append(Placed(batch.waiter, position, count))
            start += count
        self.events_queued += start
        self.bytes_queued += start * _BYTES_PER_EVENT
        return placed

    def adopt(self, batch: ClosedBatch[W], *, regressed: bool) -> ClosedBatch[W]:
        """Go on with a batch that another stream could not deliver, under a number of this one.

        Returns:
            The batch as it is called here.
        """
        queue = self._queues.setdefault(batch.slice, _Queue())
        if queue.open is not None:
            self._close(queue)
        old = decode_batch(batch.raw)
        seq = self._next_seq(batch.slice)
        raw = encode(msgspec.structs.replace(old, seq=seq, regressed=regressed or old.regressed))
        adopted = replace(batch, seq=seq, raw=raw)
        queue.closed.append(adopted)
        self._count_in(queue, adopted)
        return adopted

    def restore(self, batch: ClosedBatch[W]) -> None:
        """Go on with a batch of this stream that was kept in the spool; of each slice in the order of their numbers."""
        queue = self._queues.setdefault(batch.slice, _Queue())
        self._last_seq[batch.slice] = batch.seq
        queue.closed.append(batch)
        self._count_in(queue, batch)

    def spill(self) -> tuple[ClosedBatch[W], ...]:
        """All that is unanswered, to be spooled: open batches are closed. They stay here until ``spilled``.

        Parked slices are not among them: their worker answers, and nobody was promised anything.

        Raises:
            RuntimeError: an envelope is in flight.
        """
        if self._in_flight is not None:
            message = "what is in flight may be answered yet"
            raise RuntimeError(message)
        found: list[ClosedBatch[W]] = []
        for queue in self._queues.values():
            if queue.parked is None:
                if queue.open is not None:
                    self._close(queue)
                found += queue.closed
        return tuple(found)

    def spilled(self, batches: Sequence[ClosedBatch[W]]) -> list[Spooled[W]]:
        """These batches, handed out by ``spill``, are in the spool now, and delivered from there."""
        for batch in batches:
            queue = self._queues[batch.slice]
            queue.closed.remove(batch)
            self._count(batch, -1)
            self._spooled.add(batch.slice)
            self._first.pop(batch.slice, None)
            if not queue.closed and queue.open is None:
                del self._queues[batch.slice]
        return [Spooled(batch.waiter) for batch in batches]

    def take(self, now: float) -> Flight[W] | None:
        """The next envelope's batches: those passed over first, then the newest slices. None if there is none.

        Raises:
            RuntimeError: an envelope is in flight already.
        """
        if self._in_flight is not None:
            message = "one envelope per stream is in flight at a time"
            raise RuntimeError(message)
        due = {at for at, queue in self._queues.items() if at not in self._spooled and self._has_work(queue, now)}
        # A slice that was passed over goes first; of the others, the newest are what people look at.
        order = [at for at in self._first if at in due]
        order += heapq.nlargest(ENVELOPE_SLICES_MAX, due.difference(self._first))
        chosen: list[ClosedBatch[W]] = []
        room = ENVELOPE_BYTES_MAX
        for slice_id in order[:ENVELOPE_SLICES_MAX]:
            queue = self._queues[slice_id]
            fitting = self._fitting(queue, room, ENVELOPE_BATCHES_MAX - len(chosen))
            room -= sum(len(batch.raw) for batch in fitting)
            chosen += fitting
            self._first.pop(slice_id, None)
            if queue.parked is None and (len(fitting) < len(queue.closed) or queue.open is not None):
                self._first[slice_id] = None
        for slice_id in due.difference(batch.slice for batch in chosen):
            self._first[slice_id] = None
        if not chosen:
            return None
        self._in_flight = Flight(tuple(chosen))
        return self._in_flight

    def failed(self, flight: Flight[W]) -> None:
        """No reply came: it is not known what the worker did. The same batches go first next time."""
        self._in_flight = None
        others = [at for at in self._first if at not in {batch.slice for batch in flight.batches}]
        self._first = dict.fromkeys([*(batch.slice for batch in flight.batches), *others])

    def answered(self, flight: Flight[W], receipts: Sequence[Receipt], now: float) -> list[Verdict[W]]:
        """What the worker's receipts mean; in order, one receipt per batch of the flight.

        Raises:
            WireError: they are not receipts for this flight; nothing is concluded from them, call ``failed``.
        """
        named = [(receipt.slice, receipt.seq) for receipt in receipts]
        if named != [(batch.slice, batch.seq) for batch in flight.batches]:
            message = "the receipts are not for the batches that were sent"
            raise WireError(message)
        self._in_flight = None
        verdicts: list[Verdict[W]] = []
        for batch, receipt in zip(flight.batches, receipts, strict=True):
            queue = self._queues.get(batch.slice)
            # An earlier receipt of this flight may have moved or ended the whole slice.
            if queue is not None and batch in queue.closed:
                verdicts += self._conclude(queue, batch, receipt, now)
        for slice_id in {batch.slice for batch in flight.batches}:
            queue = self._queues.get(slice_id)
            if queue is not None and not queue.closed and queue.open is None:
                del self._queues[slice_id]
                self._first.pop(slice_id, None)
        if len(self._last_seq) >= COUNTERS_MAX:
            self.retired = True
        return verdicts

    def wake_at(self) -> float | None:
        """When the next parked slice is to be tried again; None if nothing is parked."""
        return min((queue.parked.retry_at for queue in self._queues.values() if queue.parked), default=None)

    def parked(self) -> dict[SliceId, Parked]:
        """The parked slices and why."""
        return {at: queue.parked for at, queue in self._queues.items() if queue.parked is not None}

    @property
    def has_spooled(self) -> bool:
        """Whether batches of this stream have left for the spool."""
        return bool(self._spooled)

    @property
    def must_spill(self) -> bool:
        """Whether there are batches that may not be sent from here, since lower numbers are in the spool."""
        return any(slice_id in self._queues for slice_id in self._spooled)

    @property
    def is_empty(self) -> bool:
        """Whether every batch is answered for."""
        return not self._queues

    def retry_parked(self) -> None:
        """Try every parked slice at once: something has changed at the worker."""
        for queue in self._queues.values():
            if queue.parked is not None:
                queue.parked.retry_at = float("-inf")

    def _begin(self, queue: _Queue[W], slice_id: SliceId, route: Route, key_id: bytes) -> OpenBatch[W]:
        """A new open batch, in place of one that takes no more."""
        if queue.open is not None:
            self._close(queue)
        queue.open = OpenBatch(slice_id, route, key_id, self._new_waiter())
        return queue.open

    def _admit(self, slice_id: SliceId) -> _Queue[W]:
        """The queue of a slice that takes events; the caller puts one in, or nothing would ever remove an empty one."""
        queue = self._queues.get(slice_id)
        if queue is None:
            if slice_id in self._ended:
                message = f"slice {slice_id} is closed"
                raise SliceClosed(message, field=TIMESTAMP)
        elif queue.parked is not None:
            raise NotTaken(_parked_text(slice_id, queue.parked))
        if self.events_queued >= self._events_max or self.bytes_queued >= self._bytes_max:
            message = f"the queue of the worker is full with {self.events_queued} events"
            raise NotTaken(message)
        if self.parked_events >= self._parked_events_max:
            message = f"the worker refuses slices that hold {self.parked_events} events"
            raise NotTaken(message)
        if queue is None:
            queue = self._queues[slice_id] = _Queue()
        return queue

    def _conclude(self, queue: _Queue[W], batch: ClosedBatch[W], receipt: Receipt, now: float) -> list[Verdict[W]]:
        outcome = receipt.outcome
        if outcome in _REFUSALS:
            return self._park(queue, batch.slice, receipt, now)
        if outcome is Outcome.GAP:
            lowest = queue.closed[0].seq
            if receipt.expected >= lowest:
                # Something before it was refused or lost on the way; both are sent again, in order.
                self._first[batch.slice] = None
                return []
            self.retired = True
            return [Moved(self._withdraw(queue), batch.slice, regressed=True)]
        if outcome is Outcome.CLOSED:
            # Numbers have no gaps, so nothing behind this one was applied either.
            self._ended.add(batch.slice)
            waiters = [closed.waiter for closed in self._withdraw(queue)]
            if queue.open is not None:
                waiters.append(self._discard_open(queue))
            return [Closed(waiter, batch.slice) for waiter in waiters]
        self._unpark(queue)
        queue.closed.remove(batch)
        self._count(batch, -1)
        if outcome is Outcome.CONFLICT and not batch.damaged:
            self.retired = True
            return [Moved((batch,), batch.slice, regressed=False)]
        return [Done(batch.waiter, receipt)]

    def _park(self, queue: _Queue[W], slice_id: SliceId, receipt: Receipt, now: float) -> list[Verdict[W]]:
        delay = PARKED_FIRST_SECONDS
        if queue.parked is not None:
            delay = min(queue.parked.delay * 2, PARKED_MOST_SECONDS)
        else:
            for batch in queue.closed:
                self._count(batch, -1)
                self.parked_events += batch.events
        # Jitter, so that the slices of a worker do not come back all in one moment.
        retry_at = now + delay * (0.5 + self._jitter() / 2)
        queue.parked = Parked(receipt.outcome, receipt.detail, retry_at, delay)
        self._first.pop(slice_id, None)
        if queue.open is None:
            return []
        return [TurnedAway(self._discard_open(queue), slice_id, _parked_text(slice_id, queue.parked))]

    def _unpark(self, queue: _Queue[W]) -> None:
        if queue.parked is not None:
            queue.parked = None
            for batch in queue.closed:
                self.parked_events -= batch.events
                self._count(batch, 1)

    def _withdraw(self, queue: _Queue[W]) -> tuple[ClosedBatch[W], ...]:
        """All closed batches of the slice, out of the queue and its bound."""
        self._unpark(queue)
        batches = tuple(queue.closed)
        queue.closed.clear()
        for batch in batches:
            self._count(batch, -1)
        return batches

    def _discard_open(self, queue: _Queue[W]) -> W:
        batch = queue.open
        assert batch is not None  # noqa: S101 - the callers look first
        queue.open = None
        self.events_queued -= len(batch.kinds)
        self.bytes_queued -= len(batch.kinds) * _BYTES_PER_EVENT
        return batch.waiter

    def _has_work(self, queue: _Queue[W], now: float) -> bool:
        if queue.parked is not None:
            return bool(queue.closed) and queue.parked.retry_at <= now
        return bool(queue.closed) or queue.open is not None

    def _fitting(self, queue: _Queue[W], room: int, batches_max: int) -> list[ClosedBatch[W]]:
        """The lowest batches of the slice that fit; of a parked one, the first as a probe."""
        if not batches_max:
            return []
        if queue.parked is not None:
            return [queue.closed[0]] if len(queue.closed[0].raw) <= room else []
        if queue.open is not None and room >= BATCH_BYTES_MAX:
            self._close(queue)
        fitting: list[ClosedBatch[W]] = []
        for batch in queue.closed:
            if len(batch.raw) > room or len(fitting) == batches_max:
                break
            room -= len(batch.raw)
            fitting.append(batch)
        return fitting

    def _close(self, queue: _Queue[W]) -> None:
        """Number the open batch and make it bytes; it never changes again."""
        batch = queue.open
        assert batch is not None  # noqa: S101 - the callers look first
        queue.open = None
        seq = self._next_seq(batch.slice)
        raw = encode(
            Batch(
                slice=batch.slice,
                seq=seq,
                route=batch.route,
                key_id=batch.key_id,
                names=tuple(batch.names),
                kinds=bytes(batch.kinds),
                users=bytes(batch.users),
                ids=bytes(batch.ids),
            )
        )
        queue.closed.append(
            ClosedBatch(slice=batch.slice, seq=seq, raw=raw, events=len(batch.kinds), waiter=batch.waiter)
        )

    def _next_seq(self, slice_id: SliceId) -> int:
        seq = self._last_seq[slice_id] = self._last_seq.get(slice_id, 0) + 1
        return seq

    def _count_in(self, queue: _Queue[W], batch: ClosedBatch[W]) -> None:
        """A closed batch has come to a slice from elsewhere."""
        if queue.parked is None:
            self._count(batch, 1)
        else:
            self.parked_events += batch.events

    def _count(self, batch: ClosedBatch[W], sign: int) -> None:
        self.events_queued += sign * batch.events
        self.bytes_queued += sign * batch.events * _BYTES_PER_EVENT


def _parked_text(slice_id: SliceId, parked: Parked) -> str:
    detail = f": {parked.detail}" if parked.detail else ""
    return f"slice {slice_id} is parked, its worker answers {parked.outcome.value}{detail}"
