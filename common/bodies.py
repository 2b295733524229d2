"""How the body of a request is read: within its bound, its deadline, and the bound of all bodies together.

::

    bytes as they arrive --> counted (this body, and all bodies under way) --> inflated, if they are compressed
                               413             503                               413 at the bound, the rest unread

aiohttp would inflate while it receives, and go on with what it throws away after a 413; so it hands over what came,
and a bomb is inflated here, up to the bound and no further. What becomes more than a little is inflated in a thread:
the 16 MiB that a bulk call may send take 10 to 60 ms, in which the loop would serve nobody.
"""

from __future__ import annotations

import asyncio
import sys
import zlib

from aiohttp import web

from common.errors import Malformed, TooLarge, TooSlow, Unavailable, WrongMediaType

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BODY_SECONDS = 10.0  # for a body to arrive: far more than a healthy client needs, few enough to free a stuck connection
# Of all requests under way together, as they came and inflated: twice what may wait for a worker's writer, and at an
# API node two thousand events of the largest size at once, or eight bulk calls of the largest size.
BODIES_BYTES_MAX = 128 << 20

# Of what a decoder of zstd looks back at, and so of its memory. RFC 9659 allows a sender no more over HTTP, and asks a
# reader to take this much.
ZSTD_WINDOW_BYTES_MAX = 8 << 20
# Each costs a decoder, 30 us, whatever is in it. Of 16 MiB in frames of 128 KiB, smaller than anybody's.
ZSTD_FRAMES_MAX = 128

# What is inflated on the loop: a millisecond with gzip, the slowest; a thread costs a tenth of that each time.
_AT_ONCE_BYTES = 512 << 10

# The window bits that make zlib expect the format of each coding, and no other.
_ZLIB_CODINGS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_ZSTD = "zstd"
_ZSTD_OPTIONS = {int(zstd.DecompressionParameter.window_log_max): ZSTD_WINDOW_BYTES_MAX.bit_length() - 1}
_HELD = web.RequestKey("held_bytes", int)


class Bodies:
    """The bodies of all requests under way at a node: how many bytes of them are held.

    Attributes:
        held_bytes: right now.
    """

    def __init__(self, *, bytes_max: int = BODIES_BYTES_MAX) -> None:
        self.held_bytes = 0
        self._bytes_max = bytes_max

    def take(self, request: web.Request, size: int) -> None:
        """Some bytes of the request's body have come, or were inflated; they are held until its answer is made.

        Raises:
            Unavailable: they are too many for now.
        """
        if self.held_bytes + size > self._bytes_max:
            message = "the bodies of the requests under way are more than this node holds at a time"
            raise Unavailable(message)
        self.held_bytes += size
        request[_HELD] = request.get(_HELD, 0) + size

    def release(self, request: web.Request) -> None:
        """The request's answer is made."""
        self.held_bytes -= request.get(_HELD, 0)


BODIES = web.RequestKey("bodies", Bodies)
"""Where a request finds those of its node."""


async def read_body(
    request: web.Request, *, bytes_max: int | None = None, bodies: Bodies | None = None, seconds: float = BODY_SECONDS
) -> bytes:
    """The whole body, inflated if it is compressed.

    Args:
        request: whose.
        bytes_max: what it may have, as it came and inflated; the application's ``client_max_size`` if None.
        bodies: where it is counted; those of the application's edge if None.
        seconds: how long it may take to arrive, however its bytes are spread over that time.

    Raises:
        TooSlow: it did not arrive in time.
        TooLarge: it is over the bound, as it came or inflated.
        Malformed: the connection broke, or it is not in the coding that it names.
        WrongMediaType: the coding is none that is read here.
        Unavailable: too much is being read at once.
    """
    if not request.body_exists:
        return b""
    if bytes_max is None:
        bytes_max = request.client_max_size
    bodies = bodies or request[BODIES]
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in (*_ZLIB_CODINGS, _ZSTD, "identity"):
        message = "send the body as it is, or with Content-Encoding: gzip, deflate or zstd"
        raise WrongMediaType(message)
    try:
        async with asyncio.timeout(seconds):
            body = await _receive(request, bodies, bytes_max)
    except TimeoutError:
        message = f"the body did not arrive within {seconds:g} s"
        raise TooSlow(message) from None
    except (web.RequestPayloadError, OSError):
        message = "the body could not be read"
        raise Malformed(message) from None
    if coding == "identity":
        return body
    content = await _inflated(body, coding, bytes_max)
    # A few hundred bytes may have become as much as a body may have.
    bodies.take(request, len(content))
    return content


