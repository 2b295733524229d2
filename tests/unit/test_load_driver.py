"""Pace, alarm, histogram and driver: what is due is sent, and a latency counts from when it was."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tallyslice.load.alarm import Alarm
from tallyslice.load.connection import LOST, UNREACHED, Reply, Target
from tallyslice.load.drive import drive
from tallyslice.load.driver import Driver
from tallyslice.load.latency import Latency
from tallyslice.load.pace import ClosedLoop, OpenLoop
from tests.support.ports import PORTS
from tests.support.speaker import Speaker, answer

FAST = 10_000.0


def test_an_open_loop_is_due_at_equal_distances() -> None:
    """Whatever the time is, and however many were sent."""
    pace = OpenLoop(rate=4, requests=3)

    assert [pace.due(n, 99.0) for n in range(4)] == [0, 0.25, 0.5, None]
    assert (pace.behind(0, 0.0), pace.behind(0, 0.3), pace.behind(1, 0.6), pace.behind(2, 9.0)) == (1, 2, 2, 1)
    assert pace.length_seconds == 0.75


def test_a_closed_loop_is_always_due_until_it_is_over() -> None:
    assert ClosedLoop(seconds=2).due(1_000_000, 1.9) == 1.9
    assert ClosedLoop(seconds=2).due(0, 2.0) is None
    assert ClosedLoop(requests=2).due(1, 1e9) == 1e9
    assert ClosedLoop(requests=2).due(2, 0.0) is None
    assert (ClosedLoop(seconds=2).length_seconds, ClosedLoop(requests=2).length_seconds) == (2, math.inf)
    assert ClosedLoop(seconds=2).behind(0, 1.0) == 0


def test_a_histogram_keeps_every_percentile_to_a_thousandth() -> None:
    latency, other = Latency(), Latency()
    for milliseconds in range(1, 1_001):
        (latency if milliseconds % 2 else other).record(milliseconds / 1_000)
    latency.add(other)

    assert latency.count == 1_000
    for percent, right in ((50, 500), (90, 900), (99, 990), (99.9, 999), (100, 1_000)):
        assert latency.at(percent) == pytest.approx(right, rel=0.0011)
    assert list(latency.milliseconds()) == ["p50", "p90", "p99", "p99.9", "max"]


def test_a_histogram_bears_anything() -> None:
    """Nothing noted, no time at all, and longer than it can tell."""
    nothing, extremes = Latency(), Latency()
    extremes.record(0.0)
    extremes.record(1e9)

    assert set(nothing.milliseconds().values()) == {0.0}
    assert extremes.count == 2
    assert extremes.at(50) == 0.001
    assert extremes.longest == pytest.approx(3_600_000, rel=0.001)


@pytest.mark.parametrize(
    "exact",
    [False, pytest.param(True, marks=pytest.mark.skipif(sys.platform != "linux", reason="needs timerfd"))],
)
async def test_an_alarm_rings_when_it_was_set_for(*, exact: bool) -> None:
    """Not before; set again, it rings for the last time only; after the end never."""
    rung: list[float] = []
    event = asyncio.Event()

    def ring() -> None:
        rung.append(time.monotonic())
        event.set()

    with Alarm(ring, exact=exact) as alarm:
        started = time.monotonic()
        alarm.set(1_000)
        alarm.set(0.003)
        await event.wait()
        event.clear()
        alarm.set(0)
        await event.wait()
        alarm.set(0.000_001)
    for _ in range(3):
        await asyncio.sleep(0.001)

    assert len(rung) == 2
    assert rung[0] - started >= 0.003


@dataclass(eq=False)
class Errands:
    """Numbers to be sent; what comes of them is kept.

    Args:
        count: how many.
        tries: how many tries each takes, whatever the answers are.
    """

    count: int
    tries: int = 1
    drawn: int = 0
    sent: list[tuple[int, int]] = field(default_factory=list)  # number, server
    replies: list[int] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    left: list[bool] = field(default_factory=list)
    settled: Callable[[], None] = lambda: None

    def draw(self) -> int | None:
        self.drawn += self.drawn < self.count
        return self.drawn - 1 if len(self.sent) < self.count * self.tries else None

    def request(self, item: int, server: int) -> bytes:
        self.sent.append((item, server))
        return f"POST /{item} HTTP/1.1\r\nContent-Length: 0\r\n\r\n".encode()

    def settle(self, item: int, reply: Reply, seconds: float) -> int | None:
        self.replies.append(reply.status)
        self.settled()
        if sum(number == item for number, _ in self.sent) < self.tries:
            return item
        self.latencies.append(seconds)
        return None

    def leave(self, item: int, *, under_way: bool) -> None:
        self.left.append(under_way)


async def test_everything_is_sent_once_in_turn_to_the_servers() -> None:
    """Each connection has its server, and they take turns."""
    work = Errands(20)
    async with Speaker() as one, Speaker() as other:
        driver = Driver(
            targets=[Target.of(one.url), Target.of(other.url)],
            work=work,
            pace=OpenLoop(rate=FAST, requests=20),
            connections=2,
        )
        await driver.run()

    assert [number for number, _ in work.sent] == list(range(20))
    assert {server for _, server in work.sent} == {0, 1}
    assert (driver.sent, driver.retried, driver.behind) == (20, 0, 0)
    assert (one.connections, other.connections) == (1, 1)
    assert len(work.latencies) == 20
    assert driver.seconds >= 19 / FAST


async def test_what_is_not_settled_goes_to_the_next_server() -> None:
    """After a pause, and its latency is that of all tries, since it was due."""
    work = Errands(3, tries=3)
    async with Speaker() as one, Speaker() as other:
        targets = [Target.of(one.url), Target.of(other.url)]
        driver = Driver(targets=targets, work=work, pace=ClosedLoop(requests=3), connections=1)
        await driver.run()

    assert work.sent == [(n, attempt % 2) for n in range(3) for attempt in range(3)]
    assert driver.retried == 6
    assert all(seconds >= 0.025 + 0.05 for seconds in work.latencies)  # the least of the first two pauses


async def test_a_latency_counts_from_when_the_request_was_due() -> None:
    """One connection and a server that holds back the first answer: all others were due meanwhile, and say so.

    due       0 1 2 3
    sent      0         1 2 3
    answered           0 1 2 3
    """
    work = Errands(4)
    held = asyncio.Event()

    class Slow(Speaker):
        async def _answer(self, request: bytes, writer: asyncio.StreamWriter) -> None:
            if not self.requests:
                self.asked.set()
                await held.wait()
            await super()._answer(request, writer)

    async with Slow() as server:
        driver = Driver(
            targets=[Target.of(server.url)], work=work, pace=OpenLoop(rate=1_000, requests=4), connections=1
        )
        running = asyncio.create_task(driver.run())
        await server.asked.wait()
        while driver.elapsed_seconds < 0.05:
            await asyncio.sleep(0)
        behind = driver.behind
        held.set()
        await running

    assert behind == 3
    assert [seconds >= 0.05 - n * 0.001 for n, seconds in enumerate(work.latencies)] == [True] * 4


async def test_stopping_waits_for_what_is_under_way() -> None:
    """Nothing new is sent, what is to be sent again still is; also while all lanes wait for what is due in an hour."""
    work = Errands(1_000, tries=2)
    async with Speaker() as server:
        driver = Driver(
            targets=[Target.of(server.url)], work=work, pace=OpenLoop(rate=1 / 3_600, requests=1_000), connections=4
        )
        running = asyncio.create_task(driver.run())
        await server.asked.wait()
        driver.stop()
        await running

    assert driver.sent == 1
    assert len(work.sent) == 2
    assert work.left == []


async def test_giving_up_leaves_what_is_under_way() -> None:
    """The work is told whether an answer was waited for, or the next try."""
    silent, again = Errands(1), Errands(1, tries=1_000)
    async with Speaker(lambda request, _: [] if b"/0" in request and not again.sent else answer()) as server:
        waiting = Driver(targets=[Target.of(server.url)], work=silent, pace=ClosedLoop(requests=1), connections=1)
        running = asyncio.create_task(waiting.run())
        await server.asked.wait()
        waiting.give_up()
        await running

        retrying = Driver(targets=[Target.of(server.url)], work=again, pace=ClosedLoop(requests=1), connections=1)

        def soon() -> None:
            asyncio.get_running_loop().call_soon(retrying.give_up)

        again.settled = soon
        await retrying.run()

    assert silent.left == [True]
    assert again.left == [False]


async def test_what_never_gets_an_answer_is_given_up_some_time() -> None:
    """A server that is not there holds nobody for ever: so long after the pace is over, it ends by itself."""
    work = Errands(1, tries=1_000_000)
    port = PORTS.take()
    driver = Driver(
        targets=[Target(host="127.0.0.1", port=port)],
        work=work,
        pace=OpenLoop(rate=FAST, requests=2),
        connections=1,
        give_up_seconds=0,
    )
    await driver.run()
    PORTS.give_back(port)

    assert set(work.replies) == {UNREACHED}
    assert len(work.left) == 1
    assert driver.behind == 1


async def test_an_answer_that_does_not_come_is_lost() -> None:
    work = Errands(1)
    async with Speaker(lambda _, __: []) as server:
        driver = Driver(
            targets=[Target.of(server.url)], work=work, pace=ClosedLoop(requests=1), connections=1, try_seconds=0
        )
        await driver.run()

    assert work.replies == [LOST]


async def test_a_defect_ends_the_run() -> None:
    """What goes wrong in a callback is not lost in the loop."""
    work = Errands(5)

    def wrong() -> None:
        message = "a defect"
        raise LookupError(message)

    work.settled = wrong
    async with Speaker() as server:
        driver = Driver(targets=[Target.of(server.url)], work=work, pace=ClosedLoop(requests=5), connections=2)
        with pytest.raises(LookupError, match="a defect"):
            await driver.run()


async def test_ready_made_bytes_are_sent_in_turn_and_measured() -> None:
    """Statuses are counted, latencies are those of success, the rate is of success."""
    requests = [Target(host="h", port=1).post(f"/{n}") for n in range(3)]
    async with Speaker(lambda request, _: answer(503 if b"POST /1" in request else 202)) as server:
        measured = await drive(requests, url=server.url, pace=ClosedLoop(requests=9), connections=1)
        other = await drive(requests, url=server.url, pace=OpenLoop(rate=FAST, requests=3), connections=3)

    assert server.requests[:9] == requests * 3
    assert measured.statuses == {202: 6, 503: 3}
    assert (measured.good, measured.failed, measured.unsent) == (6, 3, 0)
    assert measured.rate == pytest.approx(6 / measured.seconds)
    assert (other.good, other.failed) == (2, 1)


async def test_a_closed_loop_of_some_time_ends() -> None:
    async with Speaker() as server:
        measured = await drive(
            [Target.of(server.url).get("/")], url=server.url, pace=ClosedLoop(seconds=0.02), connections=2
        )

    assert measured.good == len(server.requests) > 0
    assert measured.seconds >= 0.02
    assert server.connections == 2
