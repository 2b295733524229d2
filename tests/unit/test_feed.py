"""What a viewer of the dashboard gets, and what it costs: the newest snapshot, made once for all, or nothing."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio

from common.errors import Unavailable
from common.logs import new_log
from common.tasks import Tasks
from dashboard.feed import Feed, SlowViewer
from dashboard.snapshot import Snapshot
from tests.support.events import CANARY
from tests.support.nodes import until
from tests.support.snapshots import Source, snapshot

SOON = 0.001  # a tick, where the source sets the pace


class Viewer:
    """Takes what it is sent, while it may."""

    def __init__(self) -> None:
        self.events: list[bytes] = []
        self.reads = asyncio.Event()
        self.reads.set()

    async def __call__(self, event: bytes) -> None:
        await self.reads.wait()
        self.events.append(event)

    @property
    def numbers(self) -> list[int]:
        """Of the snapshots that it got."""
        return [json.loads(data)["at"] for event in self.events if (data := field(event, "data")) != "{}"]


def field(event: bytes, name: str) -> str:
    """A field of a server-sent event."""
    found = [line for line in event.decode().splitlines() if line.startswith(f"{name}: ")]
    assert len(found) == 1, event
    return found[0].partition(": ")[2]


@pytest_asyncio.fixture
async def tasks() -> AsyncIterator[Tasks]:
    async with Tasks(log=new_log("api-0", stream=io.StringIO())) as owned:
        yield owned
    assert owned.reason() is None


def feed_of(source: Callable[[], Awaitable[Snapshot]], tasks: Tasks, **settings: Any) -> Feed:
    log = new_log("api-0", stream=settings.pop("stream", io.StringIO()))
    return Feed(collect=source, tasks=tasks, log=log, **{"tick_seconds": SOON, **settings})


async def test_nobody_looks_so_nothing_is_made(tasks: Tasks) -> None:
    """Neither before the first viewer comes, nor after the last one has gone; and for the next one anew."""
    source = Source()
    feed = feed_of(source, tasks)
    await asyncio.sleep(0)
    before = source.asked

    viewing = asyncio.create_task(feed.serve(Viewer()))
    await source.make()
    viewing.cancel()
    await asyncio.wait([viewing])
    source.last()  # it was begun for the viewer who has gone
    await until(lambda: not feed.ticks)
    made = source.asked
    late = Viewer()
    again = asyncio.create_task(feed.serve(late))
    await source.make()
    await until(lambda: late.numbers != [])
    feed.end()
    await again

    assert (before, feed.viewers) == (0, 0)
    assert late.numbers[0] > made


async def test_a_snapshot_is_made_once_for_all(tasks: Tasks) -> None:
    source = Source()
    feed = feed_of(source, tasks)
    viewers = [Viewer() for _ in range(50)]
    viewing = [asyncio.create_task(feed.serve(viewer)) for viewer in viewers]
    for _ in range(3):
        await source.make()
    await until(lambda: all(viewer.numbers == [1, 2, 3] for viewer in viewers))

    assert source.asked == 4  # one is being made
    assert len({tuple(viewer.events) for viewer in viewers}) == 1
    feed.end()
    await asyncio.gather(*viewing)


async def test_the_newest_value_wins(tasks: Tasks) -> None:
    """Who does not keep up finds the newest snapshot when it comes back, and none of those between."""
    source, slow = Source(), Viewer()
    feed = feed_of(source, tasks)
    viewing = asyncio.create_task(feed.serve(slow))
    await source.make()
    await until(lambda: slow.numbers == [1])
    slow.reads.clear()
    for _ in range(5):
        await source.make()
    slow.reads.set()
    await until(lambda: slow.numbers[-1] == 6)

    # It had begun to take the second when it fell asleep.
    assert slow.numbers == [1, 2, 6]
    feed.end()
    await viewing


async def test_one_that_does_not_read_is_dropped(tasks: Tasks) -> None:
    """And holds up nobody else meanwhile."""
    source, slow, quick = Source(), Viewer(), Viewer()
    feed = feed_of(source, tasks, slow_seconds=0.05)
    slow.reads.clear()
    both = [asyncio.create_task(feed.serve(viewer)) for viewer in (slow, quick)]
    await source.make()
    with pytest.raises(SlowViewer):
        await both[0]
    await source.make()
    await until(lambda: quick.numbers == [1, 2])

    assert (feed.dropped, feed.viewers) == (1, 1)
    feed.end()
    await both[1]


async def test_there_is_room_for_so_many(tasks: Tasks) -> None:
    """One more is turned away, and let in when somebody has left."""
    feed = feed_of(Source(), tasks, viewers_max=2)
    viewing = [asyncio.create_task(feed.serve(Viewer())) for _ in range(2)]
    await until(lambda: feed.viewers == 2)

    with pytest.raises(Unavailable, match="2 viewers"):
        await feed.serve(Viewer())
    viewing[0].cancel()
    await asyncio.wait(viewing[:1])
    feed.admit()
    feed.end()
    await viewing[1]


async def test_the_node_leaves(tasks: Tasks) -> None:
    """Each viewer is told to ask again, at once, whatever it waits for; nobody is let in any more."""
    source, viewer, fresh = Source(), Viewer(), Viewer()
    feed = feed_of(source, tasks)
    viewing = [asyncio.create_task(feed.serve(one)) for one in (viewer, fresh)]
    await source.make()
    await until(lambda: viewer.numbers == [1])

    feed.end()
    await asyncio.gather(*viewing)

    assert field(viewer.events[-1], "event") == "leave"
    assert int(field(viewer.events[-1], "retry")) > 0
    with pytest.raises(Unavailable):
        await feed.serve(Viewer())


async def test_who_comes_back_is_not_told_the_same_twice(tasks: Tasks) -> None:
    """By the id of the last snapshot it got; an id of somewhere else is no reason to wait."""
    source, first, back, other = Source(), Viewer(), Viewer(), Viewer()
    feed = feed_of(source, tasks)
    viewing = [asyncio.create_task(feed.serve(first))]
    await source.make()
    await until(lambda: first.numbers == [1])
    last = field(first.events[-1], "id")

    viewing.append(asyncio.create_task(feed.serve(back, last_id=last)))
    viewing.append(asyncio.create_task(feed.serve(other, last_id="0badcafe-1")))
    await until(lambda: other.numbers == [1])
    seen = back.numbers
    await source.make()
    await until(lambda: back.numbers == [2])

    assert seen == []
    feed.end()
    await asyncio.gather(*viewing)


async def test_a_defect_is_told_and_goes_on(tasks: Tasks) -> None:
    """The page shows that it is stale; the node stays ready, and says nothing of what was in it."""
    stream, failed = io.StringIO(), 0

    async def collect() -> Snapshot:
        nonlocal failed
        if failed < 3:
            failed += 1
            raise KeyError(CANARY)
        return snapshot(7)

    viewer = Viewer()
    feed = feed_of(collect, tasks, stream=stream)
    viewing = asyncio.create_task(feed.serve(viewer))
    await until(lambda: viewer.numbers != [])
    feed.end()
    with suppress(asyncio.CancelledError):
        await viewing

    assert viewer.numbers[0] == 7
    assert "dashboard_failed" in stream.getvalue()
    assert CANARY not in stream.getvalue()
