"""The one writer: a thread that owns every slice file and ``totals.mdb``.

::

    event loop                                 thread "writer"
    ----------                                 ---------------
    receive(batches) --+
    receive(batches) --+--> jobs, in order --> all that waits, by slice: one transaction and one fsync each
    look(slices) ------+                       then what else waits, at most 64 slices of reading a piece
                                               |
    receipts, holdings <-- one call back ------+  after the commits

Nothing is delayed to form a group: what arrives while one group is being committed is the next group. A receipt exists
only after the commit that it speaks of. When anything but a batch's content goes wrong in here the disk is not to be
trusted any more: ``fail`` is called, which ends the process, and no receipt leaves.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import msgspec

from common.errors import Contradicts, InputOutputFailed, SliceClosed, TallysliceError, Unavailable
from common.lmdb_file import Damaged
from common.routing import owner_position
from common.slices import SliceId
from common.wire import Held, Outcome, Pins, Receipt, SettledRoute
from worker_node.receiver import Decision, NumberedBatch, decide
from worker_node.room import Load, Room

if TYPE_CHECKING:
    from types import TracebackType

    from worker_node.holdings import Holdings
    from worker_node.shelf import Shelf
    from worker_node.slice_store import SliceStore
    from worker_node.totals import Totals

T = TypeVar("T")
Fail = Callable[[BaseException], None]

# About two seconds of writing: beyond that it is better that senders hear of it and wait.
WAITING_EVENTS_MAX = 1 << 20
WAITING_BYTES_MAX = 64 << 20
WAITING_SECONDS_MAX = 2.0  # less than the three seconds after which a sender thinks that we are away
# About half a second of writing: how long a question may have to wait for a group that is being committed.
GROUP_EVENTS_MAX = 1 << 18
LOOK_SLICES_MAX = 64  # some ten milliseconds of opening files


@dataclass(slots=True)
class _Work(Generic[T]):
    """Anything that must happen on the thread, between groups."""

    run: Callable[[], T]
    done: asyncio.Future[T]


@dataclass(slots=True)
class _Delivery:
    """Batches of one request."""

    items: Sequence[NumberedBatch]
    claims: int
    load: Load
    done: asyncio.Future[list[Receipt]]
    receipts: list[Receipt | None]  # None until the thread has decided


_STOP = object()


class Writer:
    """An async context manager: the thread and its files live from its entry to its exit.

    All methods but the thread's own are the event loop's.
    """

    def __init__(
        self, *, shelf: Shelf, totals: Totals, holdings: Holdings, fail: Fail, room: Room | None = None
    ) -> None:
        """Take the parts.

        Args:
            shelf: the slice files; the writer's alone.
            totals: likewise.
            holdings: told what was committed.
            fail: called, on the thread, with what made it impossible to go on; the product never returns from it.
            room: how much may wait.
        """
        self.groups = 0
        self._shelf = shelf
        self._totals = totals
        self._holdings = holdings
        self._fail = fail
        self._room = room or Room(events_max=WAITING_EVENTS_MAX, bytes_max=WAITING_BYTES_MAX)
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._pending: set[asyncio.Future[Any]] = set()
        self._thread = threading.Thread(target=self._serve, name="writer", daemon=True)
        self._opened: Future[tuple[frozenset[SliceId], frozenset[SliceId]]] = Future()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        """Start the thread, which opens the files.

        Raises:
            InputOutputFailed: a file that the worker cannot do without cannot be opened.
        """
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        open_slices, closed_slices = await asyncio.wrap_future(self._opened)
        self._holdings.begin(open_slices=open_slices, closed_slices=closed_slices)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Finish what was taken, commit it, close the files, and end the thread."""
        self._stopping = True
        self._jobs.put(_STOP)
        await asyncio.to_thread(self._thread.join)

    async def receive(self, items: Sequence[NumberedBatch], *, claims: int, body_bytes: int) -> list[Receipt]:
        """Decide on batches and apply those that are due.

        Args:
            items: in the order in which they are to be applied.
            claims: the highest claim number that the sender knows; durable when the receipts are there.
            body_bytes: what they take of the queue's bound.

        Returns:
            A receipt for each, in the same order; what they speak of is on disk.

        Raises:
            Unavailable: there was no room in the queue, or the worker stops; nothing was applied.
        """
        load = Load(sum(len(item.batch.kinds) for item in items), body_bytes)
        await self._room.take(load, deadline_seconds=WAITING_SECONDS_MAX)
        delivery = _Delivery(items, claims, load, self._future(), [None] * len(items))
        # From here on the room is given back when the thread is done with it, even if nobody waits any more.
        delivery.done.add_done_callback(lambda _: self._room.give(load))
        self._put(delivery)
        return await asyncio.shield(delivery.done)

    async def look(self, slices: Sequence[SliceId]) -> tuple[dict[SliceId, Held], list[SliceId]]:
        """What slices hold.

        Returns:
            By slice, without those that hold nothing; and those whose file is damaged.
        """
        found: dict[SliceId, Held] = {}
        damaged: list[SliceId] = []
        unknown = []
        for slice_id in slices:
            if (held := self._holdings.latest(slice_id)) is not None:
                found[slice_id] = held
            elif slice_id in self._holdings:
                unknown.append(slice_id)
        for at in range(0, len(unknown), LOOK_SLICES_MAX):
            piece = unknown[at : at + LOOK_SLICES_MAX]
            for slice_id, state in (await self.run(partial(self._look, piece))).items():
                if isinstance(state, Held):
                    found[slice_id] = state
                elif state is not None:
                    damaged.append(slice_id)
        return found, damaged

    async def count(self, slice_id: SliceId, user_key: bytes, event_type: str) -> Held:
        """Count one event without a number.

        Raises:
            Contradicts: the slice is not held here, or the key is another worker's.
            SliceClosed: the slice is closed.
        """
        return await self.run(partial(self._count, slice_id, user_key, event_type))

    async def close_slices(self, slices: Sequence[SliceId]) -> None:
        """Close slices: their totals stay, their files go."""
        for slice_id in slices:
            await self.run(partial(self._close, slice_id))

    async def note_claims(self, claims: int) -> None:
        """Keep a claim number that somebody knows; durable when this returns."""
        if claims > self._totals.claims:
            await self.run(partial(self._totals.note_claims, claims))

    async def set_pins(self, pins: Pins) -> None:
        """Keep the cluster's pins; durable when this returns."""
        await self.run(partial(self._totals.set_pins, pins))

    async def lose(self, routes: Sequence[SettledRoute], *, replaced: int) -> None:
        """Keep which slices the data directory before this one held; see Totals.lose."""
        await self.run(partial(self._lose, routes, replaced))

    async def run(self, work: Callable[[], T]) -> T:
        """Run something on the thread, between groups."""
        future: asyncio.Future[T] = self._future()
        self._put(_Work(work, future))
        return await asyncio.shield(future)

    @property
    def waiting(self) -> Load:
        """What waits, or is being written."""
        return Load(self._room.events, self._room.body_bytes)

    def _future(self) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    def _put(self, job: _Work[Any] | _Delivery) -> None:
        if self._stopping:
            job.done.set_exception(Unavailable("the worker is stopping"))
        else:
            self._jobs.put(job)

    # From here on: the thread.

    def _serve(self) -> None:
        try:
            self._open()
            while self._serve_group():
                pass
            self._shelf.close()
            self._totals.close()
        except BaseException as error:  # noqa: BLE001 - the thread's edge: whatever it is, no receipt may follow it
            if not self._opened.done():
                self._opened.set_exception(error)
                return
            try:
                self._fail(error)
            finally:
                self._call_back(self._give_up)

    def _open(self) -> None:
        self._totals.open()
        closed = self._totals.closed_slices()
        try:
            self._shelf.start(closed=closed)
        except OSError as error:
            raise InputOutputFailed(f"the folder of the slice files cannot be read: errno {error.errno}") from error
        # What a lost directory held counts as open: it may yet be given a file here.
        self._opened.set_result((self._shelf.slices | self._totals.lost_slices() - closed, closed))

    def _serve_group(self) -> bool:
        """Wait for a job, take all that queued behind it, and do it.

        Returns:
            Whether there may be more.
        """
        deliveries: list[_Delivery] = []
        others: list[_Work[Any]] = []
        events = 0
        job = self._jobs.get()
        while job is not _STOP:
            if isinstance(job, _Delivery):
                deliveries.append(job)
                events += job.load.events
            else:
                others.append(job)
            if events >= GROUP_EVENTS_MAX:
                break
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
        if deliveries:
            self._commit(deliveries)
        for work in others:
            self._run(work)
        return job is not _STOP

    def _commit(self, deliveries: Sequence[_Delivery]) -> None:
        by_slice: dict[SliceId, list[tuple[_Delivery, int]]] = {}
        for delivery in deliveries:
            for index, item in enumerate(delivery.items):
                by_slice.setdefault(item.batch.slice, []).append((delivery, index))
        changed = []
        for slice_id, places in by_slice.items():
            items = [delivery.items[index] for delivery, index in places]
            decisions, held = self._apply(slice_id, items)
            if held is not None:
                changed.append(held)
            for (delivery, index), item, decision in zip(places, items, decisions, strict=True):
                delivery.receipts[index] = _receipt(item, decision, held)
        self._totals.note_claims(max(delivery.claims for delivery in deliveries))
        self._call_back(self._deliver, deliveries, changed)

    def _apply(self, slice_id: SliceId, items: Sequence[NumberedBatch]) -> tuple[list[Decision], Held | None]:
        """Decide on the batches of one slice; what is applied is on disk when this returns."""
        try:
            store = self._shelf.get(slice_id)
        except Damaged as damage:
            refusal = Decision(outcome=Outcome.QUARANTINED, detail=str(damage))
            return [refusal] * len(items), None
        decisions: list[Decision] = []
        if store is None:
            if self._totals.closed(slice_id) is not None:
                return self._totals.receive_late(slice_id, items)
            if self._totals.lost(slice_id) is not None:
                items = list(map(_regressed, items))
            # The file is made for the first batch that is to be applied, not for one that is out of order.
            for item in items:
                decision = decide(None, item.batch.seq, item.check)
                if decision.outcome is Outcome.APPLIED:
                    store = self._create(item)
                    break
                decisions.append(decision)
        if store is None:
            return decisions, None
        decisions += store.apply(items[len(decisions) :])
        return decisions, store.held

    def _create(self, first: NumberedBatch) -> SliceStore:
        batch = first.batch
        return self._shelf.create(batch.slice, route=batch.route, position=first.position, key_id=batch.key_id)

    def _look(self, slices: Sequence[SliceId]) -> dict[SliceId, Held | Damaged | None]:
        found: dict[SliceId, Held | Damaged | None] = {}
        for slice_id in slices:
            try:
                held = self._shelf.look(slice_id) or self._totals.closed(slice_id)
                found[slice_id] = held or self._totals.lost(slice_id)
            except Damaged as damage:
                found[slice_id] = damage
        self._call_back(self._looked, found)
        return found

    def _count(self, slice_id: SliceId, user_key: bytes, event_type: str) -> Held:
        try:
            store = self._shelf.get(slice_id)
        except Damaged as damage:
            raise Unavailable(str(damage)) from damage
        if store is None:
            if self._totals.closed(slice_id) is not None:
                raise SliceClosed(f"slice {slice_id} is closed")
            raise Contradicts(f"this worker does not hold slice {slice_id}")
        owner = owner_position(user_key, len(store.label.route))
        if owner != store.label.position:
            raise Contradicts(f"the user key belongs to worker {store.label.route[owner]}", field="user")
        store.count(user_key, event_type)
        self._call_back(self._holdings.keep, store.held)
        return store.held

    def _close(self, slice_id: SliceId) -> None:
        try:
            store = self._shelf.get(slice_id)
        except Damaged:
            return  # what it holds is not known, so it cannot be summed up
        if store is not None:
            self._totals.close_slice(store.held, store.label, store.streams())
            self._shelf.remove(slice_id)
        self._call_back(self._holdings.closed, slice_id)

    def _lose(self, routes: Sequence[SettledRoute], replaced: int) -> None:
        self._totals.lose(routes, replaced=replaced)
        for one in routes:
            if one.slice not in self._shelf:
                self._call_back(self._holdings.keep, self._totals.lost(one.slice))

    def _run(self, work: _Work[T]) -> None:
        try:
            result = work.run()
        except TallysliceError as error:
            # An answer to the caller; everything else is the thread's end.
            self._call_back(_set_exception, work.done, error)
        else:
            self._call_back(_set_result, work.done, result)

    def _call_back(self, work: Callable[..., None], *arguments: object) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(work, *arguments)

    # From here on: the loop again, called back.

    def _deliver(self, deliveries: Sequence[_Delivery], changed: Sequence[Held]) -> None:
        self.groups += 1
        for held in changed:
            self._holdings.keep(held)
        for delivery in deliveries:
            _set_result(delivery.done, delivery.receipts)

    def _looked(self, found: dict[SliceId, Held | Damaged | None]) -> None:
        for slice_id, state in found.items():
            if isinstance(state, Held):
                self._holdings.keep(state)
            elif state is None:
                self._holdings.forget(slice_id)

    def _give_up(self) -> None:
        self._stopping = True
        for future in list(self._pending):
            _set_exception(future, Unavailable("the worker cannot write any more"))


def _regressed(item: NumberedBatch) -> NumberedBatch:
    """The batch as its sender would have marked it, had it known what was lost here; its check stays what it was."""
    return replace(item, batch=msgspec.structs.replace(item.batch, regressed=True))


def _receipt(item: NumberedBatch, decision: Decision, held: Held | None) -> Receipt:
    return Receipt(
        slice=item.batch.slice,
        seq=item.batch.seq,
        outcome=decision.outcome,
        repeats=decision.repeats,
        expected=decision.expected,
        detail=decision.detail,
        held=held,
    )


def _set_result(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
