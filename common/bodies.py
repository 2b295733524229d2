"""How the body of a request is read: within its bound, its deadline, and the bound of all bodies together.

::

    bytes as they arrive --> counted (this body, and all bodies under way) --> inflated, if they are compressed
                               413             503                               413 at the bound, the rest unread

aiohttp would inflate while it receives, and go on with what it throws away after a 413; so it hands over what came,
and a bomb is inflated here, up to the bound and no further.
"""

from __future__ import annotations

import asyncio
import zlib

from aiohttp import web

from common.errors import Malformed, TooLarge, TooSlow, Unavailable, WrongMediaType

BODY_SECONDS = 10.0  # for a body to arrive: far more than a healthy client needs, few enough to free a stuck connection
# Of all requests under way together, as they came: twice what may wait for a worker's writer, and at an API node two
# thousand events of the largest size at once.
BODIES_BYTES_MAX = 128 << 20

# The window bits that make zlib expect the format of each coding, and no other.
_CODINGS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
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
        """Some bytes of the request's body have come; they are held until its answer is made.

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


async def read_body(request: web.Request, *, bodies: Bodies | None = None, seconds: float = BODY_SECONDS) -> bytes:
    """The whole body, within the application's ``client_max_size``, inflated if it is compressed.

    Args:
        request: whose.
        bodies: where it is counted; those of the application's edge if None.
        seconds: how long it may take to arrive, however its bytes are spread over that time.

    Raises:
        TooSlow: it did not arrive in time.
        TooLarge: it is over the bound, as it came or inflated.
        Malformed: the connection broke, or it is not in the coding that it names.
        WrongMediaType: the coding is none that is read here.
        Unavailable: too much is being read at once.
    """
    bodies = bodies or request[BODIES]
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in _CODINGS and coding != "identity":
        message = "send the body as it is, or with Content-Encoding: gzip or deflate"
        raise WrongMediaType(message)
    try:
        async with asyncio.timeout(seconds):
            body = await _receive(request, bodies)
    except TimeoutError:
        message = f"the body did not arrive within {seconds:g} s"
        raise TooSlow(message) from None
    except (web.RequestPayloadError, OSError):
        message = "the body could not be read"
        raise Malformed(message) from None
    if coding == "identity":
        return body
    return inflate(body, coding, bytes_max=request.client_max_size)


async def _receive(request: web.Request, bodies: Bodies) -> bytes:
    bytes_max = request.client_max_size
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


def inflate(body: bytes, coding: str, *, bytes_max: int) -> bytes:
    """A body out of its coding. Never makes more than ``bytes_max`` and one byte, whatever the body would become.

    Raises:
        TooLarge: it would become more.
        Malformed: it is not in that coding, incomplete, or more than one stream (each could be a bomb of its own).
    """
    inflater = zlib.decompressobj(_CODINGS[coding])
    try:
        content = inflater.decompress(body, bytes_max + 1)
    except zlib.error:
        message = f"the body is not {coding}"
        raise Malformed(message) from None
    if len(content) > bytes_max:
        raise _too_large(bytes_max)
    if body and (not inflater.eof or inflater.unused_data):
        message = f"the body is not one whole stream of {coding}"
        raise Malformed(message)
    return content


def _too_large(bytes_max: int) -> TooLarge:
    message = f"the body has more than {bytes_max} bytes"
    return TooLarge(message)
