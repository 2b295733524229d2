"""Snapshots of the dashboard, and a source of them that a test drives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from dashboard.snapshot import Cluster, Node, Past, Snapshot


def snapshot(at: int = 0, *, problems: Sequence[str] = (), **shown: Any) -> Snapshot:
    """One that shows nothing but when it was made, and what is given."""
    plain = Snapshot(
        at=at,
        current=None,
        past=Past(),
        workers=(),
        workers_more=0,
        events_per_second=None,
        node=Node(
            events_per_second=None,
            processes=1,
            processes_silent=(),
            queue_events=0,
            spool_events=0,
            spool_bytes=0,
            spool_age_seconds=0,
            viewers=0,
            problems=problems,
        ),
        cluster=Cluster(
            id=None, first=None, slice_seconds=60, registry="0", claims=0, version="v", settled=(), refused=None
        ),
    )
    return msgspec.structs.replace(plain, **shown)


class Source:
    """Makes a snapshot whenever the test lets it; each tells its number, from 1."""

    def __init__(self) -> None:
        self.asked = 0
        self.waits = asyncio.Event()  # somebody asked, and was not answered yet
        self._let = asyncio.Semaphore(0)

    async def __call__(self) -> Snapshot:
        """For the feed."""
        self.asked += 1
        self.waits.set()
        await self._let.acquire()
        self.waits.clear()
        return snapshot(self.asked)

    def last(self) -> None:
        """Let the one be made that somebody waits for, and expect no other."""
        self._let.release()

    async def make(self) -> None:
        """Let one be made, and wait until the next is asked for."""
        await self.waits.wait()
        self.waits.clear()
        self._let.release()
        await self.waits.wait()
