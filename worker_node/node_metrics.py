"""What a worker measures of itself, beside what every node does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge

from common.metrics import Metrics
from common.wire import Outcome, Receipt

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker_node.holdings import Holdings
    from worker_node.space import Space
    from worker_node.writer import Writer


class WorkerMetrics(Metrics):
    """The metrics of a worker."""

    def __init__(self, *, holdings: Holdings, writer: Writer, space: Space) -> None:
        super().__init__()
        registry = self.registry
        self._batches = Counter(
            "tallyslice_worker_batches", "Batches answered, by what became of them.", ("outcome",), registry=registry
        )
        for outcome in Outcome:
            self._batches.labels(outcome.value)
        self._events = Counter("tallyslice_worker_events_applied", "Events of applied batches.", registry=registry)
        slices = Gauge("tallyslice_worker_slices", "Slices held, by their state.", ("state",), registry=registry)
        slices.labels("open").set_function(lambda: holdings.open_count - len(writer.suspects))
        slices.labels("verifying").set_function(lambda: len(writer.suspects))
        slices.labels("quarantined").set_function(lambda: holdings.quarantined_count)
        slices.labels("closed").set_function(lambda: len(holdings) - holdings.open_count - holdings.quarantined_count)
        Gauge(
            "tallyslice_worker_free_bytes", "Free bytes on the disk of the data directory.", registry=registry
        ).set_function(lambda: space.free_bytes)
        Gauge(
            "tallyslice_worker_waiting_events",
            "Events that wait for the writer, or are being written.",
            registry=registry,
        ).set_function(lambda: writer.waiting.events)
        Gauge(
            "tallyslice_worker_groups", "Groups of batches committed since the start.", registry=registry
        ).set_function(lambda: writer.groups)

    def answered(self, receipts: Iterable[tuple[Receipt, int]]) -> None:
        """Count receipts, each with the number of its batch's events."""
        for receipt, events in receipts:
            self._batches.labels(receipt.outcome.value).inc()
            if receipt.outcome is Outcome.APPLIED:
                self._events.inc(events)
