"""Envelopes and batches are checked when they are decoded, as in common/wire.py."""

import msgspec
import pytest

from common.errors import WireError
from common.routing import WorkerId
from common.slices import SliceId
from common.summaries import Summary
from common.wire import (
    BATCH_EVENTS_MAX,
    ENVELOPE_BATCHES_MAX,
    ENVELOPE_SLICES_MAX,
    NO_ID,
    Answer,
    Batch,
    Envelope,
    Held,
    Question,
    check_of,
    decode,
    decode_batch,
    decode_envelope,
    encode,
)

BATCH = Batch(
    slice=SliceId(-2),
    seq=1,
    route=(WorkerId("0"), WorkerId("1")),
    key_id=b"k" * 8,
    names=("click", "impression"),
    kinds=b"\x00\x01\x00",
    users=b"u" * 48,
)
ENVELOPE = Envelope(cluster="c", worker="w", stream=b"s" * 16, claims=3, batches=(encode(BATCH),))


def changed(message, **changes):
    """The message with other values, as bytes."""
    return encode(msgspec.structs.replace(message, **changes))


def test_an_envelope_is_read_with_its_batches():
    """And each batch is the one that was encoded."""
    assert decode_envelope(encode(ENVELOPE)) == (ENVELOPE, (BATCH,))
    assert decode_batch(encode(BATCH)) == BATCH


def test_an_empty_batch_and_a_full_one_are_within_bounds():
    """With and without ids."""
    users = bytes(16 * BATCH_EVENTS_MAX)

    assert decode_batch(changed(BATCH, names=(), kinds=b"", users=b"")).kinds == b""
    assert len(decode_batch(changed(BATCH, kinds=bytes(BATCH_EVENTS_MAX), users=users, ids=users)).ids) == len(users)
    assert decode_batch(changed(BATCH, ids=NO_ID * 3)).ids == NO_ID * 3


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"slice": 1 << 63}, "a slice is an int64"),
        ({"seq": 0}, "a seq counts from 1"),
        ({"seq": 1 << 63}, "a seq counts from 1"),
        ({"kinds": bytes(BATCH_EVENTS_MAX + 1)}, "a batch has at most 16384 events"),
        ({"users": b"u" * 47}, "a batch has one user key per event"),
        ({"ids": b"i" * 16}, "a batch has one id key per event, or none at all"),
        ({"key_id": b"k" * 7}, "a key id has 8 bytes"),
        ({"route": ()}, "a route names its workers"),
        ({"route": tuple(map(str, range(1025)))}, "a route names its workers"),
        ({"route": ("0", "0")}, "a route names no worker twice"),
        ({"names": tuple(f"t{at}" for at in range(257))}, "a batch has at most 256 event types"),
        ({"names": ("click", "click")}, "a batch names no event type twice"),
        ({"names": ("click", "*users")}, "a batch names event types"),
        ({"kinds": b"\x00\x01\x02"}, "each kind is one of the names"),
        ({"names": ()}, "each kind is one of the names"),
        ({"seq": "1"}, "not a valid batch: "),
    ],
)
def test_a_batch_that_is_not_as_it_must_be_is_refused(changes, problem):
    """The code behind the decoder checks nothing again."""
    with pytest.raises(WireError, match=f"^{problem}"):
        decode_batch(changed(BATCH, **changes))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"stream": b"s" * 15}, "a stream name has 16 bytes"),
        ({"claims": -1}, "a claim number is not negative"),
        ({"batches": (b"",)}, "not a valid batch: "),
        (
            {"batches": tuple(changed(BATCH, slice=at) for at in range(ENVELOPE_SLICES_MAX + 1))},
            "an envelope has at most 64 slices",
        ),
    ],
)
def test_an_envelope_that_is_not_as_it_must_be_is_refused(changes, problem):
    """One bad batch refuses the whole: it did not come from a sender of ours."""
    with pytest.raises(WireError, match=f"^{problem}"):
        decode_envelope(changed(ENVELOPE, **changes))


@pytest.mark.parametrize("body", [b"", b"\x00", b"\xc1", encode(BATCH), encode(ENVELOPE)[:-1], b"\x91" * 100_000])
def test_bytes_that_are_no_envelope_are_refused(body):
    """Whatever they are; the message does not quote them."""
    with pytest.raises(WireError, match=r"^not a valid envelope: "):
        decode_envelope(body)


def test_a_text_that_is_not_utf8_is_refused():
    """Msgpack's strings are bytes until somebody looks."""
    body = encode(Question(cluster="cc", worker="w", claims=0)).replace(b"\xa2cc", b"\xa2\xff\xff")

    with pytest.raises(WireError, match=r"^not a valid question"):
        decode(body, Question)


def test_a_summary_travels_with_its_counts():
    """An answer comes out as it went in."""
    held = Held(
        summary=Summary(slice=SliceId(1), users=2, counts={"click": 3}, complete=False, late=1),
        route=(WorkerId("0"),),
        file=b"f" * 16,
        txn=7,
    )
    answer = Answer(worker="w", claims=1, held=(held,), more=True, unreadable=(SliceId(9),))

    assert decode(encode(answer), Answer) == answer


@pytest.mark.parametrize(
    ("new", "known", "replaces"),
    [
        ((b"f", 2), (b"f", 1), True),
        ((b"f", 2), (b"f", 2), True),
        ((b"f", 1), (b"f", 2), False),
        ((b"g", 1), (b"f", 9), True),
        ((b"g", 1), (b"", 0), True),
        ((b"", 0), (b"f", 1), False),
        ((b"", 0), (b"", 0), True),
    ],
)
def test_an_older_state_of_a_file_never_replaces_a_newer_one(new, known, replaces):
    """And a state without file replaces none that has one."""
    states = [Held(summary=Summary(slice=SliceId(0)), file=file, txn=txn) for file, txn in (new, known)]

    assert states[0].replaces(states[1]) is replaces


def test_the_check_tells_batches_apart():
    """8 bytes over what is sent, so the same number under other bytes is noticed."""
    assert len(check_of(encode(BATCH))) == 8
    assert check_of(encode(BATCH)) == check_of(encode(BATCH))
    assert check_of(encode(BATCH)) != check_of(changed(BATCH, seq=2))


def test_an_envelope_has_so_many_batches():
    """Empty ones too: each costs its decoding."""
    empty = changed(BATCH, names=(), kinds=b"", users=b"")
    full = changed(ENVELOPE, batches=(empty,) * ENVELOPE_BATCHES_MAX)
    over = changed(ENVELOPE, batches=(empty,) * (ENVELOPE_BATCHES_MAX + 1))

    assert len(decode_envelope(full)[1]) == ENVELOPE_BATCHES_MAX
    with pytest.raises(WireError, match="at most 4096 batches"):
        decode_envelope(over)
