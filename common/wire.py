"""What API nodes and workers say to each other: envelopes, batches, receipts, questions, and the registry's calls.

Everything travels in msgpack bodies over HTTP, typed by msgspec. A batch is encoded once, when it is closed, and is
carried as bytes from then on: what is sent again is the same bytes, and an 8-byte check can tell if it is not.

::

    Envelope  cluster, worker, stream, claims, spooled, batches: [bytes, ...]
    batch     slice, seq, route, key_id, names, kinds, users, ids, regressed        columnar:

              names  [click, impression]
              kinds  00 00 01 00 ...          one byte per event, an index into names
              users  16 bytes per event
              ids    nothing, or 16 bytes per event; zeros where an event has none

    Reply     worker, claims, receipts: [slice, seq, outcome, repeats, expected, detail, held]

``decode_*`` check everything that the code behind them relies on, and raise ``WireError`` for the rest.
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b
from typing import Any, TypeVar

import msgspec

from common.anonymise import ID_KEY_BYTES, KEY_ID_BYTES, USER_KEY_BYTES
from common.errors import WireError
from common.events import EVENT_TYPE
from common.routing import Route, WorkerId
from common.slices import SliceId
from common.summaries import Summary

MEDIA_TYPE = "application/vnd.tallyslice.v1+msgpack"

BATCH_EVENTS_MAX = 16_384
BATCH_BYTES_MAX = 1 << 20
ENVELOPE_BYTES_MAX = 4 << 20
ENVELOPE_SLICES_MAX = 64
ENVELOPE_BATCHES_MAX = 4096  # those of a worker that was away may be tiny; decoding so many takes some 10 ms
WORKER_BODY_BYTES_MAX = 8 << 20  # twice an envelope: what an API node sends always fits
QUESTION_SLICES_MAX = 10_000  # some MiB of answer
ROUTES_PAGE_MAX = 5_000  # some 100 KiB, with routes of a few workers; a second or two of opening slice files
STREAM_BYTES = 16
CHECK_BYTES = 8
NAMES_MAX = 256  # an index fits one byte
ROUTE_WORKERS_MAX = 1024

NO_ID = bytes(ID_KEY_BYTES)
SLICE_MIN, SLICE_MAX = -(1 << 63), (1 << 63) - 1
_KINDS = bytes(range(NAMES_MAX))


class Outcome(StrEnum):
    """What a worker did with a batch; everything but the first two applied nothing."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    GAP = "gap"
    CLOSED = "closed"
    # Refusals: the batch keeps its number, the slice is parked at the sender.
    WRONG_CLUSTER = "wrong_cluster"
    WRONG_WORKER = "wrong_worker"
    WRONG_ROUTE = "wrong_route"
    WRONG_KEY = "wrong_key"
    NO_SPACE = "no_space"
    QUARANTINED = "quarantined"
    VERIFYING = "verifying"


