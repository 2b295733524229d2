"""How a node listens: aiohttp's connections, with the deadlines and bounds that it has no settings for.

::

    connected [TLS: --handshake_seconds--> handshake done, see common/handshake.py]
        --head_seconds--> head complete -> handled -> answer --answer_seconds--> taken -> idle --idle_seconds--+
        |            |                |                                  |                       |                   |
        |       408, closed      431, closed:                         aborted                 next head           closed
        |                        over HEAD_BYTES_MAX
        +-- more than connections_max: closed at once

Everything that is answered here is one of our problems: aiohttp's own texts quote the line that it cannot read, with
whatever name is in it.
"""

from __future__ import annotations

import asyncio
import resource
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web

from common.errors import Malformed, OutcomeUnknown, TooSlow, Unavailable
from common.handshake import Threshold
from common.hot import HOT, written
from common.lane import Lane, PlainRoutes
from common.logs import quiet_library_logger
from common.metrics import Metrics
from common.problems import HeadTooLarge, OtherProblem, problem_response

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from common.errors import RequestError

FINISH_SECONDS = 6.0  # for handlers to finish; with the drain and the parts' leaving it stays within 10 s

LINE_BYTES_MAX = 8190  # a request line, or a header: what common proxies pass on
HEADERS_MAX = 100  # in one head; browsers send some twenty
# Of a head that is not complete; looked at after each read, so one read may come on top. A line of 8 KiB and as much in
# headers: what a client sends us is an event in a query at most.
HEAD_BYTES_MAX = 16 << 10
READ_BYTES = 64 << 10  # of a body that nobody has asked for yet: beyond twice that the connection is not read

# Of answers that clients have not taken yet: a hundred lists of ten thousand slices. One is sent whatever its size.
ANSWERS_BYTES_MAX = 256 << 20

# Of an answer that is sent even so: that an event is counted must not be answered as if it was not, or it comes again.
SMALL_BYTES = 16 << 10

# One process answers some thousand requests a second, so that many clients at once are in step with it; more belong on
# connections that a proxy shares between them.
CONNECTIONS_MAX = 4096
_CONNECTIONS_MIN = 4
DESCRIPTORS_WANTED = 16_384  # four times the connections; shells give 1,024 for the sake of select(), used nowhere here

NO_HTTP = (
    "this is no HTTP request, a line of it is too long, or its URL has characters that are written as %XX there,"
    " such as a space or what is not ASCII"
)
METRICS = web.AppKey("metrics", Metrics)
LEAVE = web.AppKey("leave", list)
"""Where an application has what is to be called when the node begins to leave: it ends answers that never end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a connection may take for what, and how many there may be.

    Attributes:
        handshake_seconds: from the connection to the end of its TLS handshake, where there is one.
        head_seconds: from the connection, or from the first byte of a later request, to the end of its head.
        idle_seconds: between two requests; longer than the 60 s of common load balancers, so that they end it.
        answer_seconds: for the client to take what was written to it.
        linger_seconds: for a body that nobody wants, so that the client sees its answer before the connection ends.
        answers_bytes_max: of answers under way, all connections together.
        connections_max: at a time; by the descriptors of the process if None.
    """

    handshake_seconds: float = 10.0
    head_seconds: float = 10.0
    idle_seconds: float = 75.0
    answer_seconds: float = 60.0
    linger_seconds: float = 2.0
    answers_bytes_max: int = ANSWERS_BYTES_MAX
    connections_max: int | None = None


def raise_descriptors() -> None:
    """Take as many file descriptors as are wanted, if the system lets this process have them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def connections_bound() -> int:
    """How many connections there may be: half of the descriptors that are free.

    A worker's slice files take a third at most; an API node's own connections to workers a quarter.
    """
    return max(_CONNECTIONS_MIN, min(CONNECTIONS_MAX, free_descriptors() // 2))


def free_descriptors() -> int:
    """How many descriptors this process may still open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return DESCRIPTORS_WANTED
    # /dev/fd is on Linux and on macOS.
    return soft - sum(1 for _ in Path("/dev/fd").iterdir())


