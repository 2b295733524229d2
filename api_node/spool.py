"""The spool: batches that an API node keeps on its own disk while their worker is away. One LMDB file.

::

    <data>/spools/<16 hex>/       flock'ed by the one process that uses it
                     spool.mdb

    database  key                              value
    facts     b"cluster"                       the cluster id; a spool of another cluster is refused
    streams   stream (16)                      the id of the worker that the stream leads to
    batches   stream (16) + slice (8) + seq (8)  check (8), spooled at (8), events (4), the batch as it was closed

    slice and seq: big-endian, the slice counted from the smallest int64, so that they sort as numbers

An event is acknowledged when its batch is here, fsynced. What was acknowledged is never dropped: bounds concern what is
taken in, never what is there. A batch leaves when its worker has answered for it. Holds user keys, no names.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import ConfigRefused, WireError
from common.lmdb_file import MAP_BYTES, Kind, LmdbFile, Txn, open_or_fail
from common.routing import Route, WorkerId
from common.slices import SliceId
from common.wire import CHECK_BYTES, SLICE_MIN, STREAM_BYTES, check_of, decode_batch

if TYPE_CHECKING:
    from common.slices import Micros

FILE_NAME = "spool.mdb"
DATABASES = {"facts": Kind.MAP, "streams": Kind.MAP, "batches": Kind.MAP}
CLUSTER = b"cluster"

_SEQ_MAX = (1 << 64) - 1  # above every number

_KEY = struct.Struct(f">{STREAM_BYTES}sQQ")
_HEAD = struct.Struct(f">{CHECK_BYTES}sqI")


@dataclass(frozen=True, slots=True, order=True)
class SpoolKey:
    """The name of a batch."""

    stream: bytes
    slice: SliceId
    seq: int

    def to_bytes(self) -> bytes:
        """As stored; sorts as the parts do."""
        return _KEY.pack(self.stream, self.slice - SLICE_MIN, self.seq)

    @classmethod
    def from_bytes(cls, stored: bytes) -> SpoolKey:
        """As read."""
        stream, offset, seq = _KEY.unpack(stored)
        return cls(stream, SliceId(offset + SLICE_MIN), seq)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledBatch:
    """A batch in the spool.

    Attributes:
        key: its name.
        raw: the bytes to send; None if the record is damaged: an empty batch of its number must take its place, so
            that the numbers behind it still follow.
        events: how many events it has.
    """

    key: SpoolKey
    raw: bytes | None
    events: int


@dataclass(slots=True)
class _Stream:
    """A stream with batches here: where it leads, how many there are with how many events, and since when."""

    worker: WorkerId
    batches: int = 0
    since: int = 0
    events: int = 0


class Spool:
    """One spool's file. Belongs to one thread at a time.

    Attributes:
        events: spooled events by slice.
        size_bytes: of all batches.
        oldest: when the oldest batch came in; None if there is none.
    """

    def __init__(self, *, folder: Path, cluster: str, map_bytes: int = MAP_BYTES) -> None:
        self.events: Counter[SliceId] = Counter()
        self.size_bytes = 0
        self._cluster = cluster
        self._file = LmdbFile(path=folder / FILE_NAME, databases=DATABASES, map_bytes=map_bytes)
        # Per stream and not per batch: while a worker is away there may be millions of them.
        self._streams: dict[bytes, _Stream] = {}

    def open(self) -> None:
        """Open the file, or make it.

        Raises:
            ConfigRefused: it is of another cluster.
            InputOutputFailed: it cannot be opened.
        """
        open_or_fail(self._file)
        if self._file.txn == 0:
            self._file.write(lambda txn: txn.put(CLUSTER, self._cluster.encode(), db=self._file.database("facts")))
        else:
            self._file.read(self._load)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def oldest(self) -> int | None:
        """When the first batch of the oldest stream came in, in microseconds since 1970; None if there is none."""
        return min((stream.since for stream in self._streams.values()), default=None)

    @property
    def is_empty(self) -> bool:
        """Whether every batch has been answered for."""
        return not self._streams

    def streams(self) -> dict[bytes, WorkerId]:
        """The streams with batches, and the worker that each leads to."""
        return {name: stream.worker for name, stream in self._streams.items()}

    def events_by_worker(self) -> Counter[WorkerId]:
        """How many events wait for each worker."""
        found = Counter[WorkerId]()
        for stream in list(self._streams.values()):  # made in one step: the thread may be changing it
            found[stream.worker] += stream.events
        return found

    def append(self, worker: WorkerId, batches: Iterable[tuple[bytes, bytes]], *, at: Micros) -> None:
        """Take in closed batches of streams to one worker; on disk when this returns.

        Args:
            worker: that they are for.
            batches: stream and encoded batch; of each (stream, slice) in the order of their numbers.
            at: now.
        """
        records = [_record(stream, raw) for stream, raw in batches]

        def work(txn: Txn) -> None:
            for key, raw, events in records:
                self._put_stream(txn, key.stream, worker)
                self._put(txn, key, raw, events, at)

        self._file.write(work)
        for key, raw, events in records:
            self._note(key, worker, len(raw), events, at)

    def answered(self, keys: Iterable[SpoolKey]) -> None:
        """Let go of batches that the worker has answered for."""
        names = list(keys)
        for gone in self._file.write(lambda txn: [self._take(txn, name) for name in names]):
            if gone is not None:  # or it would be counted as gone twice, and the file be removed with what is left
                self._forget(*gone)

    def rename(self, renamed: Sequence[tuple[SpoolKey, bytes, bytes]]) -> None:
        """Give batches another stream and number; on disk when this returns, so they may be sent under the new name.

        Those that are gone by now stay gone.

        Args:
            renamed: the old name, the new stream, and the batch encoded with its new number.
        """
        records = [(old, *_record(stream, raw)) for old, stream, raw in renamed]

        def work(txn: Txn) -> list[tuple[SpoolKey, int, int] | None]:
            taken = [self._take(txn, old) for old, *_ in records]
            for (old, key, raw, events), gone in zip(records, taken, strict=True):
                if gone is not None:
                    stream = self._streams[old.stream]
                    self._put_stream(txn, key.stream, stream.worker)
                    self._put(txn, key, raw, events, stream.since)
            return taken

        for (old, key, raw, events), gone in zip(records, self._file.write(work), strict=True):
            if gone is not None:  # or what was answered for would come back, and be counted again
                stream = self._streams[old.stream]
                self._note(key, stream.worker, len(raw), events, stream.since)
                self._forget(*gone)

    def batches(self, stream: bytes, *, after: SpoolKey | None = None, bytes_max: int) -> list[SpooledBatch]:
        """The next batches of a stream, by slice and number.

        Args:
            stream: whose.
            after: the last one that the caller has; None from the beginning.
            bytes_max: about how many bytes; at least one batch, if there is any.
        """

        def work(txn: Txn) -> list[SpooledBatch]:
            found: list[SpooledBatch] = []
            size = 0
            for key, stored in self._from(txn, stream, after):
                one = _spooled(key, stored)
                found.append(one)
                size += len(stored)
                if size >= bytes_max:
                    break
            return found

        return self._file.read(work)

    def routes(self) -> dict[SliceId, Route | None]:
        """The route of every slice that has batches here, as they have it; None where none of them can be read."""
        return self._file.read(self._routes)

    def _routes(self, txn: Txn) -> dict[SliceId, Route | None]:
        cursor = txn.cursor(self._file.database("batches"))
        found: dict[SliceId, Route | None] = {}
        there = cursor.first()
        while there:
            key = SpoolKey.from_bytes(cursor.key())
            raw = _spooled(key, cursor.value()).raw
            if raw is None:
                found.setdefault(key.slice, None)
                there = cursor.next()
                continue
            # All batches of a slice have its one route: on to the next slice, over what may be gigabytes.
            found[key.slice] = decode_batch(raw).route
            there = cursor.set_range(SpoolKey(key.stream, key.slice, _SEQ_MAX).to_bytes())
        return found

    def _from(self, txn: Txn, stream: bytes, after: SpoolKey | None) -> Iterator[tuple[SpoolKey, bytes]]:
        cursor = txn.cursor(self._file.database("batches"))
        start = stream if after is None else after.to_bytes() + b"\0"
        if not cursor.set_range(start):
            return
        for name, stored in cursor:
            if not name.startswith(stream):
                return
            yield SpoolKey.from_bytes(name), stored

    def _load(self, txn: Txn) -> None:
        found = txn.get(CLUSTER, b"", db=self._file.database("facts")).decode()
        if found != self._cluster:
            text = f"the spool {self._file.path.parent.name} is of cluster {found}, not of {self._cluster}"
            raise ConfigRefused([text])
        workers = dict(txn.cursor(self._file.database("streams")))
        for name, stored in txn.cursor(self._file.database("batches")):
            key = SpoolKey.from_bytes(name)
            at, size, events = _measure(stored)
            self._note(key, WorkerId(workers[key.stream].decode()), size, events, at)

    def _put_stream(self, txn: Txn, stream: bytes, worker: WorkerId) -> None:
        if stream not in self._streams:
            txn.put(stream, worker.encode(), db=self._file.database("streams"))

    def _put(self, txn: Txn, key: SpoolKey, raw: bytes, events: int, at: int) -> None:
        txn.put(key.to_bytes(), _HEAD.pack(check_of(raw), at, events) + raw, db=self._file.database("batches"))

    def _take(self, txn: Txn, key: SpoolKey) -> tuple[SpoolKey, int, int] | None:
        stored = txn.pop(key.to_bytes(), db=self._file.database("batches"))
        if stored is None:
            return None
        _, size, events = _measure(stored)
        return key, size, events

    def _note(self, key: SpoolKey, worker: WorkerId, size: int, events: int, at: int) -> None:
        stream = self._streams.setdefault(key.stream, _Stream(worker, 0, at))
        stream.batches += 1
        stream.since = min(stream.since, at)
        stream.events += events
        self.size_bytes += size
        self.events[key.slice] += events

    def _forget(self, key: SpoolKey, size: int, events: int) -> None:
        stream = self._streams[key.stream]
        stream.batches -= 1
        stream.events -= events
        if not stream.batches:
            del self._streams[key.stream]
        self.size_bytes -= size
        self.events[key.slice] -= events
        if not self.events[key.slice]:
            del self.events[key.slice]


def _record(stream: bytes, raw: bytes) -> tuple[SpoolKey, bytes, int]:
    batch = decode_batch(raw)
    return SpoolKey(stream, batch.slice, batch.seq), raw, len(batch.kinds)


def _measure(stored: bytes) -> tuple[int, int, int]:
    """When a record came in, its bytes and events; zeros where a damaged one does not say."""
    if len(stored) < _HEAD.size:
        return 0, 0, 0
    _, at, events = _HEAD.unpack_from(stored)
    return at, len(stored) - _HEAD.size, events


def _spooled(key: SpoolKey, stored: bytes) -> SpooledBatch:
    """A batch as it was put in."""
    _, _, events = _measure(stored)
    raw = stored[_HEAD.size :]
    if len(stored) >= _HEAD.size and stored[:CHECK_BYTES] == check_of(raw):
        try:
            batch = decode_batch(raw)
        except WireError:
            pass
        else:
            if (batch.slice, batch.seq) == (key.slice, key.seq):
                return SpooledBatch(key=key, raw=raw, events=events)
    return SpooledBatch(key=key, raw=None, events=events)
