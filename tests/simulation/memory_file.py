"""A file in memory that the stores take for an LMDB file: transactions, named databases, cursors.

What is on the simulated disk is ``Content``; a ``MemoryFile`` is one opening of it, gone with its process.
``test_memory_file.py`` holds it to what LMDB does, call by call.

::

    write(work)   work runs, on the tables themselves; what it changes is noted
                  a fault strikes: everything noted is undone, as LMDB does with what was not committed
                  else: one transaction more
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from common.lmdb_file import Database, Kind, LmdbFile, Txn
from tests.simulation.faults import Faults

T = TypeVar("T")
NOWHERE = Path("/nonexistent/file-in-memory")
Table = dict[bytes, Any]
"""Of a MAP: key -> value. Of a SET: key -> set of values."""


@dataclass(slots=True)
class Content:
    """What is on the disk under one name."""

    txn: int = 0
    tables: dict[str, Table] = field(default_factory=dict)

    def copy(self) -> Content:
        """A backup of it."""
        tables = {
            name: {key: set(value) if isinstance(value, set) else value for key, value in table.items()}
            for name, table in self.tables.items()
        }
        return Content(self.txn, tables)


class MemoryFile(LmdbFile):
    """An opening of some content."""

    def __init__(self, *, content: Content, databases: Mapping[str, Kind], faults: Faults) -> None:
        super().__init__(path=NOWHERE, databases=databases)
        self._content = content
        self._faults = faults
        self._tables = content.tables

    def open(self) -> None:
        """As LmdbFile; nothing can be damaged here."""
        self.txn = self._content.txn

    def close(self) -> None:
        """As LmdbFile."""

    def write(self, work: Callable[[Txn], T]) -> T:
        """As LmdbFile; also where the map is full: what the transaction did is undone, and done again."""
        for name in self._databases:
            self._tables.setdefault(name, {})
        if self._faults.map_is_full():
            self._attempt(work).undo()
        txn = _MemoryTxn()
        try:
            result = work(cast("Txn", txn))
            self._faults.point()
        except BaseException:
            txn.undo()
            raise
        if txn.changed or self._content.txn == 0:
            self._content.txn += 1
        self.txn = self._content.txn
        self._faults.point()
        return result

    def read(self, work: Callable[[Txn], T]) -> T:
        """As LmdbFile."""
        return work(cast("Txn", _MemoryTxn()))

    def database(self, name: str) -> Database:
        """The table itself."""
        return cast("Database", self._tables[name])

    def has(self, name: str) -> bool:
        """As LmdbFile."""
        return name in self._tables

    def _attempt(self, work: Callable[[Txn], T]) -> _MemoryTxn:
        txn = _MemoryTxn()
        try:
            work(cast("Txn", txn))
        except BaseException:
            txn.undo()
            raise
        return txn


class _MemoryTxn:
    """What of an LMDB transaction the stores use."""

    __slots__ = ("_undo",)

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    @property
    def changed(self) -> bool:
        return bool(self._undo)

    def undo(self) -> None:
        while self._undo:
            self._undo.pop()()

    def get(self, key: bytes, default: bytes | None = None, *, db: Table) -> bytes | None:
        return db.get(key, default)

    def put(self, key: bytes, value: bytes, *, db: Table) -> bool:
        self._note(db, key)
        db[key] = value
        return True

    def pop(self, key: bytes, *, db: Table) -> bytes | None:
        if key not in db:
            return None
        self._note(db, key)
        found: bytes = db.pop(key)
        return found

    def delete(self, key: bytes, *, db: Table) -> bool:
        return self.pop(key, db=db) is not None

    def stat(self, db: Table) -> dict[str, int]:
        return {"entries": sum(len(value) if isinstance(value, set) else 1 for value in db.values())}

    def cursor(self, db: Table) -> _MemoryCursor:
        return _MemoryCursor(db, self._undo)

    def _note(self, db: Table, key: bytes) -> None:
        if key in db:
            old = db[key]
            self._undo.append(lambda: db.__setitem__(key, old))
        else:
            self._undo.append(lambda: db.pop(key))


class _MemoryCursor:
    """What of an LMDB cursor the stores use: of a SET adding and looking up, of a MAP only reading."""

    __slots__ = ("_at", "_table", "_undo")

    def __init__(self, table: Table, undo: list[Callable[[], object]]) -> None:
        self._table = table
        self._undo = undo
        self._at = b""

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter([(key, self._table[key]) for key in self._keys()])

    def iternext(self, *, keys: bool, values: bool) -> Iterator[bytes]:
        assert keys
        assert not values
        return iter(self._keys())

    def first(self) -> bool:
        return self.set_range(b"")

    def set_range(self, key: bytes) -> bool:
        self._at = min((it for it in self._table if it >= key), default=key + b"\0")
        return self._at in self._table

    def next(self) -> bool:
        return self.set_range(self._at + b"\0")

    def key(self) -> bytes:
        return self._at

    def value(self) -> bytes:
        found: bytes = self._table[self._at]
        return found

    def set_key_dup(self, key: bytes, value: bytes) -> bool:
        return value in self._table.get(key, ())

    def put(self, key: bytes, value: bytes, dupdata: bool) -> bool:  # noqa: FBT001 - as LMDB's
        assert not dupdata
        members = self._members(key)
        if value in members:
            return False
        members.add(value)
        self._undo.append(lambda: members.discard(value))
        return True

    def putmulti(self, pairs: Iterable[tuple[bytes, bytes]], *, dupdata: bool) -> tuple[int, int]:
        added = [self.put(key, value, dupdata=dupdata) for key, value in pairs]
        return len(added), sum(added)

    def _keys(self) -> list[bytes]:
        keys = sorted(self._table)
        return keys[bisect_left(keys, self._at) :]

    def _members(self, key: bytes) -> set[bytes]:
        members: set[bytes] = self._table.setdefault(key, set())
        return members
