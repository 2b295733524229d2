"""The links to the workers: each drives its streams over HTTP, asks its worker's summaries, and knows how it is.

Natural batching: one envelope per stream is in flight; everything that arrives meanwhile forms the next. No timer.

::

    put --> Sender.add                     _deliver, one task per stream:
            wakes                              take -> POST /batches -> answered -> futures of the batches
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
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from api_node.drain import Drain
from api_node.peer import Peer
from api_node.sender import PARKED_EVENTS_MAX, Closed, Done, Moved, Sender, Spooled, TurnedAway, Verdict
from api_node.summary_cache import SummaryCache
from common.config import ClusterConfig
from common.errors import NotTaken, PeerAway, PeerError, PeerRefuses, WireError
from common.lmdb_file import STORE_ERRORS
from common.tasks import Tasks
from common.wire import (
    STREAM_BYTES,
    Answer,
    Envelope,
    Held,
    Identity,
    Join,
    Outcome,
    Question,
    Reply,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from types import TracebackType

    import aiohttp

    from api_node.membership import Membership
    from api_node.node_metrics import ApiMetrics
    from api_node.sender import Flight, Parked
    from api_node.spool_room import SpooledStream, SpoolRoom
    from common.logs import Log
    from common.routing import Route, WorkerId
    from common.slices import SliceId
    from common.wire import Batch, Pins

AWAY_SECONDS = 3.0  # without an answer: far beyond a slow commit, and a restart goes unnoticed
BACKOFF_FIRST_SECONDS, BACKOFF_MOST_SECONDS = 0.02, 0.5
PATIENCE_LEAST_SECONDS = 0.1  # of a delivery: less would not even reach a healthy worker
SPILL_PAUSE_SECONDS = 0.05  # while a worker is away: fewer, larger records, and nobody waits long
QUESTION_SECONDS = 3.0
IDENTITY_SECONDS = 1.0
WATCH_SECONDS, WATCH_TROUBLE_SECONDS = 5.0, 0.5

Waiter: TypeAlias = "asyncio.Future[Done[Any] | Closed[Any] | TurnedAway[Any] | Spooled[Any] | None]"
"""Gets what became of a batch; None when the node stops before that is known."""
EmptyBatch: TypeAlias = "Callable[[SliceId, int], Awaitable[Batch]]"
"""Makes a batch without events of a slice, under a number, to stand for a damaged one in the spool."""


class WorkerLink:
    """One worker: its streams, its questions, its state. An async context manager."""

    def __init__(
        self,
        *,
        worker: WorkerId,
        peer: Peer,
        membership: Membership,
        cache: SummaryCache,
        learn_route: Callable[[SliceId, Route], None],
        room: SpoolRoom,
        empty_batch: EmptyBatch,
        metrics: ApiMetrics,
        log: Log,
        watch_seconds: float = WATCH_SECONDS,
        away_seconds: float = AWAY_SECONDS,
    ) -> None:
        self.worker = worker
        self.peer = peer
        self.cache = cache
        self.trouble: str | None = None  # why the last call failed; None while it answers
        self.refusal: str | None = None  # why this is not the worker that the cluster knows
        self._membership = membership
        self._learn_route = learn_route
        self._metrics = metrics
        self._log = log.bind(worker=worker)
        self._room = room
        self._empty_batch = empty_batch
        self._watch_seconds = watch_seconds
        self._away_seconds = away_seconds
        self._away = False
        self._gone = asyncio.Event()  # away just now: look after the worker at once, and then often
        # Since when deliveries, and looks at the worker, get no answer. Apart, because a worker may do one and not
        # the other.
        self._silent: dict[str, float] = {}
        self._draining: set[bytes] = set()
        self._tasks = Tasks(log=self._log)
        self._senders: list[Sender[Waiter]] = []
        self._wakes: dict[bytes, asyncio.Event] = {}
        self._waiters: set[Waiter] = set()
        self._joined_as: str | None = None
        self._joining = asyncio.Lock()
        self._process = os.getpid()

    async def __aenter__(self) -> Self:
        """Begin; nothing is sent before there is something to send."""
        await self._tasks.__aenter__()
        self._tasks.start(f"watch-{self.worker}", self._watch())
        self._metrics.queue_events.labels(self.worker).set_function(lambda: self.queued()[0])
        self._metrics.parked_slices.labels(self.worker).set_function(lambda: len(self.parked()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Stop; those who still wait learn that the outcome is not known."""
        self.give_up()
        await self._tasks.__aexit__(kind, error, at)
        self._metrics.queue_events.remove(self.worker)
        self._metrics.parked_slices.remove(self.worker)

    def put(  # noqa: PLR0917 - once per event: keywords cost a tenth of the call
        self, slice_id: SliceId, route: Route, key_id: bytes, event_type: str, user_key: bytes, id_key: bytes | None
    ) -> tuple[Waiter, int]:
        """Put an event into the slice's open batch.

        Returns:
            The future of the batch, and the event's position in it.

        Raises:
            NotTaken: the queue is full, the slice is parked, or this is not the worker that the cluster knows.
            SliceClosed: the worker has closed the slice.
        """
        if self.refusal is not None:
            raise NotTaken(self.refusal)
        if self._away and (full := self._room.refusal()) is not None:
            raise NotTaken(full)
        if len(self._senders) > 1 and (parked := sum(it.parked_events for it in self._senders)) >= PARKED_EVENTS_MAX:
            # Each stream has this bound too; those that end only when a slice is unparked add up.
            message = f"the worker refuses slices that hold {parked} events"
            raise NotTaken(message)
        sender = self._current()
        placed = sender.add(slice_id, route, key_id, event_type, user_key, id_key)
        self._wakes[sender.stream].set()
        return placed

    async def ask(self, slices: Sequence[SliceId], *, seconds: float = QUESTION_SECONDS) -> dict[SliceId, Held]:
        """The worker's summaries of the slices; what it holds nothing of is not in the answer.

        Raises:
            PeerError: no answer.
            WireError: an answer that is none.
        """
        answer = await self._question(seconds, slices=tuple(slices))
        if answer.unreadable:
            message = f"worker {self.worker} cannot read slice {answer.unreadable[0]}"
            raise PeerRefuses(message, slug="quarantined")
        return {held.summary.slice: held for held in answer.held}

    async def ask_all(self, until: SliceId, *, seconds: float = QUESTION_SECONDS) -> list[Held]:
        """The worker's summaries of all slices up to one.

        Raises:
            PeerError: no answer.
            WireError: an answer that is none.
        """
        found: list[Held] = []
        after: SliceId | None = None
        while True:
            answer = await self._question(seconds, until=until, after=after)
            if answer.unreadable:
                message = f"worker {self.worker} cannot read slice {answer.unreadable[0]}"
                raise PeerRefuses(message, slug="quarantined")
            found += answer.held
            if not answer.more or not answer.held:
                return found
            after = answer.held[-1].summary.slice

    async def identity(self) -> Identity:
        """Who answers at the worker's URL.

        Raises:
            PeerError: no answer.
        """
        return await self.peer.get_json("/identity", Identity, seconds=IDENTITY_SECONDS)

    def moved(self) -> None:
        """The worker has another URL now: find out who answers there, and try what was parked."""
        self._joined_as = None
        self.refusal = None
        for sender in self._senders:
            sender.retry_parked()
            self._wakes[sender.stream].set()

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

    def reason(self) -> str | None:
        """For readiness: what of the link died."""
        return self._tasks.reason()

    @property
    def is_idle(self) -> bool:
        """Whether every batch is answered for."""
        return all(sender.is_empty for sender in self._senders)

    def state(self) -> str:
        """One word for /cluster: ``ok``, ``away``, ``refused`` or ``unknown`` (not spoken to yet)."""
        if self.refusal is not None:
            return "refused"
        if self.trouble is not None:
            return "away"
        return "unknown" if self._joined_as is None else "ok"

    def _current(self) -> Sender[Waiter]:
        # A forked process must not go on with the numbers of its parent.
        if self._senders and not self._senders[-1].retired and self._process == os.getpid():
            return self._senders[-1]
        self._process = os.getpid()
        sender: Sender[Waiter] = Sender(stream=os.urandom(STREAM_BYTES), new_waiter=self._new_waiter)
        self._senders.append(sender)
        self._wakes[sender.stream] = asyncio.Event()
        self._tasks.start(f"deliver-{self.worker}", self._deliver(sender))
        return sender

    def _new_waiter(self) -> Waiter:
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        waiter.add_done_callback(self._waiters.discard)
        return waiter

    async def _deliver(self, sender: Sender[Waiter]) -> None:
        loop = asyncio.get_running_loop()
        backoff = BACKOFF_FIRST_SECONDS
        while not (sender.retired and sender.is_empty):
            if sender.has_spooled and not self._away:
                # The worker is back: live events go on in a new stream at once, beside this one, which only drains.
                sender.retired = True
            if self._away or sender.must_spill:
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
                self._failed(error)
                self._was_silent("delivery", started, error)
                backoff = await self._back_off(sender, backoff)
                continue
            backoff = BACKOFF_FIRST_SECONDS
            self._silent.pop("delivery", None)
            self._succeeded()
            for verdict in verdicts:
                self._act(verdict)
        self._senders.remove(sender)
        del self._wakes[sender.stream]
        self.drain_spools()

    async def _send(self, stream: bytes, flight: Flight[Any], *, spooled: bool, seconds: float) -> Reply:
        """Send an envelope; what its receipts tell of slices is noted.

        Raises:
            PeerError: no reply.
            WireError: a reply that is none.
        """
        uuid = await self._join()
        envelope = Envelope(
            cluster=self._membership.cluster,
            worker=uuid,
            stream=stream,
            claims=self._membership.claims,
            batches=tuple(batch.raw for batch in flight.batches),
            spooled=spooled,
        )
        reply = await self.peer.post_packed("/batches", envelope, Reply, seconds=seconds)
        if reply.worker == uuid:  # another cluster counts its own claims
            self._membership.saw_claims(reply.claims)
        for receipt in reply.receipts:
            if receipt.held is not None:
                self._note(receipt.held)
            if receipt.outcome in (Outcome.WRONG_CLUSTER, Outcome.WRONG_WORKER):
                self._joined_as = None  # find out who answers there now
            self._metrics.batches.labels(receipt.outcome.value).inc()
        return reply

    async def _spill(self, sender: Sender[Waiter]) -> None:
        """Put what is unanswered into the spool; if there is nothing, wait until there is, or the worker is back."""
        batches = sender.spill()
        if not batches:
            await self._wakes[sender.stream].wait()
            self._wakes[sender.stream].clear()
            return
        if self._room.refusal() is not None:
            # Full, or turned off: they stay in the queue, and its bound, until there is room or the worker is back.
            await asyncio.sleep(BACKOFF_MOST_SECONDS)
            return
        try:
            kept = [(sender.stream, batch.raw) for batch in batches]
            await self._room.keep(self._membership.cluster, self.worker, kept)
        except NotTaken:
            # Nobody was told anything; they stay in the queue, and its bound.
            await asyncio.sleep(BACKOFF_MOST_SECONDS)
            return
        for spooled in sender.spilled(batches):
            if not spooled.waiter.done():
                spooled.waiter.set_result(spooled)
        await asyncio.sleep(SPILL_PAUSE_SECONDS)

    def drain_spools(self) -> None:
        """Begin to drain what leads to this worker, where nothing does so yet, and no stream is still filling it."""
        filling = {sender.stream for sender in self._senders if not sender.retired or sender.must_spill}
        for source in self._room.streams(self.worker):
            if source.stream not in filling and source.stream not in self._draining:
                self._draining.add(source.stream)
                self._tasks.start(f"drain-{self.worker}", self._drain(source))

    async def _drain(self, source: SpooledStream) -> None:
        """Deliver a stream from the spool; a task's body."""
        loop = asyncio.get_running_loop()
        drain = Drain(source=source, room=self._room, empty_batch=self._empty_batch, log=self._log)
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
                    self._failed(error)
                    await asyncio.sleep(_jittered(backoff))
                    backoff = min(backoff * 2, BACKOFF_MOST_SECONDS)
                    continue
                backoff = BACKOFF_FIRST_SECONDS
                self._draining |= drain.streams
            await self._room.remove_drained()
        except STORE_ERRORS as error:
            # What is in memory may be ahead of the disk: begin again with what is there.
            self._log.error("drain_failed", error=error)
            await asyncio.sleep(BACKOFF_MOST_SECONDS)
        finally:
            self._draining -= drain.streams
        self.drain_spools()

    def _was_silent(self, what: str, started: float, error: Exception) -> None:
        """A call that began then got no answer; who answers, though with a refusal, is not away."""
        if not isinstance(error, PeerAway):
            self._silent.pop(what, None)
            return
        if what not in self._silent:
            self._silent[what] = started
            asyncio.get_running_loop().call_at(started + self._away_seconds, self._still_silent, what, started)

    def _still_silent(self, what: str, since: float) -> None:
        if self._silent.get(what) == since:
            self.go_away()

    def _patience(self, started: float) -> float:
        """How long a delivery may take: until the worker would be away by it, and a moment in any case."""
        since = self._silent.get("delivery", started)
        return max(PATIENCE_LEAST_SECONDS, since + self._away_seconds - started)

    async def _back_off(self, sender: Sender[Waiter], seconds: float) -> float:
        """Wait, but not when the worker is away by now; tell how long to wait the next time."""
        wake = self._wakes[sender.stream]
        wake.clear()
        deadline = asyncio.get_running_loop().time() + _jittered(seconds)
        while not self._away and asyncio.get_running_loop().time() < deadline:
            try:
                async with asyncio.timeout_at(deadline):
                    await wake.wait()  # also set by every new event
            except TimeoutError:
                break
            wake.clear()
        wake.set()
        return min(seconds * 2, BACKOFF_MOST_SECONDS)

    def go_away(self) -> None:
        """From now on, until the worker answers, its events go to the spool."""
        if not self._away:
            self._log.warning("spooling_begins")
        self._away = True
        self._gone.set()
        self._wake_all()

    def _came_back(self) -> None:
        if self._away:
            self._log.info("spooling_ends")
        self._away = False
        self._silent.clear()
        self._wake_all()

    def _wake_all(self) -> None:
        for wake in self._wakes.values():
            wake.set()

    async def _watch(self) -> None:
        """Look after the worker while nobody asks it anything, so that its state is known; a task's body."""
        await self._membership.joined.wait()
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                uuid = await self._join()
                identity = await self.identity()
                if identity.uuid != uuid or identity.id != self.worker:
                    self._joined_as = None  # whose claims it counts is not known either
                else:
                    self._membership.saw_claims(identity.claims)
                    self._silent.pop("watch", None)
                    if self._away:
                        self._came_back()
                self._succeeded()
            except (PeerError, WireError) as error:
                self._failed(error)
                self._was_silent("watch", started, error)
            well = self.trouble is None and self._joined_as is not None and not self._away
            pause = self._watch_seconds if well else min(self._watch_seconds, WATCH_TROUBLE_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(_jittered(pause)):
                    await self._gone.wait()
            self._gone.clear()

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

    def _act(self, verdict: Verdict[Waiter]) -> None:
        if isinstance(verdict, Moved):
            # The stream is retired, so this draws a new one, before any newer event can get into it.
            current = self._current()
            for batch in verdict.batches:
                current.adopt(batch, regressed=verdict.regressed)
            self._wakes[current.stream].set()
            if verdict.regressed:
                # What was known of the slice is more than what the worker still has.
                self.cache.forget(verdict.slice)
            what = "stream_regressed" if verdict.regressed else "stream_conflict"
            self._metrics.stream_faults.labels(what).inc()
            self._log.error(what, slice=verdict.slice, batches=len(verdict.batches))
        elif not verdict.waiter.done():
            verdict.waiter.set_result(verdict)

    async def _join(self) -> str:
        """Make sure that this is the worker the cluster knows; the uuid of its data directory.

        Raises:
            PeerAway: it, or the registry, does not answer.
            PeerRefuses: it is another; ``refusal`` says how.
        """
        async with self._joining:
            if self._joined_as is not None:
                return self._joined_as
            pins = self._membership.pins
            if pins is None:
                message = f"this node {self._membership.problem}"
                raise PeerAway(message)
            url = self.peer.url
            try:
                uuid = await self._introduce(pins)
            except PeerRefuses as error:
                if self.peer.url == url:
                    raise self._refuse(str(error)) from error
                raise PeerAway(f"worker {self.worker} has moved") from error
            if self.peer.url != url:
                # Whoever answers at the new URL has not been asked.
                raise PeerAway(f"worker {self.worker} has moved")
            if self.refusal is not None:
                self._log.info("worker_accepted")
            self.refusal = None
            self._joined_as = uuid
            return uuid

    async def _introduce(self, pins: Pins) -> str:
        """Find out who answers at the worker's URL, and bring it into the cluster; the uuid of its data directory."""
        identity = await self.identity()
        if identity.id != self.worker:
            raise _another(f"{self.peer.url} answers as worker {identity.id}, not {self.worker}: are URLs swapped?")
        if identity.cluster not in (None, pins.cluster):
            raise _another(f"worker {self.worker} belongs to cluster {identity.cluster}, not {pins.cluster}")
        try:
            pinned = await self._membership.pin_worker(self.worker, identity.uuid)
        except PeerRefuses as error:
            raise _another(f"nobody vouches for worker {self.worker}'s data directory: {error}") from error
        if pinned != identity.uuid:
            raise _another(
                f"worker {self.worker} runs on data directory {identity.uuid}, but the cluster knows it by {pinned}: "
                "is its volume mounted?"
            )
        join = Join(id=self.worker, uuid=identity.uuid, pins=self._membership.pins or pins)
        joined = await self.peer.post_json("/join", join, Identity, seconds=IDENTITY_SECONDS)
        self._membership.saw_claims(joined.claims)
        return joined.uuid

    def _refuse(self, text: str) -> PeerRefuses:
        if self.refusal != text:
            self._log.error("worker_refused", reason=text)
        self.refusal = text
        return PeerRefuses(text, slug="wrong-worker")

    async def _question(
        self,
        seconds: float,
        *,
        slices: tuple[SliceId, ...] | None = None,
        after: SliceId | None = None,
        until: SliceId | None = None,
    ) -> Answer:
        try:
            # Around both: to join takes calls of its own, and others may be waiting for their turn to try.
            async with asyncio.timeout(seconds):
                uuid = await self._join()
                question = Question(
                    cluster=self._membership.cluster,
                    worker=uuid,
                    claims=self._membership.claims,
                    slices=slices,
                    after=after,
                    until=until,
                )
                answer = await self.peer.post_packed("/summaries", question, Answer, seconds=seconds)
        except TimeoutError as error:
            away = PeerAway(f"{self.peer.url} did not answer within {seconds:g} s")
            self._failed(away)
            raise away from error
        except PeerRefuses as error:
            if error.slug in ("wrong-cluster", "wrong-worker"):
                self._joined_as = None
            self._failed(error)
            raise
        except (PeerError, WireError) as error:
            self._failed(error)
            raise
        self._succeeded()
        self._membership.saw_claims(answer.claims)
        for held in answer.held:
            self._learn_route(held.summary.slice, held.route)
        return answer

    def _note(self, held: Held) -> None:
        self.cache.note(held)

    def _failed(self, error: Exception) -> None:
        if self.trouble is None:
            self._log.warning("worker_away", error=error)
        self.trouble = str(error)

    def _succeeded(self) -> None:
        if self.trouble is not None:
            self._log.info("worker_back")
        self.trouble = None


def _jittered(seconds: float) -> float:
    # Half to full: many nodes must not come back in step when a worker does.
    return seconds * (0.5 + random.random() / 2)  # noqa: S311 - jitter


def _another(text: str) -> PeerRefuses:
    return PeerRefuses(text, slug="wrong-worker")


class WorkerPool:
    """The links to all workers of the config; it follows the config. An async context manager."""

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        membership: Membership,
        learn_route: Callable[[SliceId, Route], None],
        token: Callable[[], str | None],
        room: SpoolRoom,
        empty_batch: EmptyBatch,
        metrics: ApiMetrics,
        log: Log,
        watch_seconds: float = WATCH_SECONDS,
        away_seconds: float = AWAY_SECONDS,
    ) -> None:
        self._session = session
        self._membership = membership
        self._learn_route = learn_route
        self._token = token
        self._room = room
        self._empty_batch = empty_batch
        self._away_seconds = away_seconds
        self._metrics = metrics
        self._log = log
        self._watch_seconds = watch_seconds
        self._links: dict[WorkerId, WorkerLink] = {}

    async def __aenter__(self) -> Self:
        """Begin without links; ``follow`` makes them."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Close every link."""
        for link in self._links.values():
            await link.__aexit__(kind, error, at)

    @property
    def links(self) -> Mapping[WorkerId, WorkerLink]:
        """The links, in the order of the config."""
        return self._links

    def link(self, worker: WorkerId) -> WorkerLink:
        """The link to a worker.

        Raises:
            NotTaken: this node's file does not list it.
        """
        found = self._links.get(worker)
        if found is None:
            message = f"worker {worker} holds the slice, but this node's cluster file does not list it"
            raise NotTaken(message)
        return found

    async def follow(self, config: ClusterConfig, switch: Callable[[], None]) -> None:
        """Links as the config lists them. A worker that moved keeps its streams; one that is gone held nothing.

        Args:
            config: the new config.
            switch: makes the node route by it; called when every worker that it proposes has a link, and before any
                link that the old one proposed is closed.
        """
        links: dict[WorkerId, WorkerLink] = {}
        for worker, url in config.worker_nodes.items():
            link = self._links.get(worker)
            if link is None:
                link = WorkerLink(
                    worker=worker,
                    peer=Peer(session=self._session, url=url, token=self._token),
                    membership=self._membership,
                    cache=SummaryCache(ttl_seconds=config.cache_ttl_seconds, timer=asyncio.get_running_loop().time),
                    learn_route=self._learn_route,
                    room=self._room,
                    empty_batch=self._empty_batch,
                    away_seconds=self._away_seconds,
                    metrics=self._metrics,
                    log=self._log,
                    watch_seconds=self._watch_seconds,
                )
                await link.__aenter__()
            elif link.peer.url != url:
                link.peer.url = url
                link.moved()
            link.cache.follow(config.cache_ttl_seconds)
            links[worker] = link
        gone = [link for worker, link in self._links.items() if worker not in links]
        self._links = links
        switch()
        for link in gone:
            await link.__aexit__(None, None, None)

    async def identities(self) -> dict[WorkerId, Identity | PeerError]:
        """Who answers at each worker's URL, or why nobody does."""

        async def one(link: WorkerLink) -> Identity | PeerError:
            try:
                return await link.identity()
            except PeerError as error:
                return error
            except WireError as error:
                return PeerAway(str(error))

        links = list(self._links.values())
        return dict(zip((link.worker for link in links), await asyncio.gather(*map(one, links)), strict=True))

    async def routes_held(self, slices: Sequence[SliceId]) -> dict[SliceId, Route]:
        """The routes of those slices that some worker holds data of; whoever does not answer is passed over."""

        async def one(link: WorkerLink) -> dict[SliceId, Held]:
            try:
                return await link.ask(slices, seconds=IDENTITY_SECONDS)
            except (PeerError, WireError):
                return {}

        answers = await asyncio.gather(*map(one, list(self._links.values())))
        return {at: held.route for answer in answers for at, held in answer.items() if held.route}

    def drain_spools(self) -> None:
        """Begin to drain what earlier processes left."""
        for link in self._links.values():
            link.drain_spools()

    def hurry(self) -> None:
        """The node is about to stop: what no worker has answered for goes to the spool, so that it is kept."""
        for link in self._links.values():
            if not link.is_idle:
                link.go_away()

    def give_up(self) -> None:
        """Tell everybody who waits that the outcome is not known."""
        for link in self._links.values():
            link.give_up()
