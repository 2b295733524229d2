"""Sender and receiver over a network that loses, repeats and delays: every event is counted exactly once.

The real sender against the real decisions of the receiver; between them a list of envelopes in transit. A model of a
slice file stands for the store: a set of users, counters, and the last number of each stream.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from api_node.sender import Done, Flight, Moved, Sender, TurnedAway
from common.errors import NotTaken
from common.routing import WorkerId
from common.slices import SliceId
from common.wire import Outcome, Receipt, check_of, decode_batch
from worker_node.receiver import StreamRecord, decide

ROUTE = (WorkerId("0"),)
SLICES = 3
FAR = 1e9  # later than every backoff


@dataclass
class SliceFile:
    """What one slice's file holds."""

    users: set[bytes] = field(default_factory=set)
    events: Counter[str] = field(default_factory=Counter)
    streams: dict[bytes, StreamRecord] = field(default_factory=dict)
    regressed: bool = False


class Worker:
    """The receiver's decisions over model files."""

    def __init__(self) -> None:
        self.files: dict[int, SliceFile] = {}
        self.refusing: set[int] = set()

    def receive(self, stream: bytes, raws: tuple[bytes, ...]) -> list[Receipt]:
        return [self._one(stream, raw) for raw in raws]

    def _one(self, stream: bytes, raw: bytes) -> Receipt:
        batch = decode_batch(raw)
        if batch.slice in self.refusing:
            return Receipt(slice=batch.slice, seq=batch.seq, outcome=Outcome.NO_SPACE)
        file = self.files.setdefault(batch.slice, SliceFile())
        decision = decide(file.streams.get(stream), batch.seq, check_of(raw))
        if decision.outcome is Outcome.APPLIED:
            users = [batch.users[at : at + 16] for at in range(0, len(batch.users), 16)]
            file.users.update(users)
            file.events.update(batch.names[kind] for kind in batch.kinds)
            file.streams[stream] = StreamRecord(batch.seq, check_of(raw))
            file.regressed |= batch.regressed
        return Receipt(slice=batch.slice, seq=batch.seq, outcome=decision.outcome, expected=decision.expected)


@dataclass
class Waiter:
    """Collects the events that share a batch, and what was said of them."""

    events: list[tuple[int, str, bytes]] = field(default_factory=list)
    acknowledged: int = 0
    turned_away: int = 0


