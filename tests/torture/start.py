"""How soon a worker answers again after a kill -9, with a big slice on its disk: ``python -m tests.torture.start``.

::

    make the file     with the product's own store, keys in their order
    start, one batch  so that the file is being written when the worker dies
    kill -9, start    the clock runs from the start of the new process to its first answer about the slice

The best figure is not the point: each start is printed, and the worst one counts. 10 million users take about half a
minute to make, and 0.3 GiB of disk.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from common.routing import WorkerId
from common.slices import SECOND, SliceId
from common.wire import BATCH_EVENTS_MAX, MEDIA_TYPE, Batch, Envelope, Identity, Join, Pins, encode
from tests.support.batches import KEY_ID, OTHER_STREAM, ROUTE, STREAM, a_batch, numbered
from tests.support.cluster import FIRST, HOUR, Cluster, Node
from worker_node.slice_store import SliceStore

GOAL_SECONDS = 2.0
GROUP_BATCHES = 16
POLL_SECONDS = 0.01
ZERO = WorkerId("0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Starts:
    """What was measured.

    Attributes:
        users: in the slice.
        file_bytes: of its file.
        seconds: from each start to the first answer.
        text: the last answer.
        log: all that the worker wrote.
    """

    users: int
    file_bytes: int
    seconds: list[float]
    text: str
    log: str


def make_slice(path: Path, users: int) -> None:
    """A slice file with so many users, each of whom clicked once."""
    store = SliceStore.create(path, SliceId(0), route=ROUTE, position=0, key_id=KEY_ID)
    step = (1 << 128) // users
    columns = [
        b"".join((user * step).to_bytes(16, "big") for user in range(first, min(users, first + BATCH_EVENTS_MAX)))
        for first in range(0, users, BATCH_EVENTS_MAX)
    ]
    batches = [
        Batch(
            slice=SliceId(0), seq=seq, route=ROUTE, key_id=KEY_ID, names=("click",), kinds=bytes(len(column) // 16),
            users=column,
        )
        for seq, column in enumerate(columns, 1)
    ]  # fmt: skip
    for at in range(0, len(batches), GROUP_BATCHES):
        store.apply([numbered(batch, stream=OTHER_STREAM) for batch in batches[at : at + GROUP_BATCHES]])
    store.close()


async def measure(folder: Path, *, users: int, starts: int) -> Starts:
    """Kill a worker with a big slice, and start it again, a few times."""
    async with Cluster(folder, workers=1, start=False) as cluster:
        worker = cluster.worker["0"]
        await cluster.start(worker)
        uuid = await _join(cluster, worker)
        await worker.stop()
        path = worker.data / "slices" / "0.mdb"
        await asyncio.to_thread(make_slice, path, users)
        await cluster.start(worker)
        seconds = []
        text = ""
        for seq in range(1, starts + 1):
            await _write(worker, uuid, seq)
            worker.kill()
            began = time.perf_counter()
            worker.launch()
            text = await _first_answer(cluster, worker)
            seconds.append(time.perf_counter() - began)
        found = path.stat().st_size
        return Starts(users=users, file_bytes=found, seconds=seconds, text=text, log=worker.log_text())


async def _join(cluster: Cluster, worker: Node) -> str:
    answer = await cluster.ask("GET", f"{worker.url}/identity")
    uuid = msgspec.json.decode(answer.body, type=Identity).uuid
    pins = Pins(
        cluster="c", first=FIRST * SECOND, length_seconds=HOUR, secret_id="s", registry=ZERO, workers={ZERO: uuid}
    )
    await _post(f"{worker.url}/join", msgspec.json.encode(Join(id=ZERO, uuid=uuid, pins=pins)), "application/json")
    return uuid


async def _write(worker: Node, uuid: str, seq: int) -> None:
    batch = encode(a_batch((f"user-{seq}", "click"), seq=seq))
    envelope = Envelope(cluster="c", worker=uuid, stream=STREAM, claims=0, batches=(batch,))
    await _post(f"{worker.url}/batches", encode(envelope), MEDIA_TYPE)


async def _post(url: str, body: bytes, media_type: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=body, headers={"Content-Type": media_type}) as response,
    ):
        assert response.status == 200, await response.read()


async def _first_answer(cluster: Cluster, worker: Node) -> str:
    while True:
        try:
            answer = await cluster.ask("GET", f"{worker.url}?slice=0")
        except (aiohttp.ClientError, OSError):
            await asyncio.sleep(POLL_SECONDS)
            continue
        assert answer.status == 200, answer
        return answer.text


def main() -> int:
    """Measure, and print it; exit code 1 if a start took longer than the goal."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture.start", description=__doc__)
    parser.add_argument("--users", type=int, default=10_000_000)
    parser.add_argument("--starts", type=int, default=5)
    found = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tallyslice-") as folder:
        measured = asyncio.run(measure(Path(folder), users=found.users, starts=found.starts))
    each = ", ".join(f"{seconds:.2f}" for seconds in measured.seconds)
    worst = max(measured.seconds)
    sys.stdout.write(
        f"{measured.users} users, {measured.file_bytes >> 20} MiB: first answer after {each} s; "
        f"the worst is {worst:.2f} s, the goal {GOAL_SECONDS:g} s\n"
    )
    return 0 if worst <= GOAL_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