async def _receive(request: web.Request, bodies: Bodies, bytes_max: int) -> bytes:
    if (request.content_length or 0) > bytes_max:
        raise _too_large(bytes_max)
    pieces: list[bytes] = []
    size = 0
    while piece := await request.content.readany():
        size += len(piece)
        if size > bytes_max:
            raise _too_large(bytes_max)
        bodies.take(request, len(piece))
        pieces.append(piece)
    return b"".join(pieces)


async def _inflated(body: bytes, coding: str, bytes_max: int) -> bytes:
    """Out of its coding, without holding up the loop."""
    if (
        len(body) <= _AT_ONCE_BYTES // 16
    ):  # events become five to ten times as much: a larger body is hardly done at once
        try:
            return inflate(body, coding, bytes_max=min(bytes_max, _AT_ONCE_BYTES))
        except TooLarge:
            if bytes_max <= _AT_ONCE_BYTES:
                raise
    # From its beginning again: how much it would become is not known before.
    return await asyncio.to_thread(inflate, body, coding, bytes_max=bytes_max)


def inflate(body: bytes, coding: str, *, bytes_max: int) -> bytes:
    """A body out of its coding. Never makes more than ``bytes_max`` and one byte, whatever the body would become.

    Raises:
        TooLarge: it would become more.
        Malformed: it is not in that coding, incomplete, or there is something behind it.
    """
    if coding == _ZSTD:
        return _inflate_zstd(body, bytes_max)
    inflater = zlib.decompressobj(_ZLIB_CODINGS[coding])
    try:
        content = inflater.decompress(body, bytes_max + 1)
    except zlib.error:
        message = f"the body is not {coding}"
        raise Malformed(message) from None
    if len(content) > bytes_max:
        raise _too_large(bytes_max)
    # One stream, not several in a row, though gzip knows that: no client sends it.
    if body and (not inflater.eof or inflater.unused_data):
        message = f"the body is not one whole stream of {coding}"
        raise Malformed(message)
    return content


def _inflate_zstd(body: bytes, bytes_max: int) -> bytes:
    """Several frames in a row, which senders make that compress in parallel or as they go; some hold no content."""
    pieces: list[bytes] = []
    rest, left = memoryview(body), bytes_max
    try:
        while rest:
            if len(pieces) == ZSTD_FRAMES_MAX:
                message = f"the body has more than {ZSTD_FRAMES_MAX} frames of zstd"
                raise Malformed(message)
            # Asked for first: a decoder tells what it left over only as a copy, once for each frame.
            size = zstd.get_frame_size(rest)
            decoder = zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)
            pieces.append(decoder.decompress(rest[:size], left + 1))
            left -= len(pieces[-1])
            if left < 0:
                raise _too_large(bytes_max)
            if not decoder.eof:
                message = "a frame of zstd in the body is incomplete"
                raise Malformed(message)
            rest = rest[size:]
    except zstd.ZstdError:
        message = f"the body is not whole frames of zstd that look back at most {ZSTD_WINDOW_BYTES_MAX >> 20} MiB"
        raise Malformed(message) from None
    return b"".join(pieces)


def _too_large(bytes_max: int) -> TooLarge:
    message = f"the body has more than {bytes_max} bytes"
    return TooLarge(message)
