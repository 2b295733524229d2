"""One slice's file keeps users, ids, counters and numbers together, exactly."""

from __future__ import annotations

import lmdb
import pytest

from common.lmdb_file import Damaged
from common.slices import SliceId
from common.wire import Outcome
from tests.support.batches import KEY_ID, OTHER_STREAM, ROUTE, STREAM, a_batch, item, key, numbered
from tests.support.slice_files import problems_of
from worker_node.recent_keys import RecentKeys
from worker_node.slice_store import SliceStore

SLICE = SliceId(-3)
SMALL_MAP = 1 << 16


@pytest.fixture
def path(tmp_path):
    return tmp_path / "-3.mdb"


@pytest.fixture
def recent():
    return RecentKeys(keys_max=100)


@pytest.fixture
def store(path, recent):
    store = SliceStore.create(path, SLICE, route=ROUTE, position=0, key_id=KEY_ID, recent=recent)
    yield store
    store.close()


def reopened(store, path):
    store.close()
    found = SliceStore.open(path, SLICE)
    assert found is not None
    return found


def outcomes(decisions):
    return [decision.outcome for decision in decisions]


def test_a_batch_counts_its_events_and_its_users_once(store):
    store.apply([item(("ann", "click"), ("bob", "click"), ("ann", "impression"))])

    summary = store.held.summary
    assert (summary.slice, summary.users, summary.counts) == (SLICE, 2, {"click": 2, "impression": 1})


def test_what_was_applied_is_there_after_reopening(store, path):
    store.apply([item(("ann", "click"), ("bob", "x.y"))])
    before = store.held

    store = reopened(store, path)

    assert store.held == before
    assert store.label.route == ROUTE
    assert store.streams()[0][1].seq == 1
    store.close()
    assert problems_of(path) == []


def test_a_group_of_batches_is_one_transaction(store):
    decisions = store.apply(
        [item(("ann", "click"), seq=1), item(("bob", "click"), seq=2), item(("bob", "click"), seq=3)]
    )

    assert outcomes(decisions) == [Outcome.APPLIED] * 3
    assert store.held.txn == 1
    assert store.held.summary.users == 2


def test_a_repeated_batch_within_a_group_is_applied_once(store):
    decisions = store.apply([item(("ann", "click")), item(("ann", "click"))])

    assert outcomes(decisions) == [Outcome.APPLIED, Outcome.DUPLICATE]
    assert store.held.summary.counts == {"click": 1}


def test_a_group_that_applies_nothing_writes_nothing(store):
    store.apply([item(("ann", "click"))])
    before = store.held

    decisions = store.apply([item(("ann", "click")), item(("eve", "click"), seq=9)])

    assert outcomes(decisions) == [Outcome.DUPLICATE, Outcome.GAP]
    assert store.held == before


def test_streams_are_numbered_apart(store):
    decisions = store.apply([item(("ann", "click"), stream=stream) for stream in (STREAM, OTHER_STREAM)])

    assert outcomes(decisions) == [Outcome.APPLIED] * 2
    assert store.held.summary.counts == {"click": 2}


def test_a_known_id_counts_nothing_and_its_position_is_told(store, path):
    """Neither its event nor its user, from an earlier batch, from the same group, or after reopening."""
    store.apply([item(("ann", "click", "id-1"), ("bob", "click"))])
    store = reopened(store, path)

    again = store.apply([item(("ann", "click", "id-1"), ("cat", "click", "id-2"), seq=2)])
    third = store.apply([item(("new", "click", "id-2"), ("dan", "click"), seq=3)])

    assert [decision.repeats for decision in again + third] == [(0,), (0,)]
    assert store.held.summary.users == 4
    assert store.held.summary.counts == {"click": 4}
    store.close()


def test_of_an_id_twice_in_one_batch_the_first_counts(store):
    decisions = store.apply(
        [item(("a", "click", "i"), ("a", "click"), ("a", "click", "i"), ("b", "x", "i"), ("c", "x"))]
    )

    assert decisions[0].repeats == (2, 3)
    assert store.held.summary.counts == {"click": 2, "x": 1}
    assert store.held.summary.users == 2


