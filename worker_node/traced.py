"""The worker's routes where there are traces: what an envelope's time goes into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker_node.handlers import Handlers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.tracing import Tracing
    from common.wire import Batch, Envelope, Receipt


class TracedHandlers(Handlers):
    """The routes, with a span for each step of an envelope that is sampled."""

    def __init__(self, *, tracing: Tracing, **parts: Any) -> None:  # noqa: ANN401 - those of Handlers
        super().__init__(**parts)
        self._tracing = tracing

    def _decoded(self, body: bytes) -> tuple[Envelope, tuple[Batch, ...]]:
        with self._tracing.stage("decode"):
            return super()._decoded(body)

    async def _receive(self, envelope: Envelope, batches: Sequence[Batch], body_bytes: int) -> list[Receipt]:
        with self._tracing.stage("commit"):
            return await super()._receive(envelope, batches, body_bytes)
