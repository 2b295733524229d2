"""Bodies out of their codings: all that they hold, or nothing, and never more than the bound."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.bodies import ZSTD_FRAMES_MAX, ZSTD_WINDOW_BYTES_MAX, inflate
from common.errors import Malformed, TooLarge
from tests.support.codings import CODINGS, zstd_skippable, zstd_stream

BODY_MAX = 100_000
WINDOW_LOG = ZSTD_WINDOW_BYTES_MAX.bit_length() - 1
SOME, MORE = CODINGS["zstd"](b"user=ada"), CODINGS["zstd"](b"&click")

patient = settings(deadline=None)  # of a machine that does other things too
each_coding = pytest.mark.parametrize("coding", CODINGS)


@each_coding
@patient
@given(content=st.binary(max_size=300))
def test_what_was_compressed_comes_out(coding: str, content: bytes) -> None:
    assert inflate(CODINGS[coding](content), coding, bytes_max=300) == content


@each_coding
@patient
@given(content=st.binary(min_size=20, max_size=300), data=st.data())
def test_no_part_of_a_body_passes_for_it(coding: str, content: bytes, data: st.DataObject) -> None:
    """A body that was cut anywhere, or has something behind it, is malformed."""
    body = CODINGS[coding](content)
    cut = data.draw(st.integers(1, len(body) - 1))

    with pytest.raises(Malformed):
        inflate(body[:cut], coding, bytes_max=BODY_MAX)
    with pytest.raises(Malformed):
        inflate(body + b"x", coding, bytes_max=BODY_MAX)


@each_coding
@patient
@given(body=st.binary())
def test_any_bytes_are_content_or_malformed(coding: str, body: bytes) -> None:
    """Nothing but Malformed and TooLarge comes out of bytes that nobody compressed."""
    try:
        content = inflate(body, coding, bytes_max=10)
    except (Malformed, TooLarge):
        return
    assert len(content) <= 10


@patient
@given(pieces=st.lists(st.binary(max_size=50), max_size=4), at=st.integers(0), bit=st.integers(0, 7))
def test_a_flipped_bit_of_zstd_is_content_or_malformed(pieces: list[bytes], at: int, bit: int) -> None:
    """Whatever a damaged frame claims about itself."""
    body = bytearray(b"".join(map(CODINGS["zstd"], pieces)) + zstd_skippable(b"?"))
    body[at % len(body)] ^= 1 << bit

    try:
        content = inflate(bytes(body), "zstd", bytes_max=100)
    except (Malformed, TooLarge):
        return
    assert len(content) <= 100


@each_coding
def test_the_bound_is_exact(coding: str) -> None:
    """As many bytes as the bound are a body, one more are too many."""
    assert inflate(CODINGS[coding](bytes(BODY_MAX)), coding, bytes_max=BODY_MAX) == bytes(BODY_MAX)

    with pytest.raises(TooLarge):
        inflate(CODINGS[coding](bytes(BODY_MAX + 1)), coding, bytes_max=BODY_MAX)


@each_coding
def test_a_bomb_is_not_inflated_beyond_the_bound(coding: str) -> None:
    bomb = CODINGS[coding](bytes(64 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            inflate(bomb, coding, bytes_max=BODY_MAX)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 5 * BODY_MAX


def test_a_body_of_no_bytes_is_empty_in_any_coding() -> None:
    """As clients send it that name their coding before they know that there is nothing to send."""
    assert [inflate(b"", coding, bytes_max=0) for coding in CODINGS] == [b""] * len(CODINGS)


@pytest.mark.parametrize(
    ("body", "content"),
    [
        (SOME + MORE, b"user=ada&click"),
        (zstd_skippable(b"a table") + SOME + zstd_skippable(b"") + MORE, b"user=ada&click"),
        (zstd_skippable(b"nothing else"), b""),
        (CODINGS["zstd"](b"") * 3, b""),
    ],
    ids=["two frames", "with frames to skip", "only one to skip", "empty ones"],
)
def test_frames_of_zstd_are_one_body(body: bytes, content: bytes) -> None:
    """A body in zstd may have many frames, and some that hold no content (RFC 8878, 3.1)."""
    assert inflate(body, "zstd", bytes_max=100) == content


@pytest.mark.parametrize(
    "body",
    [SOME + MORE[:-1], SOME + zstd_skippable(b"a table")[:-1], zstd_skippable(b"")[:6], SOME + b"\0", b"\0" + SOME],
    ids=["second cut", "skipped one cut", "head cut", "garbage behind", "garbage before"],
)
def test_every_frame_must_be_whole(body: bytes) -> None:
    with pytest.raises(Malformed):
        inflate(body, "zstd", bytes_max=100)


def test_the_bound_is_of_all_frames_together() -> None:
    """Frames that each keep to it are too much together."""
    frame = CODINGS["zstd"](bytes(40))

    assert inflate(frame * 2, "zstd", bytes_max=80) == bytes(80)
    with pytest.raises(TooLarge):
        inflate(frame * 2, "zstd", bytes_max=79)


@pytest.mark.parametrize("frame", [SOME, zstd_skippable(b"")], ids=["content", "skipped"])
def test_frames_have_a_bound(frame: bytes) -> None:
    """Each costs a decoder, and the smallest has eight bytes."""
    inflate(frame * ZSTD_FRAMES_MAX, "zstd", bytes_max=BODY_MAX)

    with pytest.raises(Malformed, match=f"more than {ZSTD_FRAMES_MAX} frames"):
        inflate(frame * (ZSTD_FRAMES_MAX + 1), "zstd", bytes_max=BODY_MAX)


def test_what_a_decoder_keeps_has_a_bound() -> None:
    """A frame that looks back further than 8 MiB would make the decoder keep as much; it is refused unread."""
    content = bytes(BODY_MAX)

    assert inflate(zstd_stream(content, window_log=WINDOW_LOG), "zstd", bytes_max=BODY_MAX) == content
    for more in (WINDOW_LOG + 1, 27, 31):
        with pytest.raises(Malformed, match="8 MiB"):
            inflate(zstd_stream(content, window_log=more), "zstd", bytes_max=BODY_MAX)
