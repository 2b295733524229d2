"""The client of every row that speaks HTTP: Tallyslice's own load generator, told what to send.

Requests are made beforehand. Closed loop: each connection sends its next request when the last one is answered. Open
loop: requests are due at fixed times, and a latency counts from when its request was due, so that a server that falls
behind cannot hide it. Any answer but a success ends a measurement: what was measured would be worth nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from tallyslice.load.connection import Connection, Reply, Target
from tallyslice.load.drive import Measured, drive
from tallyslice.load.latency import Latency
from tallyslice.load.pace import ClosedLoop, OpenLoop, Pace

HOST = "127.0.0.1"
NDJSON = "application/x-ndjson"
ANSWER_SECONDS_MAX = 120.0

_ANY = Target(host=HOST, port=80)  # the name in the head of a request; no server of the benchmark looks at it


class ClientError(Exception):
    """A server answered with an error, or not at all."""


@dataclass(slots=True, kw_only=True)
class Run:
    """What a client saw.

    Attributes:
        seconds: from the first request to the last answer.
        latency: of the answers.
    """

    seconds: float = 0.0
    latency: Latency = field(default_factory=Latency)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.latency.count / self.seconds


def post_ndjson(body: bytes) -> bytes:
    """A request with a batch of events."""
    return _ANY.post("/events", body, content_type=NDJSON)


def post_event(query: str) -> bytes:
    """A request with one event."""
    return _ANY.post(f"/analytics?{query}")


def get(path: str) -> bytes:
    """A question."""
    return _ANY.get(path)


async def closed_loop(ports: Sequence[int], requests: Sequence[bytes], *, connections: int) -> Run:
    """Send requests over so many connections, each its next one when the last one is answered.

    Raises:
        ClientError: any answer was not a success.
    """
    shares = [requests[number :: len(ports)] for number in range(len(ports))]
    paces: list[Pace] = [ClosedLoop(requests=len(share)) for share in shares]
    return await _drive(ports, shares, paces, connections // len(ports))


async def open_loop(ports: Sequence[int], requests: Sequence[bytes], *, rate: float, connections: int) -> Run:
    """Send requests at a fixed rate, whatever the server does.

    Raises:
        ClientError: any answer was not a success, or the last ones did not come.
    """
    shares = [requests[number :: len(ports)] for number in range(len(ports))]
    paces: list[Pace] = [OpenLoop(rate=rate / len(ports), requests=len(share)) for share in shares]
    return await _drive(ports, shares, paces, connections // len(ports))


async def ask(port: int, path: str) -> bytes:
    """The body of the answer to one question.

    Raises:
        ClientError: it was not answered with success.
    """
    answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    connection = Connection(Target(host=HOST, port=port))
    try:
        connection.ask(get(path), answer.set_result)
        reply = await asyncio.wait_for(answer, ANSWER_SECONDS_MAX)
    finally:
        connection.close()
    if not reply.good:
        raise ClientError(f"status {reply.status}: {reply.body[:300]!r}")
    return reply.body


async def _drive(
    ports: Sequence[int], shares: Sequence[Sequence[bytes]], paces: Sequence[Pace], connections: int
) -> Run:
    measured: list[Measured] = await asyncio.gather(
        *(
            drive(
                share,
                url=f"http://{HOST}:{port}",
                pace=pace,
                connections=connections,
                try_seconds=ANSWER_SECONDS_MAX,
            )
            for port, share, pace in zip(ports, shares, paces, strict=True)
        )
    )
    run = Run(seconds=max(one.seconds for one in measured))
    for one in measured:
        if one.failed:
            raise ClientError(f"answers by status: {dict(one.statuses)}; never sent: {one.unsent}")
        run.latency.add(one.latency)
    return run
