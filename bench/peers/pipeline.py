"""The floor under bulk: decode, hash, one sorted ``putmulti``, fsync, in one process and without a network.

Two forms. ``pipeline`` commits each batch by itself. ``pipeline-grouped`` commits as many batches at once as a server
would find waiting from the client of these rows, and keeps recent keys in memory so that only new ones are put: all
that one core can do.

Run as a program it is that process: ``python -m bench.peers.pipeline FOLDER TOGETHER``.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from pathlib import Path

import lmdb
import msgspec

from bench.events import CLICK, IMPRESSION, Count
from bench.peers.child import Child, child, obey, timed, told
from bench.peers.peer import CONNECTIONS, Peer
from bench.servers import Place

SLICE_SECONDS = 86_400
MAP_BYTES = 16 << 30
RECENT_MAX = 1 << 20


class Line(msgspec.Struct, gc=False):
    """One event."""

    timestamp: int
    user: str
    event: str


class Pipeline:
    """A slice's users and counters in an LMDB file."""

    def __init__(self, folder: Path, *, recent: bool) -> None:
        folder.mkdir()
        self._env = lmdb.open(str(folder), map_size=MAP_BYTES, max_dbs=2, metasync=True, sync=True, writemap=False)
        self._users = self._env.open_db(b"users", dupsort=True, dupfixed=True)
        self._counts = self._env.open_db(b"counts")
        self._decoder = msgspec.json.Decoder(Line)
        self._secret = os.urandom(32)
        self._bases: dict[int, blake2b] = {}
        self._recent: set[tuple[bytes, bytes]] | None = set() if recent else None

    def take(self, bodies: Sequence[bytes]) -> None:
        """Count batches in one transaction."""
        pairs: set[tuple[bytes, bytes]] = set()
        kinds: Counter[tuple[int, str]] = Counter()
        for body in bodies:
            lines = self._decoder.decode_lines(body)
            for number in {line.timestamp // SLICE_SECONDS for line in lines}:
                name = number.to_bytes(8, "big")
                copy = self._base(number).copy
                for line in lines:
                    if line.timestamp // SLICE_SECONDS == number:
                        digest = copy()
                        digest.update(line.user.encode())
                        pairs.add((name, digest.digest()))
                kinds.update([(number, line.event) for line in lines if line.timestamp // SLICE_SECONDS == number])
        if self._recent is not None:
            pairs -= self._recent
        with self._env.begin(write=True) as txn:
            _, added = txn.cursor(self._users).putmulti(sorted(pairs), dupdata=False)
            counts = Counter({f"{number}/{event}": times for (number, event), times in kinds.items()})
            for number in {number for number, _ in kinds}:
                counts[f"{number}/*users"] += added
            for key, times in counts.items():
                known = int.from_bytes(txn.get(key.encode(), db=self._counts) or b"", "big")
                txn.put(key.encode(), (known + times).to_bytes(8, "big"), db=self._counts)
        if self._recent is not None:
            if len(self._recent) > RECENT_MAX:
                self._recent.clear()
            self._recent |= pairs

    def count(self, at: int) -> Count:
        """What was counted: the set is counted too, not only its number."""
        number = at // SLICE_SECONDS
        with self._env.begin() as txn:

            def stored(name: str) -> int:
                return int.from_bytes(txn.get(f"{number}/{name}".encode(), db=self._counts) or b"", "big")

            cursor = txn.cursor(self._users)
            members = cursor.count() if cursor.set_key(number.to_bytes(8, "big")) else 0
            told_users = stored("*users")
            return Count(
                users=members if members == told_users else -1, clicks=stored(CLICK), impressions=stored(IMPRESSION)
            )

    def _base(self, number: int) -> blake2b:
        base = self._bases.get(number)
        if base is None:
            key = blake2b(number.to_bytes(8, "big", signed=True), key=self._secret, digest_size=32).digest()
            base = self._bases[number] = blake2b(key, digest_size=16)
        return base


def _peer(name: str, title: str, config: str, together: int) -> Peer:
    @asynccontextmanager
    async def opened(place: Place) -> AsyncIterator[Child]:
        async with child(place, "bench.peers.pipeline", together) as running:
            yield running

    return Peer(name=name, title=title, config=config, open=opened)


PEER = _peer(
    "pipeline",
    "pure pipeline (floor)",
    "one process, no network: msgspec decode_lines into a gc=False Struct, BLAKE2b under a key per slice by copy and "
    "update, one sorted putmulti into LMDB, fsync; a commit per batch",
    1,
)
GROUPED = _peer(
    "pipeline-grouped",
    f"pure pipeline, {CONNECTIONS} batches a commit",
    f"the same, with {CONNECTIONS} batches in one commit and recent keys kept in memory",
    CONNECTIONS,
)

if __name__ == "__main__":
    pipeline = Pipeline(Path(sys.argv[1]), recent=int(sys.argv[2]) > 1)
    obey(
        {
            "feed": timed(pipeline.take, together=int(sys.argv[2])),
            "count": lambda at: told(pipeline.count(at)),
        }
    )
