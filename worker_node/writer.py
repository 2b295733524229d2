"""The one writer: a thread that owns every slice file and ``totals.mdb``.

::

    event loop                                 thread "writer"
    ----------                                 ---------------
    receive(batches) --+
    receive(batches) --+--> jobs, in order --> all that waits, by slice: one transaction and one fsync each
    look(slices) ------+                       then what else waits, at most 64 slices of reading a piece
                                               |
    receipts, holdings <-- one call back ------+  after the commits
                                               then some of the keys that are pending are merged (``key_set.py``)

Nothing is delayed to form a group: what arrives while one group is being committed is the next group. A receipt exists
only after the commit that it speaks of.

What goes wrong in here is one of these::

    there is little room on the disk      every batch is refused until there is more
    the map of a file is full             it grows, and the transaction is run again (``common/lmdb_file.py``)
    the file of a slice cannot be read    it is set aside; its slice is refused, all others go on
    anything else                         the disk is not to be trusted any more: ``fail`` is called, which ends the
                                          process, and no receipt leaves
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import msgspec

from common.errors import Contradicts, InputOutputFailed, RequestError, SliceClosed, Unavailable
from common.lmdb_file import STORE_ERRORS, Damaged
from common.routing import Route, owner_position
from common.slices import SliceId
from common.summaries import Summary
from common.wire import Held, Outcome, Pins, Receipt, SettledRoute
from worker_node.receiver import NO_KEY, Decision, Label, NumberedBatch, decide
from worker_node.room import Load, Room
from worker_node.shelf import Unverified
from worker_node.slice_store import FILE_UUID_BYTES
from worker_node.write_list import WriteList

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from common.logs import Log
    from worker_node.holdings import Holdings
    from worker_node.node_metrics import WorkerMetrics
    from worker_node.shelf import Shelf
    from worker_node.slice_store import SliceStore
    from worker_node.space import Space
    from worker_node.totals import Totals

T = TypeVar("T")
Fail = Callable[[BaseException], None]

# About a second of writing, two where ids come along: beyond that it is better that senders hear of it and wait. An
# event that waits takes some 100 bytes, because its user key is split off already; not so while it stands in line.
WAITING_EVENTS_MAX = 1 << 19
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

    Attributes:
        groups: how many groups were committed.
        suspects: slices whose file must be verified before it is used; see ``verification.py``.
    """

    def __init__(
        self,
        *,
        shelf: Shelf,
        totals: Totals,
        holdings: Holdings,
        fail: Fail,
        room: Room | None = None,
        space: Space | None = None,
        write_list: WriteList | None = None,
        log: Log | None = None,
        metrics: WorkerMetrics | None = None,
    ) -> None:
        """Take the parts.

        Args:
            shelf: the slice files; the writer's alone.
            totals: likewise.
            holdings: told what was committed.
            fail: called, on the thread, with what made it impossible to go on; the product never returns from it.
            room: how much may wait.
            space: what the disk has; if not given, nobody looks.
            write_list: which files are being written; also the writer's alone.
            log: told of damage.
            metrics: told of each group.
        """
        self.groups = 0
        self.suspects: set[SliceId] = set()
        self._shelf = shelf
        self._totals = totals
        self._holdings = holdings
        self._fail = fail
        self._space = space
        self._write_list = write_list or WriteList(totals=totals)
        self._log = log
        self._metrics = metrics
        self._room = room or Room(events_max=WAITING_EVENTS_MAX, bytes_max=WAITING_BYTES_MAX)
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._pending: set[asyncio.Future[Any]] = set()
        self._thread = threading.Thread(target=self._serve, name="writer", daemon=True)
        self._opened: Future[tuple[frozenset[SliceId], frozenset[SliceId]]] = Future()
        self._stopping = False
        self._told: set[SliceId] = set()  # whose damage was told
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
        # The thread is idle until somebody puts a job.
        self.suspects = set(self._shelf.unverified)
        for slice_id in sorted(self._shelf.damaged):
            self._quarantined(slice_id, "it was found so earlier")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Finish what was taken, commit it, close the files, and end the thread."""
        self._stopping = True
        self._jobs.put(_STOP)
        await asyncio.to_thread(self._thread.join)

    async def receive(self, items: Iterable[NumberedBatch], *, load: Load, claims: int) -> list[Receipt]:
        """Decide on batches and apply those that are due.

        Args:
            items: in the order in which they are to be applied. Asked for once there is room, so that only what has
                room is taken apart into its keys.
            load: the room that they take.
            claims: the highest claim number that the sender knows; durable when the receipts are there.

        Returns:
            A receipt for each, in the same order; what they speak of is on disk.

        Raises:
            Unavailable: there was no room in the queue, or the worker stops; nothing was applied.
        """
        await self._room.take(load, deadline_seconds=WAITING_SECONDS_MAX)
        done = self._future()
        # From here on the room is given back when this is done: by the thread, even if nobody waits any more.
        done.add_done_callback(lambda _: self._room.give(load))
        try:
            made = tuple(items)
        except BaseException:
            done.cancel()
            raise
        self._put(_Delivery(made, claims, load, done, [None] * len(made)))
        return await asyncio.shield(done)

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

    async def close_slice(self, slice_id: SliceId, *, route: Route, position: int) -> tuple[Held, bool]:
        """Close a slice for good, also if nothing of it is held here; durable when this returns.

        Args:
            slice_id: the slice; it has ended.
            route: its settled route.
            position: of this worker in it.

        Returns:
            What stays of it, and whether it was closed before.

        Raises:
            Contradicts: it is held here under another route.
            Unavailable: its file is damaged or being verified, or there is no room to write down what stays.
        """
        return await self.run(partial(self._close_for_good, slice_id, route, position))

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

    async def verified(self, slice_id: SliceId, *, problem: str | None) -> None:
        """Use the file of a suspect again, or set it aside if there is a problem with it."""
        await self.run(partial(self._verified, slice_id, problem))

    def path(self, slice_id: SliceId) -> Path:
        """Where the file of a slice is."""
        return self._shelf.path(slice_id)

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
            self._write_list.end()
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
        try:
            self._begin_writing(closed)
        except STORE_ERRORS as error:
            raise InputOutputFailed(f"the data directory cannot be written: {error}") from error
        # What a lost directory held counts as open: it may yet be given a file here.
        self._opened.set_result((self._shelf.slices | self._totals.lost_slices() - closed, closed))

    def _begin_writing(self, closed: frozenset[SliceId]) -> None:
        given_up = self._shelf.given_up - closed - self._totals.lost_slices()
        if given_up:
            # From here on as if a lost directory had held them. The route was in the file; the registry has it.
            self._totals.lose([SettledRoute(slice=at, route=(), number=0) for at in given_up], replaced=0)
        self._told = set(self._shelf.damaged)
        self._write_list.begin()
        for slice_id in self._write_list.suspects - (self._shelf.slices - self._shelf.damaged):
            self._write_list.verified(slice_id)  # there is nothing to verify
        self._shelf.unverified.update(self._write_list.suspects)

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
        if self._space is not None and (problem := self._space.problem()):
            self._refuse(deliveries, Decision(outcome=Outcome.NO_SPACE, detail=problem))
            return
        started = time.perf_counter()
        by_slice: dict[SliceId, list[tuple[_Delivery, int]]] = {}
        for delivery in deliveries:
            for index, item in enumerate(delivery.items):
                by_slice.setdefault(item.batch.slice, []).append((delivery, index))
        changed = []
        self._note_writing(by_slice)
        for slice_id, places in by_slice.items():
            items = [delivery.items[index] for delivery, index in places]
            decisions, held = self._apply(slice_id, items)
            if held is not None:
                changed.append(held)
            for (delivery, index), item, decision in zip(places, items, decisions, strict=True):
                delivery.receipts[index] = _receipt(item, decision, held)
        self._totals.note_claims(max(delivery.claims for delivery in deliveries))
        # Measured here: once the loop knows of it, this thread may have to wait for its turn.
        seconds = time.perf_counter() - started
        self._call_back(self._note, deliveries, len(by_slice), seconds)
        self._call_back(self._deliver, deliveries, changed)
        self._merge()

    def _refuse(self, deliveries: Sequence[_Delivery], refusal: Decision) -> None:
        for delivery in deliveries:
            receipts = [_receipt(item, refusal, None) for item in delivery.items]
            self._call_back(_set_result, delivery.done, receipts)

    def _note_writing(self, slices: Iterable[SliceId]) -> None:
        """On disk before a file is touched. A slice that is closed, or not trusted, is not going to be written."""
        untouched = self._shelf.damaged | self._shelf.unverified
        self._write_list.note(
            [at for at in slices if at not in untouched and (at in self._shelf or self._totals.closed(at) is None)]
        )

    def _apply(self, slice_id: SliceId, items: Sequence[NumberedBatch]) -> tuple[list[Decision], Held | None]:
        """Decide on the batches of one slice; what is applied is on disk when this returns."""
        try:
            store = self._shelf.get(slice_id)
            if store is not None:
                return self._applied(store, items)
        except Damaged as damage:
            self._set_aside(slice_id, damage)
            outcome = Outcome.VERIFYING if isinstance(damage, Unverified) else Outcome.QUARANTINED
            return [Decision(outcome=outcome, detail=str(damage))] * len(items), None
        decisions: list[Decision] = []
        if self._totals.closed(slice_id) is not None:
            return self._totals.receive_late(slice_id, items)
        if self._totals.lost(slice_id) is not None:
            items = list(map(_regressed, items))
        # The file is made for the first batch that is to be applied, not for one that is out of order.
        for at, item in enumerate(items):
            decision = decide(None, item.batch.seq, item.check)
            if decision.outcome is Outcome.APPLIED:
                applied, held = self._applied(self._create(item), items[at:])
                return decisions + applied, held
            decisions.append(decision)
        return decisions, None

    def _applied(self, store: SliceStore, items: Sequence[NumberedBatch]) -> tuple[list[Decision], Held]:
        decisions = store.apply(items)
        self._shelf.grew(store)
        return decisions, store.held

    def _merge(self) -> None:
        """Merge as many keys as there are too many pending: on average, as many as the group brought."""
        while (store := self._shelf.crowded()) is not None:
            self._note_writing([store.slice])
            try:
                store.merge()
                self._shelf.grew(store)
            except Damaged as damage:
                self._set_aside(store.slice, damage)

    def _create(self, first: NumberedBatch) -> SliceStore:
        batch = first.batch
        store = self._shelf.create(batch.slice, route=batch.route, position=first.position, key_id=batch.key_id)
        self._call_back(self._holdings.opened, batch.slice)
        return store

    def _look(self, slices: Sequence[SliceId]) -> dict[SliceId, Held | Damaged | None]:
        found: dict[SliceId, Held | Damaged | None] = {}
        for slice_id in slices:
            try:
                found[slice_id] = self._shelf.look(slice_id)
            except Damaged as damage:
                self._set_aside(slice_id, damage)
                found[slice_id] = damage
            else:
                found[slice_id] = found[slice_id] or self._totals.closed(slice_id) or self._totals.lost(slice_id)
        self._call_back(self._looked, found)
        return found

    def _count(self, slice_id: SliceId, user_key: bytes, event_type: str) -> Held:
        if self._space is not None:
            self._space.require()
        with self._guarding(slice_id):
            store = self._shelf.get(slice_id)
        if store is None:
            if self._totals.closed(slice_id) is not None:
                raise SliceClosed(f"slice {slice_id} is closed")
            raise Contradicts(f"this worker does not hold slice {slice_id}")
        owner = owner_position(user_key, len(store.label.route))
        if owner != store.label.position:
            raise Contradicts(f"the user key belongs to worker {store.label.route[owner]}", field="user")
        self._note_writing([slice_id])
        with self._guarding(slice_id):
            store.count(user_key, event_type)
        self._shelf.grew(store)
        held = store.held
        self._call_back(self._holdings.keep, held)
        self._merge()
        return held

    def _close(self, slice_id: SliceId) -> None:
        if self._space is not None and not self._space.allows_closing():
            return
        try:
            store = self._shelf.get(slice_id)
            streams = [] if store is None else store.streams()
        except Damaged as damage:
            self._set_aside(slice_id, damage)  # what it holds is not known, so it cannot be summed up
            return
        if store is not None:
            self._totals.close_slice(store.held, store.label, streams)
            self._shelf.remove(slice_id)
        self._call_back(self._holdings.closed, slice_id)

    def _close_for_good(self, slice_id: SliceId, route: Route, position: int) -> tuple[Held, bool]:
        known = self._totals.closed(slice_id)
        with self._guarding(slice_id):
            store = None if known is not None else self._shelf.get(slice_id)
        found = known or (None if store is None else store.held)
        if found is not None and found.route != route:
            raise Contradicts(f"slice {slice_id} is held here under the route {', '.join(found.route)}")
        if known is not None:
            return known, True
        if self._space is not None and not self._space.allows_closing():
            raise Unavailable("the disk is too full to write down what stays of the slice")
        if store is not None:
            held = store.held
            with self._guarding(slice_id):
                streams = store.streams()
            self._totals.close_slice(held, store.label, streams)
            self._shelf.remove(slice_id)
        else:
            # Nothing came here, or it is lost. From now on nothing comes: or the slice would begin anew at this worker.
            lost = self._totals.lost(slice_id)
            label = Label(file=os.urandom(FILE_UUID_BYTES), route=route, position=position, key_id=NO_KEY)
            summary = Summary(slice=slice_id) if lost is None else lost.summary
            held = Held(summary=summary, route=route, file=label.file)
            self._totals.close_slice(held, label, ())
        self._call_back(self._holdings.keep, held)
        self._call_back(self._holdings.closed, slice_id)
        if self._log is not None:
            self._log.info("slice_closed", slice=slice_id)
        return held, False

    @contextmanager
    def _guarding(self, slice_id: SliceId) -> Iterator[None]:
        try:
            yield
        except Damaged as damage:
            self._set_aside(slice_id, damage)
            raise Unavailable(str(damage)) from damage

    def _set_aside(self, slice_id: SliceId, damage: Damaged) -> None:
        """A file cannot be read. Nothing of what was being written to it is on disk."""
        if not isinstance(damage, Unverified) and slice_id not in self._told:
            if slice_id not in self._shelf.damaged:
                self._shelf.quarantine(slice_id)
            self._told.add(slice_id)
            self._call_back(self._quarantined, slice_id, str(damage))

    def _verified(self, slice_id: SliceId, problem: str | None) -> None:
        self._shelf.unverified.discard(slice_id)
        if problem is not None:
            self._set_aside(slice_id, Damaged(problem))
        self._write_list.verified(slice_id)
        self._call_back(self.suspects.discard, slice_id)

    def _lose(self, routes: Sequence[SettledRoute], replaced: int) -> None:
        self._totals.lose(routes, replaced=replaced)
        for one in routes:
            if one.slice not in self._shelf:
                self._call_back(self._holdings.keep, self._totals.lost(one.slice))

    def _run(self, work: _Work[T]) -> None:
        try:
            result = work.run()
        except RequestError as error:
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

    def _note(self, deliveries: Sequence[_Delivery], slices: int, seconds: float) -> None:
        if self._metrics is not None:
            events = sum(delivery.load.events for delivery in deliveries)
            self._metrics.committed(events=events, slices=slices, seconds=seconds)

    def _looked(self, found: dict[SliceId, Held | Damaged | None]) -> None:
        for slice_id, state in found.items():
            if isinstance(state, Held):
                self._holdings.keep(state)
            elif state is None:
                self._holdings.forget(slice_id)

    def _quarantined(self, slice_id: SliceId, problem: str) -> None:
        self._holdings.quarantine(slice_id)
        if self._log is not None:
            self._log.error("slice_quarantined", slice=slice_id, problem=problem)

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
