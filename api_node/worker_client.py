"""The link to one worker: who it is, how it is, what it holds; its streams are in ``delivery.py``.

A link speaks to a worker only after it made sure that it is the one the cluster knows: the right id, the cluster, and
the data directory that the pins name. Every call tells how the worker is; while nobody calls, the link looks.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Self

from api_node.delivery import AWAY_SECONDS, RECEIPT_SECONDS, Delivery, EmptyBatch, Waiter, jittered
from common.errors import NotTaken, PeerAway, PeerError, PeerRefuses, WireError
from common.tasks import Tasks
from common.wire import Answer, Envelope, Held, Identity, Join, Outcome, Question, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from api_node.membership import Membership
    from api_node.node_metrics import ApiMetrics
    from api_node.peer import Peer
    from api_node.sender import Events, Flight, Placed
    from api_node.spool_room import SpoolRoom
    from api_node.summary_cache import SummaryCache
    from common.logs import Log
    from common.routing import Route, WorkerId
    from common.slices import SliceId
    from common.tracing import Tracing
    from common.wire import Pins

QUESTION_SECONDS = 3.0
IDENTITY_SECONDS = 1.0
WATCH_SECONDS, WATCH_TROUBLE_SECONDS = 5.0, 0.5


class WorkerLink:
    """One worker. An async context manager.

    Attributes:
        worker: its id.
        peer: how it is reached.
        cache: its summaries.
        delivery: the streams that lead to it.
        trouble: why the last call failed; None while it answers.
        refusal: why this is not the worker that the cluster knows; None if it is, or nobody asked yet.
    """

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
        receipt_seconds: float = RECEIPT_SECONDS,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self.worker = worker
        self.peer = peer
        self.cache = cache
        self.trouble: str | None = None
        self.refusal: str | None = None
        self._membership = membership
        self._learn_route = learn_route
        self._metrics = metrics
        self._delivery_seconds = metrics.delivery_seconds.labels(worker)
        self._log = log.bind(worker=worker)
        self._watch_seconds = watch_seconds
        self._tasks = Tasks(log=self._log)
        self.delivery = Delivery(
            worker=worker,
            send=self._send if tracing is None else self._send_traced,
            room=room,
            cluster=lambda: membership.cluster,
            empty_batch=empty_batch,
            forget=cache.forget,
            tasks=self._tasks,
            metrics=metrics,
            log=self._log,
            away_seconds=away_seconds,
            receipt_seconds=receipt_seconds,
        )
        self._joined_as: str | None = None
        self._joining = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Begin; nothing is sent before there is something to send."""
        await self._tasks.__aenter__()
        self._tasks.start(f"watch-{self.worker}", self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Stop; those who still wait learn that the outcome is not known."""
        self.delivery.give_up()
        await self._tasks.__aexit__(kind, error, at)
        self._metrics.delivery_seconds.remove(self.worker)

    def put(  # noqa: PLR0917 - once per event: keywords cost a tenth of the call
        self, slice_id: SliceId, route: Route, key_id: bytes, event_type: str, user_key: bytes, id_key: bytes | None
    ) -> tuple[Waiter, int]:
        """Put an event on its way; see Delivery.put.

        Raises:
            NotTaken: this is not the worker that the cluster knows, or its queue does not take the event.
            SliceClosed: the worker has closed the slice.
        """
        if self.refusal is not None:
            raise NotTaken(self.refusal)
        return self.delivery.put(slice_id, route, key_id, event_type, user_key, id_key)

    def extend(self, slice_id: SliceId, route: Route, key_id: bytes, events: Events) -> list[Placed[Waiter]]:
        """Put many events of a slice on their way: all, or none; see Delivery.extend.

        Raises:
            NotTaken, SliceClosed: as ``put``.
        """
        if self.refusal is not None:
            raise NotTaken(self.refusal)
        return self.delivery.extend(slice_id, route, key_id, events)

    async def ask(
        self, slices: Sequence[SliceId], *, seconds: float = QUESTION_SECONDS, request_id: str | None = None
    ) -> dict[SliceId, Held]:
        """The worker's summaries of the slices; what it holds nothing of is not in the answer.

        Raises:
            PeerError: no answer.
            WireError: an answer that is none.
        """
        held, unreadable = await self.look(slices, seconds=seconds, request_id=request_id)
        if unreadable:
            message = f"worker {self.worker} cannot read slice {unreadable[0]}"
            raise PeerRefuses(message, slug="quarantined")
        return held

    async def look(
        self, slices: Sequence[SliceId], *, seconds: float = QUESTION_SECONDS, request_id: str | None = None
    ) -> tuple[dict[SliceId, Held], tuple[SliceId, ...]]:
        """The same, and which of the slices the worker cannot read.

        Raises:
            PeerError: no answer.
            WireError: an answer that is none.
        """
        answer = await self._question(seconds, slices=tuple(slices), request_id=request_id)
        return {held.summary.slice: held for held in answer.held}, answer.unreadable

    async def ask_all(
        self, until: SliceId, *, seconds: float = QUESTION_SECONDS, request_id: str | None = None
    ) -> list[Held]:
        """The worker's summaries of all slices up to one.

        Raises:
            PeerError: no answer.
            WireError: an answer that is none.
        """
        found: list[Held] = []
        after: SliceId | None = None
        while True:
            answer = await self._question(seconds, until=until, after=after, request_id=request_id)
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
        self.delivery.retry_parked()

    def reason(self) -> str | None:
        """For readiness: what of the link died."""
        return self._tasks.reason()

    def state(self) -> Literal["ok", "away", "refused", "unknown"]:
        """One word for /cluster: ``ok``, ``away``, ``refused`` or ``unknown`` (not spoken to yet)."""
        if self.refusal is not None:
            return "refused"
        if self.trouble is not None:
            return "away"
        return "unknown" if self._joined_as is None else "ok"

    async def _send(self, stream: bytes, flight: Flight[Any], *, spooled: bool, seconds: float) -> Reply:
        """Send an envelope; what its receipts tell of slices is noted.

        Raises:
            PeerError: no reply.
            WireError: a reply that is none.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            uuid, reply = await self._post(stream, flight, spooled=spooled, seconds=seconds)
        except (PeerError, WireError) as error:
            self._failed(error)
            raise
        self._succeeded()
        self._delivery_seconds.observe(loop.time() - started)
        self._metrics.delivered(flight)
        if reply.worker == uuid:  # another cluster counts its own claims
            self._membership.saw_claims(reply.claims)
        for receipt in reply.receipts:
            if receipt.held is not None:
                self.cache.note(receipt.held)
            if receipt.outcome in (Outcome.WRONG_CLUSTER, Outcome.WRONG_WORKER):
                self._joined_as = None  # find out who answers there now
            self._metrics.batches.labels(receipt.outcome.value).inc()
        return reply

    async def _send_traced(self, stream: bytes, flight: Flight[Any], *, spooled: bool, seconds: float) -> Reply:
        """The same, in a span of the requests in it that are sampled.

        Raises:
            PeerError, WireError: as ``_send``.
        """
        assert self._tracing is not None  # noqa: S101 - as it was chosen
        requests = [one for batch in flight.batches for one in getattr(batch.waiter, "traces", ())]
        with self._tracing.delivery(requests, worker=self.worker, batches=len(flight.batches)):
            return await self._send(stream, flight, spooled=spooled, seconds=seconds)

    async def _post(self, stream: bytes, flight: Flight[Any], *, spooled: bool, seconds: float) -> tuple[str, Reply]:
        uuid = await self._join()
        envelope = Envelope(
            cluster=self._membership.cluster,
            worker=uuid,
            stream=stream,
            claims=self._membership.claims,
            batches=tuple(batch.raw for batch in flight.batches),
            spooled=spooled,
        )
        return uuid, await self.peer.post_packed("/batches", envelope, Reply, seconds=seconds)

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
                    self.delivery.heard("watch")
                    if self.delivery.is_away:
                        self.delivery.come_back()
                self._succeeded()
            except (PeerError, WireError) as error:
                self._failed(error)
                self.delivery.was_silent("watch", started, error)
            well = self.trouble is None and self._joined_as is not None and not self.delivery.is_away
            pause = self._watch_seconds if well else min(self._watch_seconds, WATCH_TROUBLE_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(jittered(pause)):
                    await self.delivery.gone.wait()
            self.delivery.gone.clear()

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
        request_id: str | None = None,
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
                answer = await self.peer.post_packed(
                    "/summaries", question, Answer, seconds=seconds, request_id=request_id
                )
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

    def _failed(self, error: Exception) -> None:
        if self.trouble is None:
            self._log.warning("worker_away", error=error)
        self.trouble = str(error)

    def _succeeded(self) -> None:
        if self.trouble is not None:
            self._log.info("worker_back")
        self.trouble = None


def _another(text: str) -> PeerRefuses:
    return PeerRefuses(text, slug="wrong-worker")
