"""What a worker keeps beside its open slices: pins, the claim number, and closed slices."""

from __future__ import annotations

import pytest

from common.errors import InputOutputFailed
from common.routing import WorkerId
from common.slices import SliceId
from common.summaries import Summary
from common.wire import Held, Outcome, Pins, SettledRoute
from tests.support.batches import KEY_ID, OTHER_STREAM, ROUTE, STREAM, a_batch, item, numbered
from worker_node.receiver import Label, StreamRecord
from worker_node.totals import Totals

PINS = Pins(
    cluster="c", first=5, length_seconds=60, secret_id="s", registry=WorkerId("0"), workers={WorkerId("0"): "u"}
)
LABEL = Label(file=b"f" * 16, route=ROUTE, position=0, key_id=KEY_ID)


@pytest.fixture
def totals(tmp_path):
    totals = Totals(folder=tmp_path)
    totals.open()
    yield totals
    totals.close()


def held(at, *, users=2, txn=9):
    summary = Summary(slice=SliceId(at), users=users, counts={"click": 3})
    return Held(summary=summary, route=ROUTE, file=LABEL.file, txn=txn)


def closed(totals, at=4):
    last = item(("ann", "click"), ("bob", "click"), at=at, seq=2)
    totals.close_slice(held(at), LABEL, [(STREAM, StreamRecord(2, last.check, (1,)))])
    return last


def receive(totals, *items, at=4):
    decisions, now = totals.receive_late(SliceId(at), items)
    return [decision.outcome for decision in decisions], now


def test_a_new_file_knows_nothing(totals):
    assert (totals.pins, totals.claims, totals.closed_slices()) == (None, 0, frozenset())


def test_everything_is_there_after_reopening(totals, tmp_path):
    totals.set_pins(PINS)
    totals.note_claims(7)
    closed(totals, -4)
    totals.close()

    again = Totals(folder=tmp_path)
    again.open()

    assert (again.pins, again.claims, again.closed_slices()) == (PINS, 7, frozenset({SliceId(-4)}))
    assert again.closed(SliceId(-4)) == held(-4)
    again.close()


def test_the_claim_number_only_grows(totals):
    totals.note_claims(7)
    totals.note_claims(3)

    assert totals.claims == 7


def test_a_slice_that_is_not_closed_is_none(totals):
    closed(totals, 4)

    assert totals.closed(SliceId(5)) is None


def test_a_batch_from_before_the_closing_is_a_duplicate_with_its_receipt(totals):
    last = closed(totals)

    decisions, now = totals.receive_late(SliceId(4), [last])

    assert (decisions[0].outcome, decisions[0].repeats) == (Outcome.DUPLICATE, (1,))
    assert now == held(4)


def test_a_new_batch_that_is_not_from_a_spool_gets_closed(totals):
    closed(totals)

    outcomes, now = receive(
        totals, item(("eve", "click"), at=4, seq=3), item(("eve", "click"), at=4, stream=OTHER_STREAM)
    )

    assert outcomes == [Outcome.CLOSED] * 2
    assert now == held(4)


def test_a_spooled_batch_is_counted_once_as_late(totals, tmp_path):
    """Its events without id are counted; of the others, and of the users, nobody knows whether they are new."""
    closed(totals)
    batch = item(("eve", "click"), ("ann", "x"), ("bob", "click", "an-id"), at=4, seq=3, spooled=True)

    first, _ = receive(totals, batch)
    totals.close()
    totals.open()
    second, now = receive(totals, batch)

    assert (first, second) == ([Outcome.APPLIED], [Outcome.DUPLICATE])
    assert now.summary == Summary(slice=SliceId(4), users=2, counts={"click": 4, "x": 1}, complete=False, late=3)
    assert now.txn == held(4).txn + 1
    assert totals.closed(SliceId(4)) == now


def test_late_batches_of_a_group_are_numbered_like_any(totals):
    closed(totals)
    new = [item(("eve", "click"), at=4, stream=OTHER_STREAM, seq=seq, spooled=True) for seq in (1, 2, 2, 4)]

    outcomes, now = receive(totals, *new)

    assert outcomes == [Outcome.APPLIED, Outcome.APPLIED, Outcome.DUPLICATE, Outcome.GAP]
    assert (now.summary.late, now.txn) == (2, held(4).txn + 2)


def test_a_late_batch_must_fit_the_label_too(totals):
    closed(totals)
    foreign = a_batch(("eve", "click"), at=4, seq=3, route=("0", "1"))

    outcomes, _ = receive(totals, numbered(foreign, spooled=True))

    assert outcomes == [Outcome.WRONG_ROUTE]


def test_a_file_that_cannot_be_read_ends_the_node(tmp_path):
    (tmp_path / "totals.mdb").write_bytes(b"x" * 20_000)

    with pytest.raises(InputOutputFailed, match="totals"):
        Totals(folder=tmp_path).open()


def lost(*slices):
    return [SettledRoute(slice=SliceId(at), route=ROUTE, number=1) for at in slices]


def test_what_a_lost_directory_held_is_known_after_reopening(totals, tmp_path):
    """As slices of which something is missing. Only with the last of them is the directory complete."""
    assert (totals.replaced, totals.lost_slices()) == (0, frozenset())
    totals.lose(lost(4, -4), replaced=0)
    assert totals.replaced == 0
    totals.lose(lost(1 << 62), replaced=7)
    totals.close()

    again = Totals(folder=tmp_path)
    again.open()

    assert again.replaced == 7
    assert again.lost_slices() == {4, -4, 1 << 62}
    assert again.lost(SliceId(-4)) == Held(summary=Summary(slice=SliceId(-4), complete=False), route=ROUTE)
    assert again.lost(SliceId(5)) is None
    again.close()


def test_another_directory_lost_nothing(totals):
    """The facts that sort after what was lost are none of it."""
    totals.set_pins(PINS)

    assert totals.lost_slices() == frozenset()
