"""What viewers of the dashboard cost: the same events with nobody looking, and with many, in turn.

::

    .venv/bin/python -m bench.viewers --viewers 200 --rounds 6

One API node and one worker, fed in bulk as fast as they take it. Rounds alternate, and each pair begins with the other
kind, so that what else the machine does falls on both. Beside the rate stands the processor time of the API node for
each event, which does not depend on what else runs. The viewers read in this process, beside the client: what their
reading costs is in the rate too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import cast

import uvloop

from bench.client import HOST
from bench.events import Events, draw
from bench.peers.tallyslice import Cluster, cluster
from bench.servers import place

USERS = 300_000
SEED = 4
ASKED = b"GET /live HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n"
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Viewer(asyncio.Protocol):
    """Reads, and counts the snapshots that came."""

    def __init__(self) -> None:
        self.snapshots = 0
        self.looks = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        cast("asyncio.Transport", transport).write(ASKED)

    def data_received(self, data: bytes) -> None:
        """Read."""
        self.snapshots += data.count(b"\ndata: ")
        if self.snapshots:
            self.looks.set()


@asynccontextmanager
async def viewers(port: int, number: int) -> AsyncIterator[list[Viewer]]:
    """So many look; they do when this is entered."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as looking:
        found = []
        for _ in range(number):
            transport, viewer = await loop.create_connection(Viewer, HOST, port)
            looking.callback(transport.close)
            found.append(viewer)
        async with asyncio.timeout(30):
            await asyncio.gather(*(viewer.looks.wait() for viewer in found))
        yield found


def processor_seconds(*pids: int) -> float:
    """What processes have used so far."""
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum(int(one[11]) + int(one[12]) for one in fields) / TICKS_PER_SECOND


async def feed(running: Cluster, events: Events, looking: int) -> tuple[float, float, int]:
    """Events per second, microseconds of the API node's processor per event, and snapshots that were read."""
    async with viewers(running.ports[0], looking) as found:
        before, seen = processor_seconds(*running.api_pids), sum(viewer.snapshots for viewer in found)
        run = await running.feed(events, batch=1_000)
        used = processor_seconds(*running.api_pids) - before
        snapshots = sum(viewer.snapshots for viewer in found) - seen
    return len(events.users) / run.seconds, 1e6 * used / len(events.users), snapshots


async def compare(*, number: int, rounds: int, events_each: int) -> None:
    """All rounds; prints each, and the medians of the ratios."""
    at = int(time.time()) - 60
    events = draw(at=at, events=events_each, users=USERS, seed=SEED, ids=False)
    async with place("viewers") as here, cluster(here) as running:
        await running.feed(events, batch=1_000)
        rates, costs = [], []
        for round_ in range(rounds):
            order = (0, number) if round_ % 2 == 0 else (number, 0)
            found = {looking: await feed(running, events, looking) for looking in order}
            (rate, cost, _), (watched_rate, watched_cost, snapshots) = found[0], found[number]
            rates.append(watched_rate / rate)
            costs.append(watched_cost / cost)
            print(
                f"round {round_ + 1}: nobody {rate:,.0f} events/s, {cost:.2f} us/event; {number} viewers "
                f"{watched_rate:,.0f} events/s, {watched_cost:.2f} us/event, {snapshots:,} snapshots read; "
                f"ratios {rates[-1]:.3f}, {costs[-1]:.3f}; load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    print(
        f"with {number} viewers: {statistics.median(rates):.3f} of the events per second "
        f"({min(rates):.3f} to {max(rates):.3f}), {statistics.median(costs):.3f} of the processor time per event "
        f"({min(costs):.3f} to {max(costs):.3f})"
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="What viewers of the dashboard cost.")
    parser.add_argument("--viewers", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--events", type=int, default=1_000_000, help="in each half of a round (default: %(default)s)")
    arguments = parser.parse_args()
    uvloop.run(compare(number=arguments.viewers, rounds=arguments.rounds, events_each=arguments.events))


if __name__ == "__main__":
    main()
