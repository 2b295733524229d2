"""The file in memory does what LMDB does, as far as the stores can tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from common.lmdb_file import Database, Kind, LmdbFile, Txn
from tests.simulation.faults import Faults
from tests.simulation.memory_file import Content, MemoryFile

DATABASES = {"map": Kind.MAP, "set": Kind.SET}
KEYS = (b"a", b"b", b"ba", b"c")
VALUES = (b"1" * 16, b"2" * 16, b"3" * 16)

Key = st.sampled_from(KEYS)
Value = st.sampled_from(VALUES)
Call = st.one_of(
    st.tuples(st.just("put"), Key, Value),
    st.tuples(st.just("pop"), Key),
    st.tuples(st.just("get"), Key),
    st.tuples(st.just("add"), Key, Value),
    st.tuples(st.just("add_many"), st.lists(Value, max_size=4)),
    st.tuples(st.just("has"), Key, Value),
    st.tuples(st.just("count")),
    st.tuples(st.just("delete"), Key),
    st.tuples(st.just("from"), Key),
    st.tuples(st.just("step"), Key),
    st.tuples(st.just("all")),
    st.tuples(st.just("keys")),
)
Work = st.tuples(st.lists(Call, max_size=8), st.booleans())
"""Calls of one transaction, and whether it fails in the end."""


class Abort(Exception):
    """A transaction that fails."""


def do(file: LmdbFile, txn: Txn, call: tuple[object, ...]) -> object:  # noqa: C901, PLR0911 - one for each kind of call
    """One call; what it tells."""
    db, members = file.database("map"), file.database("set")
    match call:
        case ("put", bytes(key), bytes(value)):
            return txn.put(key, value, db=db)
        case ("pop", bytes(key)):
            return txn.pop(key, db=db)
        case ("get", bytes(key)):
            return txn.get(key, b"none", db=db)
        case ("add", bytes(key), bytes(value)):
            return txn.cursor(members).put(key, value, dupdata=False)
        case ("add_many", list(values)):
            return txn.cursor(members).putmulti([(b"u", value) for value in sorted(set(values))], dupdata=False)
        case ("has", bytes(key), bytes(value)):
            return txn.cursor(members).set_key_dup(key, value)
        case ("count",):
            return [txn.stat(each)["entries"] for each in (db, members)]
        case ("delete", bytes(key)):
            return txn.delete(key, db=db)
        case ("step", bytes(key)):
            return list(step(txn, db, key))
        case ("from", bytes(key)):
            cursor = txn.cursor(db)
            return list(cursor) if cursor.set_range(key) else "nothing"
        case ("keys",):
            return list(txn.cursor(db).iternext(keys=True, values=False))
    return list(txn.cursor(db))


def step(txn: Txn, db: Database, key: bytes) -> Iterator[tuple[bytes, bytes]]:
    """What a cursor stands on: in the beginning, then from a key on."""
    cursor = txn.cursor(db)
    there = cursor.first()
    if there:
        yield cursor.key(), cursor.value()
    there = cursor.set_range(key)
    while there:
        yield cursor.key(), cursor.value()
        there = cursor.next()


def play(file: LmdbFile, works: list[tuple[list[tuple[object, ...]], bool]]) -> Iterator[object]:
    """What a file tells in the course of these transactions, each followed by closing and opening it."""
    file.open()
    for calls, fails in works:
        with suppress(Abort):
            yield file.write(_work(file, calls, fails=fails))
        file.close()
        file.open()
        yield file.txn > 0
    file.close()


def _work(file: LmdbFile, calls: list[tuple[object, ...]], *, fails: bool) -> Callable[[Txn], list[object]]:
    def work(txn: Txn) -> list[object]:
        told = [do(file, txn, call) for call in calls]
        if fails:
            raise Abort
        return told

    return work


@settings(max_examples=150, deadline=None)
@given(st.lists(Work, min_size=1, max_size=4))
def test_a_file_in_memory_tells_what_lmdb_tells(works: list[tuple[list[tuple[object, ...]], bool]]) -> None:
    """Every call's result, whether there was a commit, and what is left of one that failed."""
    faults = Faults(random=Random(0), full_share=0.3)
    memory = MemoryFile(content=Content(), databases=DATABASES, faults=faults)

    with TemporaryDirectory() as folder:
        lmdb = LmdbFile(path=Path(folder) / "l.mdb", databases=DATABASES, map_bytes=1 << 20)

        assert list(play(memory, works)) == list(play(lmdb, works))
