"""The few calls that nearly all requests are, answered without the application that the library puts around them.

::

    request, parsed by aiohttp --(method, path)--> a hot route: its handler, and an answer written in one piece
                                       |
                                       +--> all others, and whatever is unusual: the application, with its router,
                                            middleware and responses

An application costs a request about as much as reading it: to resolve its route, to run the middleware, to prepare
headers. For a route whose path has no parts to match, and whose answer is a few bytes, none of it decides anything. The
handlers are the same, and so is what they answer; docs/performance.md has the figures.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from aiohttp import HttpVersion11, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.lane import PlainRoute

HotHandler = Callable[[web.Request], Awaitable[Any]]

_NO_CONTENT = 204
_STATUS_LINES = {int(status): f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}


class _Answer:
    """An answer that is written together with its head; has what the library asks of a response."""

    __slots__ = ("_body", "_head", "_time", "_whole", "content_length", "keep_alive", "status")

    def __init__(self, status: int, body: bytes, head: str) -> None:
        self.status = status
        self.content_length = len(body)
        self.keep_alive = True
        self._head = head
        self._body = body
        self._time = ""
        self._whole = b""

    def force_close(self) -> None:
        """Let the connection end behind it."""
        self.keep_alive = False

    def with_lines(self, lines: str) -> _Answer:
        """The same, whose head says more; another one, since this one may answer others too."""
        return _Answer(self.status, self._body, self._head + lines)

    async def prepare(self, request: web.Request) -> None:
        """Write it; aiohttp's name for the beginning of an answer.

        Raises:
            ConnectionResetError: the client is gone.
        """
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        # Of an older client no connection is kept, whatever it says: that has headers of its own.
        self.keep_alive = self.keep_alive and request.version >= HttpVersion11 and request.keep_alive
        head = self._to_head(rfc822_formatted_time(), keep_alive=self.keep_alive)
        transport.write(head if request.method == "HEAD" else head + self._body)
        # Until the client has taken it, as the library's own answers wait: else whoever sends requests and never reads
        # would have all their answers made.
        await request.writer.drain()

    async def write_eof(self) -> None:
        """It is written already."""

    def to_bytes(self, *, keep_alive: bool) -> bytes:
        """All of it, as it goes over the wire; remembered for a second, since many answers are the same."""
        time = rfc822_formatted_time()
        if not keep_alive:
            return self._to_head(time, keep_alive=False) + self._body
        if time is not self._time:
            self._whole = self._to_head(time, keep_alive=True) + self._body
            self._time = time
        return self._whole

    def _to_head(self, time: str, *, keep_alive: bool) -> bytes:
        connection = "" if keep_alive else "Connection: close\r\n"
        length = "" if self.status == _NO_CONTENT else f"Content-Length: {self.content_length}\r\n"
        return (
            f"{_STATUS_LINES[self.status]}{self._head}{length}"
            f"Date: {time}\r\nServer: {SERVER_SOFTWARE}\r\n{connection}\r\n"
        ).encode("ascii")


def quick_answer(status: int, *, body: bytes = b"", head: str = "") -> web.StreamResponse:
    """An answer whose bytes are known as a whole: from any route, and in a tenth of a response's time.

    Args:
        status: of the answer.
        body: all of it.
        head: header lines beside those that every answer has; see ``header_lines``.
    """
    return cast("web.StreamResponse", _Answer(status, body, head))


def written(answer: web.StreamResponse, *, keep_alive: bool) -> bytes:
    """An answer as it goes over the wire, where aiohttp has no request that it could belong to."""
    if not isinstance(answer, web.Response):
        return cast("_Answer", answer).to_bytes(keep_alive=keep_alive)
    body = bytes(answer.body)  # type: ignore[arg-type] # ours have bytes
    head = header_lines({name: value for name, value in answer.headers.items() if name != "Content-Length"})
    return _Answer(answer.status, body, head).to_bytes(keep_alive=keep_alive)


def is_quick(answer: web.StreamResponse) -> bool:
    """Whether an answer is one of ours, which the application's signals do not reach."""
    return not isinstance(answer, web.Response) and isinstance(cast("object", answer), _Answer)


def with_headers(answer: web.StreamResponse, headers: Mapping[str, str]) -> web.StreamResponse:
    """An answer of either kind, whose head says more."""
    other: object = answer
    if isinstance(other, _Answer):
        return cast("web.StreamResponse", other.with_lines(header_lines(headers)))
    answer.headers.extend(headers)
    return answer


def header_lines(headers: Mapping[str, str]) -> str:
    """Headers as the lines of a head."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


class HotRoutes:
    """Which calls are hot.

    Attributes:
        plain: those that are answered without a parser, where the request is plain; see ``lane.py``.
    """

    def __init__(self) -> None:
        self.plain: dict[bytes, PlainRoute] = {}
        self._handlers: dict[tuple[str, str], HotHandler] = {}

    def add(self, method: str, path: str, handler: HotHandler) -> None:
        """Let a handler answer a call; the application has it too."""
        self._handlers[method, path] = handler

    def before(self, application: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
        """What answers every request: a hot route, or the application."""
        handlers = self._handlers

        def answer(request: web.Request) -> Awaitable[Any]:
            handler = handlers.get((request.method, request.raw_path.partition("?")[0]))
            if handler is None or "Expect" in request.headers:
                return application(request)
            return handler(request)

        return answer


HOT = web.AppKey("hot", HotRoutes)
"""Where an application has its hot routes."""
