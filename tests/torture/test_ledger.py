"""The checks of the torture see a single event too few, too many, or by the wrong user."""

from __future__ import annotations

from collections import Counter

import pytest

from common.anonymise import SliceKeys
from common.slices import SliceId
from tests.support.cluster import FIRST
from tests.support.events import Post
from tests.torture.checker import Stored, problems_of_slice
from tests.torture.ledger import KEYED, POOLED, SOLO, Ledger, Sheet

KEYS = SliceKeys(bytes(32), SliceId(0))


def key(name: str) -> bytes:
    return KEYS.user_key(name.encode())


@pytest.fixture
def sheet() -> Sheet:
    """Two events of each type by their own users, and one of unknown fate of each type without id."""
    ledger = Ledger()
    for number in "12":
        ledger.acknowledged(Post(at=FIRST, user=f"keyed-{number}", type=KEYED, id=number))
        ledger.acknowledged(Post(at=FIRST, user=f"pooled-{number}", type=POOLED))
        ledger.acknowledged(Post(at=FIRST, user=f"solo-{number}", type=SOLO))
    ledger.unknown(Post(at=FIRST, user="pooled-3", type=POOLED))
    ledger.unknown(Post(at=FIRST, user="solo-3", type=SOLO))
    return ledger.sheets[0]


@pytest.fixture
def stored() -> Stored:
    """What must be there of it."""
    users = {key(f"{kind}-{number}") for kind in ("keyed", "pooled", "solo") for number in "12"}
    return Stored(users=users, ids={b"1" * 16, b"2" * 16}, counts=Counter({KEYED: 2, POOLED: 2, SOLO: 2}))


@pytest.mark.parametrize("unknown", [0, 1])
def test_what_was_acknowledged_and_any_of_the_unknown_is_right(sheet, unknown):
    assert sheet.problems("it", 6 + 2 * unknown, {KEYED: 2, POOLED: 2 + unknown, SOLO: 2 + unknown}) == []


@pytest.mark.parametrize(
    ("users", "counts"),
    [
        (6, {KEYED: 1, POOLED: 2, SOLO: 2}),
        (6, {KEYED: 3, POOLED: 2, SOLO: 2}),
        (6, {KEYED: 2, POOLED: 1, SOLO: 2}),
        (6, {KEYED: 2, POOLED: 4, SOLO: 2}),
        (6, {KEYED: 2, POOLED: 2, SOLO: 2, "other": 1}),
        (5, {KEYED: 2, POOLED: 2, SOLO: 2}),
        (9, {KEYED: 2, POOLED: 2, SOLO: 2}),
    ],
)
def test_one_too_few_or_too_many_in_an_answer_is_wrong(sheet, users, counts):
    assert len(sheet.problems("it", users, counts)) == 1


def test_what_is_stored_as_sent_is_right(sheet, stored):
    assert problems_of_slice(stored, sheet, KEYS) == []


def test_an_event_of_unknown_fate_may_be_stored_with_its_user(sheet, stored):
    stored.users.add(key("solo-3"))
    stored.counts[SOLO] += 1

    assert problems_of_slice(stored, sheet, KEYS) == []


def test_an_event_of_unknown_fate_that_counted_twice_is_noticed(sheet, stored):
    """Within the bounds of the answer: the second one stands for the lost one of another user."""
    stored.users.add(key("solo-3"))
    stored.counts[SOLO] += 2

    assert len(problems_of_slice(stored, sheet, KEYS)) == 1


def test_a_missing_user_is_noticed(sheet, stored):
    stored.users.discard(key("pooled-1"))

    assert len(problems_of_slice(stored, sheet, KEYS)) == 1


def test_a_strange_user_is_noticed(sheet, stored):
    stored.users.add(key("nobody"))

    assert len(problems_of_slice(stored, sheet, KEYS)) == 1


def test_a_missing_id_is_noticed(sheet, stored):
    stored.ids.pop()

    assert len(problems_of_slice(stored, sheet, KEYS)) == 2