class Node:
    """The shell around senders: what the worker's client does, without a loop."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.waiters: list[Waiter] = []
        self.senders: list[Sender[Waiter]] = []
        self.in_flight: dict[bytes, Flight[Waiter]] = {}
        self.transit: list[tuple[bytes, tuple[bytes, ...]]] = []  # copies that may still arrive
        self.drawn = 0

    def current(self) -> Sender[Waiter]:
        if not self.senders or self.senders[-1].retired:
            self.drawn += 1
            sender: Sender[Waiter] = Sender(stream=self.drawn.to_bytes(16, "big"), new_waiter=self._waiter)
            self.senders.append(sender)
        return self.senders[-1]

    def put(self, slice_id: int, event_type: str, user: bytes) -> None:
        try:
            waiter, _ = self.current().add(SliceId(slice_id), ROUTE, bytes(8), event_type, user, None)
        except NotTaken:
            return
        waiter.events.append((slice_id, event_type, user))

    def send(self, *, delivered: bool, answered: bool) -> None:
        """One envelope of each stream: it may be lost on the way there, or its reply on the way back."""
        for sender in list(self.senders):
            flight = sender.take(FAR)
            if flight is None:
                continue
            raws = tuple(batch.raw for batch in flight.batches)
            self.transit.append((sender.stream, raws))
            receipts = self.worker.receive(sender.stream, raws) if delivered else None
            if receipts is None or not answered:
                sender.failed(flight)
                continue
            for verdict in sender.answered(flight, receipts, 0.0):
                if isinstance(verdict, Done):
                    verdict.waiter.acknowledged += 1
                elif isinstance(verdict, TurnedAway):
                    verdict.waiter.turned_away += 1
                elif isinstance(verdict, Moved):
                    for batch in verdict.batches:
                        self.current().adopt(batch, regressed=verdict.regressed)

    def arrive_again(self, index: int) -> None:
        """An old copy of an envelope arrives after all; nobody reads the reply."""
        if self.transit:
            self.worker.receive(*self.transit[index % len(self.transit)])

    def _waiter(self) -> Waiter:
        waiter = Waiter()
        self.waiters.append(waiter)
        return waiter


Put = st.tuples(
    st.just("put"),
    st.integers(0, SLICES - 1),
    st.sampled_from(["click", "impression"]),
    st.binary(min_size=16, max_size=16),
)
Send = st.tuples(st.just("send"), st.booleans(), st.booleans())
Again = st.tuples(st.just("again"), st.integers(0, 50))
Refuse = st.tuples(st.just("refuse"), st.integers(0, SLICES - 1))
Accept = st.tuples(st.just("accept"), st.integers(0, SLICES - 1))


def play(node: Node, steps: list[tuple[object, ...]]) -> None:
    for step in steps:
        match step:
            case ("put", int(slice_id), str(event_type), bytes(user)):
                node.put(slice_id, event_type, user)
            case ("send", bool(delivered), bool(answered)):
                node.send(delivered=delivered, answered=answered)
            case ("again", int(index)):
                node.arrive_again(index)
            case ("refuse", int(slice_id)):
                node.worker.refusing.add(slice_id)
            case ("accept", int(slice_id)):
                node.worker.refusing.discard(slice_id)


def heal(node: Node) -> None:
    """The faults go away; everything is delivered within a few envelopes."""
    node.worker.refusing.clear()
    for _ in range(50):
        node.send(delivered=True, answered=True)
    assert all(sender.is_empty for sender in node.senders)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(Put, Put, Send, Send, Again, Refuse, Accept), max_size=60))
def test_every_event_that_was_taken_is_counted_once(steps: list[tuple[object, ...]]) -> None:
    """Whatever is lost, repeated, delayed or refused: after healing, counts are those of the acknowledged events."""
    node = Node(Worker())

    play(node, steps)
    heal(node)

    expected: dict[int, Counter[str]] = {}
    users: dict[int, set[bytes]] = {}
    for waiter in node.waiters:
        assert waiter.acknowledged + waiter.turned_away == 1
        for slice_id, event_type, user in waiter.events if waiter.acknowledged else []:
            expected.setdefault(slice_id, Counter())[event_type] += 1
            users.setdefault(slice_id, set()).add(user)
    files = {at: file for at, file in node.worker.files.items() if file.events}
    assert {at: file.events for at, file in files.items()} == expected
    assert {at: file.users for at, file in files.items()} == users
    assert not any(file.regressed for file in files.values())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(Put, Put, Send), max_size=30),
    st.lists(st.one_of(Put, Put, Send, Again), max_size=30),
    st.integers(0, SLICES - 1),
)
def test_a_worker_that_lost_a_slice_is_found_out_and_nothing_later_is_lost(
    before: list[tuple[object, ...]], after: list[tuple[object, ...]], lost: int
) -> None:
    """A slice file that vanishes: what was acknowledged afterwards is counted, and the slice says that it regressed."""
    node = Node(Worker())
    play(node, before)
    heal(node)
    vanished = node.worker.files.pop(lost, None)
    # Copies of envelopes from before the loss are gone too: a network does not keep them across a restart.
    node.transit.clear()
    seen = len(node.waiters)

    play(node, after)
    heal(node)

    expected: Counter[str] = Counter()
    for waiter in node.waiters[seen:]:
        expected.update(event_type for slice_id, event_type, _ in waiter.events if slice_id == lost)
    file = node.worker.files.get(lost, SliceFile())
    assert file.events == expected
    had_data = vanished is not None and bool(vanished.events)
    assert file.regressed == (had_data and bool(expected))