def test_events_without_id_in_a_column_of_ids_are_no_repeats(store):
    decisions = store.apply([item(("a", "click", "i"), ("a", "click"), ("a", "click"))])

    assert decisions[0].repeats == ()
    assert store.held.summary.counts == {"click": 3}


def test_a_duplicate_gets_the_positions_of_its_repeats_again(store, path):
    batch = item(("a", "click", "i"), ("a", "click", "i"))
    store.apply([batch])

    store = reopened(store, path)

    assert store.apply([batch])[0].repeats == (1,)
    store.close()


def test_a_type_of_which_only_repeats_came_is_not_shown(store):
    store.apply([item(("a", "click", "i"), ("a", "x", "i"))])

    assert store.held.summary.counts == {"click": 1}


def test_a_regressed_batch_makes_the_slice_incomplete_for_good(store, path):
    store.apply([numbered(a_batch(("a", "click"), regressed=True))])
    assert not store.held.summary.complete

    store = reopened(store, path)
    store.apply([item(("a", "click"), stream=OTHER_STREAM)])

    assert not store.held.summary.complete
    store.close()


def test_an_empty_batch_takes_its_number(store):
    store.apply([item()])

    assert store.apply([item(("a", "click"), seq=2)])[0].outcome is Outcome.APPLIED


def test_a_batch_of_another_route_or_key_changes_nothing_and_keeps_its_number(store):
    store.apply([item(("a", "click"))])

    decisions = store.apply(
        [
            numbered(a_batch(("b", "click"), seq=2, route=("0", "1"))),
            numbered(a_batch(("b", "click"), seq=2, key_id=b"another!")),
            item(("b", "click"), seq=2),
        ]
    )

    assert outcomes(decisions) == [Outcome.WRONG_ROUTE, Outcome.WRONG_KEY, Outcome.APPLIED]


def test_a_duplicate_within_a_group_gets_the_positions_of_its_repeats(store):
    """They are known only when the ids of the whole group are."""
    store.apply([item(("a", "click", "i"), stream=OTHER_STREAM)])
    batch = item(("a", "click", "i"), ("b", "click", "j"), ("b", "click", "j"))

    decisions = store.apply([batch, batch, item(("c", "click", "j"), seq=2), batch])

    assert [(decision.outcome, decision.repeats) for decision in decisions] == [
        (Outcome.APPLIED, (0, 2)),
        (Outcome.DUPLICATE, (0, 2)),
        (Outcome.APPLIED, (0,)),
        (Outcome.DUPLICATE, None),
    ]
    assert store.apply([item(("c", "click", "j"), seq=2)])[0].repeats == (0,)
    assert (store.held.summary.users, store.held.summary.counts) == (2, {"click": 2})


def test_a_batch_of_many_types_is_counted_as_one_of_few(store):
    """Few are counted one after the other, many at once."""
    types = [f"type-{number}" for number in range(256)]

    store.apply([item(*(("a", name) for name in types + types[::2]))])

    assert store.held.summary.counts == {name: 2 - number % 2 for number, name in enumerate(types)}


def test_a_user_is_known_once_it_is_committed(store, recent):
    store.apply([item(("a", "click"), ("b", "click"))])
    store.count(key("c"), "click")

    assert recent.unknown(store, {key("a"), key("b"), key("c"), key("d")}) == {key("d")}
    store.apply([item(("a", "click"), ("d", "click"), seq=2)])
    assert store.held.summary.users == 4


def test_a_user_of_a_repeated_event_does_not_become_known(store, recent):
    """It is not in the file."""
    store.apply([item(("a", "click", "i"))])

    store.apply([item(("b", "click", "i"), seq=2)])

    assert recent.unknown(store, {key("b")}) == {key("b")}
    store.apply([item(("b", "click"), seq=3)])
    assert store.held.summary.users == 2


class Stops(Exception):
    """What ends a transaction before its commit."""


