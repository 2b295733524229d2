"""What is encoded is decoded, and nothing but WireError comes of other bytes."""

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import wire
from common.errors import WireError
from common.slices import SliceId
from common.summaries import Summary

slices = st.integers(wire.SLICE_MIN, wire.SLICE_MAX).map(SliceId)
type_names = st.from_regex(r"[A-Za-z0-9_.:-]{1,64}", fullmatch=True)
routes = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6, unique=True).map(tuple)
summaries = st.builds(
    Summary,
    slice=slices,
    users=st.integers(0, 2**63),
    counts=st.dictionaries(type_names, st.integers(0, 2**63), max_size=4),
    complete=st.booleans(),
    late=st.integers(0, 2**63),
)
held = st.builds(
    wire.Held,
    summary=summaries,
    route=routes,
    file=st.sampled_from([b"", b"f" * 16]),
    txn=st.integers(0, 2**63),
)
receipts = st.builds(
    wire.Receipt,
    slice=slices,
    seq=st.integers(1, 2**63 - 1),
    outcome=st.sampled_from(wire.Outcome),
    repeats=st.none() | st.lists(st.integers(0, wire.BATCH_EVENTS_MAX - 1), max_size=5).map(tuple),
    expected=st.integers(0, 2**63),
    detail=st.text(max_size=20),
    held=st.none() | held,
)
settled = st.builds(wire.SettledRoute, slice=slices, route=routes, number=st.integers(1, 2**63))
replies = st.builds(
    wire.Reply, worker=st.text(), claims=st.integers(0, 2**63), receipts=st.lists(receipts, max_size=3).map(tuple)
)
questions = st.builds(
    wire.Question,
    cluster=st.text(),
    worker=st.text(),
    claims=st.integers(0, 2**63),
    slices=st.none() | st.lists(slices, max_size=3).map(tuple),
    after=st.none() | slices,
    until=st.none() | slices,
)
answers = st.builds(
    wire.Answer,
    worker=st.text(),
    claims=st.integers(0, 2**63),
    held=st.lists(held, max_size=3).map(tuple),
    more=st.booleans(),
    unreadable=st.lists(slices, max_size=3).map(tuple),
)
claims = st.builds(
    wire.Claim,
    cluster=st.text(),
    claims=st.integers(0, 2**63),
    routes=st.dictionaries(slices, routes, max_size=3),
)
kinds = [kind for kind in vars(wire).values() if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]


@st.composite
def batches(draw):
    """Batches whose columns fit each other."""
    names = draw(st.lists(type_names, min_size=1, max_size=4, unique=True))
    events = draw(st.integers(0, 8))
    with_ids = draw(st.booleans())
    return wire.Batch(
        slice=draw(slices),
        seq=draw(st.integers(1, wire.SLICE_MAX)),
        route=draw(routes),
        key_id=draw(st.binary(min_size=8, max_size=8)),
        names=tuple(names),
        kinds=bytes(draw(st.lists(st.integers(0, len(names) - 1), min_size=events, max_size=events))),
        users=draw(st.binary(min_size=16 * events, max_size=16 * events)),
        ids=draw(st.binary(min_size=16 * events, max_size=16 * events)) if with_ids else b"",
        regressed=draw(st.booleans()),
    )


@given(st.lists(batches(), max_size=4), st.booleans(), st.binary(min_size=16, max_size=16))
def test_an_envelope_comes_out_as_it_went_in(parts, spooled, stream):
    """decode(encode(x)) == x, batches and all; and the same bytes come of it again."""
    encoded = tuple(map(wire.encode, parts))
    envelope = wire.Envelope(cluster="c", worker="w", stream=stream, claims=1, batches=encoded, spooled=spooled)

    assert wire.decode_envelope(wire.encode(envelope)) == (envelope, tuple(parts))
    assert tuple(wire.encode(wire.decode_batch(raw)) for raw in encoded) == encoded


@given(st.one_of(replies, questions, answers, claims, settled))
def test_every_other_message_comes_out_as_it_went_in(message):
    """In msgpack, and in JSON for the calls that use it."""
    assert wire.decode(wire.encode(message), type(message)) == message
    if isinstance(message, (wire.Claim, wire.SettledRoute)):
        assert msgspec.json.decode(msgspec.json.encode(message), type=type(message)) == message


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_a_wire_error(body):
    """Whatever they are taken for."""
    for kind in kinds:
        with contextlib.suppress(WireError):
            wire.decode(body, kind)
    with contextlib.suppress(WireError):
        wire.decode_batch(body)
    with contextlib.suppress(WireError):
        wire.decode_envelope(body)


# What msgpack can say and our messages hold, so that arbitrary values come close to being one.
values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=48)
    | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9) | st.integers(-9, 9), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(batches(), st.data())
def test_a_batch_with_any_field_replaced_is_refused_or_fits(batch, data):
    """Nothing but WireError, and what passes has columns that fit."""
    fields = msgspec.structs.asdict(batch)
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(values)
    try:
        read = wire.decode_batch(msgspec.msgpack.encode(fields))
    except WireError:
        return

    assert len(read.users) == 16 * len(read.kinds)
    assert len(read.ids) in (0, len(read.users))
    assert all(kind < len(read.names) for kind in read.kinds)


@given(batches(), st.integers(0), st.integers(0, 255))
def test_a_batch_with_any_byte_replaced_has_another_check(batch, at, byte):
    """Whether or not it still decodes."""
    raw = bytearray(wire.encode(batch))
    at %= len(raw)
    if raw[at] == byte:
        return
    before = wire.check_of(bytes(raw))
    raw[at] = byte

    assert wire.check_of(bytes(raw)) != before


@pytest.mark.parametrize("kind", kinds)
def test_every_message_can_be_decoded_at_all(kind):
    """Each type has a decoder: msgspec refuses some annotations only when it builds one."""
    with pytest.raises(WireError):
        wire.decode(b"", kind)
