"""The sender: numbering, closing, resending, and what each receipt means."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from api_node.sender import (
    COUNTERS_MAX,
    PARKED_FIRST_SECONDS,
    PARKED_MOST_SECONDS,
    Closed,
    ClosedBatch,
    Done,
    Events,
    Flight,
    Moved,
    Sender,
    Spooled,
    TurnedAway,
)
from common.errors import NotTaken, SliceClosed, WireError
from common.routing import WorkerId
from common.slices import SliceId
from common.wire import (
    BATCH_EVENTS_MAX,
    ENVELOPE_BATCHES_MAX,
    ENVELOPE_BYTES_MAX,
    ENVELOPE_SLICES_MAX,
    NAMES_MAX,
    NO_ID,
    Outcome,
    Receipt,
    decode_batch,
)

ROUTE = (WorkerId("0"),)
KEY_ID = bytes(8)
USER, OTHER_USER = b"u" * 16, b"v" * 16
ID = b"i" * 16


def new_sender(*, events_max: int = 100_000) -> Sender[str]:
    """A sender whose waiters are named in the order of their batches: b0, b1, ..."""
    numbers = itertools.count()
    return Sender(stream=bytes(16), new_waiter=lambda: f"b{next(numbers)}", events_max=events_max, jitter=lambda: 1.0)


def put(sender: Sender[str], slice_id: int = 7, event_type: str = "click", *, id_key: bytes | None = None) -> str:
    waiter, _ = sender.add(SliceId(slice_id), ROUTE, KEY_ID, event_type, USER, id_key)
    return waiter


def taken(sender: Sender[str], now: float = 0.0) -> Flight[str]:
    flight = sender.take(now)
    assert flight is not None
    return flight


def receipt(
    flight: Flight[str], index: int = 0, outcome: Outcome = Outcome.APPLIED, *, expected: int = 0, detail: str = ""
) -> Receipt:
    batch = flight.batches[index]
    return Receipt(slice=batch.slice, seq=batch.seq, outcome=outcome, expected=expected, detail=detail)


def answer_all(sender: Sender[str], flight: Flight[str], outcome: Outcome, now: float = 0.0) -> list[object]:
    return list(sender.answered(flight, [receipt(flight, at, outcome) for at in range(len(flight.batches))], now))


def numbers(flight: Flight[str]) -> list[tuple[int, int]]:
    return [(batch.slice, batch.seq) for batch in flight.batches]


def test_all_events_of_a_slice_until_the_next_envelope_are_one_batch() -> None:
    """Natural batching: events of a slice share a batch, a waiter, and have positions in it."""
    sender = new_sender()

    first = sender.add(SliceId(7), ROUTE, KEY_ID, "click", USER, None)
    second = sender.add(SliceId(7), ROUTE, KEY_ID, "impression", OTHER_USER, None)
    flight = taken(sender)

    assert (first, second) == (("b0", 0), ("b0", 1))
    batch = decode_batch(flight.batches[0].raw)
    assert (batch.slice, batch.seq, batch.route, batch.key_id) == (7, 1, ROUTE, KEY_ID)
    assert (batch.names, batch.kinds, batch.users) == (("click", "impression"), b"\0\1", USER + OTHER_USER)
    assert batch.ids == b""


@pytest.mark.parametrize(
    ("ids", "column"),
    [((None, ID), NO_ID + ID), ((ID, None), ID + NO_ID), ((None, None), b""), ((None, None, ID), NO_ID * 2 + ID)],
)
def test_the_column_of_ids_has_zeros_where_an_event_has_none(ids: tuple[bytes | None, ...], column: bytes) -> None:
    """Ids and events without one mix in a batch."""
    sender = new_sender()
    for id_key in ids:
        put(sender, id_key=id_key)

    assert decode_batch(taken(sender).batches[0].raw).ids == column


def test_numbers_have_no_gaps_and_count_per_slice() -> None:
    """Seq counts from 1 per slice of the stream."""
    sender = new_sender()
    seen = []
    for slice_id in (7, 8, 7):
        put(sender, slice_id)
        flight = taken(sender)
        seen += numbers(flight)
        answer_all(sender, flight, Outcome.APPLIED)

    assert seen == [(7, 1), (8, 1), (7, 2)]


def test_a_lost_reply_sends_the_same_bytes_again_and_new_events_in_a_new_batch() -> None:
    """A closed batch never changes: what arrives meanwhile gets the next number."""
    sender = new_sender()
    put(sender)
    lost = taken(sender)
    put(sender, event_type="impression")
    sender.failed(lost)

    again = taken(sender)

    assert numbers(again) == [(7, 1), (7, 2)]
    assert again.batches[0].raw is lost.batches[0].raw


def test_only_one_envelope_is_in_flight() -> None:
    """Order within a stream rests on it."""
    sender = new_sender()
    put(sender)
    taken(sender)

    with pytest.raises(RuntimeError, match="one envelope"):
        sender.take(0.0)


def test_applied_and_duplicate_are_both_the_end_of_a_batch() -> None:
    """Counted is counted, now or earlier."""
    for outcome in (Outcome.APPLIED, Outcome.DUPLICATE):
        sender = new_sender()
        waiter = put(sender)
        flight = taken(sender)

        verdicts = answer_all(sender, flight, outcome)

        assert verdicts == [Done(waiter, receipt(flight, outcome=outcome))]
        assert sender.is_empty
        assert (sender.events_queued, sender.bytes_queued) == (0, 0)
        assert sender.take(0.0) is None


def test_receipts_for_other_batches_conclude_nothing() -> None:
    """A reply that is not for this envelope is an error of the worker, and the batches stay."""
    sender = new_sender()
    put(sender)
    flight = taken(sender)

    with pytest.raises(WireError, match="not for the batches"):
        sender.answered(flight, [Receipt(slice=SliceId(7), seq=2, outcome=Outcome.APPLIED)], 0.0)
    sender.failed(flight)

    assert numbers(taken(sender)) == [(7, 1)]


def test_a_full_batch_closes_and_another_one_opens() -> None:
    """A batch has at most 16,384 events."""
    sender = new_sender()
    waiters = [put(sender) for _ in range(BATCH_EVENTS_MAX + 1)]

    flight = taken(sender)

    assert set(waiters[:-1]) == {"b0"}
    assert waiters[-1] == "b1"
    assert [batch.events for batch in flight.batches] == [BATCH_EVENTS_MAX, 1]


def test_a_batch_has_room_for_256_types() -> None:
    """The 257th type begins another batch; a known one still fits."""
    sender = new_sender()
    for number in range(NAMES_MAX):
        put(sender, event_type=f"t{number}")

    assert put(sender, event_type="t0") == "b0"
    assert put(sender, event_type="one-more") == "b1"


def test_a_full_queue_refuses_at_the_door() -> None:
    """The queue is bounded in events; what is refused is surely not counted."""
    sender = new_sender(events_max=2)
    put(sender)
    put(sender)

    with pytest.raises(NotTaken, match="full"):
        put(sender)


def test_the_queue_is_bounded_in_bytes() -> None:
    """The same for bytes."""
    sender: Sender[str] = Sender(stream=bytes(16), new_waiter=str, bytes_max=1)
    put(sender)

    with pytest.raises(NotTaken, match="full"):
        put(sender)


def test_newest_slices_go_first_and_those_passed_over_lead_the_next_envelope() -> None:
    """An envelope has at most 64 slices; nobody starves."""
    sender = new_sender()
    for slice_id in range(ENVELOPE_SLICES_MAX + 2):
        put(sender, slice_id)

    first = taken(sender)
    answer_all(sender, first, Outcome.APPLIED)
    put(sender, 1000)
    second = taken(sender)

    assert [batch.slice for batch in first.batches] == list(range(ENVELOPE_SLICES_MAX + 1, 1, -1))
    assert sorted(batch.slice for batch in second.batches[:2]) == [0, 1]
    assert second.batches[2].slice == 1000


def test_an_envelope_has_at_most_4_mib_and_the_rest_leads_the_next() -> None:
    """What does not fit goes first next time, still in order."""
    sender = new_sender(events_max=10**6)
    for _ in range(9):
        for _ in range(BATCH_EVENTS_MAX):
            put(sender, id_key=ID)

    first = taken(sender)
    sender.failed(first)
    put(sender, 99)
    second = taken(sender)

    assert sum(len(batch.raw) for batch in first.batches) <= ENVELOPE_BYTES_MAX
    assert [seq for _, seq in numbers(first)] == list(range(1, len(first.batches) + 1))
    assert numbers(second)[: len(first.batches)] == numbers(first)


def test_a_refusal_parks_the_slice_alone() -> None:
    """A refused slice turns new events away and holds up no other slice; its batch keeps bytes and number."""
    sender = new_sender()
    put(sender, 7)
    flight = taken(sender)
    late = put(sender, 7)  # into an open batch, while the refused one was in flight

    verdicts = sender.answered(flight, [receipt(flight, outcome=Outcome.NO_SPACE, detail="disk is full")], 10.0)
    put(sender, 8)
    other = taken(sender, 10.0)

    assert [type(verdict) for verdict in verdicts] == [TurnedAway]
    assert isinstance(verdicts[0], TurnedAway)
    assert verdicts[0].waiter == late
    assert "no_space: disk is full" in verdicts[0].reason
    assert numbers(other) == [(8, 1)]
    assert sender.events_queued == 1  # the parked batch has left the bound
    with pytest.raises(NotTaken, match="parked"):
        put(sender, 7)


def test_a_parked_slice_is_retried_with_backoff_and_comes_back() -> None:
    """The first batch probes; when it is applied, the slice takes events again under the next number."""
    sender = new_sender()
    put(sender)
    flight = taken(sender)
    answer_all(sender, flight, Outcome.WRONG_KEY, now=0.0)
    assert sender.take(0.0) is None
    assert sender.wake_at() == PARKED_FIRST_SECONDS

    probe = taken(sender, PARKED_FIRST_SECONDS)
    answer_all(sender, probe, Outcome.WRONG_KEY, now=PARKED_FIRST_SECONDS)
    assert sender.wake_at() == pytest.approx(3 * PARKED_FIRST_SECONDS)
    assert list(sender.parked()) == [7]

    sender.retry_parked()
    again = taken(sender, 0.0)
    verdicts = answer_all(sender, again, Outcome.APPLIED)
    put(sender)

    assert probe.batches[0].raw is again.batches[0].raw is flight.batches[0].raw
    assert [type(verdict) for verdict in verdicts] == [Done]
    assert sender.parked() == {}
    assert sender.wake_at() is None
    assert numbers(taken(sender)) == [(7, 2)]


def test_the_backoff_of_a_parked_slice_is_bounded() -> None:
    """However long it lasts, it is looked at every few seconds."""
    sender = new_sender()
    put(sender)
    flight = taken(sender)
    for _ in range(20):
        answer_all(sender, flight, Outcome.QUARANTINED, now=0.0)
        sender.retry_parked()
        flight = taken(sender)
    answer_all(sender, flight, Outcome.QUARANTINED, now=0.0)

    assert sender.wake_at() == PARKED_MOST_SECONDS


def test_what_is_not_parked_goes_on_as_before_when_parked_slices_are_tried_again() -> None:
    """Both are sent: one as a probe, the other because it waits anyway."""
    sender = new_sender()
    put(sender, 7)
    answer_all(sender, taken(sender), Outcome.NO_SPACE)
    put(sender, 8)

    sender.retry_parked()

    assert sorted(numbers(taken(sender))) == [(7, 1), (8, 1)]
    assert list(sender.parked()) == [7]


def test_a_refused_batch_and_the_gap_behind_it_are_both_sent_again() -> None:
    """The number was not consumed, so what came behind it is a gap and no loss."""
    sender = new_sender()
    for _ in range(BATCH_EVENTS_MAX + 1):
        put(sender)
    flight = taken(sender)

    verdicts = sender.answered(
        flight, [receipt(flight, 0, Outcome.NO_SPACE), receipt(flight, 1, Outcome.GAP, expected=1)], 0.0
    )
    sender.retry_parked()
    probe = taken(sender, 0.0)
    answer_all(sender, probe, Outcome.APPLIED)

    assert verdicts == []
    assert not sender.retired
    assert numbers(probe) == [(7, 1)]
    assert numbers(taken(sender)) == [(7, 2)]
    assert sender.events_queued == 1


def test_a_gap_within_what_is_still_here_is_filled() -> None:
    """The worker expects a batch that we still have: send it."""
    sender = new_sender()
    put(sender)
    flight = taken(sender)

    verdicts = sender.answered(flight, [receipt(flight, outcome=Outcome.GAP, expected=1)], 0.0)

    assert verdicts == []
    assert numbers(taken(sender)) == [(7, 1)]


def test_a_gap_below_what_is_still_here_means_that_the_worker_lost_data() -> None:
    """Every batch of the slice is proven unapplied, moves to another stream, and this one is retired."""
    sender = new_sender()
    put(sender)
    answer_all(sender, taken(sender), Outcome.APPLIED)
    waiter = put(sender)
    flight = taken(sender)

    (verdict,) = sender.answered(flight, [receipt(flight, outcome=Outcome.GAP, expected=1)], 0.0)

    assert verdict == Moved(flight.batches, SliceId(7), regressed=True)
    assert flight.batches[0].waiter == waiter
    assert sender.retired
    assert sender.is_empty


def test_all_batches_of_a_regressed_slice_move_together() -> None:
    """The later receipts of the same envelope have nothing left to say."""
    sender = new_sender()
    put(sender)
    answer_all(sender, taken(sender), Outcome.APPLIED)
    for _ in range(BATCH_EVENTS_MAX + 1):
        put(sender)
    flight = taken(sender)

    receipts = [receipt(flight, at, Outcome.GAP, expected=1) for at in range(2)]
    (verdict,) = sender.answered(flight, receipts, 0.0)

    assert isinstance(verdict, Moved)
    assert verdict.batches == flight.batches
    assert sender.events_queued == 0


def test_a_conflict_retires_the_stream_and_moves_that_batch() -> None:
    """What came behind it in the same slice was applied under its own number."""
    sender = new_sender()
    for _ in range(BATCH_EVENTS_MAX + 1):
        put(sender)
    flight = taken(sender)

    first, second = sender.answered(flight, [receipt(flight, 0, Outcome.CONFLICT), receipt(flight, 1)], 0.0)

    assert first == Moved(flight.batches[:1], SliceId(7), regressed=False)
    assert isinstance(second, Done)
    assert sender.retired


def test_another_stream_goes_on_with_a_batch_under_its_own_number() -> None:
    """The content is the same, number and stream are new; a regression is told to the worker."""
    old, new = new_sender(), new_sender()
    put(old)
    batch = taken(old).batches[0]
    put(new)

    new.adopt(batch, regressed=True)
    flight = taken(new)

    first, second = (decode_batch(one.raw) for one in flight.batches)
    assert (first.seq, first.regressed) == (1, False)
    assert (second.seq, second.regressed) == (2, True)
    assert second.users == decode_batch(batch.raw).users
    assert flight.batches[1].waiter == batch.waiter
    assert new.events_queued == 2


def test_a_batch_adopted_by_a_parked_slice_waits_outside_the_bound() -> None:
    """As every batch of a parked slice does."""
    old, new = new_sender(), new_sender()
    put(old)
    batch = taken(old).batches[0]
    put(new)
    answer_all(new, taken(new), Outcome.NO_SPACE)

    new.adopt(batch, regressed=False)

    assert new.events_queued == 0
    new.retry_parked()
    answer_all(new, taken(new), Outcome.APPLIED)
    assert new.events_queued == 1


def test_a_closed_slice_ends_all_its_batches() -> None:
    """Nothing behind the refused number can have been applied; the slice takes nothing more."""
    sender = new_sender()
    for _ in range(BATCH_EVENTS_MAX + 1):
        put(sender)
    flight = taken(sender)
    waiting = put(sender)

    receipts = [receipt(flight, 0, Outcome.CLOSED), receipt(flight, 1, Outcome.GAP, expected=1)]
    verdicts = sender.answered(flight, receipts, 0.0)

    assert verdicts == [Closed("b0", SliceId(7)), Closed("b1", SliceId(7)), Closed(waiting, SliceId(7))]
    assert sender.is_empty
    assert sender.events_queued == 0
    with pytest.raises(SliceClosed):
        put(sender)


def test_a_closed_slice_without_an_open_batch() -> None:
    """The usual case: one batch, refused for good."""
    sender = new_sender()
    waiter = put(sender)

    assert answer_all(sender, taken(sender), Outcome.CLOSED) == [Closed(waiter, SliceId(7))]


def test_a_stream_with_too_many_counters_ends() -> None:
    """A live stream never forgets a counter; so it ends when it has too many."""
    sender = new_sender()
    for slice_id in range(COUNTERS_MAX):
        put(sender, slice_id)
    while (flight := sender.take(0.0)) is not None:
        answer_all(sender, flight, Outcome.APPLIED)

    assert sender.retired
    assert sender.is_empty


def test_positions_count_within_the_batch_and_not_within_the_slice() -> None:
    """A receipt lists repeats by their position in the batch."""
    sender = new_sender()
    put(sender)
    answer_all(sender, taken(sender), Outcome.APPLIED)

    _, position = sender.add(SliceId(7), ROUTE, KEY_ID, "click", USER, None)

    assert position == 0


def test_what_is_spilled_goes_in_order_with_everything_unanswered() -> None:
    """Open batches are closed; the numbers go on; nothing of the slice is sent from here any more."""
    sender = new_sender()
    first = put(sender)
    sender.failed(taken(sender))
    second = put(sender)

    batches = sender.spill()
    still_queued = sender.events_queued
    verdicts = sender.spilled(batches)
    put(sender)

    assert [batch.seq for batch in batches] == [1, 2]
    assert still_queued == 2
    assert verdicts == [Spooled(first), Spooled(second)]
    assert sender.take(0.0) is None
    assert [batch.seq for batch in sender.spill()] == [3]


def test_what_follows_numbers_in_the_spool_must_follow_them_there() -> None:
    """A stream that has spooled may still be empty; one whose slice goes on is not free of the spool."""
    sender = new_sender()
    put(sender, 7)
    before = sender.has_spooled, sender.must_spill
    sender.spilled(sender.spill())
    spooled = sender.has_spooled, sender.must_spill
    put(sender, 8)
    another_slice = sender.must_spill
    put(sender, 7)

    assert before == (False, False)
    assert spooled == (True, False)
    assert not another_slice
    assert sender.must_spill


def test_events_that_came_while_a_batch_was_spooled_stay() -> None:
    """The world changes while the disk works."""
    sender = new_sender()
    put(sender)
    batches = sender.spill()
    put(sender)

    sender.spilled(batches)

    assert sender.events_queued == 1
    assert [batch.seq for batch in sender.spill()] == [2]


def test_parked_slices_are_not_spilled() -> None:
    """Their worker answers, and nobody was promised anything."""
    sender = new_sender()
    put(sender, 7)
    answer_all(sender, taken(sender), Outcome.NO_SPACE)
    put(sender, 8)

    assert [batch.slice for batch in sender.spill()] == [8]


def test_nothing_is_spilled_while_an_envelope_is_in_flight() -> None:
    """It may be answered yet."""
    sender = new_sender()
    put(sender)
    taken(sender)

    with pytest.raises(RuntimeError, match="in flight"):
        sender.spill()


def test_a_restored_stream_goes_on_with_its_numbers() -> None:
    """What the spool kept is sent as it was; a batch adopted behind it gets the next number."""
    old, drained = new_sender(), new_sender()
    put(old)
    put(old, 8)
    for batch in old.spill():
        drained.restore(batch)
    put(old)
    (adopted,) = (batch for batch in old.spill() if batch.seq == 2)

    again = drained.adopt(adopted, regressed=False)

    assert sorted(numbers(taken(drained))) == [(7, 1), (7, 2), (8, 1)]
    assert (again.seq, drained.events_queued) == (2, 3)


def test_a_batch_restored_to_a_parked_slice_waits_outside_the_bound() -> None:
    """As every batch of a parked slice does."""
    old, drained = new_sender(), new_sender()
    for _ in range(BATCH_EVENTS_MAX + 1):
        put(old)
    first, second = old.spill()
    drained.restore(first)
    answer_all(drained, taken(drained), Outcome.NO_SPACE)

    drained.restore(second)

    assert drained.events_queued == 0


@pytest.mark.parametrize("outcome", [Outcome.CONFLICT, Outcome.DUPLICATE])
def test_for_a_damaged_record_conflict_and_duplicate_both_mean_answered(outcome: Outcome) -> None:
    """An empty batch stands for it: if the worker knows another of that number, that was the real one."""
    sender = new_sender()
    batch = ClosedBatch(slice=SliceId(7), seq=4, raw=b"", events=0, waiter="w", damaged=True)
    sender.restore(batch)

    verdicts = answer_all(sender, taken(sender), outcome)

    assert [type(verdict) for verdict in verdicts] == [Done]
    assert sender.is_empty
    assert not sender.retired


def test_an_event_refused_at_a_full_queue_leaves_nothing_behind() -> None:
    """Otherwise every slice that is refused once would stay, and the stream would never be empty again."""
    sender = new_sender(events_max=1)
    put(sender, slice_id=1)
    with pytest.raises(NotTaken, match="full"):
        put(sender, slice_id=2)
    flight = taken(sender)
    sender.answered(flight, [receipt(flight)], 0.0)

    assert sender.is_empty


def test_an_envelope_has_so_many_batches_and_the_rest_comes_next() -> None:
    """What a worker has not answered for a long time may be many tiny batches."""
    sender = new_sender()
    batch = taken_alone(sender)
    for seq in range(1, ENVELOPE_BATCHES_MAX + 2):
        sender.restore(replace(batch, seq=seq))
    first = taken(sender)
    sender.answered(first, [receipt(first, index) for index in range(len(first.batches))], 0.0)
    second = taken(sender)

    assert [one.seq for one in first.batches] == list(range(1, ENVELOPE_BATCHES_MAX + 1))
    assert [one.seq for one in second.batches] == [ENVELOPE_BATCHES_MAX + 1]


def test_an_envelope_full_of_one_slice_lets_the_others_lead_the_next() -> None:
    """Also the probe of a parked one, which is but one batch; an open batch stays open meanwhile."""
    sender = new_sender()
    batch = replace(taken_alone(sender), slice=SliceId(9))
    put(sender, 7)
    answer_all(sender, taken(sender), Outcome.NO_SPACE)
    sender.retry_parked()
    put(sender, 8)
    for seq in range(1, ENVELOPE_BATCHES_MAX + 1):
        sender.restore(replace(batch, seq=seq))

    full = taken(sender)
    answer_all(sender, full, Outcome.APPLIED)
    put(sender, 8, "impression")
    following = taken(sender)

    assert numbers(full) == [(9, seq) for seq in range(1, ENVELOPE_BATCHES_MAX + 1)]
    assert sorted(numbers(following)) == [(7, 2), (8, 1)]
    assert sorted(one.events for one in following.batches) == [1, 2]


def taken_alone(sender: Sender[str]) -> ClosedBatch[str]:
    """A closed batch that the sender has been answered for."""
    put(sender)
    flight = taken(sender)
    sender.answered(flight, [receipt(flight)], 0.0)
    return flight.batches[0]


def test_what_parked_slices_hold_has_a_bound() -> None:
    """Below it they hold up no other slice; beyond it the worker takes no events, until one comes back."""
    sender = Sender(stream=bytes(16), new_waiter=lambda: "b", parked_events_max=2, jitter=lambda: 1.0)
    for slice_id in (1, 2):
        put(sender, slice_id=slice_id)
        flight = taken(sender)
        sender.answered(flight, [receipt(flight, outcome=Outcome.WRONG_KEY)], 0.0)
    with pytest.raises(NotTaken, match="refuses slices that hold 2 events"):
        put(sender, slice_id=3)
    back = taken(sender, now=10.0)
    sender.answered(back, [receipt(back, index) for index in range(len(back.batches))], 10.0)

    assert sender.parked_events == 0
    assert put(sender, slice_id=3)


# --- many events at once


def many(count: int, *, names: tuple[str, ...] = ("click",), ids: bytes = b"") -> Events:
    """Events of users 0, 1, ...; the types in turn."""
    kinds = bytes(at % len(names) for at in range(count))
    return Events(names, kinds, b"".join(at.to_bytes(16, "big") for at in range(count)), ids)


def test_many_events_join_the_open_batch() -> None:
    """One call, one waiter, and where they begin in it; types and ids as if they had come one by one."""
    at_once, one_by_one = new_sender(), new_sender()
    put(at_once, event_type="impression")
    events = many(4, names=("click", "impression"), ids=ID + NO_ID + NO_ID + ID)

    placed = at_once.extend(SliceId(7), ROUTE, KEY_ID, events)
    put(one_by_one, event_type="impression")
    for at in range(4):
        name, id_key = events.names[events.kinds[at]], events.ids[at * 16 : at * 16 + 16]
        one_by_one.add(SliceId(7), ROUTE, KEY_ID, name, at.to_bytes(16, "big"), None if id_key == NO_ID else id_key)

    assert placed == [("b0", 1, 4)]
    assert taken(at_once).batches[0].raw == taken(one_by_one).batches[0].raw
    assert at_once.events_queued == one_by_one.events_queued == 5
    assert at_once.bytes_queued == one_by_one.bytes_queued


def test_events_without_ids_leave_room_for_those_of_others() -> None:
    """The column of ids is there for all events of a batch, or for none."""
    sender = new_sender()
    put(sender, id_key=ID)

    sender.extend(SliceId(7), ROUTE, KEY_ID, many(2))
    sender.extend(SliceId(7), ROUTE, KEY_ID, many(1, ids=ID))

    assert decode_batch(taken(sender).batches[0].raw).ids == ID + NO_ID + NO_ID + ID


def test_more_than_a_batch_holds_goes_into_several() -> None:
    """Each has its waiter; the first fills the open one."""
    sender = new_sender()
    put(sender)

    placed = sender.extend(SliceId(7), ROUTE, KEY_ID, many(2 * BATCH_EVENTS_MAX))

    assert placed == [("b0", 1, BATCH_EVENTS_MAX - 1), ("b1", 0, BATCH_EVENTS_MAX), ("b2", 0, 1)]
    assert [batch.events for batch in taken(sender).batches] == [BATCH_EVENTS_MAX, BATCH_EVENTS_MAX, 1]


def test_types_that_a_batch_cannot_name_begin_another() -> None:
    """An index is one byte."""
    sender = new_sender()
    sender.extend(SliceId(7), ROUTE, KEY_ID, many(NAMES_MAX, names=tuple(f"t{at}" for at in range(NAMES_MAX))))

    known = sender.extend(SliceId(7), ROUTE, KEY_ID, many(2, names=("t5", "t200")))
    new = sender.extend(SliceId(7), ROUTE, KEY_ID, many(2, names=("t5", "more")))

    assert [known[0].waiter, new[0].waiter] == ["b0", "b1"]
    assert decode_batch(taken(sender).batches[0].raw).kinds[-2:] == bytes([5, 200])


def test_many_events_are_taken_all_or_not_at_all() -> None:
    """The bound is looked at before: those of one call may go over it."""
    sender = new_sender(events_max=3)

    sender.extend(SliceId(7), ROUTE, KEY_ID, many(5))
    with pytest.raises(NotTaken, match="full with 5 events"):
        sender.extend(SliceId(8), ROUTE, KEY_ID, many(1))

    assert numbers(taken(sender)) == [(7, 1)]


def test_nobody_joins_a_batch_whose_waiter_is_over() -> None:
    """It may still be sent, but those who join it would wait for what is known to be unknown."""
    over = set[str]()
    names = itertools.count()
    sender = Sender(stream=bytes(16), new_waiter=lambda: f"b{next(names)}", is_over=over.__contains__)
    put(sender)
    over.add("b0")
    later = put(sender)
    over.add("b1")

    placed = sender.extend(SliceId(7), ROUTE, KEY_ID, many(1))

    assert (later, placed) == ("b1", [("b2", 0, 1)])
    assert numbers(taken(sender)) == [(7, 1), (7, 2), (7, 3)]
