r"""The fast lane: what a connection may be asked so plainly that no HTTP parser is needed to understand it.

::

    POST /analytics?timestamp=1495285200&user=ada&click HTTP/1.1\r\n    the call: method and path; the query
    Host: localhost:8000\r\n                                            the block: compared as bytes with the block of
    User-Agent: curl/8\r\n                                              the request before, which the same client
    Accept: */*\r\n\r\n                                                 sends again and again, and read only if new

A request is plain if it came in one piece and alone, has no body, and consists of nothing but what ``split_head`` and
``read_head`` know for certain: printable ASCII, a Host, no header twice, each line ended by CRLF, and none of the
headers that change how a message ends or what the connection is. Whatever is not plain is not judged here at all: the
connection becomes the library's, from that byte on and for good (``listener.py``). So no byte is ever read by two
parsers, and what stands between two requests is never a matter of opinion: a plain one ends where what was read ends.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import asyncio

    from aiohttp import web

    from common.access import Access

HELD_BYTES_MAX = 64 << 10  # of what came while a request is under way; then the connection is not read
PLAIN_BYTES_MAX = 4096  # of a request: longer ones are rare, and have their own bounds to be told of

_VERSION = b" HTTP/1.1\r\n"
_END = b"\r\n\r\n"
# A header's name is a token (RFC 9110); its value, here, printable ASCII without space at either end.
_HEADER = re.compile(rb"([A-Za-z0-9!#$%&'*+.^_`|~-]+): ?((?:[!-~](?:[ -~]*[!-~])?)?)\r\n")

# What these say changes how the message is framed, what becomes of the connection, or what is to be answered beyond
# what a plain answer says; so the library shall read them.
_NOT_PLAIN = frozenset(
    {
        b"expect", b"keep-alive", b"origin", b"proxy-connection", b"te", b"traceparent", b"trailer",
        b"transfer-encoding", b"upgrade", b"x-request-id",
    }
)  # fmt: skip


class Head(NamedTuple):
    """What a plain request says beside its call."""

    accept: str = ""
    authorization: str | None = None
    forwarded_for: str | None = None


def split_head(data: bytes) -> tuple[bytes, str, bytes] | None:
    """The call (``POST /analytics``), the query, and the block of headers of a request that came in one piece.

    None if there is anything else to it.
    """
    end = data.find(_VERSION)
    if end < 0 or len(data) > PLAIN_BYTES_MAX:
        return None
    call, _, query = data[:end].partition(b"?")
    text = query.decode("latin-1")
    # Printable ASCII, so there is no line end in it; a space would end the target, a # the query.
    if not (text.isascii() and (text.isprintable() or not text)) or " " in text or "#" in text:
        return None
    return call, text, data[end + len(_VERSION) :]


def read_head(block: bytes) -> Head | None:
    """Read a block of headers; None if it is not plain."""
    if block.find(_END) != len(block) - len(_END):
        return None  # the head is not whole, or something follows it
    found: dict[bytes, bytes] = {}
    at, end = 0, len(block) - 2
    while at < end:
        line = _HEADER.match(block, at)
        if line is None:
            return None
        name, value = line[1].lower(), line[2]
        if name in _NOT_PLAIN or name in found:
            return None
        found[name] = value
        at = line.end()
    if (
        b"host" not in found
        or found.get(b"connection", b"keep-alive").lower() != b"keep-alive"
        or found.get(b"content-length", b"0") != b"0"
    ):
        return None
    authorization, forwarded_for = found.get(b"authorization"), found.get(b"x-forwarded-for")
    return Head(
        accept=found.get(b"accept", b"").decode("ascii"),
        authorization=None if authorization is None else authorization.decode("ascii"),
        forwarded_for=None if forwarded_for is None else forwarded_for.decode("ascii"),
    )


Send = Callable[["web.StreamResponse"], None]
"""Takes the answer to a plain request, once."""

PlainHandler = Callable[[str, Head, Send], Coroutine[Any, Any, "web.StreamResponse"] | None]
"""Answers a plain request, given its query and head, by calling ``send`` now or later; or returns what will answer it.

