"""A set of keys is the tree and the runs beside it, whatever was added, merged, divided, aborted and read again."""

from __future__ import annotations

import struct

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.lmdb_file import Damaged, Kind, LmdbFile
from worker_node.key_filter import Filters
from worker_node.key_set import RUNS, KeySet, Merging

DATABASES = {"users": Kind.SET, RUNS: Kind.MAP}
SMALL_MAP = 1 << 16
ALL = frozenset(struct.pack(">QQ", number * 0x9E3779B97F4A7C15 % 2**64, number) for number in range(60))


class Abort(Exception):
    """A transaction that fails."""


class Opened:
    """A set in a file, in transactions of its own."""

    def __init__(self, path, *, map_bytes=1 << 20, later=(), **merging):
        self.file = LmdbFile(path=path, databases=DATABASES, later=later, map_bytes=map_bytes)
        self.file.open()
        self.keys = KeySet(
            file=self.file, tree="users", key=b"u", merging=Merging(**{"part_keys": 4, "run_keys_min": 1} | merging)
        )

    def add(self, keys):
        """Those that are new; as a store adds them."""

        def work(txn):
            new = self.keys.new_among(txn, set(keys))
            return new, (self.keys.add(txn, new) if new else lambda: None)

        new, committed = self.file.write(work)
        committed()
        return set(new)

    def merge(self):
        self.file.write(self.keys.merge)()

    def abort(self, work):
        def failing(txn):
            work(txn)
            raise Abort

        with pytest.raises(Abort):
            self.file.write(failing)

    def abort_adding(self, keys):
        self.abort(lambda txn: self.keys.add(txn, sorted(keys)))

    def runs(self):
        return self.file.read(lambda txn: dict(txn.cursor(self.file.database(RUNS))))

    def in_tree(self):
        return self.file.read(lambda txn: txn.stat(self.file.database("users"))["entries"])

    def members(self):
        return self.file.read(self.keys.members)

    def problems(self):
        return self.file.read(self.keys.problems)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "0.mdb"


@pytest.fixture
def opened(path):
    opened = Opened(path)
    yield opened
    opened.file.close()


def some(count, first=0):
    return set(sorted(ALL)[first : first + count])


def keys_of(run):
    return [run[at : at + 16] for at in range(0, len(run), 16)]


def reopened(opened, **given):
    opened.file.close()
    return Opened(opened.file.path, **given)


def test_what_is_new_becomes_a_run_and_is_new_no_more(opened):
    assert opened.add(some(3)) == some(3)
    assert opened.add(some(4)) == some(1, 3)
    assert opened.add(some(4)) == set()

    assert [len(run) for run in opened.runs().values()] == [48, 16]
    assert (opened.in_tree(), opened.members(), opened.keys.weight) == (0, 4, 4)


def test_a_run_is_ascending_and_numbered(opened):
    opened.add(some(3))

    assert opened.runs() == {b"u" + bytes(8): b"".join(sorted(some(3)))}


def test_runs_are_found_again(opened):
    opened.add(some(3))
    opened.add(some(3, 3))

    again = reopened(opened)

    assert again.add(some(7)) == some(1, 6)
    assert again.keys.weight == 7
    again.file.close()


def test_few_keys_are_merged_at_once(opened):
    opened.add(some(4))
    opened.add(some(4, 4))

    opened.merge()

    assert (opened.runs(), opened.in_tree(), opened.keys.weight) == ({}, 8, 0)
    assert opened.add(some(9)) == some(1, 8)


def test_many_are_divided_first_and_then_merged_part_by_part(opened):
    """Each part spans keys of its own, about as many as it should."""
    for first in range(0, 20, 2):
        opened.add(set(sorted(ALL)[first:40:20]))

    opened.merge()
    parts = sorted(b"".join(sorted(keys_of(run))) for run in opened.runs().values())

    assert (opened.in_tree(), opened.keys.weight) == (0, 20)
    assert b"".join(parts) == b"".join(sorted(sorted(ALL)[first] for first in [*range(0, 40, 2)]))
    assert all(len(part) <= 2 * 4 * 16 for part in parts)
    steps = 0
    while opened.keys.weight:
        opened.merge()
        steps += 1
    assert steps == len(parts)
    assert (opened.runs(), opened.in_tree()) == ({}, 20)


def test_what_comes_while_parts_are_merged_waits_for_its_turn(opened):
    opened.add(some(10))
    opened.merge()
    opened.add(some(1, 20))

    opened.merge()

    assert opened.add(some(1, 20)) == set()
    assert b"".join(sorted(some(1, 20))) in opened.runs().values()
    while opened.keys.weight:
        opened.merge()
    assert opened.members() == opened.in_tree() == 11


def test_parts_that_were_left_are_divided_again_and_lose_no_key(opened):
    """They are not ascending, as runs of commits are."""
    for first in range(5):
        opened.add(set(sorted(ALL)[first::5]))
    opened.merge()
    again = reopened(opened)

    again.merge()

    assert sorted(key for run in again.runs().values() for key in keys_of(run)) == sorted(ALL)
    while again.keys.weight:
        again.merge()
    assert (again.in_tree(), again.problems()) == (60, [])
    again.file.close()


def random_keys(count):
    return [struct.pack(">QQ", number, number * 0x9E3779B97F4A7C15 % 2**64) for number in range(count)]


def test_a_filter_rules_out_most_of_what_is_new(path):
    """And nothing that is a member, pending or merged; with one, as without."""
    found = random_keys(3_000)
    for filters_max in (0, 1):
        opened = Opened(path.with_name(f"{filters_max}.mdb"), part_keys=500, filters=Filters(filters_max=filters_max))
        assert opened.add(found[:1000]) == set(found[:1000])
        while opened.keys.weight:
            opened.merge()
        assert opened.add(found[500:2000]) == set(found[1000:2000])
        opened.merge()
        opened.merge()
        assert opened.add(found) == set(found[2000:])
        assert opened.add(found) == set()
        assert opened.problems() == []
        opened.file.close()