class Connection(web.RequestHandler):
    """aiohttp's, with deadlines, a bound on heads, and answers that quote nothing."""

    __slots__ = (
        "_admitted",
        "_answer_timer",
        "_head_bytes",
        "_head_timer",
        "_lane",
        "_listener",
        "_peer_ended",
        "_untaken_bytes",
    )

    def __init__(
        self,
        listener: Listener,
        *,
        loop: asyncio.AbstractEventLoop,
        admitted: bool,
        **settings: Any,  # noqa: ANN401 - aiohttp's
    ) -> None:
        super().__init__(listener, loop=loop, **settings)
        self._admitted = admitted
        self._listener = listener
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._answer_timer: asyncio.TimerHandle | None = None
        self._peer_ended = False
        self._untaken_bytes = 0  # of an answer of the lane
        routes = listener.plain_routes
        self._lane = Lane(routes=routes, owner=self, loop=loop) if routes else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let it in, or close it at once."""
        stream = cast("asyncio.Transport", transport)
        if not self._admitted and not self._listener.has_room:
            self._listener.ended("too_many")
            self.force_close()
            stream.abort()
            return
        super().connection_made(stream)
        # So that writing pauses until everything is out, which is what the deadline of an answer is about.
        # With TLS from the first byte on: there nothing at all would be too much too.
        stream.set_write_buffer_limits(high=0 if stream.can_write_eof() else 1, low=0)
        self._expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Nothing is waited for any more."""
        self._head_came()
        self._answer_taken()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Answer in the lane; or look whether a head is complete, and begin to wait for one that is not."""
        if self._lane is not None:
            if self._close or self._force_close or self._lane.take(data):
                return
            self._lane = None
        heads = self._request_count
        super().data_received(data)
        if self._request_count != heads:
            self._head_came()
        elif data and self._awaits_request:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._turn_away(HeadTooLarge(f"the head has more than {HEAD_BYTES_MAX} bytes"), "head_too_large")
            elif self._head_timer is None:
                self._expect_head()

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio's signature, which aiohttp narrows
        """The client sends nothing more; whether the connection stays open, for the answers to what it has sent."""
        if not self._can_half_close:
            return False
        if self._lane is not None and self._lane.has_more:
            self._peer_ended = True
            return True
        if self._awaits_request or self._close:
            return False
        request = self._current_request
        if self._messages:
            self._peer_ended = self._messages[-1][1].is_eof()
        elif request is not None:
            self._peer_ended = request.content.is_eof()
        else:
            # Just between the two, or answered just now: then no answer follows that would end the connection.
            self._peer_ended = True
            self.close()
        return self._peer_ended

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; the last one to a client that sends nothing more ends the connection."""
        if isinstance(resp, web.HTTPException):
            # Raised by the library before our edge was asked, as for an unknown Expect: its text quotes the request.
            resp = problem_response(OtherProblem.of(resp.status))
        if self._listener.leaving and not self._messages:
            # So that the client does not send its next request just as this connection is closed.
            resp.force_close()
        size = resp.content_length or 0
        if self._listener.has_no_room_for(size):
            resp, size = self._listener.too_many_answers(request.method), 0
        self._listener.answers_bytes += size
        try:
            sent = await super().finish_response(request, resp, start_time)
        finally:
            self._listener.answers_bytes -= size
        if self._peer_ended and not self._messages:
            self.close()
        return sent

    def pause_writing(self) -> None:
        """The client does not take its answer as fast as it is written."""
        super().pause_writing()
        seconds = self._listener.limits.answer_seconds
        # The transport goes along: it may be closing, which waits for the client too, and then it is gone from here.
        if self.transport is not None:
            self._answer_timer = self._loop.call_later(seconds, self._answer_is_late, self.transport)

    def resume_writing(self) -> None:
        """The client has taken all of it."""
        super().resume_writing()
        self._answer_taken()
        if self._lane is not None:
            self._lane.release()

    # What the lane asks of its connection.

    def begun(self) -> None:
        """A request is under way: whoever ends the connection waits for it, as for one of aiohttp's."""
        self._head_came()
        self._request_in_progress = True

    def answer(self, answer: web.StreamResponse) -> None:
        """Write the answer; aiohttp's part of it is done here too: to tell who waits, and what comes after it."""
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)
        transport, listener = self.transport, self._listener
        if transport is None or transport.is_closing():
            return
        size = answer.content_length or 0
        if listener.has_no_room_for(size):
            answer, size = listener.too_many_answers(), 0
        is_last = self._peer_ended and not (self._lane is not None and self._lane.has_more)
        goes_on = not (listener.leaving or is_last or self._close or self._force_close)
        transport.write(written(answer, keep_alive=goes_on))
        if self._paused:
            self._untaken_bytes = size
            listener.answers_bytes += size
        if goes_on:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        else:
            transport.close()

    def hold(self) -> None:
        """Read no more for now."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def go_on(self, held: bytes) -> None:
        """Read on, beginning with what was held."""
        if self.transport is None or self.transport.is_closing():
            return
        if not self._peer_ended:
            self.transport.resume_reading()
        self.data_received(held)
        # Its end came before what was held was read: is there anything in it that is yet to be answered?
        if self._peer_ended and not self.eof_received() and self.transport is not None:
            self.transport.close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,  # noqa: ARG002 - aiohttp's signature
        message: str | None = None,  # noqa: ARG002 - likewise: it is what must not be said
    ) -> web.StreamResponse:
        """Answer a request that never reached the application."""
        if request.writer.output_size > 0:
            text = "an answer was begun already, so there is no room for another"
            raise ConnectionError(text)
        if status == HTTPStatus.BAD_REQUEST:
            self._listener.ended("not_http")
            answer = problem_response(Malformed(NO_HTTP))
        else:
            answer = problem_response(OtherProblem.of(status))
        answer.force_close()
        return answer

    def _process_keepalive(self) -> None:
        if self._lane is not None and self._lane.is_busy:
            self._keepalive_handle = self._loop.call_later(self._keepalive_timeout, self._process_keepalive)
        else:
            super()._process_keepalive()

    @property
    def _can_half_close(self) -> bool:
        # Not with TLS: there whoever ends one direction ends both, or so asyncio has it.
        return self.transport is not None and self.transport.can_write_eof()

    @property
    def _awaits_request(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def _expect_head(self) -> None:
        self._head_timer = self._loop.call_later(self._listener.limits.head_seconds, self._head_is_late)

    def _head_came(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        seconds = self._listener.limits.head_seconds
        self._turn_away(TooSlow(f"the head of the request did not arrive within {seconds:g} s"), "late_head")

    def _turn_away(self, error: RequestError, reason: str) -> None:
        """Answer where no request is under way, and end the connection."""
        if self.transport is None or not self._awaits_request:
            return
        self._listener.ended(reason)
        self.transport.write(written(problem_response(error), keep_alive=False))
        if self._can_half_close:
            self.transport.write_eof()
        # Whatever else comes is thrown away. Closed with something unread, the connection would take the answer along.
        self.close()
        self._loop.call_later(self._listener.limits.linger_seconds, self.transport.abort)

    def _answer_taken(self) -> None:
        self._listener.answers_bytes -= self._untaken_bytes
        self._untaken_bytes = 0
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _answer_is_late(self, transport: asyncio.Transport) -> None:
        self._listener.ended("late_answer")
        transport.abort()


class Listener(web.Server):
    """aiohttp's server, whose connections are ours."""

    limits: Limits
    connections_max: int
    metrics: Metrics
    answers_bytes: int = 0  # that clients have not taken yet
    leaving: bool = False  # each answer is the last one of its connection
    plain_routes: PlainRoutes = {}  # noqa: RUF012 - never changed, but replaced as a whole
    tls: Callable[[], ssl.SSLContext] | None = None  # what to begin a handshake with
    handshakes: set[asyncio.Task[None]]  # under way

    def __call__(self) -> web.RequestHandler:
        """Make a connection, or what becomes one when its handshake is done."""
        if self.tls is None:
            return self._connection(admitted=False)
        threshold = Threshold(
            context=self.tls,
            make=lambda: self._connection(admitted=True),
            has_room=lambda: self.has_room,
            ended=self.ended,
            under_way=self.handshakes,
            handshake_seconds=self.limits.handshake_seconds,
            shutdown_seconds=self.limits.linger_seconds,
        )
        return cast("web.RequestHandler", threshold)  # all that whoever listens wants is a protocol

    def _connection(self, *, admitted: bool) -> Connection:
        return Connection(self, loop=self._loop, admitted=admitted, **self._kwargs)

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - aiohttp's signature
        """End all connections, and those that are about to become one."""
        for handshake in list(self.handshakes):
            handshake.cancel()
        await asyncio.gather(*self.handshakes, return_exceptions=True)
        await super().shutdown(timeout)

    @property
    def has_room(self) -> bool:
        """Whether one more connection is let in."""
        return len(self._connections) + len(self.handshakes) < self.connections_max

    def has_no_room_for(self, size: int) -> bool:
        """Whether an answer would be too much, with those that clients have not taken yet."""
        if size <= SMALL_BYTES:
            return False
        return self.answers_bytes > 0 and self.answers_bytes + size > self.limits.answers_bytes_max

    def too_many_answers(self, method: str = "GET") -> web.Response:
        """What is answered instead: whoever only asked may ask again, and nobody else is told that he may."""
        kind = Unavailable if method in ("GET", "HEAD") else OutcomeUnknown
        return problem_response(kind("the answers that clients have not taken yet are too many"))

    def ended(self, reason: str) -> None:
        """A connection was ended by us, for a reason that is in the documentation of the metric."""
        self.metrics.connections_ended.labels(reason).inc()


