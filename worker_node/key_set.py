"""The users, or the ids, of one slice's file: a sorted tree, and runs of keys that are not in it yet.

::

    database      key                        value
    users, ids    b"u", b"i"                 16-byte keys: the tree
    runs          b"u" or b"i", then a u64   16-byte keys, one after the other: a run

    member    in the tree or in a run; never in both, nor in two runs
    add       the new keys of a commit become a run, ascending: some pages in a row, where the tree would have taken
              one for nearly every key, since keys are as good as random
    merge     a run goes into the tree, ascending, and is gone; one at a time, so that nobody waits for long
    divide    runs of commits each span all keys. Before they are merged they are written anew as parts, each of which
              spans a few of them: then many keys of a merge go to one page

Each of the three is in a transaction, so that whatever happens the file is right by itself. What the runs hold is also
kept in memory: read from the file when they are first asked for, changed after each commit, never before. Who is not
among those, and not ruled out by a filter (``key_filter.py``), is looked up in the tree.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, chain, pairwise, repeat
from typing import TypeAlias

from common.lmdb_file import Damaged, LmdbFile, Txn
from worker_node.key_filter import Filters, KeyFilter
from worker_node.receiver import split

Committed: TypeAlias = Callable[[], None]
"""Takes over into memory what a transaction changed; to be called once that is on disk."""

RUNS = "runs"
KEY_BYTES = 16

# Of all open files together. As long as all users of a slice are known anyway a pending key takes 16 bytes; else about
# 125, and 105 more until its part is merged: at most 64 MiB. More of them would make merges cheaper: with a tree of
# 60,000 pages (10 million keys) each of these pages is written for four keys.
PENDING_KEYS_MAX = 1 << 18
_NUMBER_BYTES = 8
_SAMPLE = 61  # every so manieth key; prime, so as not to be in step with runs of one length


@dataclass(frozen=True, slots=True, kw_only=True)
class Merging:
    """When and how keys get into the tree.

    Attributes:
        pending_max: so many keys may be in runs, in all open files together.
        part_keys: so many, about, are merged at a time: some 20 to 60 ms for which nothing else is committed.
        run_keys_min: a run counts for no fewer, so that there are never too many of them.
        filters: where sets get their filters.
    """

    pending_max: int = PENDING_KEYS_MAX
    part_keys: int = 1 << 14
    run_keys_min: int = 64
    filters: Filters = field(default_factory=Filters)


class KeySet:
    """One such set. Belongs to the writer's thread, like the file.

    What changes the file returns a function, which is called once that is committed.
    """

    def __init__(self, *, file: LmdbFile, tree: str, key: bytes, merging: Merging) -> None:
        self._file = file
        self._tree = tree
        self._key = key
        self._merging = merging
        self._known = False  # what the runs of the file are
        self._runs: dict[int, bytes] = {}
        self._parts: list[int] = []
        self._next = 0
        self._weight = 0
        # The keys of the runs, from the first time on that this is asked; of the parts, and of those merged already.
        self._pending: set[bytes] | None = None
        self._divided: set[bytes] = set()
        self._filter: KeyFilter | None = None

    @property
    def weight(self) -> int:
        """How many keys are pending, as far as is known, where a small run counts for more than it holds."""
        return self._weight

    def forget(self) -> None:
        """Read the runs again when they are next asked for."""
        self._known, self._runs, self._weight = False, {}, 0
        self._pending, self._divided, self._filter = None, set(), None

    def new_among(self, txn: Txn, keys: set[bytes], *, members_known: bool = False) -> list[bytes]:
        """Those keys that are no members, ascending.

        Args:
            txn: a transaction that writes, or may.
            keys: 16 bytes each.
            members_known: whether the caller knows all members, and none is among the keys.
        """
        runs = self._read(txn)
        if members_known:
            return sorted(keys)
        if self._filter is None:
            return self._not_found(txn, runs, keys)
        ascending = sorted(keys)
        possible = self._filter.possible(ascending)
        members = possible.difference(self._not_found(txn, runs, possible))
        return [key for key in ascending if key not in members] if members else ascending

    def add(self, txn: Txn, keys: Sequence[bytes]) -> Committed:
        """Put new keys into the file, at most once in a transaction.

        Args:
            txn: the transaction.
            keys: as ``new_among`` gave them; at least one.
        """
        self._read(txn)
        number, run = self._next, b"".join(keys)
        self._put(txn, number, run)
        return partial(self._added, number, run, keys)

    def _added(self, number: int, run: bytes, keys: Sequence[bytes]) -> None:
        self._take(number, run)
        if self._pending is not None:
            self._pending.update(keys)
        if self._filter is not None:
            self._filter.learn(keys)
            if self._filter.is_full:
                self._filter = None

    def merge(self, txn: Txn) -> Committed:
        """Take a step: divide runs, or merge one, or few small ones.

        Raises:
            Damaged: a key of a run is in the tree already, so that users were counted who are not there.
        """
        runs = self._read(txn)
        if self._parts:
            return self._merge(txn, runs, self._parts[-1:])
        if sum(map(len, runs.values())) > 2 * self._merging.part_keys * KEY_BYTES:
            return self._divide(txn, runs)
        return self._merge(txn, runs, list(runs))

    def problems(self, txn: Txn) -> list[str]:
        """What is wrong with the runs; to be asked of a file that nobody writes to."""
        try:
            runs = self._runs_in(txn)
        except Damaged as damage:
            return [str(damage)]
        keys = list(chain.from_iterable(map(split, runs.values())))
        found = txn.cursor(self._file.database(self._tree)).set_key_dup
        twice = sum(found(self._key, key) for key in keys) + len(keys) - len(set(keys))
        return [f"{twice} of {self._tree} are there twice"] if twice else []

    def members(self, txn: Txn) -> int:
        """How many there are in the file."""
        entries: int = txn.stat(self._file.database(self._tree))["entries"]
        return entries + sum(map(len, self._runs_in(txn).values())) // KEY_BYTES

    def _not_found(self, txn: Txn, runs: dict[int, bytes], keys: set[bytes]) -> list[bytes]:
        """Those keys that are neither in a run nor in the tree, ascending."""
        if runs:
            keys = keys - self._pending_keys(runs)
            if self._divided:
                keys -= self._divided
        tree = self._file.database(self._tree)
        if not keys or not txn.stat(tree)["entries"]:
            return sorted(keys)
        # Ascending, so that one look finds the pages of the one before in the processor's cache.
        found = txn.cursor(tree).set_key_dup
        return [key for key in sorted(keys) if not found(self._key, key)]

    def _merge(self, txn: Txn, runs: dict[int, bytes], numbers: list[int]) -> Committed:
        is_first = not txn.stat(self._file.database(self._tree))["entries"]
        keys = sorted(split(b"".join(runs[number] for number in numbers)))
        # dupdata=False is the one mode whose ``added`` counts exactly the new members.
        pairs = zip(repeat(self._key), keys)
        _, added = txn.cursor(self._file.database(self._tree)).putmulti(pairs, dupdata=False)
        if added != len(keys):
            raise Damaged(f"{self._file.path.name} has {len(keys) - added} of its {self._tree} twice")
        self._delete(txn, numbers)
        return partial(self._merged, numbers, is_first=is_first)

    def _merged(self, numbers: list[int], *, is_first: bool) -> None:
        # Where nobody ever asked who is pending, the caller knows all members, and needs no filter.
        if is_first and self._pending is not None and (made := self._merging.filters.new()) is not None:
            for run in self._runs.values():
                made.learn(split(run))
            self._filter = made
        self._drop(numbers)
        # Keys that are merged may stay among the others: they are members. To take them out one by one would cost more.
        if not self._parts:
            self._divided = set()
        if not self._runs and self._pending is not None:
            self._pending = set()

    def _divide(self, txn: Txn, runs: dict[int, bytes]) -> Committed:
        numbers = list(runs)
        parts = list(enumerate(_parts(list(runs.values()), self._merging.part_keys), self._next))
        for number, part in parts:
            self._put(txn, number, part)
        self._delete(txn, numbers)
        return partial(self._take_parts, numbers, parts)

    def _take_parts(self, numbers: list[int], parts: list[tuple[int, bytes]]) -> None:
        self._drop(numbers)
        if self._pending is not None:
            self._divided, self._pending = self._pending, set()
        for number, part in parts:
            self._take(number, part)
            self._parts.append(number)

    def _take(self, number: int, run: bytes) -> None:
        self._runs[number] = run
        self._weight += self._weight_of(run)
        self._next = number + 1

    def _drop(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._weight -= self._weight_of(self._runs.pop(number))
        self._parts = [number for number in self._parts if number in self._runs]

    def _weight_of(self, run: bytes) -> int:
        return max(len(run) // KEY_BYTES, self._merging.run_keys_min)

    def _pending_keys(self, runs: dict[int, bytes]) -> set[bytes]:
        """The keys of the runs, as a set from the first time on that one is needed."""
        if self._pending is None:
            self._pending = set()
            for run in runs.values():
                self._pending.update(split(run))
        return self._pending

    def _read(self, txn: Txn) -> dict[int, bytes]:
        """The runs as of the last commit: before this transaction changes them."""
        if not self._known:
            self._runs, self._parts = self._runs_in(txn), []
            self._next = max(self._runs, default=-1) + 1
            self._weight = sum(map(self._weight_of, self._runs.values()))
            self._known = True
        return self._runs

    def _runs_in(self, txn: Txn) -> dict[int, bytes]:
        runs: dict[int, bytes] = {}
        if not self._file.has(RUNS):
            return runs
        cursor = txn.cursor(self._file.database(RUNS))
        there = cursor.set_range(self._key)
        while there and (name := cursor.key()).startswith(self._key):
            run = runs[int.from_bytes(name[len(self._key) :], "big")] = cursor.value()
            if not run or len(run) % KEY_BYTES:
                raise Damaged(f"{self._file.path.name} has a run of {len(run)} bytes, which is not one of keys")
            there = cursor.next()
        return runs

    def _put(self, txn: Txn, number: int, run: bytes) -> None:
        txn.put(self._name(number), run, db=self._file.database(RUNS))

    def _delete(self, txn: Txn, numbers: Iterable[int]) -> None:
        for number in numbers:
            txn.delete(self._name(number), db=self._file.database(RUNS))

    def _name(self, number: int) -> bytes:
        return self._key + number.to_bytes(_NUMBER_BYTES, "big")


def _parts(runs: Sequence[bytes], part_keys: int) -> list[bytes]:
    """Ascending runs, cut into parts of about so many keys, each of which spans keys of its own.

    Only bytes are moved here; to sort them would take ten times as long, and is done part by part, when it is merged.
    """
    whole = b"".join(runs)
    count = len(whole) // KEY_BYTES
    step = KEY_BYTES * min(_SAMPLE, part_keys // 16 + 1)
    sample = sorted(whole[at : at + KEY_BYTES] for at in range(0, len(whole), step))
    pieces = -(-count // part_keys)
    bounds = [sample[len(sample) * piece // pieces] for piece in range(1, pieces)]
    ranges = zip(*(pairwise(_cuts(run, bounds)) for run in runs), strict=True)
    parts = (b"".join(run[low:high] for run, (low, high) in zip(runs, at, strict=True)) for at in ranges)
    return [part for part in parts if part]


def _cuts(run: bytes, bounds: Sequence[bytes]) -> list[int]:
    """Where to cut a run, its beginning and end included; never backwards, even if it is not ascending."""

    def key(at: int) -> bytes:
        return run[at * KEY_BYTES : (at + 1) * KEY_BYTES]

    inner = (bisect_left(range(len(run) // KEY_BYTES), bound, key=key) * KEY_BYTES for bound in bounds)
    return [*accumulate(inner, max, initial=0), len(run)]
