"""What both node types measure of themselves, for Prometheus. Names begin with ``tallyslice_``, units are base units.

Labels are bounded: route templates, statuses and our own words. Never a slice, a user, an address or a raw path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# A second series per counter, with the time of its making, that nobody here asks for.
disable_created_metrics()  # type: ignore[no-untyped-call] # the library has no types here

SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """One node's metrics; each node type adds its own to ``registry``.

    They live in a registry of the node, not of the process, so that tests can run many nodes in one.

    Attributes:
        process: which process of its node this is, a label of all samples then; None where it is the only one.
    """

    def __init__(self) -> None:
        self.process: int | None = None
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "tallyslice_http_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self.request_seconds = Histogram(
            "tallyslice_http_request_seconds",
            "From the request's head to the end of its answer.",
            ("method", "route"),
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        self.connections = Gauge("tallyslice_connections", "Connections of clients.", registry=self.registry)
        self.connections_max = Gauge(
            "tallyslice_connections_max", "How many there may be; further ones are closed at once.",
            registry=self.registry,
        )  # fmt: skip
        self.connections_ended = Counter(
            "tallyslice_connections_ended",
            "Connections that the node ended: too_many, late_head, head_too_large, not_http, late_answer.",
            ("reason",),
            registry=self.registry,
        )
        self.bodies_bytes = Gauge(
            "tallyslice_bodies_bytes", "Bytes of the bodies of requests under way.", registry=self.registry
        )
        self.answers_bytes = Gauge(
            "tallyslice_answers_bytes", "Bytes of answers that clients have not taken yet.", registry=self.registry
        )
        self.config_reloads = Gauge(
            "tallyslice_config_reloads", "Changes of the cluster file taken since the start.", registry=self.registry
        )
        self.config_refusals = Gauge(
            "tallyslice_config_refusals", "Changes of the cluster file refused since the start.", registry=self.registry
        )
        self.config_refused = Gauge(
            "tallyslice_config_refused", "1 while the cluster file on disk is refused.",
            registry=self.registry,
        )  # fmt: skip
        self.ready = Gauge("tallyslice_ready", "1 while the node is ready to serve.", registry=self.registry)

    def exposition(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry if self.process is None else _OfOneProcess(self.registry, self.process))


class _OfOneProcess(CollectorRegistry):
    """All metrics of another registry, with one more label."""

    def __init__(self, registry: CollectorRegistry, process: int) -> None:
        super().__init__()
        self._registry = registry
        self._process = str(process)

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            labelled = Metric(metric.name, metric.documentation, metric.type, metric.unit)
            labelled.samples = [
                sample._replace(labels={**sample.labels, "process": self._process}) for sample in metric.samples
            ]
            yield labelled
