"""The users, or the ids, of one slice's file: a sorted tree, and runs of keys that are not in it yet.

::

    database      key                        value
    users, ids    b"u", b"i"                 16-byte keys: the tree
    runs          b"u" or b"i", then a u64   16-byte keys, ascending, one after the other: a run

    member    in the tree or in a run; never in both, nor in two runs
    add       the new keys of a commit become a run: some pages in a row, where the tree would have taken one for
              nearly every key, since keys are as good as random
    merge     a run goes into the tree, ascending, and is gone; one at a time, so that nobody waits for long
    divide    runs of commits each span all keys. Before they are merged they are written anew as parts, each of which
              spans a few of them: then many keys of a merge go to one page

Each of the three is in a transaction, so that whatever happens the file is right by itself. What the runs hold is also
kept in memory: read from the file when they are first asked for, changed after each commit, never before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise, repeat
from typing import TypeAlias

from common.lmdb_file import Damaged, LmdbFile, Txn
from worker_node.receiver import split

Committed: TypeAlias = Callable[[], None]
"""Takes over into memory what a transaction changed; to be called once that is on disk."""

RUNS = "runs"
KEY_BYTES = 16

# Of all open files together. As long as all users of a slice are known anyway a pending key takes 16 bytes, else about
# 125, so at most 32 MiB. More of them would make merges cheaper: with a tree of 60,000 pages (10 million keys) each of
# these pages is written for four keys.
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
    """

    pending_max: int = PENDING_KEYS_MAX
    part_keys: int = 1 << 14
    run_keys_min: int = 64


SHIPPED = Merging()


class KeySet:
    """One such set. Belongs to the writer's thread, like the file.

    What changes the file returns a function, which is called once that is committed.
    """

    def __init__(self, *, file: LmdbFile, tree: str, key: bytes, merging: Merging = SHIPPED) -> None:
        self._file = file
        self._tree = tree
        self._key = key
        self._merging = merging
        self._known = False  # what the runs of the file are
        self._runs: dict[int, bytes] = {}
        self._parts: list[int] = []
        self._next = 0
        self._pending: set[bytes] | None = None
        self._weight = 0

    @property
    def weight(self) -> int:
        """How many keys are pending, as far as is known, where a small run counts for more than it holds."""
        return self._weight

    def forget(self) -> None:
        """Read the runs again when they are next asked for."""
        self._known, self._runs, self._pending, self._weight = False, {}, None, 0

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
        if runs:
            keys = keys - self._pending_keys(runs)
        tree = self._file.database(self._tree)
        if not keys or not txn.stat(tree)["entries"]:
            return sorted(keys)
        # Ascending, so that one look finds the pages of the one before in the processor's cache.
        found = txn.cursor(tree).set_key_dup
        return [key for key in sorted(keys) if not found(self._key, key)]

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

    def _merge(self, txn: Txn, runs: dict[int, bytes], numbers: list[int]) -> Committed:
        keys = _ascending([split(runs[number]) for number in numbers])
        # dupdata=False is the one mode whose ``added`` counts exactly the new members.
        pairs = zip(repeat(self._key), keys)
        _, added = txn.cursor(self._file.database(self._tree)).putmulti(pairs, dupdata=False)
        if added != len(keys):
            raise Damaged(f"{self._file.path.name} has {len(keys) - added} of its {self._tree} twice")
        self._delete(txn, numbers)
        return partial(self._merged, numbers, keys)

    def _merged(self, numbers: list[int], keys: Sequence[bytes]) -> None:
        self._drop(numbers)
        if self._pending is not None:
            self._pending.difference_update(keys)

    def _divide(self, txn: Txn, runs: dict[int, bytes]) -> Committed:
        numbers = list(runs)
        parts = list(enumerate(_parts(list(map(split, runs.values())), self._merging.part_keys), self._next))
        for number, part in parts:
            self._put(txn, number, part)
        self._delete(txn, numbers)
        return partial(self._divided, numbers, parts)

    def _divided(self, numbers: list[int], parts: list[tuple[int, bytes]]) -> None:
        self._drop(numbers)
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


def _ascending(columns: Sequence[Sequence[bytes]]) -> Sequence[bytes]:
    return columns[0] if len(columns) == 1 else sorted(chain.from_iterable(columns))


def _parts(columns: Sequence[Sequence[bytes]], part_keys: int) -> list[bytes]:
    """Ascending columns, taken together and cut into parts of about so many keys; the parts are ascending too."""
    count = sum(map(len, columns))
    sample = sorted(list(chain.from_iterable(columns))[:: min(_SAMPLE, part_keys // 16 + 1)])
    pieces = -(-count // part_keys)
    bounds = [b"", *(sample[len(sample) * piece // pieces] for piece in range(1, pieces))]
    cuts = [[*(bisect_left(column, bound) for bound in bounds), len(column)] for column in columns]
    ranges = zip(*map(pairwise, cuts), strict=True)
    parts = (
        # One after the other, because the interpreter's lock is not let go of while a list is sorted.
        b"".join(_ascending([column[low:high] for column, (low, high) in zip(columns, at, strict=True)]))
        for at in ranges
    )
    return [part for part in parts if part]
