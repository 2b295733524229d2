"""The spools of a process: which there are, which are gone, and that nothing is left of what could not be made."""

from __future__ import annotations

import asyncio
import io
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from api_node.spool import SpoolKey
from api_node.spool_room import SPOOLS_FOLDER, SpoolRoom
from common.errors import NotTaken
from common.logs import new_log
from common.routing import WorkerId
from common.slices import Micros, SliceId
from common.wire import encode
from tests.support.batches import STREAM, a_batch
from tests.support.configs import cluster_config

CLUSTER, WORKER = "c", WorkerId("0")
BATCHES = [(STREAM, encode(a_batch(("u", "click"))))]


def a_room(folder: Path) -> SpoolRoom:
    log = new_log("api-0", stream=io.StringIO())
    return SpoolRoom(folder=folder, config=cluster_config, now=lambda: Micros(0), log=log)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond a kilobyte: what the system then says is what it says of a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def descriptors() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


async def test_spools_that_are_empty_at_the_same_time_are_all_removed(tmp_path: Path) -> None:
    """Two streams may end in the same moment, and both find both spools empty."""
    for _ in range(2):
        async with a_room(tmp_path) as room:
            await room.keep(CLUSTER, WORKER, BATCHES)
    async with a_room(tmp_path) as room:
        await room.adopt(CLUSTER)
        sources = room.streams(WORKER)
        for source in sources:
            await room.answered(source, [SpoolKey(STREAM, SliceId(0), 1)])
        await asyncio.gather(room.remove_drained(), room.remove_drained())

        assert len(sources) == 2
        assert not list((tmp_path / SPOOLS_FOLDER).iterdir())


async def test_nothing_is_left_of_a_spool_that_could_not_be_made(tmp_path: Path) -> None:
    """A full disk is tried again every second, for as long as it is full."""
    async with a_room(tmp_path) as room:
        with full_disk(), pytest.raises(NotTaken):
            await room.keep(CLUSTER, WORKER, BATCHES)
        before = descriptors()
        with full_disk(), pytest.raises(NotTaken):
            await room.keep(CLUSTER, WORKER, BATCHES)

        assert descriptors() == before
        assert not list((tmp_path / SPOOLS_FOLDER).iterdir())
        await room.keep(CLUSTER, WORKER, BATCHES)
        assert room.events == 1


async def test_a_spool_that_is_left_later_can_be_adopted_later(tmp_path: Path) -> None:
    """The process that takes the place of another starts before that one has left; what it has keeps its place."""
    async with a_room(tmp_path) as earlier, a_room(tmp_path) as later:
        await earlier.keep(CLUSTER, WORKER, BATCHES)
        await later.adopt(CLUSTER)
        while_held = later.events
        await earlier.__aexit__(None, None, None)
        await later.adopt(CLUSTER)
        await later.adopt(CLUSTER)

        assert (while_held, later.events) == (0, 1)
        assert len(later.streams(WORKER)) == 1


async def test_processes_of_a_node_make_find_and_remove_spools_at_the_same_time(tmp_path: Path) -> None:
    """None takes away the folder that another has just made, or trips over one that has just gone."""

    async def make_and_leave() -> None:
        for _ in range(5):
            async with a_room(tmp_path) as room:
                await room.keep(CLUSTER, WORKER, BATCHES)
                for source in room.streams(WORKER):
                    await room.answered(source, [SpoolKey(STREAM, SliceId(0), 1)])

    async def find() -> None:
        for _ in range(20):
            async with a_room(tmp_path) as room:
                await room.adopt(CLUSTER)

    await asyncio.gather(make_and_leave(), make_and_leave(), find(), find())

    assert not list((tmp_path / SPOOLS_FOLDER).iterdir())
