"""A batch is applied exactly when it is the next of its stream, and belongs here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.routing import WorkerId
from common.wire import Envelope, Outcome, check_of, encode
from tests.support.batches import KEY_ID, STREAM, a_batch, numbered
from worker_node.receiver import APPLY, Label, NumberedBatch, StreamRecord, address, decide, decide_labelled, split

CHECK, OTHER_CHECK = b"check--1", b"check--2"
LAST = StreamRecord(7, CHECK, (3, 5))
LABEL = Label(file=b"f" * 16, route=(WorkerId("0"), WorkerId("1")), position=0, key_id=KEY_ID)


def test_a_new_stream_begins_with_1():
    assert decide(None, 1, CHECK) == APPLY


def test_the_next_number_is_applied():
    assert decide(LAST, 8, CHECK) == APPLY


def test_the_last_number_again_gets_its_receipt_again():
    decision = decide(LAST, 7, CHECK)

    assert (decision.outcome, decision.repeats) == (Outcome.DUPLICATE, (3, 5))


def test_the_last_number_with_other_content_is_a_conflict():
    assert decide(LAST, 7, OTHER_CHECK).outcome is Outcome.CONFLICT


def test_an_older_number_is_a_duplicate_whose_receipt_is_forgotten():
    """Whatever its content: only the last batch's check is kept."""
    decision = decide(LAST, 6, OTHER_CHECK)

    assert (decision.outcome, decision.repeats) == (Outcome.DUPLICATE, None)


@pytest.mark.parametrize(("last", "seq", "expected"), [(None, 2, 1), (LAST, 9, 8), (LAST, 1000, 8)])
def test_a_number_too_far_on_is_a_gap_that_names_the_expected_one(last, seq, expected):
    decision = decide(last, seq, CHECK)

    assert (decision.outcome, decision.expected) == (Outcome.GAP, expected)


@pytest.mark.parametrize(
    ("route", "position", "key_id", "outcome"),
    [
        (("0", "1"), 0, KEY_ID, Outcome.APPLIED),
        (("1", "0"), 0, KEY_ID, Outcome.WRONG_ROUTE),
        (("0",), 0, KEY_ID, Outcome.WRONG_ROUTE),
        (("0", "1", "2"), 0, KEY_ID, Outcome.WRONG_ROUTE),
        (("0", "1"), 1, KEY_ID, Outcome.WRONG_ROUTE),
        (("0", "1"), 0, b"another!", Outcome.WRONG_KEY),
    ],
)
def test_a_batch_must_fit_the_label_of_its_slice(route, position, key_id, outcome):
    item = numbered(a_batch(("u", "click"), route=route, key_id=key_id), position=position)

    assert decide_labelled(LABEL, None, item).outcome is outcome


@given(
    st.integers(1, (1 << 63) - 1),
    st.binary(min_size=8, max_size=8),
    st.lists(st.integers(0, 16_383), max_size=50).map(tuple),
)
def test_a_stream_record_is_read_as_it_was_stored(seq, check, repeats):
    record = StreamRecord(seq, check, repeats)

    assert StreamRecord.from_bytes(record.to_bytes()) == record


def envelope_of(batch):
    return Envelope(cluster="c", worker="w", stream=STREAM, claims=0, batches=(encode(batch),), spooled=True)


def addressed(worker, batch):
    envelope = envelope_of(batch)
    return address(WorkerId(worker), envelope, batch, envelope.batches[0])


def test_a_batch_is_numbered_with_what_came_around_it():
    """And its user keys are split, once for all that look at them."""
    batch = a_batch(route=("2", "0"))

    assert addressed("0", batch) == NumberedBatch(STREAM, batch, (), check_of(encode(batch)), 1, spooled=True)


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 16_384])
def test_a_column_is_split_into_its_keys(count):
    """In order, whatever its length."""
    keys = tuple(number.to_bytes(16, "big") for number in range(count))

    assert split(b"".join(keys)) == keys


def test_a_batch_whose_route_does_not_name_this_worker_is_refused():
    assert addressed("7", a_batch(("u", "click"))).outcome is Outcome.WRONG_ROUTE


@pytest.mark.parametrize("workers", [2, 3, 16])
def test_every_user_key_must_fall_to_this_worker(workers):
    """One key of a neighbour's range is enough to refuse the batch."""
    route = tuple(map(str, range(workers)))
    width = (1 << 128) // workers
    mine = [(width * 1 + width // 2).to_bytes(16, "big")] * 3
    theirs = [(width * 0 + width // 2).to_bytes(16, "big")]

    def batch(users):
        blank = a_batch(*[("u", "click")] * len(users), route=route)
        return type(blank)(
            slice=blank.slice,
            seq=1,
            route=blank.route,
            key_id=KEY_ID,
            names=blank.names,
            kinds=blank.kinds,
            users=b"".join(users),
        )

    assert isinstance(addressed("1", batch(mine)), NumberedBatch)
    assert addressed("1", batch(mine + theirs)).outcome is Outcome.WRONG_ROUTE
    assert addressed("0", batch(mine + theirs)).outcome is Outcome.WRONG_ROUTE
