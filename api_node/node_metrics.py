"""What an API node measures beside what every node does.

Of events only a count is kept one by one; everything else is noted once a batch, an envelope or a question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api_node.sender import QUEUE_EVENTS_MAX
from common.access import REASONS
from common.errors import NoAnswer, NotTaken, OutcomeUnknown, RequestError, Unavailable
from common.metrics import SECONDS_BUCKETS, Metrics
from common.wire import BATCH_EVENTS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from api_node.sender import Flight
    from api_node.settled_routes import SettledRoutes
    from api_node.spool_room import SpoolRoom
    from api_node.worker_client import WorkerLink
    from common.config import ClusterConfig
    from common.instruments import Counter
    from common.routing import WorkerId

EVENTS_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, BATCH_EVENTS_MAX, 131_072)
# From what is on its way to what was kept for a day; 0 has those that are not yet due, too.
LAG_BUCKETS = (0, 0.1, 0.5, 1, 5, 15, 60, 300, 1_800, 3_600, 14_400, 86_400)

COUNTED, SPOOLED = "counted", "spooled"
REJECTED = "rejected"
"""The client's to mend; all other problems are not."""
_OUTCOMES = {
    COUNTED: COUNTED,
    SPOOLED: SPOOLED,
    OutcomeUnknown.slug: "unknown",
    **dict.fromkeys([kind.slug for kind in (NotTaken, NoAnswer, Unavailable, RequestError)], "refused"),
}
STATES = ("ok", "away", "refused", "unknown")


