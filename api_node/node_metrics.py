"""What an API node measures beside what every node does."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from common.metrics import Metrics


class ApiMetrics(Metrics):
    """The metrics of an API node."""

    def __init__(self) -> None:
        super().__init__()
        self.events = Counter(
            "tallyslice_events",
            "Events by what became of them: counted, spooled, or the type of the problem that was answered.",
            ("outcome",),
            registry=self.registry,
        )
        self._events_of: dict[str, Counter] = {}
        self.batches = Counter(
            "tallyslice_batches", "Batches by the worker's outcome.", ("outcome",), registry=self.registry
        )
        self.stream_faults = Counter(
            "tallyslice_stream_faults",
            "Streams ended because a worker lost acknowledged data (stream_regressed), or knew other bytes of a number "
            "(stream_conflict).",
            ("kind",),
            registry=self.registry,
        )
        self.summaries = Counter(
            "tallyslice_summaries",
            "Summaries that questions needed: from the cache, shared with a question under way, or asked for.",
            ("source",),
            registry=self.registry,
        )
        self.spool_events = Gauge("tallyslice_spool_events", "Events in the spool.", registry=self.registry)
        self.spool_bytes = Gauge("tallyslice_spool_bytes", "Bytes of batches in the spool.", registry=self.registry)
        self.spool_age_seconds = Gauge(
            "tallyslice_spool_age_seconds",
            "How long the oldest stream in the spool waits.",
            registry=self.registry,
        )
        self.queue_events = Gauge(
            "tallyslice_queue_events", "Events that wait for a worker's receipt.", ("worker",), registry=self.registry
        )
        self.parked_slices = Gauge(
            "tallyslice_parked_slices", "Slices that a worker refuses.", ("worker",), registry=self.registry
        )

    def events_of(self, outcome: str) -> Counter:
        """The counter of events with an outcome; looking up a label costs as much as hashing a user."""
        found = self._events_of.get(outcome)
        if found is None:
            found = self._events_of[outcome] = self.events.labels(outcome)
        return found
