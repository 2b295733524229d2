"""What a worker measures of itself, beside what every node does. Noted once a group or a batch, never once an event."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.metrics import SECONDS_BUCKETS, Metrics
from common.wire import Outcome, Receipt
from worker_node.space import LOW_SPACE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker_node.holdings import Holdings
    from worker_node.registry import RegistryThread
    from worker_node.shelf import Shelf
    from worker_node.space import Space
    from worker_node.totals import Totals
    from worker_node.writer import Writer

EVENTS_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 262_144)
SLICES_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)


class WorkerMetrics(Metrics):
    """The metrics of a worker."""

    def __init__(self) -> None:
        super().__init__()
        self._batches = self.counters(
            "tallyslice_worker_batches", "Batches answered, by what became of them.", "outcome"
        )
        for outcome in Outcome:
            self._batches.labels(outcome.value)
        self._events = self.counter("tallyslice_worker_events_applied", "Events of applied batches.")
        self._commit_seconds = self.histogram(
            "tallyslice_worker_commit_seconds",
            "How long a group of batches took to be decided on, applied and made durable.",
            buckets=SECONDS_BUCKETS,
        )
        self._commit_events = self.histogram(
            "tallyslice_worker_commit_events", "Events of the batches of a group.", buckets=EVENTS_BUCKETS
        )
        self._commit_slices = self.histogram(
            "tallyslice_worker_commit_slices",
            "Slices of a group: each is a transaction of its own.",
            buckets=SLICES_BUCKETS,
        )
        self._slices = self.gauges("tallyslice_worker_slices", "Slices held, by their state.", "state")
        self._open_files = self.gauge("tallyslice_worker_open_files", "Slice files that are open.")
        self._file_bytes = self.gauge("tallyslice_worker_file_bytes", "Bytes of the slice files.")
        self._free_bytes = self.gauge("tallyslice_worker_free_bytes", "Free bytes on the disk of the data directory.")
        self.gauge("tallyslice_worker_needed_bytes", "With fewer free bytes the worker takes no events.").set(
            LOW_SPACE_BYTES
        )
        self._waiting_events = self.gauge(
            "tallyslice_worker_waiting_events", "Events that wait for the writer, or are being written."
        )
        self._registry_claims = self.gauges(
            "tallyslice_registry_claims", "The highest claim number in the registry; at its host alone."
        )
        self._registry_slices = self.gauges(
            "tallyslice_registry_slices", "Slices whose route is settled; at the registry's host alone."
        )
        self._registry_behind = self.gauges(
            "tallyslice_registry_behind",
            "1 while the registry is lost, old or being rebuilt, and settles nothing; at its host alone.",
        )

    def follow_disk(self, *, holdings: Holdings, writer: Writer, shelf: Shelf, space: Space) -> None:
        """Show what is held and what waits."""
        self._slices.labels("open").set_function(lambda: holdings.open_count - len(writer.suspects))
        self._slices.labels("verifying").set_function(lambda: len(writer.suspects))
        self._slices.labels("quarantined").set_function(lambda: holdings.quarantined_count)
        self._slices.labels("closed").set_function(
            lambda: len(holdings) - holdings.open_count - holdings.quarantined_count
        )
        self._open_files.set_function(lambda: shelf.open_files)
        self._file_bytes.set_function(lambda: shelf.size_bytes)
        self._free_bytes.set_function(lambda: space.free_bytes)
        self._waiting_events.set_function(lambda: writer.waiting.events)

    def follow_registry(self, registry: RegistryThread, totals: Totals) -> None:
        """Show the registry, where it is hosted here."""

        def behind() -> bool:
            file = registry.file
            is_lost = file.pins is None and totals.pins is not None
            return is_lost or file.is_rebuilding or file.claims < totals.claims

        self._registry_claims.follow(lambda: {(): registry.file.claims} if registry.is_open else {})
        self._registry_slices.follow(lambda: {(): registry.file.settled} if registry.is_open else {})
        self._registry_behind.follow(lambda: {(): float(behind())} if registry.is_open else {})

    def committed(self, *, events: int, slices: int, seconds: float) -> None:
        """Note a group that was committed."""
        self._commit_seconds.observe(seconds)
        self._commit_events.observe(events)
        self._commit_slices.observe(slices)

    def answered(self, receipts: Iterable[tuple[Receipt, int]]) -> None:
        """Count receipts, each with the number of its batch's events."""
        for receipt, events in receipts:
            self._batches.labels(receipt.outcome.value).inc()
            if receipt.outcome is Outcome.APPLIED:
                self._events.inc(events)
