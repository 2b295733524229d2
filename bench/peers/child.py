"""Peers that are libraries: a process of their own that is handed batches as a file, and takes them in a loop.

There is no network in these rows, and nobody but the peer has the cores: that favours the peer. The process reads
commands as lines of JSON from its standard input and ends with it, so it does not outlive the benchmark.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench.client import Run
from bench.events import Count, Events
from bench.servers import PeerFailed, Place, python

LINE_BYTES_MAX = 64 << 20  # latencies of many batches
LEAVE_SECONDS = 10.0


@dataclass(slots=True, kw_only=True)
class Child:
    """A peer in a process of its own."""

    folder: Path
    process: asyncio.subprocess.Process

    async def feed(self, events: Events, *, batch: int) -> Run:
        """Feed events in batches."""
        file = self.folder / "bodies"
        file.write_bytes(msgspec.msgpack.encode(events.bodies(batch)))
        answer = await self.ask("feed", str(file))
        run = Run(seconds=answer["seconds"])
        for seconds in answer["latencies"]:
            run.latency.record(seconds)
        return run

    async def count(self, at: int) -> Count:
        """What it counted."""
        return Count(**await self.ask("count", at))

    async def ask(self, command: str, argument: object) -> Any:  # noqa: ANN401 - each command has its own answer
        """Have a command carried out; its answer.

        Raises:
            PeerFailed: the process ended instead.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([command, argument]).encode() + b"\n")
        line = await self.process.stdout.readline()
        if not line:
            raise PeerFailed(f"{command}: ended with {await self.process.wait()}")
        return json.loads(line)


@asynccontextmanager
async def child(place: Place, module: str, *arguments: object) -> AsyncIterator[Child]:
    """Start the program of a peer in the folder of the place."""
    process = await asyncio.create_subprocess_exec(
        *python(module, place.folder / "store", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
    )
    try:
        yield Child(folder=place.folder, process=process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), LEAVE_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


def obey(commands: dict[str, Callable[[Any], Any]]) -> None:
    """In the child: carry out what comes on standard input, until it ends."""
    for line in sys.stdin:
        command, argument = json.loads(line)
        sys.stdout.write(json.dumps(commands[command](argument)) + "\n")
        sys.stdout.flush()


def timed(take: Callable[[Sequence[bytes]], None], *, together: int = 1) -> Callable[[str], dict[str, Any]]:
    """The command that feeds: reads the file first, then takes batch after batch.

    Args:
        take: takes batches; they are on disk, as far as this peer goes, when it returns.
        together: how many it is given at once.
    """

    def feed(file: str) -> dict[str, Any]:
        bodies = msgspec.msgpack.decode(Path(file).read_bytes(), type=list[bytes])
        latencies = []
        started = time.perf_counter()
        for begin in range(0, len(bodies), together):
            sent = time.perf_counter()
            part = bodies[begin : begin + together]
            take(part)
            latencies += [time.perf_counter() - sent] * len(part)
        return {"seconds": time.perf_counter() - started, "latencies": latencies}

    return feed


def told(count: Count) -> dict[str, int]:
    """A count as the child sends it."""
    return asdict(count)