def test_of_a_failed_transaction_nothing_is_known(store, recent):
    """Nor of what was there before: whoever fails knows little."""
    store.apply([item(("a", "click"))])

    def items():
        yield item(("b", "click"), seq=2)
        raise Stops

    with pytest.raises(Stops):
        store.apply(items())

    assert recent.unknown(store, {key("a"), key("b")}) == {key("a"), key("b")}
    store.apply([item(("a", "click"), ("b", "click"), seq=2)])
    assert (store.held.summary.users, store.held.summary.counts) == (2, {"click": 3})


class LearnsNothing(RecentKeys):
    """Has no memory left for what it is to learn."""

    def learn(self, store, keys):
        raise MemoryError


def test_what_is_committed_is_told_whatever_goes_wrong_after(path):
    """The counts of the next transaction begin where these end."""
    store = SliceStore.create(path, SLICE, route=ROUTE, position=0, key_id=KEY_ID, recent=LearnsNothing())

    with pytest.raises(MemoryError):
        store.apply([item(("a", "click"))])

    told = store.held
    assert (told.summary.users, told.summary.counts, told.txn) == (1, {"click": 1}, 1)
    assert reopened(store, path).held == told


def test_of_a_closed_file_nothing_is_known(store, recent):
    store.apply([item(("a", "click"))])

    store.close()

    assert len(recent) == 0


def test_an_event_without_a_number_counts_each_time(store):
    store.apply([item(("a", "click"))])

    for _ in range(2):
        store.count(key("b"), "click")

    assert (store.held.summary.users, store.held.summary.counts) == (2, {"click": 3})


def test_a_full_map_grows_and_the_group_is_replayed(path):
    """Also within the first transaction, whose databases are gone with it when it is aborted."""
    recent = RecentKeys()
    store = SliceStore.create(path, SLICE, route=ROUTE, position=0, key_id=KEY_ID, recent=recent, map_bytes=SMALL_MAP)
    words = [f"user-{number}" for number in range(10_000)]

    for seq, part in enumerate((words[:5000], words[4000:]), start=1):
        decisions = store.apply([item(*((word, "click", word) for word in part), seq=seq)])
        assert outcomes(decisions) == [Outcome.APPLIED]

    assert store.held.summary.users == 10_000
    assert store.held.summary.counts == {"click": 10_000}
    assert len(recent) == 10_000
    store.close()
    assert path.stat().st_size > SMALL_MAP
    assert problems_of(path) == []


def test_a_file_that_outgrew_its_map_is_opened_with_a_small_one(path):
    store = SliceStore.create(path, SLICE, route=ROUTE, position=0, key_id=KEY_ID)
    store.apply([item(*((f"user-{number}", "click") for number in range(10_000)))])
    store.close()

    again = SliceStore.open(path, SLICE, map_bytes=SMALL_MAP)

    assert again is not None
    assert again.apply([item(("one more", "click"), seq=2)])[0].outcome is Outcome.APPLIED
    assert again.held.summary.users == 10_001
    again.close()


def test_a_file_without_a_commit_holds_nothing(path):
    SliceStore.create(path, SLICE, route=ROUTE, position=0, key_id=KEY_ID).close()

    assert SliceStore.open(path, SLICE) is None


def test_a_file_that_is_no_slice_file_is_damaged(path):
    path.write_bytes(b"not LMDB at all" * 1000)

    with pytest.raises(Damaged, match=r"-3\.mdb cannot be opened"):
        SliceStore.open(path, SLICE)


def test_an_lmdb_file_of_something_else_is_damaged(path):
    with lmdb.open(str(path), subdir=False, max_dbs=1) as env, env.begin(write=True) as txn:
        txn.put(b"x", b"y", db=env.open_db(b"other", txn))

    with pytest.raises(Damaged, match="lacks what it must have"):
        SliceStore.open(path, SLICE)


@pytest.mark.parametrize("name", [b"label", b"fingerprint"])
def test_a_label_that_was_changed_is_damaged(store, path, name):
    store.apply([item(("a", "click"))])
    store.close()
    with lmdb.open(str(path), subdir=False, max_dbs=8) as env, env.begin(write=True) as txn:
        txn.put(name, b"changed!", db=env.open_db(b"meta", txn))

    with pytest.raises(Damaged, match="label"):
        SliceStore.open(path, SLICE)
