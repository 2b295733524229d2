"""The way to one worker: its streams, what is under way in them, and what goes to the spool while it is away.

Natural batching: one envelope per stream is in flight; everything that arrives meanwhile forms the next. No timer.

::

    put --> Sender.add                     _deliver, one task per stream:
            wakes                              take -> send -> answered -> futures of the batches
                                               no reply -> failed -> backoff with jitter -> the same batches again
                                               no reply for 3 s -> away: spill -> spool -> futures of the batches
                                           back: the stream that spilled ends, a new one begins,
                                               _drain, one task per stream in the spool

A batch's future gets a verdict as its *result*, never as an exception: those who waited may have given up.
"""

from __future__ import annotations

import asyncio
import os
import random
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from api_node.drain import Drain
from api_node.sender import PARKED_EVENTS_MAX, Closed, Done, Events, Moved, Placed, Sender, Spooled, TurnedAway, Verdict
from common.errors import NoAnswer, NotTaken, PeerAway, PeerError, WireError
from common.lmdb_file import STORE_ERRORS
from common.wire import STREAM_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Protocol

    from opentelemetry.trace import SpanContext

    from api_node.node_metrics import ApiMetrics
    from api_node.sender import Flight, Parked
    from api_node.spool_room import SpoolRoom
    from common.logs import Log
    from common.routing import Route, WorkerId
    from common.slices import SliceId
    from common.tasks import Tasks
    from common.wire import Batch, Reply

    class Send(Protocol):
        """Sends an envelope of a stream; raises PeerError or WireError if there is no reply."""

        async def __call__(self, stream: bytes, flight: Flight[Any], *, spooled: bool, seconds: float) -> Reply:
            """Send."""
            ...


AWAY_SECONDS = 3.0  # without an answer: far beyond a slow commit, and a restart goes unnoticed
BACKOFF_FIRST_SECONDS, BACKOFF_MOST_SECONDS = 0.02, 0.5
PATIENCE_LEAST_SECONDS = 0.1  # of a delivery: less would not even reach a healthy worker
SPILL_PAUSE_SECONDS = 0.05  # while a worker is away: fewer, larger records, and nobody waits long

# For a receipt: longer than a worker's restart, shorter than the time-outs of common proxies.
RECEIPT_SECONDS = 10.0
# Of that time others may join who wait for the same receipt: who comes last has two thirds of it left.
JOINING_SHARE = 1 / 3

Fate: TypeAlias = "Done[Any] | Closed[Any] | TurnedAway[Any] | Spooled[Any] | None"
"""What became of a batch; None when its deadline passed, or the node stopped, before that was known."""


class _Processes:
    """Counts the forks between the first process and this one: to ask for the process id is a system call an event."""

    def __init__(self) -> None:
        self.number = 0
        os.register_at_fork(after_in_child=self._one_more)

    def _one_more(self) -> None:
        self.number += 1


_processes = _Processes()


class Waiter(asyncio.Future[Fate]):
    """Gets the fate of a batch; all its events wait for it.

    So nobody who waits can cancel it, which saves each event a shield and a deadline of its own.
    """

    # Of the requests that wait and are sampled; see common/tracing.py.
    traces: tuple[SpanContext, ...] = ()

    def __init__(self, *, seconds: float) -> None:
        super().__init__()
        self.is_over = False  # who joins now would wait in vain, or hardly at all
        joining = JOINING_SHARE * seconds
        self._timer = self.get_loop().call_later(joining, self._close, seconds - joining)
        self.add_done_callback(lambda _: self._timer.cancel())

    def _close(self, left: float) -> None:
        self.is_over = True
        self._timer = self.get_loop().call_later(left, self._expire)

    def _expire(self) -> None:
        if not self.done():
            self.set_result(None)

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 - asyncio's signature
        """Refuse: whoever is cancelled while waiting goes on to wait, at most until the deadline, and ends then."""
        return False


EmptyBatch: TypeAlias = "Callable[[SliceId, int], Awaitable[Batch]]"
"""Makes a batch without events of a slice, under a number, to stand for a damaged one in the spool."""