class Runner(web.AppRunner):
    """Runs an application, and says nothing that was not said by it: no access log, no library's log, no quotations."""

    def __init__(
        self,
        app: web.Application,
        *,
        limits: Limits = Limits(),
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        super().__init__(
            app,
            access_log=None,
            logger=quiet_library_logger(),
            shutdown_timeout=FINISH_SECONDS,
            handle_signals=False,
            keepalive_timeout=limits.idle_seconds,
            lingering_time=limits.linger_seconds,
            max_line_size=LINE_BYTES_MAX,
            max_field_size=LINE_BYTES_MAX,
            max_headers=HEADERS_MAX,
            read_bufsize=READ_BYTES,
            auto_decompress=False,  # see common/bodies.py
        )
        self._limits = limits
        self._tls = tls

    def leave(self) -> None:
        """End each connection with its next answer, which says so."""
        assert isinstance(self.server, Listener)  # noqa: S101 - as it was made below
        self.server.leaving = True
        for end in self.app.get(LEAVE, ()):
            end()

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        # The same in everything but the connections that it makes; aiohttp has no setting for their class.
        server.__class__ = Listener
        assert isinstance(server, Listener)  # noqa: S101 - as of the line above
        server.limits = self._limits
        server.tls, server.handshakes = self._tls, set()
        # Now, when the parts of the application have their files open.
        server.connections_max = self._limits.connections_max or connections_bound()
        server.metrics = self.app.get(METRICS) or Metrics()
        if (hot := self.app.get(HOT)) is not None:
            server.request_handler = hot.before(server.request_handler)
            server.plain_routes = hot.plain
        server.metrics.connections.set_function(lambda: len(server.connections) + len(server.handshakes))
        server.metrics.answers_bytes.set_function(lambda: server.answers_bytes)
        server.metrics.connections_max.set(server.connections_max)
        return server
