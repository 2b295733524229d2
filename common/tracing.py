"""OpenTelemetry traces: an extra (``tallyslice[otel]``), of which nothing is imported unless the cluster file wants it.

::

    API node    POST /analytics ... POST /analytics      spans of the requests that are sampled
                        |                |
                        +--- deliver ----+               child of the first, linked to the others: one envelope
    worker              POST /worker/batches             (traceparent goes along)
                          decode
                          commit

A request is sampled if its ``traceparent`` says so (W3C Trace Context), or by the ratio of the config if it has none. A
worker samples what its callers did. Names and attributes are our own words, route templates, worker ids and numbers.

Whoever has a ``Tracing`` asks it; whoever has None does what it did before there was this module.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from contextlib import contextmanager, suppress
from functools import wraps
from typing import TYPE_CHECKING, Any

from common.errors import ConfigRefused

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator, Mapping, MutableMapping

    from aiohttp import web
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, SpanContext

    from common.config import TracingConfig
    from common.hot import HotHandler
    from common.lane import Head, PlainHandler, Send
    from common.logs import Log

EXPORT_SECONDS = 5.0  # for the collector to take a batch of spans
LEAVE_SECONDS = 1.0  # for it to take the last ones, while the node stops

_SERVER_ERROR = 500


def open_tracing(config: TracingConfig | None, *, node: str, log: Log) -> Tracing | None:
    """What a node traces with; None if it is to trace nothing.

    Args:
        config: what the cluster file says.
        node: its name, such as ``api-0``.
        log: is told when the collector does not take spans.

    Raises:
        ConfigRefused: the packages are not installed.
    """
    if config is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - as said at the top
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import (  # noqa: PLC0415
            BatchSpanProcessor,
            SpanExportResult,
        )
    except ImportError as error:
        text = 'tracing: needs packages that are not installed: pip install "tallyslice[otel]", or remove the key'
        raise ConfigRefused([text]) from error

    class Exporter(OTLPSpanExporter):
        def export(self, spans: Any) -> SpanExportResult:  # noqa: ANN401 - the library's
            result = super().export(spans)
            if result is not SpanExportResult.SUCCESS:
                log.warning("traces_not_exported", spans=len(spans))
            return result

    # It says the same, each time and with tracebacks.
    quiet = logging.getLogger("opentelemetry")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    kind = node.partition("-")[0]
    resource = Resource.create({"service.name": f"tallyslice-{kind}", "service.instance.id": node})
    # Every span that is begun is wanted: it was decided before.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(Exporter(endpoint=config.endpoint, timeout=EXPORT_SECONDS)))
    # Only API nodes begin traces.
    return Tracing(provider=provider, ratio=config.sample_ratio if kind == "api" else 0.0)


class Tracing:
    """Begins and ends the spans of one node.

    Args:
        provider: makes them, and sends them away.
        ratio: the share of requests without a ``traceparent`` that are sampled.
    """

    def __init__(self, *, provider: TracerProvider, ratio: float) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - whoever has a provider has it
        from opentelemetry.context import Context, attach, detach  # noqa: PLC0415
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._provider = provider
        self._ratio = ratio
        self._tracer = provider.get_tracer("tallyslice")
        self._trace = trace
        self._nothing = Context()
        self._attach, self._detach = attach, detach
        self._propagator = TraceContextTextMapPropagator()

    # A node that answers.

    def around(self, method: str, route: str, handler: HotHandler) -> HotHandler:
        """The same handler, with a span around it for requests that are sampled."""

        @wraps(handler)
        async def traced(request: web.Request) -> Any:  # noqa: ANN401 - as the handler answers
            span = self._begin(method, route, request.headers)
            if span is None:
                return await handler(request)
            try:
                with self._current(span):
                    answer = await handler(request)
                self._tell_status(span, answer.status)
            finally:
                span.end()
            return answer

        return traced

    def around_plain(self, method: str, route: str, handler: PlainHandler) -> PlainHandler:
        """The same for a handler of the fast lane, whose requests have no ``traceparent``."""

        def traced(query: str, head: Head, send: Send) -> Coroutine[Any, Any, web.StreamResponse] | None:
            span = self._begin(method, route, {})
            if span is None:
                return handler(query, head, send)

            def send_and_end(answer: web.StreamResponse) -> None:
                self._tell_status(span, answer.status)
                span.end()
                send(answer)

            async def finish(later: Coroutine[Any, Any, web.StreamResponse]) -> web.StreamResponse:
                try:
                    with self._current(span):
                        answer = await later
                    self._tell_status(span, answer.status)
                finally:
                    span.end()
                return answer

            try:
                with self._current(span):
                    later = handler(query, head, send_and_end)
            except BaseException:
                span.end()
                raise
            return None if later is None else finish(later)

        return traced

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A part of what the current span is about; nothing if there is none."""
        if not self._trace.get_current_span().is_recording():
            yield
            return
        with self._tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False):
            yield

    # A node that asks.

    def sampled(self) -> tuple[SpanContext, ...]:
        """What the request under way is known by, if it is sampled: to be linked to what is done for it later."""
        span = self._trace.get_current_span()
        return (span.get_span_context(),) if span.is_recording() else ()

    @contextmanager
    def delivery(self, requests: Iterable[SpanContext], **numbers: int | str) -> Iterator[None]:
        """A span for what is done for several requests at once: in the trace of the first, with links to the others.

        Without any there is none, whatever was current where the task began that comes here.
        """
        first, *others = requests or (None,)
        if first is None:
            token = self._attach(self._nothing)
            try:
                yield
            finally:
                self._detach(token)
            return
        span = self._tracer.start_span(
            "deliver",
            context=self._trace.set_span_in_context(self._trace.NonRecordingSpan(first), self._nothing),
            kind=self._trace.SpanKind.CLIENT,
            links=[self._trace.Link(other) for other in others],
            attributes={f"tallyslice.{name}": value for name, value in numbers.items()},
        )
        try:
            with self._current(span):
                yield
        except BaseException:
            span.set_status(self._trace.StatusCode.ERROR)
            raise
        finally:
            span.end()

    def inject(self, headers: MutableMapping[str, str]) -> None:
        """Let whoever is asked know the current span."""
        if self._trace.get_current_span().is_recording():
            self._propagator.inject(headers)

    async def leave(self) -> None:
        """Send away what is left, and do not wait for it for long."""
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def shut() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(done.set)

        # A thread that nobody waits for when the process ends.
        threading.Thread(target=shut, name="tracing-leaves", daemon=True).start()
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await done.wait()
        except TimeoutError:
            pass

    def _begin(self, method: str, route: str, headers: Mapping[str, str]) -> Span | None:
        """The span of a request; None if it is not sampled."""
        context = self._nothing
        if "traceparent" in headers:
            context = self._propagator.extract(headers, context=self._nothing)
        caller = self._trace.get_current_span(context).get_span_context()
        # Random for sampling, not for secrets.
        wanted = caller.trace_flags.sampled if caller.is_valid else random.random() < self._ratio  # noqa: S311
        if not wanted:
            return None
        return self._tracer.start_span(
            f"{method} {route}",
            context=context,
            kind=self._trace.SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": route},
        )

    @contextmanager
    def _current(self, span: Span) -> Iterator[None]:
        with self._trace.use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            yield

    def _tell_status(self, span: Span, status: int) -> None:
        span.set_attribute("http.response.status_code", status)
        if status >= _SERVER_ERROR:
            span.set_status(self._trace.StatusCode.ERROR)
