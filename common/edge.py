"""The request edge: every answer is counted and timed, and every error becomes a problem that quotes nothing.

Here it is asked, too, who may call; see ``access.py``.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import web

from common.addresses import NOBODY
from common.bodies import BODIES, Bodies
from common.errors import Malformed, NotHere, RequestError, TooLarge, WireError
from common.hot import is_quick, with_headers
from common.lane import PlainRoute
from common.problems import MethodNotAllowed, OtherProblem, problem_response
from common.request_ids import brought_id, draw_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.typedefs import Handler, Middleware

    from common.access import Access
    from common.hot import HotHandler
    from common.instruments import Counter, Histogram
    from common.lane import Head, Owner, PlainHandler
    from common.logs import Log
    from common.metrics import Metrics
    from common.tokens import Scope
    from common.tracing import Tracing

ENDLESS = web.RequestKey("endless", bool)
"""Set by a handler whose answer lasts as long as its client likes: it is counted, and not timed."""

_DEFECT = RequestError("an unexpected error; the log of the node says where")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


class Edge:
    """One node's; all its routes answer through it.

    Args:
        metrics: of the node.
        log: gets what is a defect.
        access: who may call; None: everybody, since each handler asks for itself.
        scope_of: what a call is, by method and route; None: it is open to all.
        tracing: makes spans of requests; None: there are none.
    """

    def __init__(
        self,
        *,
        metrics: Metrics,
        log: Log,
        access: Access | None = None,
        scope_of: Callable[[str, str], Scope | None] = lambda *_: None,
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self._access = access
        self._scope_of = scope_of
        self._metrics = metrics
        self._log = log
        self._bodies = Bodies()
        # Looking up the labels of a metric costs as much as counting.
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._timers: dict[tuple[str, str], Histogram] = {}
        metrics.bodies_bytes.set_function(lambda: self._bodies.held_bytes)

    @property
    def middleware(self) -> Middleware:
        """For the application."""

        @web.middleware
        async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
            started = time.perf_counter()
            resource = request.match_info.route.resource
            # Only templates: a raw path may hold anything.
            route = resource.canonical if resource is not None else "unknown"
            method = request.method if request.method in _METHODS else "other"
            if (asked := self._preflight(request)) is not None:
                response: web.StreamResponse = asked
            else:
                scope = None if resource is None else self._scope_of(method, route)
                response = await self._answer(request, handler, scope, route)
            if is_quick(response):
                response = self._for_pages(request, response)
            self._note(method, route, response.status, None if ENDLESS in request else started)
            return response

        tracing = self._tracing
        if tracing is None:
            return edge

        @web.middleware
        async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
            resource = request.match_info.route.resource
            route = resource.canonical if resource is not None else "unknown"
            method = request.method if request.method in _METHODS else "other"
            answer: web.StreamResponse = await tracing.around(method, route, lambda it: edge(it, handler))(request)
            return answer

        return traced

    async def allow_pages(self, request: web.Request, response: web.StreamResponse) -> None:
        """Tell browsers who may have an answer; for the signal ``on_response_prepare``, so streams have it too."""
        self._for_pages(request, response)

    def hot(self, method: str, route: str, handler: HotHandler) -> HotHandler:
        """The same around the handler of a hot route."""
        scope = self._scope_of(method, route)

        async def edge(request: web.Request) -> Any:  # noqa: ANN401 - an Answer, or a response
            started = time.perf_counter()
            response = await self._answer(request, handler, scope, route)
            response = self._for_pages(request, response)
            self._note(method, route, response.status, started)
            return response

        return edge if self._tracing is None else self._tracing.around(method, route, edge)

    def plain(self, method: str, route: str, handler: PlainHandler) -> PlainRoute:
        """The same for a route of the fast lane."""
        scope = self._scope_of(method, route)
        access = None if scope is None else self._access
        return PlainRoute(
            access=access,
            admit=lambda head, owner: self._admit_plain(head, owner, scope),
            handler=handler if self._tracing is None else self._tracing.around_plain(method, route, handler),
            problem=lambda error: self.problem(error, route=route),
            note=lambda status, started: self._note(method, route, status, started),
        )

    def _admit(self, request: web.Request, scope: Scope) -> None:
        access = self._access
        # Through a socket that has a path come the node's own processes; the folder's mode says who else.
        if access is None or not access.guards or isinstance(request.protocol.sockname, str):
            return
        headers = request.headers
        address = NOBODY
        if access.counts_addresses:
            address = access.client(request.remote, headers.getall("X-Forwarded-For", ()))
        access.admit(headers.get("Authorization"), address, scope)

    def _admit_plain(self, head: Head, owner: Owner, scope: Scope | None) -> None:
        access = self._access
        if access is None or scope is None or isinstance(owner.sockname, str):
            return
        address = NOBODY
        if access.counts_addresses:
            peer = owner.peername
            forwarded = () if head.forwarded_for is None else (head.forwarded_for,)
            address = access.client(str(peer[0]) if isinstance(peer, tuple) else None, forwarded)
        access.admit(head.authorization, address, scope)

    def _for_pages(self, request: web.Request, response: Any) -> Any:  # noqa: ANN401 - likewise
        if self._access is None or not self._access.cors.active:
            return response
        return with_headers(response, self._access.cors.headers(request.headers.get("Origin")))

    def _preflight(self, request: web.Request) -> web.Response | None:
        """The answer to a browser that asks whether a page may call; None if it is no such question."""
        if (
            request.method != "OPTIONS"
            or self._access is None
            or not self._access.cors.active
            or "Access-Control-Request-Method" not in request.headers
        ):
            return None
        error = request.match_info.http_exception
        if not isinstance(error, web.HTTPMethodNotAllowed):
            return None
        headers = self._access.cors.preflight(request.headers.get("Origin"), error.allowed_methods)
        return web.Response(status=HTTPStatus.NO_CONTENT, headers=headers)

    async def _answer(self, request: web.Request, handler: HotHandler, scope: Scope | None, route: str) -> Any:  # noqa: ANN401 - likewise
        has_body = request.body_exists
        if has_body:
            request[BODIES] = self._bodies
        try:
            if scope is not None:
                self._admit(request, scope)
            return await handler(request)
        except Exception as error:  # noqa: BLE001 - the request edge: a defect must not end a connection unexplained
            return self.problem(error, route=route, request=request)
        finally:
            if has_body:
                self._bodies.release(request)

    def problem(
        self, error: Exception, *, route: str, request: web.Request | None = None, **members: object
    ) -> web.Response:
        """What is answered to an error; what is our fault is told to the log.

        Args:
            error: whatever kept the request from being answered.
            route: the template.
            request: None if it is a plain one, which brings no id.
            members: more to tell.
        """
        told = _as_request_error(error)
        request_id = brought_id(None if request is None else request.headers) or told.request_id or draw_id()
        if told is _DEFECT:
            self._log.error("request_failed", route=route, request_id=request_id, error=error)
        elif told.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._log.warning(
                "request_unavailable", route=route, request_id=request_id, problem=told.slug, detail=told.detail
            )
        answer = problem_response(told, request_id=request_id, **members)
        if isinstance(error, web.HTTPMethodNotAllowed):
            answer.headers["Allow"] = error.headers["Allow"]
        return answer

    def _note(self, method: str, route: str, status: int, started: float | None) -> None:
        counter = self._counters.get((method, route, status))
        if counter is None:
            counter = self._counters[method, route, status] = self._metrics.requests.labels(method, route, status)
        counter.inc()
        if started is None:
            return
        timer = self._timers.get((method, route))
        if timer is None:
            timer = self._timers[method, route] = self._metrics.request_seconds.labels(method, route)
        timer.observe(time.perf_counter() - started)


def _as_request_error(error: Exception) -> RequestError:
    """The same in our own words; ``_DEFECT`` where there are none."""
    if isinstance(error, RequestError):
        found = error
    elif isinstance(error, WireError):
        found = Malformed(str(error))
    elif isinstance(error, web.HTTPRequestEntityTooLarge):
        found = TooLarge("the body is over its bound")
    elif isinstance(error, web.HTTPNotFound):
        found = NotHere("no such path")
    elif isinstance(error, web.HTTPMethodNotAllowed):
        found = MethodNotAllowed(f"allowed here: {', '.join(sorted(error.allowed_methods))}")
    elif isinstance(error, web.HTTPException):
        found = OtherProblem.of(error.status)
    else:
        found = _DEFECT
    return found
