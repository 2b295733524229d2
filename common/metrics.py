"""What both node types measure of themselves, for Prometheus. Names begin with ``tallyslice_``, units are base units.

Labels are bounded: route templates, statuses, our own words and the workers of the cluster file. Never a slice, a user,
an address or a raw path. What the client library knows of any process (processor time, memory, descriptors, garbage
collection) keeps the names that everybody's dashboards know: ``process_`` and ``python_``.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    Metric,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from common.instruments import Counter, Family, Gauge, Histogram
from common.release import release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from common.certificates import Certificates
    from common.cluster_watch import ClusterWatch
    from common.instruments import Kind, Series

    S = TypeVar("S", bound=Series)

# A hit of the cache takes a tenth of the first one, a worker that is away ten seconds.
SECONDS_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """One node's metrics; each node type adds its own.

    They live in a registry of the node, not of the process, so that tests can run many nodes in one.

    Attributes:
        process: which process of its node this is, a label of all samples then; None where it is the only one.
        families: all that were made here, by the name that they are shown under.
    """

    def __init__(self) -> None:
        self.process: int | None = None
        self.families: dict[str, Family[Any]] = {}
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.requests = self.counters(
            "tallyslice_http_requests", "Requests answered, by route template.", "method", "route", "status"
        )
        self.request_seconds = self.histograms(
            "tallyslice_http_request_seconds",
            "From the request's head to the end of its answer.",
            "method", "route",
            buckets=SECONDS_BUCKETS,
        )  # fmt: skip
        self.connections = self.gauge("tallyslice_connections", "Connections of clients.")
        self.connections_max = self.gauge(
            "tallyslice_connections_max", "How many there may be; further ones are closed at once."
        )
        self.connections_ended = self.counters(
            "tallyslice_connections_ended",
            "Connections that the node ended: too_many, late_head, head_too_large, not_http, late_answer, tls_failed,"
            " late_handshake.",
            "reason",
        )
        for reason in ("too_many", "late_head", "head_too_large", "not_http", "late_answer", "late_handshake"):
            self.connections_ended.labels(reason)  # or the first one of all would be no increase
        self.bodies_bytes = self.gauge("tallyslice_bodies_bytes", "Bytes of the bodies of requests under way.")
        self.answers_bytes = self.gauge("tallyslice_answers_bytes", "Bytes of answers that clients have not taken yet.")
        self.config_reloads = self.counter(
            "tallyslice_config_reloads", "Changes of the cluster file taken since the start."
        )
        self.config_refusals = self.counter(
            "tallyslice_config_refusals", "Changes of the cluster file refused since the start."
        )
        self.config_refused = self.gauge("tallyslice_config_refused", "1 while the cluster file on disk is refused.")
        self.config_version = self.gauges(
            "tallyslice_config_version_info", "1, of the cluster file that the node runs on.", "version"
        )
        self.certificate_expires = self.gauge(
            "tallyslice_certificate_expires_timestamp_seconds",
            "When the certificate that the node shows does; infinite if it shows none.",
        )
        self.certificate_expires.set(math.inf)
        self.certificates_refused = self.gauge(
            "tallyslice_certificates_refused",
            "1 while the TLS files on disk cannot be used, and those loaded before are.",
        )
        self.ready = self.gauge("tallyslice_ready", "1 while the node is ready to serve.")
        self.gauges("tallyslice_build_info", "1, of the release that runs.", "version").labels(release()).set(1)
        self.gauge(
            "tallyslice_time_seconds", "What the node's clock says, in Unix seconds; Prometheus knows what it should."
        ).set_function(time.time)

    def counter(self, name: str, about: str) -> Counter:
        """Make a counter without labels; ``_total`` is added to its name."""
        return self.counters(name, about).labels()

    def counters(self, name: str, about: str, *labels: str) -> Family[Counter]:
        """Make a counter with labels."""
        return self._keep(name, about, "counter", Counter, labels)

    def gauge(self, name: str, about: str) -> Gauge:
        """Make a gauge without labels."""
        return self.gauges(name, about).labels()

    def gauges(self, name: str, about: str, *labels: str) -> Family[Gauge]:
        """Make a gauge with labels; or one that may have nothing to show."""
        return self._keep(name, about, "gauge", Gauge, labels)

    def histogram(self, name: str, about: str, *, buckets: Sequence[float]) -> Histogram:
        """Make a histogram without labels."""
        return self.histograms(name, about, buckets=buckets).labels()

    def histograms(self, name: str, about: str, *labels: str, buckets: Sequence[float]) -> Family[Histogram]:
        """Make a histogram with labels."""
        return self._keep(name, about, "histogram", partial(Histogram, buckets), labels)

    def follow_config(self, watch: ClusterWatch) -> None:
        """Show what becomes of the cluster file."""
        self.config_reloads.set_function(lambda: watch.reloads)
        self.config_refusals.set_function(lambda: watch.refusals)
        self.config_refused.set_function(lambda: watch.refusal is not None)
        self.config_version.follow(lambda: {(watch.running.version,): 1})

    def follow_certificates(self, certificates: Certificates) -> None:
        """Show what becomes of the TLS files."""
        self.certificate_expires.set_function(lambda: certificates.expires)
        self.certificates_refused.set_function(lambda: certificates.refusal is not None)

    def exposition(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry if self.process is None else _OfOneProcess(self.registry, self.process))

    def _keep(self, name: str, about: str, kind: Kind, make: Callable[[], S], labels: tuple[str, ...]) -> Family[S]:
        family = Family(name, about, kind=kind, make=make, label_names=labels)
        self.registry.register(family)
        self.families[f"{name}_total" if kind == "counter" else name] = family
        return family


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
