"""One slice's LMDB file: the users seen, the ids seen, the counters, and how far each stream has come.

::

    database  key               value
    users     b"u"              16-byte user keys: one sorted set
    ids       b"i"              16-byte id keys: one sorted set
    runs      b"u" or b"i", u64 16-byte keys that are not in one of these sets yet; see ``key_set.py``
    counts    event type        u64, big-endian
              b"*users"         u64, big-endian: how many users there are, in ``users`` and ``runs``
    streams   16-byte stream    a StreamRecord: last seq, check, receipt
    meta      b"label"          msgpack: file uuid, route, position, key id
              b"fingerprint"    8 bytes of route and position
              b"incomplete"     present once a sender knows that acknowledged data of this slice was lost here

All that a batch changes is one transaction, so a number and what it counted are on disk together or not at all.

A transaction takes the batches of a group in three steps, each over all of them at once::

    decide     batch by batch, by the number of its stream: what is applied
    gather     users and ids as sets, counts by name; ids that were known take their events out again
    put        of ids and users those that are new, as one run each; counts; of each stream the last number

A run gets into its set later, in transactions of its own: ``merge``.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import TypeVar

import msgspec

from common.lmdb_file import MAP_BYTES, Damaged, Database, Kind, LmdbFile, Txn
from common.routing import Route, route_fingerprint
from common.slices import SliceId
from common.summaries import Summary
from common.wire import NO_ID, Held, Outcome
from worker_node.key_set import RUNS, Committed, KeySet, Merging
from worker_node.receiver import Decision, Label, NumberedBatch, StreamRecord, decide_labelled, split
from worker_node.recent_keys import RecentKeys

DATABASES = {
    "users": Kind.SET,
    "ids": Kind.SET,
    "runs": Kind.MAP,
    "counts": Kind.MAP,
    "streams": Kind.MAP,
    "meta": Kind.MAP,
}
LATER = (RUNS,)  # files that were made before there were runs have none
USERS_KEY, IDS_KEY = b"u", b"i"
UNIQUE_USERS = b"*users"  # no event type has a star
LABEL, FINGERPRINT, INCOMPLETE = b"label", b"fingerprint", b"incomplete"
FILE_UUID_BYTES = 16

_U64_BYTES = 8
# So many passes over the kinds of a batch, each at a byte in a fraction of a nanosecond, take as long as one that looks
# each byte up.
_NAMES_COUNTED_EACH_MAX = 32

T = TypeVar("T")


class SliceStore:
    """One slice's file, open. Belongs to the writer's thread.

    Attributes:
        slice: the slice.
        label: what was written on the file when it was made.
        held: the slice as last committed.
    """

    def __init__(
        self,
        *,
        file: LmdbFile,
        slice_id: SliceId,
        label: Label,
        held: Held,
        recent: RecentKeys | None = None,
        merging: Merging | None = None,
    ) -> None:
        self.slice = slice_id
        self.label = label
        self.held = held
        self._file = file
        self._recent = RecentKeys(keys_max=0) if recent is None else recent
        merging = merging or Merging()
        self.users = KeySet(file=file, tree="users", key=USERS_KEY, merging=merging)
        self.ids = KeySet(file=file, tree="ids", key=IDS_KEY, merging=merging)
        if file.txn == 0:
            self._recent.begin(self)

    @classmethod
    def open(
        cls,
        path: Path,
        slice_id: SliceId,
        *,
        recent: RecentKeys | None = None,
        merging: Merging | None = None,
        map_bytes: int = MAP_BYTES,
    ) -> SliceStore | None:
        """Open the file of a slice; None if it never saw a commit, so that it holds nothing.

        Args:
            path: of the file.
            slice_id: the slice.
            recent: where to remember user keys that are in the file; without it, none are remembered.
            merging: when new keys get into the sorted sets.
            map_bytes: the size of its map.

        Raises:
            Damaged: it cannot be read, or is not the file of a slice.
        """
        file = LmdbFile(path=path, databases=DATABASES, later=LATER, map_bytes=map_bytes)
        file.open()
        try:
            if file.txn == 0:
                file.close()
                return None
            label, held = file.read(lambda txn: _load(file, txn, slice_id))
        except BaseException:
            file.close()
            raise
        return cls(file=file, slice_id=slice_id, label=label, held=held, recent=recent, merging=merging)

    @classmethod
    def create(
        cls,
        path: Path,
        slice_id: SliceId,
        *,
        route: Route,
        position: int,
        key_id: bytes,
        recent: RecentKeys | None = None,
        merging: Merging | None = None,
        map_bytes: int = MAP_BYTES,
    ) -> SliceStore:
        """Make the file of a slice. The label is written together with the first batch."""
        file = LmdbFile(path=path, databases=DATABASES, later=LATER, map_bytes=map_bytes)
        file.open()
        label = Label(file=os.urandom(FILE_UUID_BYTES), route=route, position=position, key_id=key_id)
        held = Held(summary=Summary(slice=slice_id), route=route, file=label.file)
        return cls(file=file, slice_id=slice_id, label=label, held=held, recent=recent, merging=merging)

    @property
    def pending(self) -> int:
        """How many keys are to be merged, as far as is known, where a small run counts for more than it holds."""
        return self.users.weight + self.ids.weight

    def apply(self, items: Sequence[NumberedBatch]) -> list[Decision]:
        """Apply batches in their order, in one transaction; on disk when this returns.

        Returns:
            What became of each, in the same order.
        """
        return self._commit(lambda application: application.run(items))

    def count(self, user_key: bytes, event_type: str) -> None:
        """Count one event that has no number: it counts again when it is repeated."""
        self._commit(lambda application: application.count(user_key, event_type))

    @property
    def size_bytes(self) -> int:
        """The size of the file, as last committed."""
        return self._file.size_bytes

    def merge(self) -> None:
        """Bring some of the keys that are pending closer to their set; on disk when this returns."""
        keys = max(self.users, self.ids, key=lambda keys: keys.weight)
        try:
            self._file.write(keys.merge)()
            self._committed(self.held.summary)
        except BaseException:
            self._forget()
            raise

    def streams(self) -> list[tuple[bytes, StreamRecord]]:
        """Every stream that the slice has heard of, and how far it came."""
        if self._file.txn == 0:
            return []
        return self._file.read(
            lambda txn: [
                (name, _record(self._file, stored)) for name, stored in txn.cursor(self._file.database("streams"))
            ]
        )

    def problems(self) -> list[str]:
        """What does not add up in the file, although all of it can be read; empty if nothing is wrong."""
        return self._file.read(self._problems)

    def close(self) -> None:
        """Close the file."""
        self._recent.forget(self)
        self._file.close()

    def _commit(self, work: Callable[[_Application], T]) -> T:
        """Do something in a transaction, and take it over once it is on disk; not before: it may be done twice."""

        def transaction(txn: Txn) -> tuple[T, _Application]:
            application = _Application(self, self._file, txn, self._recent)
            return work(application), application

        try:
            result, application = self._file.write(transaction)
            self._committed(application.summary)  # first: whatever fails from here on, the file has it
            for committed in application.committed:
                committed()
            self._recent.learn(self, application.unknown_users)
        except BaseException:
            self._forget()
            raise
        return result

    def _forget(self) -> None:
        """What is known of the keys in the file may not be so."""
        self._recent.forget(self)
        self.users.forget()
        self.ids.forget()

    def _problems(self, txn: Txn) -> list[str]:
        problems = self.users.problems(txn) + self.ids.problems(txn)
        if not problems:
            members, counted = self.users.members(txn), self.held.summary.users
            if members != counted:
                problems.append(f"{members} users are there, {counted} are counted")
        return problems

    def _committed(self, summary: Summary) -> None:
        self.held = Held(summary=summary, route=self.label.route, file=self.label.file, txn=self._file.txn)


@dataclass(slots=True, eq=False)
class _Taken:
    """A batch that is applied, and the positions of its repeats, once they are known."""

    item: NumberedBatch
    repeats: tuple[int, ...] = ()

    @property
    def record(self) -> StreamRecord:
        return StreamRecord(self.item.batch.seq, self.item.check, self.repeats)


class _Application:
    """What one transaction adds to a slice.

    Attributes:
        summary: the slice as it will be.
        unknown_users: users of whom it was not known that the file has them; it does now.
        committed: to be called once all of it is on disk.
    """

    def __init__(self, store: SliceStore, file: LmdbFile, txn: Txn, recent: RecentKeys) -> None:
        self.summary = store.held.summary
        self.unknown_users: set[bytes] = set()
        self.committed: list[Committed] = []
        self._store = store
        self._file = file
        self._txn = txn
        self._recent = recent
        self._taken: list[_Taken] = []
        self._last: dict[bytes, _Taken] = {}

    def run(self, items: Iterable[NumberedBatch]) -> list[Decision]:
        """Decide on batches in their order, and apply those that are due."""
        decided = [self._decide(item) for item in items]
        if self._taken:
            self._add_batches()
        return [decision if taken is None else replace(decision, repeats=taken.repeats) for decision, taken in decided]

    def count(self, user_key: bytes, event_type: str) -> None:
        """Count one event."""
        self._add(users={user_key}, counts={event_type: 1}, incomplete=False)

    def _decide(self, item: NumberedBatch) -> tuple[Decision, _Taken | None]:
        """What to do with a batch; and, where its receipt speaks of repeats, the batch that has them."""
        taken = self._last.get(item.stream)
        decision = decide_labelled(
            self._store.label, self._stored(item.stream) if taken is None else taken.record, item
        )
        if decision.outcome is Outcome.APPLIED:
            taken = self._last[item.stream] = _Taken(item)
            self._taken.append(taken)
            return decision, taken
        # Of the last batch of a stream, repeats are told again; those of a batch of this transaction are not known yet.
        is_last = decision.outcome is Outcome.DUPLICATE and decision.repeats is not None
        return decision, taken if is_last else None

    def _stored(self, stream: bytes) -> StreamRecord | None:
        stored = self._txn.get(stream, db=self._database("streams"))
        return None if stored is None else _record(self._file, stored)

    def _add_batches(self) -> None:
        self._find_repeats()
        users: set[bytes] = set()
        counts: Counter[str] = Counter()
        for taken in self._taken:
            batch = taken.item.batch
            users.update(_without(taken.item.users, taken.repeats))
            for name, count in zip(batch.names, _counts(batch.kinds, len(batch.names)), strict=True):
                counts[name] += count
            for position in taken.repeats:
                # A repeat counts nothing at all.
                counts[batch.names[batch.kinds[position]]] -= 1
        self._add(users=users, counts=counts, incomplete=any(taken.item.batch.regressed for taken in self._taken))
        streams = self._database("streams")
        for stream, taken in self._last.items():
            self._txn.put(stream, taken.record.to_bytes(), db=streams)

    def _find_repeats(self) -> None:
        """Remember the ids, and find the events whose id was known: from before, or from earlier in the group."""
        columns = [split(taken.item.batch.ids) for taken in self._taken]
        ids: set[bytes] = set()
        ids.update(*columns)
        events = sum(map(len, columns))
        if NO_ID in ids:
            ids.remove(NO_ID)
            events -= sum(column.count(NO_ID) for column in columns)
        if not ids:
            return
        new = self._store.ids.new_among(self._txn, ids)
        if new:
            self.committed.append(self._store.ids.add(self._txn, new))
        if len(new) == events:
            return
        known = ids.difference(new)
        for taken, column in zip(self._taken, columns, strict=True):
            taken.repeats = _repeats(column, known)

    def _add(self, *, users: set[bytes], counts: Mapping[str, int], incomplete: bool) -> None:
        before = self.summary
        if self._file.txn == 0:
            self._write_label()
        added = self._add_users(users)
        if incomplete:
            self._txn.put(INCOMPLETE, b"", db=self._database("meta"))
        totals = dict(before.counts)
        for name, count in counts.items():
            if count:
                totals[name] = totals.get(name, 0) + count
                self._put_count(name.encode(), totals[name])
        if added:
            self._put_count(UNIQUE_USERS, before.users + added)
        self.summary = Summary(
            slice=self._store.slice,
            users=before.users + added,
            counts=totals,
            complete=before.complete and not incomplete,
        )

    def _add_users(self, users: set[bytes]) -> int:
        self.unknown_users = self._recent.unknown(self._store, users)
        known = self._recent.knows_all(self._store)
        new = self._store.users.new_among(self._txn, self.unknown_users, members_known=known)
        if new:
            self.committed.append(self._store.users.add(self._txn, new))
        return len(new)

    def _write_label(self) -> None:
        label, meta = self._store.label, self._database("meta")
        self._txn.put(LABEL, msgspec.msgpack.encode(label), db=meta)
        self._txn.put(FINGERPRINT, route_fingerprint(label.route, label.position), db=meta)

    def _put_count(self, key: bytes, count: int) -> None:
        self._txn.put(key, count.to_bytes(_U64_BYTES, "big"), db=self._database("counts"))

    def _database(self, name: str) -> Database:
        return self._file.database(name)


def _without(keys: Sequence[bytes], gone: Sequence[int]) -> Iterable[bytes]:
    if not gone:
        return keys
    kept = bytearray(b"\1") * len(keys)
    for position in gone:
        kept[position] = 0
    return compress(keys, kept)


def _counts(kinds: bytes, names: int) -> list[int]:
    """How many events there are of each kind."""
    if names <= _NAMES_COUNTED_EACH_MAX:
        return [kinds.count(index) for index in range(names)]
    counts = Counter(kinds)
    return [counts[index] for index in range(names)]


def _repeats(column: Sequence[bytes], known: set[bytes]) -> tuple[int, ...]:
    """The positions of ids that are known, in ascending order; from then on, all of the column are."""
    repeats = []
    for position, key in enumerate(column):
        if key in known:
            repeats.append(position)
        elif key != NO_ID:
            known.add(key)
    return tuple(repeats)


def _record(file: LmdbFile, stored: bytes) -> StreamRecord:
    try:
        return StreamRecord.from_bytes(stored)
    except struct.error as error:
        raise Damaged(f"{file.path.name} has a stream record that is none") from error


def _load(file: LmdbFile, txn: Txn, slice_id: SliceId) -> tuple[Label, Held]:
    meta = file.database("meta")
    stored = txn.get(LABEL, db=meta)
    try:
        label = msgspec.msgpack.decode(stored or b"", type=Label)
    except msgspec.DecodeError as error:
        raise Damaged(f"{file.path.name} has no readable label") from error
    if txn.get(FINGERPRINT, db=meta) != route_fingerprint(label.route, label.position):
        raise Damaged(f"{file.path.name} has a label that does not fit its fingerprint")
    try:
        counts = {key.decode(): int.from_bytes(value, "big") for key, value in txn.cursor(file.database("counts"))}
    except UnicodeDecodeError as error:
        raise Damaged(f"{file.path.name} counts what is no event type") from error
    users = counts.pop(UNIQUE_USERS.decode(), 0)
    summary = Summary(
        slice=slice_id,
        users=users,
        counts=counts,
        complete=txn.get(INCOMPLETE, db=meta) is None,
    )
    return label, Held(summary=summary, route=label.route, file=label.file, txn=file.txn)
