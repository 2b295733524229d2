"""Loads any HTTP server with ready-made bytes: what ``bench/`` measures all its servers with.

Everything is encoded before the clock starts, nothing is sent again, and nothing is known of what the answers say but
their status::

    target = Target.of("http://127.0.0.1:8000")
    crowd = Crowd(tag="bench", seed=1, users=300_000)
    requests = [target.post("/events", crowd.draw(1_000, at).ndjson(), content_type=NDJSON) for _ in range(500)]
    fast = await drive(requests, url=..., pace=ClosedLoop(seconds=5), connections=4)
    print(fast.rate * 1_000, "events a second")
    calm = await drive(requests, url=..., pace=OpenLoop(rate=100, requests=1_000), connections=64)
    print(calm.latency.at(99), "milliseconds")

Run it in uvloop. The latencies are those of requests answered with success; check ``failed`` before they are believed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle

from tallyslice.load.connection import LOST, Reply, Target
from tallyslice.load.driver import TRY_SECONDS, Driver
from tallyslice.load.latency import Latency
from tallyslice.load.pace import Pace


@dataclass(slots=True, kw_only=True)
class Measured:
    """What came of a load.

    Attributes:
        seconds: from the first request to the last answer.
        statuses: answers by status; LOST and UNREACHED are among them.
        latency: of the answers with success, each since its request was due.
        unsent: requests that were due and never sent, because no connection was free until the end.
    """

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latency: Latency = field(default_factory=Latency)
    unsent: int = 0

    @property
    def good(self) -> int:
        """Requests answered with success."""
        return self.latency.count

    @property
    def failed(self) -> int:
        """All others, those that were never sent included."""
        return self.statuses.total() - self.good + self.unsent

    @property
    def rate(self) -> float:
        """Requests answered with success, a second."""
        return self.good / self.seconds if self.seconds else 0.0


class Fixed:
    """Work that sends the same requests in turn, as often as the pace wants.

    Args:
        requests: whole HTTP requests, for one server.
        measured: takes what comes of them.
    """

    def __init__(self, requests: Sequence[bytes], measured: Measured) -> None:
        self._requests = cycle(requests)
        self._measured = measured

    def draw(self) -> bytes:
        """The next one."""
        return next(self._requests)

    def request(self, item: bytes, server: int) -> bytes:  # noqa: ARG002 - there is one server
        """As it is."""
        return item

    def settle(self, item: bytes, reply: Reply, seconds: float) -> None:  # noqa: ARG002 - its status is all that matters
        """Count, and send nothing again."""
        self._measured.statuses[reply.status] += 1
        if reply.good:
            self._measured.latency.record(seconds)

    def leave(self, item: bytes, *, under_way: bool) -> None:  # noqa: ARG002 - likewise
        """No answer is no answer."""
        self._measured.statuses[LOST] += 1


async def drive(
    requests: Sequence[bytes], *, url: str, pace: Pace, connections: int, try_seconds: float = TRY_SECONDS
) -> Measured:
    """Send requests to the server of a URL, and say how fast and how soon it answered.

    Args:
        requests: whole HTTP requests, sent in turn and again from the first.
        url: of the server; its path is no matter.
        pace: when each is due.
        connections: how many requests may be under way at a time.
        try_seconds: how long an answer is waited for.

    Raises:
        ValueError: the URL is none.
    """
    measured = Measured()
    driver = Driver(
        targets=[Target.of(url)],
        work=Fixed(requests, measured),
        pace=pace,
        connections=connections,
        try_seconds=try_seconds,
    )
    await driver.run()
    measured.seconds, measured.unsent = driver.seconds, driver.behind
    return measured
