"""A private Redis, and what the peers in front of it keep there: a set of users and a hash of counters per slice."""

from __future__ import annotations

from typing import Literal

import redis.asyncio

from bench.client import HOST
from bench.events import CLICK, IMPRESSION, Count
from bench.servers import Place, free_port

Fsync = Literal["everysec", "always"]
SLICE_SECONDS = 86_400
FSYNC: tuple[Fsync, ...] = ("everysec", "always")


def config(fsync: Fsync) -> str:
    """How it runs, in words."""
    return f"Redis: appendonly yes, appendfsync {fsync}, no snapshots, no rewriting of the file"


async def start(place: Place, fsync: Fsync) -> int:
    """Start one that listens on a port of its own; the port.

    It neither writes snapshots nor rewrites its append-only file: both would take time from the row, and neither
    makes an acknowledged event safer.
    """
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", HOST, "--dir", str(place.folder), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", fsync, "--auto-aof-rewrite-percentage", "0"]
    await place.start("redis", command, port=port)
    return port


def users_key(at: int) -> str:
    """The set of a slice's users."""
    return f"users:{at // SLICE_SECONDS}"


def counts_key(at: int) -> str:
    """The counters of a slice."""
    return f"counts:{at // SLICE_SECONDS}"


async def count(port: int, at: int) -> Count:
    """What it holds for the slice of a time."""
    async with redis.asyncio.Redis(host=HOST, port=port) as client:
        users = await client.scard(users_key(at))
        counts = await client.hgetall(counts_key(at))
    return Count(
        users=users,
        clicks=int(counts.get(CLICK.encode(), 0)),
        impressions=int(counts.get(IMPRESSION.encode(), 0)),
    )
