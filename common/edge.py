"""The request edge: every answer is counted and timed, and every error becomes a problem that quotes nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from common.bodies import BODIES, Bodies
from common.errors import Malformed, NotHere, RequestError, TooLarge, WireError
from common.lane import PlainRoute
from common.problems import MethodNotAllowed, OtherProblem, problem_response

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware

    from common.hot import HotHandler
    from common.instruments import Counter, Histogram
    from common.lane import PlainHandler
    from common.logs import Log
    from common.metrics import Metrics

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


class Edge:
    """One node's; all its routes answer through it."""

    def __init__(self, *, metrics: Metrics, log: Log) -> None:
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
            response: web.StreamResponse = await self._answer(request, handler)
            resource = request.match_info.route.resource
            # Only templates: a raw path may hold anything.
            route = resource.canonical if resource is not None else "unknown"
            method = request.method if request.method in _METHODS else "other"
            self._note(method, route, response.status, started)
            return response

        return edge

    def hot(self, method: str, route: str, handler: HotHandler) -> HotHandler:
        """The same around the handler of a hot route."""

        async def edge(request: web.Request) -> Any:  # noqa: ANN401 - an Answer, or a response
            started = time.perf_counter()
            response = await self._answer(request, handler)
            self._note(method, route, response.status, started)
            return response

        return edge

    def plain(self, method: str, route: str, handler: PlainHandler) -> PlainRoute:
        """The same for a route of the fast lane."""
        return PlainRoute(
            handler=handler,
            problem=self._problem,
            note=lambda status, started: self._note(method, route, status, started),
        )

    async def _answer(self, request: web.Request, handler: HotHandler) -> Any:  # noqa: ANN401 - likewise
        has_body = request.body_exists
        if has_body:
            request[BODIES] = self._bodies
        try:
            return await handler(request)
        except Exception as error:  # noqa: BLE001 - the request edge: a defect must not end a connection unexplained
            return self._problem(error)
        finally:
            if has_body:
                self._bodies.release(request)

    def _problem(self, error: Exception) -> web.Response:  # noqa: PLR0911 - a table of errors
        if isinstance(error, RequestError):
            return problem_response(error)
        if isinstance(error, WireError):
            return problem_response(Malformed(str(error)))
        if isinstance(error, web.HTTPRequestEntityTooLarge):
            return problem_response(TooLarge("the body is over its bound"))
        if isinstance(error, web.HTTPNotFound):
            return problem_response(NotHere("no such path"))
        if isinstance(error, web.HTTPMethodNotAllowed):
            answer = problem_response(MethodNotAllowed(f"allowed here: {', '.join(sorted(error.allowed_methods))}"))
            answer.headers["Allow"] = error.headers["Allow"]
            return answer
        if isinstance(error, web.HTTPException):
            return problem_response(OtherProblem.of(error.status))
        self._log.error("request_failed", error=error)
        return problem_response(RequestError("an unexpected error; the log of the node says where"))

    def _note(self, method: str, route: str, status: int, started: float) -> None:
        counter = self._counters.get((method, route, status))
        if counter is None:
            counter = self._counters[method, route, status] = self._metrics.requests.labels(method, route, status)
        timer = self._timers.get((method, route))
        if timer is None:
            timer = self._timers[method, route] = self._metrics.request_seconds.labels(method, route)
        counter.inc()
        timer.observe(time.perf_counter() - started)
