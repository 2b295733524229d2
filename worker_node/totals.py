"""``totals.mdb``: what a worker keeps that is not the data of an open slice.

::

    database  key                  value
    facts     b"pins"              msgpack: the cluster's pins, once the worker has joined
              b"claims"            u64, big-endian: the highest claim number that the worker ever heard of
              b"replaced"          u64, big-endian: the claim number by which this directory took a lost one's place
              b"lost" + slice      msgpack: the route of a slice that the lost one held
              b"writing" + slice   the boot of the machine, for a slice whose file is being written: see write_list.py
    closed    slice                msgpack: summary, route, file uuid, txn; position, key id
    streams   slice + 16 bytes     a StreamRecord, as in the slice file

    slice: 8 bytes, big-endian, counted from the smallest int64, so that they sort as numbers

A slice is closed by the one transaction that moves all this here; from then on its file is a leftover. The file belongs
to the writer's thread; ``pins`` and ``claims`` are replaced as a whole after their commit, so any thread may read them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import msgspec

from common.lmdb_file import MAP_BYTES, Kind, LmdbFile, Txn, open_or_fail
from common.routing import Route
from common.slices import SliceId
from common.summaries import Summary
from common.wire import NO_ID, SLICE_MIN, Batch, Held, Outcome, Pins, SettledRoute
from worker_node.receiver import (
    APPLY,
    CLOSED,
    NO_KEY,
    Decision,
    Label,
    NumberedBatch,
    StreamRecord,
    decide_labelled,
    split,
)

FILE_NAME = "totals.mdb"
DATABASES = {"facts": Kind.MAP, "closed": Kind.MAP, "streams": Kind.MAP}

PINS, CLAIMS, REPLACED, LOST, WRITING = b"pins", b"claims", b"replaced", b"lost", b"writing"
_U64_BYTES = 8


class _Closed(msgspec.Struct, frozen=True, kw_only=True):
    held: Held
    position: int
    key_id: bytes

    @property
    def label(self) -> Label:
        return Label(file=self.held.file, route=self.held.route, position=self.position, key_id=self.key_id)


_decode_closed = msgspec.msgpack.Decoder(_Closed).decode
_decode_route = msgspec.msgpack.Decoder(Route).decode
_encode = msgspec.msgpack.encode


class Totals:
    """The file ``totals.mdb`` in a data directory.

    Attributes:
        pins: the cluster's constants; None until the worker has joined.
        claims: the highest claim number that the worker has heard of; durable before it is seen here.
        replaced: the number of the claim by which this directory took a lost one's place; 0 if it did not.
    """

    def __init__(self, *, folder: Path, map_bytes: int = MAP_BYTES) -> None:
        self.pins: Pins | None = None
        self.claims = 0
        self.replaced = 0
        self._file = LmdbFile(path=folder / FILE_NAME, databases=DATABASES, map_bytes=map_bytes)

    def open(self) -> None:
        """Open the file, or make it.

        Raises:
            InputOutputFailed: it cannot be opened.
        """
        open_or_fail(self._file)
        if self._file.txn == 0:
            # Makes the databases, so that everything can be read from here on.
            self._file.write(lambda txn: self._put_claims(txn, 0))
        self.pins, self.claims, self.replaced = self._file.read(self._facts)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def set_pins(self, pins: Pins) -> None:
        """Keep the pins; durable when this returns."""
        self._file.write(lambda txn: txn.put(PINS, _encode(pins), db=self._file.database("facts")))
        self.pins = pins

    def note_claims(self, claims: int) -> None:
        """Keep the claim number if it is the highest yet; durable when this returns."""
        if claims > self.claims:
            self._file.write(lambda txn: self._put_claims(txn, claims))
            self.claims = claims

    def lose(self, routes: Iterable[SettledRoute], *, replaced: int) -> None:
        """Keep which slices the directory before this one held; durable when this returns.

        Args:
            routes: of those slices.
            replaced: the number of the replacement; 0 while there are more of them to come.
        """
        lost = [(LOST + _slice_key(one.slice), msgspec.msgpack.encode(one.route)) for one in routes]

        def work(txn: Txn) -> None:
            for key, route in lost:
                txn.put(key, route, db=self._file.database("facts"))
            if replaced:
                txn.put(REPLACED, replaced.to_bytes(_U64_BYTES, "big"), db=self._file.database("facts"))

        self._file.write(work)
        self.replaced = replaced or self.replaced

    def lost(self, slice_id: SliceId) -> Held | None:
        """What is known of a slice that the directory before this one held: its route. None if it held no such."""
        stored = self._file.read(lambda txn: txn.get(LOST + _slice_key(slice_id), db=self._file.database("facts")))
        if stored is None:
            return None
        return Held(summary=Summary(slice=slice_id, complete=False), route=_decode_route(stored))

    def lost_slices(self) -> frozenset[SliceId]:
        """All slices that the directory before this one held."""
        return frozenset(self._file.read(lambda txn: self._facts_of_slices(txn, LOST)))

    def writing(self) -> dict[SliceId, bytes]:
        """The slices whose files were noted as being written, each with the boot in which that was."""

        def work(txn: Txn) -> dict[SliceId, bytes]:
            facts, found = self._file.database("facts"), self._facts_of_slices(txn, WRITING)
            return {slice_id: txn.get(WRITING + _slice_key(slice_id), b"", db=facts) for slice_id in found}

        return self._file.read(work)

    def note_writing(self, begun: Iterable[SliceId], *, ended: Iterable[SliceId], boot: bytes) -> None:
        """Note which slices' files are being written, and which are not any more; durable when this returns."""

        def work(txn: Txn) -> None:
            facts = self._file.database("facts")
            for slice_id in ended:
                txn.delete(WRITING + _slice_key(slice_id), db=facts)
            for slice_id in begun:
                txn.put(WRITING + _slice_key(slice_id), boot, db=facts)

        self._file.write(work)

    def closed(self, slice_id: SliceId) -> Held | None:
        """What a closed slice holds; None if it is not closed."""
        found = self._file.read(lambda txn: self._get(txn, slice_id))
        return None if found is None else found.held

    def closed_slices(self) -> frozenset[SliceId]:
        """All closed slices."""

        def work(txn: Txn) -> frozenset[SliceId]:
            keys = txn.cursor(self._file.database("closed")).iternext(keys=True, values=False)
            return frozenset(map(_slice_of, keys))

        return self._file.read(work)

    def close_slice(self, held: Held, label: Label, streams: Iterable[tuple[bytes, StreamRecord]]) -> None:
        """Take over all that stays of a slice, in one transaction. Its file may be removed when this returns."""
        key = _slice_key(held.summary.slice)
        closed = _Closed(held=held, position=label.position, key_id=label.key_id)
        records = list(streams)

        def work(txn: Txn) -> None:
            txn.put(key, _encode(closed), db=self._file.database("closed"))
            for stream, record in records:
                txn.put(key + stream, record.to_bytes(), db=self._file.database("streams"))

        self._file.write(work)

    def receive_late(self, slice_id: SliceId, items: Sequence[NumberedBatch]) -> tuple[list[Decision], Held]:
        """Decide on batches for a closed slice, and count those that came from a spool; on disk when this returns."""
        return self._file.write(lambda txn: self._receive_late(txn, slice_id, items))

    def _receive_late(self, txn: Txn, slice_id: SliceId, items: Sequence[NumberedBatch]) -> tuple[list[Decision], Held]:
        found = self._get(txn, slice_id)
        if found is None:
            message = f"slice {slice_id} is not closed"
            raise LookupError(message)
        if found.key_id == NO_KEY and items:
            found = msgspec.structs.replace(found, key_id=items[0].batch.key_id)
        key, streams, held = _slice_key(slice_id), self._file.database("streams"), found.held
        decisions = []
        for item in items:
            stored = txn.get(key + item.stream, db=streams)
            last = None if stored is None else StreamRecord.from_bytes(stored)
            decision = decide_labelled(found.label, last, item)
            if decision == APPLY and not item.spooled:
                decision = CLOSED
            if decision.outcome is Outcome.APPLIED:
                held = _with_late(held, item.batch)
                txn.put(key + item.stream, StreamRecord(item.batch.seq, item.check).to_bytes(), db=streams)
            decisions.append(decision)
        if held is not found.held:
            changed = msgspec.structs.replace(found, held=held)
            txn.put(key, _encode(changed), db=self._file.database("closed"))
        return decisions, held

    def _facts_of_slices(self, txn: Txn, prefix: bytes) -> list[SliceId]:
        cursor = txn.cursor(self._file.database("facts"))
        if not cursor.set_range(prefix):
            return []
        keys = takewhile(lambda key: key.startswith(prefix), cursor.iternext(keys=True, values=False))
        return [_slice_of(key.removeprefix(prefix)) for key in keys]

    def _get(self, txn: Txn, slice_id: SliceId) -> _Closed | None:
        stored = txn.get(_slice_key(slice_id), db=self._file.database("closed"))
        return None if stored is None else _decode_closed(stored)

    def _put_claims(self, txn: Txn, claims: int) -> None:
        txn.put(CLAIMS, claims.to_bytes(_U64_BYTES, "big"), db=self._file.database("facts"))

    def _facts(self, txn: Txn) -> tuple[Pins | None, int, int]:
        facts = self._file.database("facts")
        pins = txn.get(PINS, db=facts)
        claims, replaced = (int.from_bytes(txn.get(name, b"", db=facts), "big") for name in (CLAIMS, REPLACED))
        return None if pins is None else msgspec.msgpack.decode(pins, type=Pins), claims, replaced


def _with_late(held: Held, batch: Batch) -> Held:
    """A closed slice and one more batch: events without id count; of the rest nobody knows whether they are new."""
    counts = Counter(held.summary.counts)
    keys = split(batch.ids)
    for position, kind in enumerate(batch.kinds):
        if not keys or keys[position] == NO_ID:
            counts[batch.names[kind]] += 1
    summary = replace(held.summary, counts=dict(counts), complete=False, late=held.summary.late + len(batch.kinds))
    # Each change is a new state of the file, whose numbers go on from where its last transaction was.
    return msgspec.structs.replace(held, summary=summary, txn=held.txn + 1)


def _slice_key(slice_id: int) -> bytes:
    return (slice_id - SLICE_MIN).to_bytes(8, "big")


def _slice_of(key: bytes) -> SliceId:
    return SliceId(int.from_bytes(key, "big") + SLICE_MIN)