class Delivery:
    """The streams to one worker. Its tasks are its owner's."""

    def __init__(
        self,
        *,
        worker: WorkerId,
        send: Send,
        room: SpoolRoom,
        cluster: Callable[[], str],
        empty_batch: EmptyBatch,
        forget: Callable[[SliceId], None],
        tasks: Tasks,
        metrics: ApiMetrics,
        log: Log,
        away_seconds: float = AWAY_SECONDS,
        receipt_seconds: float = RECEIPT_SECONDS,
    ) -> None:
        """Take the parts.

        Args:
            worker: whom the streams lead to.
            send: sends an envelope.
            room: the spools.
            cluster: the cluster id.
            empty_batch: for damaged records in the spool.
            forget: told that what is known of a slice is more than what the worker still has.
            tasks: where the streams live.
            metrics: of the node.
            log: of the link.
            away_seconds: without an answer, until events go to the spool.
            receipt_seconds: from a batch's first event, until those who wait for it are told that nothing is known.
        """
        self.is_away = False
        self.gone = asyncio.Event()  # set when the worker goes away: look after it at once
        self._worker = worker
        self._send = send
        self._room = room
        self._cluster = cluster
        self._empty_batch = empty_batch
        self._forget = forget
        self._tasks = tasks
        self._metrics = metrics
        self._log = log
        self._away_seconds = away_seconds
        self._receipt_seconds = receipt_seconds
        # Since when deliveries, and looks at the worker, get no answer. Apart, because a worker may do one and not
        # the other.
        self._silent: dict[str, float] = {}
        self._drains: set[Drain] = set()
        self._senders: list[Sender[Waiter]] = []
        self._wakes: dict[bytes, asyncio.Event] = {}
        self._waiters: set[Waiter] = set()
        self._process = _processes.number

    def put(  # noqa: PLR0917 - once per event: keywords cost a tenth of the call
        self, slice_id: SliceId, route: Route, key_id: bytes, event_type: str, user_key: bytes, id_key: bytes | None
    ) -> tuple[Waiter, int]:
        """Put an event into the slice's open batch.

        Returns:
            The future of the batch, and the event's position in it.

        Raises:
            NotTaken: the queue, or the spool, is full, or the slice is parked.
            SliceClosed: the worker has closed the slice.
        """
        sender = self._admitting()
        placed = sender.add(slice_id, route, key_id, event_type, user_key, id_key)
        self._wakes[sender.stream].set()
        return placed

    def extend(self, slice_id: SliceId, route: Route, key_id: bytes, events: Events) -> list[Placed[Waiter]]:
        """Put many events of a slice at once: all, or none; see ``Sender.extend``.

        Raises:
            NotTaken, SliceClosed: as ``put``.
        """
        sender = self._admitting()
        placed = sender.extend(slice_id, route, key_id, events)
        self._wakes[sender.stream].set()
        return placed

    def retry_parked(self) -> None:
        """Try what was parked at once: something has changed at the worker."""
        for sender in self._senders:
            sender.retry_parked()
        self._wake_all()

    def give_up(self) -> None:
        """Tell everybody who still waits that the outcome is not known."""
        for waiter in list(self._waiters):
            if not waiter.done():
                waiter.set_result(None)

    def parked(self) -> dict[SliceId, Parked]:
        """The parked slices of all streams."""
        return {at: parked for sender in self._senders for at, parked in sender.parked().items()}

    def queued(self) -> tuple[int, int]:
        """Events and bytes that wait for an answer, parked ones apart."""
        return sum(it.events_queued for it in self._senders), sum(it.bytes_queued for it in self._senders)

    @property
    def is_idle(self) -> bool:
        """Whether every batch is answered for."""
        return all(sender.is_empty for sender in self._senders)

    def drain_spools(self) -> None:
        """Begin to drain what leads to this worker, where nothing does so yet, and no stream is still filling it."""
        filling = {sender.stream for sender in self._senders if not sender.retired or sender.must_spill}
        # Asked of the drains: they know the name of a stream that they renumber into before it is in the spool.
        draining = {stream for drain in self._drains for stream in drain.streams}
        for source in self._room.streams(self._worker):
            if source.stream not in filling and source.stream not in draining:
                drain = Drain(source=source, room=self._room, empty_batch=self._empty_batch, log=self._log)
                self._drains.add(drain)
                self._tasks.start(f"drain-{self._worker}", self._drain(drain))

    def go_away(self) -> None:
        """From now on, until the worker answers, its events go to the spool."""
        if not self.is_away:
            self._log.warning("spooling_begins")
        self.is_away = True
        self.gone.set()
        self._wake_all()

    def come_back(self) -> None:
        """The worker answers again: live events go to it at once, and what was spooled follows beside them."""
        if self.is_away:
            self._log.info("spooling_ends")
        self.is_away = False
        self._silent.clear()
        self._wake_all()

    def was_silent(self, what: str, started: float, error: Exception) -> None:
        """A call that began then got no answer; who answers, though with a refusal, is not away."""
        if not isinstance(error, PeerAway):
            self._silent.pop(what, None)
            return
        if what not in self._silent:
            self._silent[what] = started
            asyncio.get_running_loop().call_at(started + self._away_seconds, self._still_silent, what, started)

    def heard(self, what: str) -> None:
        """A call got its answer."""
        self._silent.pop(what, None)

    def _admitting(self) -> Sender[Waiter]:
        """The stream that new events go into.

        Raises:
            NotTaken: the spool is full, or too much is parked.
        """
        if self.is_away and (full := self._room.refusal()) is not None:
            raise NotTaken(full)
        if len(self._senders) > 1 and (parked := sum(it.parked_events for it in self._senders)) >= PARKED_EVENTS_MAX:
            # Each stream has this bound too; those that end only when a slice is unparked add up.
            message = f"the worker refuses slices that hold {parked} events"
            raise NotTaken(message)
        return self._current()

    def _current(self) -> Sender[Waiter]:
        # A forked process must not go on with the numbers of its parent.
        if self._senders and not self._senders[-1].retired and self._process == _processes.number:
            return self._senders[-1]
        self._process = _processes.number
        sender = Sender(stream=os.urandom(STREAM_BYTES), new_waiter=self._new_waiter, is_over=attrgetter("is_over"))
        self._senders.append(sender)
        self._wakes[sender.stream] = asyncio.Event()
        self._tasks.start(f"deliver-{self._worker}", self._deliver(sender))
        return sender

    def _new_waiter(self) -> Waiter:
        waiter = Waiter(seconds=self._receipt_seconds)
        self._waiters.add(waiter)
        waiter.add_done_callback(self._waiters.discard)
        return waiter

    async def _deliver(self, sender: Sender[Waiter]) -> None:
        loop = asyncio.get_running_loop()
        backoff = BACKOFF_FIRST_SECONDS
        while not (sender.retired and sender.is_empty):
            if sender.has_spooled and not self.is_away:
                # The worker is back: live events go on in a new stream at once, beside this one, which only drains.
                sender.retired = True
            if self.is_away or sender.must_spill:
                await self._spill(sender)
                continue
            if sender.has_spooled:
                self.drain_spools()
            flight = sender.take(loop.time())
            if flight is None:
                await self._wait(sender)
                continue
            started = loop.time()
            try:
                reply = await self._send(sender.stream, flight, spooled=False, seconds=self._patience(started))
                verdicts = sender.answered(flight, reply.receipts, loop.time())
            except (PeerError, WireError) as error:
                sender.failed(flight)
                self._tell_failed(error)
                self.was_silent("delivery", started, error)
                backoff = await self._back_off(sender, backoff)
                continue
            backoff = BACKOFF_FIRST_SECONDS
            self.heard("delivery")
            for verdict in verdicts:
                self._act(verdict)
        self._senders.remove(sender)
        del self._wakes[sender.stream]
        self.drain_spools()

    async def _wait(self, sender: Sender[Waiter]) -> None:
        """Until there is something new to send, or a parked slice is due."""
        wake = self._wakes[sender.stream]
        due = sender.wake_at()
        try:
            async with asyncio.timeout_at(due):
                await wake.wait()
        except TimeoutError:
            return
        wake.clear()

    async def _back_off(self, sender: Sender[Waiter], seconds: float) -> float:
        """Wait, but not when the worker is away by now; tell how long to wait the next time."""
        wake = self._wakes[sender.stream]
        wake.clear()
        deadline = asyncio.get_running_loop().time() + jittered(seconds)
        while not self.is_away and asyncio.get_running_loop().time() < deadline:
            try:
                async with asyncio.timeout_at(deadline):
                    await wake.wait()  # also set by every new event
            except TimeoutError:
                break
            wake.clear()
        wake.set()
        return min(seconds * 2, BACKOFF_MOST_SECONDS)

    def _act(self, verdict: Verdict[Waiter]) -> None:
        if isinstance(verdict, Moved):
            # The stream is retired, so this draws a new one, before any newer event can get into it.
            current = self._current()
            for batch in verdict.batches:
                current.adopt(batch, regressed=verdict.regressed)
            self._wakes[current.stream].set()
            if verdict.regressed:
                # What was known of the slice is more than what the worker still has.
                self._forget(verdict.slice)
            what = "stream_regressed" if verdict.regressed else "stream_conflict"
            self._metrics.stream_faults.labels(what).inc()
            self._log.error(what, slice=verdict.slice, batches=len(verdict.batches))
        elif not verdict.waiter.done():
            verdict.waiter.set_result(verdict)

    async def _spill(self, sender: Sender[Waiter]) -> None:
        """Put what is unanswered into the spool; if there is nothing, wait until there is, or the worker is back."""
        batches = sender.spill()
        if not batches:
            await self._wakes[sender.stream].wait()
            self._wakes[sender.stream].clear()
            return
        if self.is_away and self._room.refusal() is not None:
            # Full, or turned off: they stay in the queue, and its bound, until there is room or the worker is back.
            # Then they follow their lower numbers in, or those would never get out: it drains when this stream is done.
            await asyncio.sleep(BACKOFF_MOST_SECONDS)
            return
        try:
            kept = [(sender.stream, batch.raw) for batch in batches]
            await self._room.keep(self._cluster(), self._worker, kept)
        except NotTaken:
            # Nobody was told anything; they stay in the queue, and its bound.
            await asyncio.sleep(BACKOFF_MOST_SECONDS)
            return
        for spooled in sender.spilled(batches):
            if not spooled.waiter.done():
                spooled.waiter.set_result(spooled)
        await asyncio.sleep(SPILL_PAUSE_SECONDS)

    async def _drain(self, drain: Drain) -> None:
        """Deliver a stream from the spool; a task's body."""
        loop = asyncio.get_running_loop()
        backoff = BACKOFF_FIRST_SECONDS
        try:
            while not drain.is_done:
                taken = await drain.take(loop.time())
                if taken is None:
                    due = drain.wake_at()
                    await asyncio.sleep(BACKOFF_FIRST_SECONDS if due is None else max(0.0, due - loop.time()))
                    continue
                sender, flight = taken
                try:
                    reply = await self._send(sender.stream, flight, spooled=True, seconds=self._away_seconds)
                    await drain.answered(sender, flight, reply.receipts, loop.time())
                except (PeerError, WireError) as error:
                    sender.failed(flight)
                    self._tell_failed(error)
                    await asyncio.sleep(jittered(backoff))
                    backoff = min(backoff * 2, BACKOFF_MOST_SECONDS)
                    continue
                backoff = BACKOFF_FIRST_SECONDS
            await self._room.remove_drained()
        except (NoAnswer, *STORE_ERRORS) as error:
            # The route of a damaged record is not known right now; or what is in memory may be ahead of the disk.
            # Begin again with what is there.
            self._log.error("drain_failed", error=error)
            await asyncio.sleep(BACKOFF_MOST_SECONDS)
        finally:
            self._drains.discard(drain)
        self.drain_spools()

    def _tell_failed(self, error: PeerError | WireError) -> None:
        """Name an envelope that the worker answered, though not with receipts: its log knows the rest."""
        if isinstance(error, PeerError) and error.answered:
            self._log.warning("delivery_failed", request_id=error.request_id, error=error)

    def _still_silent(self, what: str, since: float) -> None:
        if self._silent.get(what) == since:
            self.go_away()

    def _patience(self, started: float) -> float:
        """How long a delivery may take: until the worker would be away by it, and a moment in any case."""
        since = self._silent.get("delivery", started)
        return max(PATIENCE_LEAST_SECONDS, since + self._away_seconds - started)

    def _wake_all(self) -> None:
        for wake in self._wakes.values():
            wake.set()


def jittered(seconds: float) -> float:
    """Half to full: many nodes must not come back in step when a worker does."""
    return seconds * (0.5 + random.random() / 2)  # noqa: S311 - jitter