Raises RequestError as other handlers do.
"""


@dataclass(frozen=True, slots=True, eq=False)
class PlainRoute:
    """A call that is answered in the lane.

    Attributes:
        access: who may call; None: everybody.
        admit: raises what keeps a client out.
        handler: answers it.
        problem: the answer to what the handler raises.
        note: counts an answer, given its status and when the request came.
    """

    access: Access | None
    admit: Callable[[Head, Owner], None]
    handler: PlainHandler
    problem: Callable[[Exception], web.StreamResponse]
    note: Callable[[int, float], None]


PlainRoutes = Mapping[bytes, PlainRoute]
"""By call: ``POST /analytics``."""


class Owner(Protocol):
    """The connection that a lane belongs to, as far as the lane needs it."""

    @property
    def peername(self) -> Any:  # noqa: ANN401 - as asyncio has it
        """Who is connected."""
        ...

    @property
    def sockname(self) -> Any:  # noqa: ANN401 - likewise
        """Where it is connected to."""
        ...

    @property
    def writing_paused(self) -> bool:
        """Whether the client has yet to take what was written."""
        ...

    def begun(self) -> None:
        """A request is under way."""

    def answer(self, answer: web.StreamResponse) -> None:
        """It is answered: write that, if the client is still there."""

    def hold(self) -> None:
        """Read no more for now."""

    def go_on(self, held: bytes) -> None:
        """Read on, beginning with what was held."""


class Lane:
    """One connection's, while all that came over it was plain.

    Attributes:
        is_busy: whether a request is under way.
    """

    __slots__ = ("_block", "_head", "_held", "_loop", "_owner", "_route", "_routes", "_started", "_task", "is_busy")

    def __init__(self, *, routes: PlainRoutes, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self.is_busy = False
        self._routes = routes
        self._owner = owner
        self._loop = loop
        self._block = b""
        self._head = Head()
        self._held = b""
        self._task: asyncio.Task[None] | None = None

    @property
    def has_more(self) -> bool:
        """Whether a request is under way, or something waits behind one."""
        return self.is_busy or bool(self._held)

    def take(self, data: bytes) -> bool:
        """Answer a plain request; whether it was one. If not, nothing has happened."""
        if self.is_busy or self._owner.writing_paused:
            self._hold(data)
            return True
        parts = split_head(data)
        if parts is None:
            return False
        call, query, block = parts
        route = self._routes.get(call)
        if route is None:
            return False
        if block != self._block:
            head = read_head(block)
            if head is None:
                return False
            self._block, self._head = block, head
        self.is_busy = True
        self._route = route
        self._started = time.perf_counter()
        self._owner.begun()
        try:
            if route.access is not None and route.access.guards:
                route.admit(self._head, self._owner)
            later = route.handler(query, self._head, self._send)
        except Exception as error:  # noqa: BLE001 - the request edge, as common/edge.py is
            self._send(route.problem(error))
        else:
            if later is not None:
                self._task = self._loop.create_task(self._answer(later))
        return True

    def release(self) -> None:
        """Go on with what came meanwhile, if the client has taken its answers."""
        if self._held and not self.is_busy and not self._owner.writing_paused:
            held, self._held = self._held, b""
            self._owner.go_on(held)

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > HELD_BYTES_MAX:
            self._owner.hold()

    async def _answer(self, later: Coroutine[Any, Any, web.StreamResponse]) -> None:
        try:
            answer = await later
        except Exception as error:  # noqa: BLE001 - as above
            answer = self._route.problem(error)
        self._send(answer)

    def _send(self, answer: web.StreamResponse) -> None:
        self.is_busy = False
        self._route.note(answer.status, self._started)
        self._owner.answer(answer)
        if self._held:
            self.release()