def test_who_knows_all_members_needs_no_filter(path):
    filters = Filters(filters_max=1)
    opened = Opened(path, filters=filters)

    def add(txn):
        return opened.keys.add(txn, opened.keys.new_among(txn, some(3), members_known=True))

    opened.file.write(add)()
    opened.merge()

    assert filters.new() is not None
    assert opened.add(some(4)) == some(1, 3)
    opened.file.close()


def test_a_small_run_counts_for_more_than_it_holds(path):
    """So that many small ones are merged in time, too."""
    opened = Opened(path, run_keys_min=5)

    opened.add(some(1))
    opened.add(some(7, 1))

    assert opened.keys.weight == 12
    opened.file.close()


def test_of_an_aborted_transaction_nothing_is_known(opened):
    opened.add(some(3))

    opened.abort_adding(some(2, 3))
    opened.abort(opened.keys.merge)

    assert (opened.members(), opened.keys.weight) == (3, 3)
    assert opened.add(some(5)) == some(2, 3)


def test_what_is_forgotten_is_read_again(opened):
    opened.add(some(3))

    opened.keys.forget()

    assert opened.keys.weight == 0
    assert opened.add(some(4)) == some(1, 3)
    assert opened.keys.weight == 4


def test_who_knows_all_members_is_believed(opened):
    opened.add(some(2))

    assert opened.file.write(lambda txn: opened.keys.new_among(txn, some(2, 2), members_known=True)) == sorted(
        some(2, 2)
    )


def test_sets_of_one_file_do_not_mix(opened):
    other = KeySet(file=opened.file, tree="users", key=b"v", merging=Merging())
    opened.add(some(2))

    assert set(opened.file.write(lambda txn: other.new_among(txn, some(2)))) == some(2)


def test_a_key_of_a_run_that_is_in_the_tree_is_damage(opened):
    """It was counted twice. Nothing of such a merge stays."""
    opened.add(some(3))
    key = min(some(3))
    opened.file.write(lambda txn: txn.cursor(opened.file.database("users")).put(b"u", key))

    assert opened.problems() == ["1 of users are there twice"]
    with pytest.raises(Damaged, match="has 1 of its users twice"):
        opened.merge()
    assert opened.in_tree() == 1


def test_a_key_in_two_runs_is_a_problem(opened):
    opened.add(some(3))
    opened.file.write(lambda txn: txn.put(b"u" + b"\1" * 8, min(some(3)), db=opened.file.database(RUNS)))

    assert opened.problems() == ["1 of users are there twice"]


@pytest.mark.parametrize("run", [b"", b"x" * 17])
def test_a_run_that_is_none_is_damage(opened, run):
    opened.add(some(1))
    opened.file.write(lambda txn: txn.put(b"u" + b"\1" * 8, run, db=opened.file.database(RUNS)))

    again = reopened(opened)

    assert len(again.problems()) == 1
    with pytest.raises(Damaged, match=f"has a run of {len(run)} bytes"):
        again.add(some(1, 1))
    again.file.close()


def test_a_file_without_runs_is_taken_and_gets_them(path):
    """As all files were, before there were runs."""
    old = LmdbFile(path=path, databases={"users": Kind.SET})
    old.open()
    old.write(lambda txn: [txn.cursor(old.database("users")).put(b"u", key) for key in some(5)])
    old.close()

    opened = Opened(path, later=(RUNS,))

    assert (opened.problems(), opened.members()) == ([], 5)
    opened.abort(lambda txn: opened.keys.new_among(txn, some(6)))
    assert opened.add(some(6)) == some(1, 5)
    assert reopened(opened).runs() == {b"u" + bytes(8): b"".join(some(1, 5))}


def test_a_file_without_what_it_must_have_is_damaged(path):
    with lmdb.open(str(path), subdir=False, max_dbs=1) as env, env.begin(write=True) as txn:
        env.open_db(RUNS.encode(), txn)

    with pytest.raises(Damaged, match="lacks what it must have"):
        Opened(path, later=(RUNS,))


def test_a_full_map_grows_while_keys_are_merged(path):
    opened = Opened(path, map_bytes=SMALL_MAP, part_keys=1 << 14)
    keys = {struct.pack(">QQ", number * 0x9E3779B97F4A7C15 % 2**64, number) for number in range(8_000)}

    assert opened.add(keys) == keys
    opened.merge()

    assert (opened.in_tree(), opened.runs()) == (8_000, {})
    opened.file.close()


_step = (
    st.tuples(st.just("add"), st.frozensets(st.sampled_from(sorted(ALL)), max_size=12))
    | st.tuples(st.just("abort"), st.frozensets(st.sampled_from(sorted(ALL)), max_size=4))
    | st.sampled_from([("merge", None), ("merge", None), ("reopen", None)])
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_step, max_size=20), st.integers(1, 6))
def test_it_equals_a_set(tmp_path_factory, steps, part_keys):
    """Whatever is new is told as such, once; and the file adds up after each step."""
    path = tmp_path_factory.mktemp("set") / "0.mdb"
    opened = Opened(path, part_keys=part_keys)
    model: set[bytes] = set()
    opened.add(())
    for what, keys in steps:
        if what == "add":
            assert opened.add(keys) == keys - model
            model |= keys
        elif what == "abort":
            opened.abort_adding(keys - model)
        elif what == "merge":
            opened.merge()
        else:
            opened = reopened(opened, part_keys=part_keys)
        assert (opened.members(), opened.problems()) == (len(model), [])
    opened.file.close()
