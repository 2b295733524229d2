"""ClickHouse's engine as a library (chdb): the same NDJSON batches into a MergeTree, ``uniqExact`` for the question.

Run as a program it is the process that holds it: ``python -m bench.peers.clickhouse FOLDER FSYNC``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from chdb.session import Session

from bench.events import Count
from bench.peers.child import Child, child, obey, timed, told
from bench.peers.peer import Peer
from bench.servers import Place

SLICE_SECONDS = 86_400
TABLE = """
CREATE TABLE bench.events (timestamp UInt32, user String, event LowCardinality(String))
ENGINE = MergeTree ORDER BY timestamp SETTINGS fsync_after_insert = {fsync}
"""
QUESTION = """
SELECT uniqExact(user), countIf(event = 'click'), countIf(event = 'impression')
FROM bench.events WHERE timestamp >= {begin} AND timestamp < {end} FORMAT JSONCompactEachRow
"""


class Store:
    """A table in a folder."""

    def __init__(self, folder: Path, *, fsync: bool) -> None:
        self._session = Session(str(folder))
        self._session.query("CREATE DATABASE bench")
        self._session.query(TABLE.format(fsync=int(fsync)))

    def take(self, bodies: Sequence[bytes]) -> None:
        """One INSERT per batch."""
        for body in bodies:
            self._session.query(f"INSERT INTO bench.events FORMAT JSONEachRow {body.decode()}")

    def count(self, at: int) -> Count:
        """The question."""
        begin = at // SLICE_SECONDS * SLICE_SECONDS
        answer = self._session.query(QUESTION.format(begin=begin, end=begin + SLICE_SECONDS))
        users, clicks, impressions = json.loads(answer.bytes())
        return Count(users=int(users), clicks=int(clicks), impressions=int(impressions))

    def question_seconds(self, at: int) -> float:
        """How long the question takes."""
        started = time.perf_counter()
        self.count(at)
        return time.perf_counter() - started


def _peer(*, fsync: bool) -> Peer:
    @asynccontextmanager
    async def opened(place: Place) -> AsyncIterator[Child]:
        async with child(place, "bench.peers.clickhouse", int(fsync)) as running:
            yield running

    return Peer(
        name="clickhouse-fsync" if fsync else "clickhouse",
        title=f"ClickHouse's engine (chdb){', fsync' if fsync else ''}",
        config=(
            f"chdb in a process of its own, no network; MergeTree in a folder, fsync_after_insert = {int(fsync)}"
            f"{'' if fsync else ' (the default: an acknowledged batch may be lost with the machine)'}; "
            "one INSERT ... FORMAT JSONEachRow per batch; users by name, not hashed"
        ),
        open=opened,
    )


PEER = _peer(fsync=False)
PEERS = [PEER, _peer(fsync=True)]

if __name__ == "__main__":
    store = Store(Path(sys.argv[1]), fsync=sys.argv[2] == "1")
    obey(
        {
            "feed": timed(store.take),
            "count": lambda at: told(store.count(at)),
            "question": store.question_seconds,
        }
    )