class Batch(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Events of one slice in one stream, in columns; see the top of the module.

    Attributes:
        seq: counts from 1 without gaps per (stream, slice).
        route: the settled route of the slice.
        key_id: names the slice key that made ``users``.
        regressed: the sender knows that acknowledged data of the slice is lost, mostly at this worker.
    """

    slice: SliceId
    seq: int
    route: Route
    key_id: bytes
    names: tuple[str, ...]
    kinds: bytes
    users: bytes
    ids: bytes = b""
    regressed: bool = False


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """One request from one stream to one worker.

    Attributes:
        cluster: the cluster id.
        worker: the uuid of the worker's data directory, as pinned.
        stream: 16 random bytes that name the stream.
        claims: the highest claim number that the sender knows of.
        spooled: whether the stream comes from a spool, so that a closed slice may still take it.
        batches: encoded batches, in the order in which they are to be applied.
    """

    cluster: str
    worker: str
    stream: bytes
    claims: int
    batches: tuple[bytes, ...]
    spooled: bool = False


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's summary of a slice, and which state of which file it describes.

    Attributes:
        summary: the summary.
        route: the settled route, as the slice file has it; empty if the worker holds nothing.
        file: the uuid of the slice file (16 bytes); empty if there is none.
        txn: the file's LMDB transaction that it was read at or committed by; only grows within a file.
    """

    summary: Summary
    route: Route = ()
    file: bytes = b""
    txn: int = 0

    def replaces(self, known: Held) -> bool:
        """Whether this is as new as what is known, or newer.

        States of one file are ordered by transaction. A state without file is older than any with one. Between two
        files there is no order: the one that arrives later stands.
        """
        if self.file == known.file:
            return self.txn >= known.txn
        return bool(self.file)


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one batch.

    Attributes:
        slice: of the batch.
        seq: of the batch.
        outcome: what the worker did.
        repeats: positions of events whose id was known already; None where the worker no longer knows.
        expected: with ``gap``: the number that the worker expects.
        detail: for people, with a refusal.
        held: the slice as it is after the commit; not with refusals that concern more than the slice.
    """

    slice: SliceId
    seq: int
    outcome: Outcome
    repeats: tuple[int, ...] | None = ()
    expected: int = 0
    detail: str = ""
    held: Held | None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an envelope: a receipt per batch, in the same order."""

    worker: str
    claims: int
    receipts: tuple[Receipt, ...]


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A question for summaries: of the slices named, or, with ``slices`` None, of all in ``after < slice <= until``."""

    cluster: str
    worker: str
    claims: int
    slices: tuple[SliceId, ...] | None = None
    after: SliceId | None = None
    until: SliceId | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a question.

    Attributes:
        worker: the uuid of the data directory that answers.
        claims: the highest claim number that the worker knows of.
        held: the slices that hold data, ascending; what was asked for and is not here holds nothing.
        more: there are further slices after the last one here.
        unreadable: slices whose file is quarantined: neither zeros nor a sum.
    """

    worker: str
    claims: int
    held: tuple[Held, ...]
    more: bool = False
    unreadable: tuple[SliceId, ...] = ()


class Pins(msgspec.Struct, frozen=True, kw_only=True):
    """The constants that a cluster settles at its first contact.

    Attributes:
        cluster: the cluster id, drawn then.
        first: the start of slice 0, microseconds since 1970.
        length_seconds: the length of a slice.
        secret_id: names the secret.
        registry: the worker that hosts the registry.
        workers: worker id -> uuid of its data directory.
        replaced: worker id -> the claim number of the replacement, where its directory took an earlier one's place.
        unknown_before: where the registry was rebuilt without somebody: microseconds since 1970. Whether a slice that
            began before this and is not settled holds anything, nobody knows.
    """

    cluster: str
    first: int
    length_seconds: int
    secret_id: str
    registry: WorkerId
    workers: dict[WorkerId, str]
    replaced: dict[WorkerId, int] = {}
    unknown_before: int | None = None


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who a worker is: ``GET /worker/identity``. ``cluster`` is None until it joined one."""

    id: WorkerId
    uuid: str
    cluster: str | None
    claims: int
    pins: Pins | None = None


class Join(msgspec.Struct, frozen=True, kw_only=True):
    """An API node brings a worker into its cluster: ``POST /worker/join``. Answered with the ``Identity``."""

    id: WorkerId
    uuid: str
    pins: Pins


class SettledRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A claim that won: the route of a slice, for good.

    Attributes:
        slice: which.
        route: ids of workers; the order is part of it.
        number: which claim it was, counted from 1.
    """

    slice: SliceId
    route: Route
    number: int


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /worker/registry/claims``: settle these routes where none is settled yet.

    Attributes:
        cluster: the cluster id.
        claims: the highest claim number that the caller knows of.
        routes: slice -> proposed route; with an empty route, it is only asked for.
    """

    cluster: str
    claims: int
    routes: dict[SliceId, Route]


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """The registry's answer: what is settled of what was named. A slice that is not here is not settled.

    Attributes:
        claims: the registry's own number: how many claims it has settled.
        routes: what is settled.
        over: slices whose claim was refused because the cluster holds ``max-slices`` open ones already.
        unknown: slices of which nobody knows whether they are settled: see ``Pins.unknown_before``.
    """

    claims: int
    routes: tuple[SettledRoute, ...]
    over: tuple[SliceId, ...] = ()
    unknown: tuple[SliceId, ...] = ()


class RegistryState(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /worker/registry``: the pins (None before the first contact), the claim number, and what routes name."""

    pins: Pins | None
    claims: int
    named: tuple[WorkerId, ...] = ()
    recent: tuple[SettledRoute, ...] = ()


class PinWorker(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /worker/registry/workers``: pin the data directory of a worker that the pins do not know yet."""

    cluster: str
    id: WorkerId
    uuid: str


class ReplaceWorker(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /worker/registry/replace``: pin another data directory of a worker, in place of a lost one.

    Attributes:
        cluster: the cluster id.
        id: the worker's.
        lost: the uuid of the directory that is pinned.
        uuid: the uuid of the one to pin.
        number: the claim number that this takes, the registry's next one: if a route was settled meanwhile, it fails.
    """

    cluster: str
    id: WorkerId
    lost: str
    uuid: str
    number: int


class CloseSlice(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /worker/close``: close a slice that has ended, before its time. Answer: the ``ClosedSlice``.

    Attributes:
        cluster: the cluster id.
        worker: the uuid of the worker's data directory.
        slice: the slice.
        route: its settled route, which must name the worker. One that holds nothing of the slice keeps it too.
    """

    cluster: str
    worker: str
    slice: SliceId
    route: Route


class ClosedSlice(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker has of a slice that is closed there for good; durable.

    Attributes:
        slice: the slice.
        was_closed: whether it was closed before.
        users: that were seen.
        counts: event type -> events.
        complete: whether everything that was acknowledged is in it.
    """

    slice: SliceId
    was_closed: bool
    users: int
    counts: dict[str, int]
    complete: bool


class LostSlices(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /worker/lost``: tells a new data directory which slices the one before it held. Answer: the ``Identity``.

    Attributes:
        id: the worker's.
        uuid: of the directory that is told.
        number: the claim number of the replacement.
        routes: slices that were settled before it and name the worker.
        more: more of them follow; only after the last ones may the directory be pinned.
    """

    id: WorkerId
    uuid: str
    number: int
    routes: tuple[SettledRoute, ...]
    more: bool = False


class RoutesQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /worker/routes``, ``/worker/registry/routes``, ``/cluster/routes``: tell all routes that are known there.

    Attributes:
        cluster: the cluster id; None: whatever cluster it is.
        claims: with a cluster: a claim number to know, durably, before the answer. An API node asks the registry for
            it, and for the pins.
        after: only slices after this one.
    """

    cluster: str | None = None
    claims: int = 0
    after: SliceId | None = None


class KnownRoutes(msgspec.Struct, frozen=True, kw_only=True):
    """The answer: what a node, or the registry, knows of its cluster.

    Attributes:
        cluster: the cluster that it belongs to; None: to none yet.
        claims: the highest claim number that it knows.
        pins: the cluster's constants, as it knows them.
        routes: ascending by slice; number 0 where the number of the claim is not known.
        more: there are further slices after the last one here.
        unreadable: slices whose route it should know, but cannot read.
    """

    cluster: str | None
    claims: int
    pins: Pins | None
    routes: tuple[SettledRoute, ...] = ()
    more: bool = False
    unreadable: tuple[SliceId, ...] = ()


class Rebuild(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /worker/registry/rebuild``: what everybody together knows. Answer: the ``RegistryState``.

    Attributes:
        host: the uuid of the data directory that is to host it.
        own: the claim number of the registry's file when everybody had been asked: a file that has less is another one.
        known: the highest claim number that anybody knew then.
        claims: its claim number from now on.
        pins: the cluster's constants.
        routes: settled routes; those that it has already must be the same.
        more: more of them follow; until the last ones are there, it settles nothing.
    """

    host: str
    own: int
    known: int
    claims: int
    pins: Pins
    routes: tuple[SettledRoute, ...]
    more: bool = False


T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()
_batch_decoder = msgspec.msgpack.Decoder(Batch)
_decoders: dict[type[Any], msgspec.msgpack.Decoder[Any]] = {}


def encode(message: msgspec.Struct) -> bytes:
    """A message as msgpack."""
    return _encoder.encode(message)


def decode(body: bytes, kind: type[T]) -> T:
    """A message of the given type.

    Raises:
        WireError: the bytes are not one.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        message: T = decoder.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        # msgspec names the place and the types, never the value.
        text = f"not a valid {kind.__name__.lower()}: {error}"
        raise WireError(text) from None
    return message


def decode_envelope(body: bytes) -> tuple[Envelope, tuple[Batch, ...]]:
    """An envelope and its batches, all checked.

    Raises:
        WireError: the bytes are not of the protocol, or over its bounds.
    """
    envelope = decode(body, Envelope)
    _require(len(envelope.stream) == STREAM_BYTES, "a stream name has 16 bytes")
    _require(envelope.claims >= 0, "a claim number is not negative")
    _require(len(envelope.batches) <= ENVELOPE_BATCHES_MAX, f"an envelope has at most {ENVELOPE_BATCHES_MAX} batches")
    batches = tuple(map(decode_batch, envelope.batches))
    slices = {batch.slice for batch in batches}
    _require(len(slices) <= ENVELOPE_SLICES_MAX, f"an envelope has at most {ENVELOPE_SLICES_MAX} slices")
    return envelope, batches


def decode_batch(raw: bytes) -> Batch:
    """A batch, checked: its columns fit each other, its names are event types, everything is within bounds.

    Raises:
        WireError: it is not.
    """
    try:
        batch = _batch_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        text = f"not a valid batch: {error}"
        raise WireError(text) from None
    events = len(batch.kinds)
    _require(SLICE_MIN <= batch.slice <= SLICE_MAX, "a slice is an int64")
    _require(1 <= batch.seq <= SLICE_MAX, "a seq counts from 1")
    _require(events <= BATCH_EVENTS_MAX, f"a batch has at most {BATCH_EVENTS_MAX} events")
    _require(len(batch.users) == events * USER_KEY_BYTES, "a batch has one user key per event")
    _require(len(batch.ids) in (0, events * ID_KEY_BYTES), "a batch has one id key per event, or none at all")
    _require(len(batch.key_id) == KEY_ID_BYTES, f"a key id has {KEY_ID_BYTES} bytes")
    _require(1 <= len(batch.route) <= ROUTE_WORKERS_MAX, "a route names its workers")
    _require(len(set(batch.route)) == len(batch.route), "a route names no worker twice")
    _require(len(batch.names) <= NAMES_MAX, f"a batch has at most {NAMES_MAX} event types")
    _require(len(set(batch.names)) == len(batch.names), "a batch names no event type twice")
    _require(all(map(EVENT_TYPE.fullmatch, batch.names)), "a batch names event types")
    _require(not batch.kinds.translate(None, _KINDS[: len(batch.names)]), "each kind is one of the names")
    return batch


def check_of(raw: bytes) -> bytes:
    """8 bytes of BLAKE2b over an encoded batch: tells another batch under the same number."""
    return blake2b(raw, digest_size=CHECK_BYTES, person=b"tslice/check").digest()


def _require(holds: bool, text: str) -> None:  # noqa: FBT001 - the condition is the point of the call
    if not holds:
        raise WireError(text)
