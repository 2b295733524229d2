"""What a load consists of. Pure: from what somebody asked for to a pace, a crowd and the share of each kind."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from tallyslice.load.crowd import Crowd
from tallyslice.load.pace import ClosedLoop, OpenLoop, Pace

SECONDS, RATE = 300.0, 200.0  # five minutes fill five slices of etc/cluster.json
USERS = 1_000
SKEW = 2.0  # the demonstration looks like a site: some are often there, many seldom
LATE_SHARE = 0.1
OPEN_CONNECTIONS = 256  # at 2,000 requests a second, enough for answers that take 0.1 s
CLOSED_CONNECTIONS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to send.

    Attributes:
        nodes: origins of the API nodes, each loaded alike.
        rate: events a second, in all (if there are only reads: reads a second); None: as fast as it goes.
        seconds: how long.
        connections: how many requests may be under way; None: what suits the pace.
        bulk: events a request, sent to ``POST /events``; None: one by one, to ``POST /analytics``.
        reads: the share of requests that are ``GET /analytics``.
        users: how many known users there are.
        new: the share of events from new users.
        ids: whether each event has an id, so that what got no answer can be sent again.
        seed: for the same events in each run; None: random.
        cache_ttl_seconds: how old an answer may be.
        tls: how the nodes' certificates are checked; None: as the system does.
        token: shown to the nodes; must be good for writing and for reading.
    """

    nodes: tuple[str, ...]
    rate: float | None = RATE
    seconds: float = SECONDS
    connections: int | None = None
    bulk: int | None = None
    reads: float = 0.0
    users: int = USERS
    new: float = 0.0
    ids: bool = True
    seed: int | None = None
    cache_ttl_seconds: float = 1.0
    tls: ssl.SSLContext | None = None
    token: str | None = field(default=None, repr=False)

    @property
    def events(self) -> int | None:
        """How many events there are in all; None: as many as it takes."""
        if self.rate is None:
            return None
        return round(self.rate * self.seconds) if self.reads < 1 else 0

    @property
    def lanes(self) -> int:
        """How many requests may be under way: at least one for each node."""
        suiting = CLOSED_CONNECTIONS if self.rate is None else OPEN_CONNECTIONS
        return max(self.connections or suiting, len(self.nodes))

    def pace(self) -> Pace:
        """When each request is due."""
        if self.rate is None:
            return ClosedLoop(seconds=self.seconds)
        if self.reads >= 1:
            return OpenLoop(rate=self.rate, requests=round(self.rate * self.seconds))
        with_events = -(-round(self.rate * self.seconds) // (self.bulk or 1))
        requests = round(with_events / (1 - self.reads))
        return OpenLoop(rate=self.rate / (self.bulk or 1) / (1 - self.reads), requests=requests)

    def is_read(self, request: int) -> bool:
        """Whether a request, counted from 0, is a read: they are spread evenly, so each run has the same."""
        return int((request + 1) * self.reads) > int(request * self.reads)

    def crowd(self, tag: str) -> Crowd:
        """Who is sent."""
        return Crowd(tag=tag, seed=self.seed, users=self.users, new=self.new, skew=SKEW, late=LATE_SHARE, ids=self.ids)