class ApiMetrics(Metrics):
    """The metrics of an API node."""

    def __init__(self) -> None:
        super().__init__()
        self.events = self.counters(
            "tallyslice_events",
            "Events by what became of them: counted, spooled, rejected (for the client to mend), refused, or unknown; "
            "the reason is the type of the problem that was answered.",
            "outcome", "reason",
        )  # fmt: skip
        self._events_of: dict[str, Counter] = {}
        for became in (COUNTED, SPOOLED, NotTaken.slug, OutcomeUnknown.slug):
            self.events_of(became)  # or the first one of all would be no increase
        self.event_lag_seconds = self.histogram(
            "tallyslice_event_lag_seconds",
            "How old events are when they come: of one in each tenth of a second.",
            buckets=LAG_BUCKETS,
        )
        self.batches = self.counters("tallyslice_batches", "Batches by the worker's outcome.", "outcome")
        self.batch_events = self.histogram(
            "tallyslice_batch_events", "Events of a batch that a worker answered for.", buckets=EVENTS_BUCKETS
        )
        self.envelope_events = self.histogram(
            "tallyslice_envelope_events", "Events of an envelope that a worker answered.", buckets=EVENTS_BUCKETS
        )
        self.delivery_seconds = self.histograms(
            "tallyslice_delivery_seconds",
            "From sending an envelope to its receipts.",
            "worker",
            buckets=SECONDS_BUCKETS,
        )
        self.stream_faults = self.counters(
            "tallyslice_stream_faults",
            "Streams ended because a worker lost acknowledged data (stream_regressed), or knew other bytes of a number "
            "(stream_conflict).",
            "kind",
        )
        for kind in ("stream_regressed", "stream_conflict"):
            self.stream_faults.labels(kind)  # likewise
        self.summaries = self.counters(
            "tallyslice_summaries",
            "Summaries that questions needed: from the cache, shared with a question under way, or asked for.",
            "source",
        )
        self.fanout_seconds = self.histogram(
            "tallyslice_fanout_seconds",
            "How long a question waited for the workers whose summaries were not in the cache.",
            buckets=SECONDS_BUCKETS,
        )
        self.spool_events = self.gauge("tallyslice_spool_events", "Events in the spool.")
        self.spool_bytes = self.gauge("tallyslice_spool_bytes", "Bytes of batches in the spool.")
        self.spool_age_seconds = self.gauge(
            "tallyslice_spool_age_seconds", "How long the oldest stream in the spool waits."
        )
        self._spool_max_bytes = self.gauge("tallyslice_spool_max_bytes", "spool-max-bytes of the cluster file.")
        self._spool_max_age_seconds = self.gauge(
            "tallyslice_spool_max_age_seconds", "spool-max-age-seconds of the cluster file."
        )
        self.live_viewers = self.gauge("tallyslice_live_viewers", "Viewers of the dashboard.")
        self.live_dropped = self.counter(
            "tallyslice_live_dropped", "Viewers dropped because they did not take what they were sent."
        )
        self._queue_events = self.gauges(
            "tallyslice_queue_events", "Events that wait for a worker's receipt.", "worker"
        )
        self.gauge("tallyslice_queue_events_max", "How many may wait in a stream; further ones are refused.").set(
            QUEUE_EVENTS_MAX
        )
        self._parked_slices = self.gauges("tallyslice_parked_slices", "Slices that a worker refuses.", "worker")
        self._worker_state = self.gauges(
            "tallyslice_worker_state", "1 of the state that a worker is in, as this node sees it.", "worker", "state"
        )
        self._registry_available = self.gauge(
            "tallyslice_registry_available", "0 while the registry does not answer, or refuses, what this node asks it."
        )

        self.denied = self.counters(
            "tallyslice_requests_denied",
            "Requests of clients that were not let in: no_token, unknown_token, expired_token, scope, token_rate, "
            "address_rate.",
            "reason",
        )
        for reason in REASONS:
            self.denied.labels(reason)
        self.tokens = self.gauge("tallyslice_tokens", "Tokens that are known.")
        self.tokens_refusals = self.counter(
            "tallyslice_tokens_refusals", "Changes of the tokens file refused since the start."
        )
        self.tokens_refused = self.gauge("tallyslice_tokens_refused", "1 while the tokens file on disk is refused.")
        self.callers = self.gauge("tallyslice_callers", "Tokens and addresses whose requests are counted.")

    def events_taken(self) -> int:
        """How many events were answered with success."""
        return int(sum(self.events_of(became).value for became in (COUNTED, SPOOLED)))

    def events_of(self, became: str) -> Counter:
        """The counter of events by what became of them: counted, spooled, or the slug of a problem."""
        found = self._events_of.get(became)
        if found is None:
            outcome = _OUTCOMES.get(became, REJECTED)
            found = self._events_of[became] = self.events.labels(outcome, "" if outcome == became else became)
        return found

    def delivered(self, flight: Flight[object]) -> None:
        """Note the sizes of what a worker answered."""
        for batch in flight.batches:
            self.batch_events.observe(batch.events)
        self.envelope_events.observe(sum(batch.events for batch in flight.batches))

    def follow_spool(self, room: SpoolRoom, config: Callable[[], ClusterConfig]) -> None:
        """Show what is in the spools, and how much may be."""
        self.spool_events.set_function(lambda: room.events)
        self.spool_bytes.set_function(lambda: room.size_bytes)
        self.spool_age_seconds.set_function(lambda: room.age_seconds)
        self._spool_max_bytes.set_function(lambda: config().spool_max_bytes)
        self._spool_max_age_seconds.set_function(lambda: config().spool_max_age_seconds)

    def follow_workers(self, links: Callable[[], Mapping[WorkerId, WorkerLink]]) -> None:
        """Show what waits for each worker of the cluster file, and how it is."""
        self._queue_events.follow(lambda: {(name,): link.delivery.queued()[0] for name, link in links().items()})
        self._parked_slices.follow(lambda: {(name,): len(link.delivery.parked()) for name, link in links().items()})
        self._worker_state.follow(
            lambda: {(name, state): float(link.state() == state) for name, link in links().items() for state in STATES}
        )

    def follow_registry(self, routes: SettledRoutes) -> None:
        """Show whether new slices can be settled."""
        self._registry_available.set_function(lambda: routes.registry_problem is None)
