"""One slice's LMDB file: the users seen, the ids seen, the counters, and how far each stream has come.

::

    database  key               value
    users     b"u"              16-byte user keys: one sorted set
    ids       b"i"              16-byte id keys: one sorted set
    counts    event type        u64, big-endian
              b"*users"         u64, big-endian: how many members ``users`` has
    streams   16-byte stream    a StreamRecord: last seq, check, receipt
    meta      b"label"          msgpack: file uuid, route, position, key id
              b"fingerprint"    8 bytes of route and position
              b"incomplete"     present once a sender knows that acknowledged data of this slice was lost here

All that a batch changes is one transaction, so a number and what it counted are on disk together or not at all.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from common.anonymise import ID_KEY_BYTES, USER_KEY_BYTES
from common.lmdb_file import MAP_BYTES, Damaged, Database, Kind, LmdbFile, Txn
from common.routing import Route, route_fingerprint
from common.slices import SliceId
from common.summaries import Summary
from common.wire import NO_ID, Batch, Held, Outcome
from worker_node.receiver import Decision, Label, NumberedBatch, StreamRecord, decide_labelled, split

DATABASES = {"users": Kind.SET, "ids": Kind.SET, "counts": Kind.MAP, "streams": Kind.MAP, "meta": Kind.MAP}
USERS_KEY, IDS_KEY = b"u", b"i"
UNIQUE_USERS = b"*users"  # no event type has a star
LABEL, FINGERPRINT, INCOMPLETE = b"label", b"fingerprint", b"incomplete"
FILE_UUID_BYTES = 16

_U64_BYTES = 8


class SliceStore:
    """One slice's file, open. Belongs to the writer's thread.

    Attributes:
        slice: the slice.
        label: what was written on the file when it was made.
        held: the slice as last committed.
    """

    def __init__(self, *, file: LmdbFile, slice_id: SliceId, label: Label, held: Held) -> None:
        self.slice = slice_id
        self.label = label
        self.held = held
        self._file = file

    @classmethod
    def open(cls, path: Path, slice_id: SliceId, *, map_bytes: int = MAP_BYTES) -> SliceStore | None:
        """Open the file of a slice; None if it never saw a commit, so that it holds nothing.

        Raises:
            Damaged: it cannot be read, or is not the file of a slice.
        """
        file = LmdbFile(path=path, databases=DATABASES, map_bytes=map_bytes)
        file.open()
        try:
            if file.txn == 0:
                file.close()
                return None
            label, held = file.read(lambda txn: _load(file, txn, slice_id))
        except BaseException:
            file.close()
            raise
        return cls(file=file, slice_id=slice_id, label=label, held=held)

    @classmethod
    def create(
        cls, path: Path, slice_id: SliceId, *, route: Route, position: int, key_id: bytes, map_bytes: int = MAP_BYTES
    ) -> SliceStore:
        """Make the file of a slice. The label is written together with the first batch."""
        file = LmdbFile(path=path, databases=DATABASES, map_bytes=map_bytes)
        file.open()
        label = Label(file=os.urandom(FILE_UUID_BYTES), route=route, position=position, key_id=key_id)
        held = Held(summary=Summary(slice=slice_id), route=route, file=label.file)
        return cls(file=file, slice_id=slice_id, label=label, held=held)

    def apply(self, items: Sequence[NumberedBatch]) -> list[Decision]:
        """Apply batches in their order, in one transaction; on disk when this returns.

        Returns:
            What became of each, in the same order.
        """
        decisions, summary = self._file.write(lambda txn: _Application(self, self._file, txn).run(items))
        self._committed(summary)
        return decisions

    def count(self, user_key: bytes, event_type: str) -> None:
        """Count one event that has no number: it counts again when it is repeated."""

        def work(txn: Txn) -> Summary:
            application = _Application(self, self._file, txn)
            application.users.add(user_key)
            application.counts[event_type] += 1
            return application.finish()

        self._committed(self._file.write(work))

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
        members = self._file.read(lambda txn: txn.stat(self._file.database("users"))["entries"])
        counted = self.held.summary.users
        return [] if members == counted else [f"{members} users are there, {counted} are counted"]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _committed(self, summary: Summary) -> None:
        self.held = Held(summary=summary, route=self.label.route, file=self.label.file, txn=self._file.txn)


class _Application:
    """What one transaction adds to a slice. Users are gathered and added at the end: sorted, and each once."""

    def __init__(self, store: SliceStore, file: LmdbFile, txn: Txn) -> None:
        self.users: set[bytes] = set()
        self.counts: Counter[str] = Counter()
        self._store = store
        self._file = file
        self._txn = txn
        self._incomplete = False
        self._applied = False

    def run(self, items: Sequence[NumberedBatch]) -> tuple[list[Decision], Summary]:
        decisions = [self._receive(item) for item in items]
        return decisions, self.finish() if self._applied else self._store.held.summary

    def finish(self) -> Summary:
        before = self._store.held.summary
        if self._file.txn == 0:
            self._write_label()
        added = self._add_users()
        if self._incomplete:
            self._txn.put(INCOMPLETE, b"", db=self._database("meta"))
        counts = dict(before.counts)
        for name, count in self.counts.items():
            if count:
                counts[name] = counts.get(name, 0) + count
                self._put_count(name.encode(), counts[name])
        if added:
            self._put_count(UNIQUE_USERS, before.users + added)
        return Summary(
            slice=self._store.slice,
            users=before.users + added,
            counts=counts,
            complete=before.complete and not self._incomplete,
        )

    def _receive(self, item: NumberedBatch) -> Decision:
        streams = self._database("streams")
        stored = self._txn.get(item.stream, db=streams)
        last = None if stored is None else _record(self._file, stored)
        decision = decide_labelled(self._store.label, last, item)
        if decision.outcome is not Outcome.APPLIED:
            return decision
        self._applied = True
        repeats = self._add_events(item.batch)
        record = StreamRecord(item.batch.seq, item.check, repeats)
        self._txn.put(item.stream, record.to_bytes(), db=streams)
        self._incomplete = self._incomplete or item.batch.regressed
        return Decision(outcome=Outcome.APPLIED, repeats=repeats)

    def _add_events(self, batch: Batch) -> tuple[int, ...]:
        users = split(batch.users, USER_KEY_BYTES)
        repeats = self._add_ids(batch.ids) if batch.ids else ()
        for position in repeats:
            # A repeat counts nothing at all.
            self.counts[batch.names[batch.kinds[position]]] -= 1
        if repeats:
            gone = set(repeats)
            users = [user for position, user in enumerate(users) if position not in gone]
        self.users.update(users)
        for index, name in enumerate(batch.names):
            self.counts[name] += batch.kinds.count(index)
        return repeats

    def _add_ids(self, column: bytes) -> tuple[int, ...]:
        """Remember the ids of a batch.

        Returns:
            The positions of those that were known already, from before or from earlier in the batch; ascending.
        """
        first: dict[bytes, int] = {}
        repeats: list[int] = []
        for position, key in enumerate(split(column, ID_KEY_BYTES)):
            if key != NO_ID and first.setdefault(key, position) != position:
                repeats.append(position)
        # One descent per id tells and adds at once; sorted, so that neighbouring pages are touched together.
        put = self._txn.cursor(self._database("ids")).put
        repeats += [first[key] for key in sorted(first) if not put(IDS_KEY, key, dupdata=False)]
        return tuple(sorted(repeats))

    def _add_users(self) -> int:
        if not self.users:
            return 0
        # dupdata=False is the one mode whose ``added`` counts exactly the new members.
        pairs = [(USERS_KEY, key) for key in sorted(self.users)]
        _, added = self._txn.cursor(self._database("users")).putmulti(pairs, dupdata=False)
        return added

    def _write_label(self) -> None:
        label, meta = self._store.label, self._database("meta")
        self._txn.put(LABEL, msgspec.msgpack.encode(label), db=meta)
        self._txn.put(FINGERPRINT, route_fingerprint(label.route, label.position), db=meta)

    def _put_count(self, key: bytes, count: int) -> None:
        self._txn.put(key, count.to_bytes(_U64_BYTES, "big"), db=self._database("counts"))

    def _database(self, name: str) -> Database:
        return self._file.database(name)


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
