"""Events and questions for a cluster, each event until it is acknowledged, and the model of what was.

::

    answer says    then
    taken          into the model, for sure
    not taken      again
    unknown        again, if it has an id; else into the model, as perhaps counted
    refused        counted by its reason; if an earlier try may have been taken: perhaps counted

The ``id`` of an event makes sending it again safe. Whoever gives up on an event knows whether it may have been counted:
not if each try was refused at the door or could not even connect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.slices import Micros, SliceClock, SliceId
from tallyslice.load.answers import ALL_TAKEN, Outcome, outcome_of
from tallyslice.load.connection import Reply, Target
from tallyslice.load.crowd import JSON, NDJSON, Crowd, Parcel
from tallyslice.load.latency import Latency
from tallyslice.load.order import Order
from tallyslice.load.reconcile import Model, SliceModel

EVENT, BULK, READ = "POST /analytics", "POST /events", "GET /analytics"
"""The kinds of requests."""

_MILLISECOND = 1_000


@dataclass(frozen=True, slots=True)
class Shipment:
    """Events on their way.

    Attributes:
        parcel: the events; None: it is a read.
        body: theirs, as it is sent.
        unsure: whether an earlier try may have been taken.
    """

    parcel: Parcel | None
    body: bytes = b""
    unsure: bool = False


_READ = Shipment(None)


class Traffic:
    """The work of a driver: what an order wants.

    Args:
        order: what to send.
        targets: where the driver sends it.
        crowd: draws the events.
        clock: which slice an event falls into.
        now: the time of day.

    Attributes:
        model: what was acknowledged, and what may be counted besides.
        drawn: how many events were drawn.
        acknowledged: how many of those were answered with success.
        refused: events refused for good, by reason.
        undelivered: events given up on that are surely not counted.
        latencies: by kind, of requests answered with success, since each was due.
        failed_reads: reads without success, by status.
    """

    def __init__(
        self, *, order: Order, targets: Sequence[Target], crowd: Crowd, clock: SliceClock, now: Callable[[], Micros]
    ) -> None:
        self._order = order
        self._targets = targets
        self._crowd = crowd
        self._clock = clock
        self._now = now
        self._requests = 0
        self._kind = EVENT if order.bulk is None else BULK
        self._reads = [target.get("/analytics") for target in targets]
        self.model = Model()
        self.drawn = self.acknowledged = self.undelivered = 0
        self.refused = Counter[str]()
        self.failed_reads = Counter[int]()
        self.latencies = {
            kind: Latency() for kind, share in ((self._kind, 1 - order.reads), (READ, order.reads)) if share
        }

    @property
    def waiting(self) -> int:
        """How many events were drawn and have no final answer yet."""
        settled = self.acknowledged + self.undelivered + self.refused.total() + self.model.events_unknown
        return self.drawn - settled

    def draw(self) -> Shipment | None:
        """The next request that the order wants."""
        self._requests += 1
        if self._order.is_read(self._requests - 1):
            return _READ
        events = self._order.bulk or 1
        if self._order.events is not None:
            events = min(events, self._order.events - self.drawn)
        if events <= 0:
            return None
        parcel = self._crowd.draw(events, self._now())
        self.drawn += events
        return self._shipment(parcel)

    def request(self, item: Shipment, server: int) -> bytes:
        """The same body whenever it is sent, and wherever to."""
        if item.parcel is None:
            return self._reads[server]
        target = self._targets[server]
        if self._kind is BULK:
            return target.post("/events", item.body, content_type=NDJSON)
        return target.post("/analytics", item.body, content_type=JSON)

    def settle(self, item: Shipment, reply: Reply, seconds: float) -> Shipment | None:
        """Take over what an answer says of each event; what is to be sent again."""
        if item.parcel is None:
            self._note_read(reply, seconds)
            return None
        outcome = outcome_of(reply, len(item.parcel), bulk=self._kind is BULK)
        again = self._settle(item, item.parcel, outcome)
        if again is None and reply.good:
            self.latencies[self._kind].record(seconds)
        return again

    def leave(self, item: Shipment, *, under_way: bool) -> None:
        """Give up: until its answer is read, an event may be counted."""
        if item.parcel is None:
            return
        if under_way or item.unsure:
            self._note(self.model.unknown, item.parcel)
        else:
            self.undelivered += len(item.parcel)

    def _shipment(self, parcel: Parcel, *, unsure: bool = False) -> Shipment:
        body = parcel.ndjson() if self._kind is BULK else parcel.json()
        return Shipment(parcel, body, unsure)

    def _note_read(self, reply: Reply, seconds: float) -> None:
        if reply.good:
            self.latencies[READ].record(seconds)
        else:
            self.failed_reads[reply.status] += 1

    def _settle(self, item: Shipment, parcel: Parcel, outcome: Outcome) -> Shipment | None:
        if outcome is ALL_TAKEN:
            self._note_taken(parcel)
            return None
        not_taken, unknown = outcome.not_taken, outcome.unknown
        elsewhere = {*not_taken, *unknown, *(n for n, _ in outcome.refused)}
        self._note_taken(parcel.take([n for n in range(len(parcel)) if n not in elsewhere]))
        self._note_refused(item, parcel, outcome.refused)
        if not self._order.ids:
            self._note(self.model.unknown, parcel.take(unknown))
            unknown = ()
        again = sorted((*not_taken, *unknown))
        if not again:
            return None
        unsure = item.unsure or bool(unknown)
        if len(again) == len(parcel):
            return Shipment(parcel, item.body, unsure)
        return self._shipment(parcel.take(again), unsure=unsure)

    def _note_taken(self, parcel: Parcel) -> None:
        self.acknowledged += len(parcel)
        self._note(self.model.acknowledged, parcel)

    def _note_refused(self, item: Shipment, parcel: Parcel, refused: Sequence[tuple[int, str]]) -> None:
        if item.unsure:
            self._note(self.model.unknown, parcel.take([n for n, _ in refused]))
        else:
            self.refused.update(reason for _, reason in refused)

    def _note(self, into: dict[SliceId, SliceModel], parcel: Parcel) -> None:
        """Count events in a model, slice by slice."""
        if len(parcel) > 1 and (first := self._slice_at(min(parcel.at))) == self._slice_at(max(parcel.at)):
            into[first].add_all(parcel.users, parcel.types)  # as nearly always
            return
        for at, user, event_type in zip(parcel.at, parcel.users, parcel.types, strict=True):
            into[self._slice_at(at)].add(user, event_type)

    def _slice_at(self, milliseconds: int) -> SliceId:
        return self._clock.slice_at(Micros(milliseconds * _MILLISECOND))
