"""A worker's writer and what it owns, real LMDB files included; each part may be swapped for a wrong one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from common.logs import Log
from worker_node.holdings import Holdings
from worker_node.key_set import Merging
from worker_node.receiver import NumberedBatch
from worker_node.recent_keys import RecentKeys
from worker_node.room import Load, Room
from worker_node.shelf import Shelf
from worker_node.space import Space
from worker_node.totals import Totals
from worker_node.write_list import WriteList
from worker_node.writer import Writer


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """They work together."""

    writer: Writer
    shelf: Shelf
    totals: Totals
    holdings: Holdings


def load_of(items: Sequence[NumberedBatch], body_bytes: int = 100) -> Load:
    """What a request with these batches brings."""
    return Load(sum(len(item.batch.kinds) for item in items), body_bytes)


def no_failure(error: BaseException) -> None:
    """What a writer is given that must not fail."""
    raise error


@asynccontextmanager
async def writing(
    folder: Path,
    *,
    fail: Callable[[BaseException], None] = no_failure,
    room: Room | None = None,
    make_shelf: Callable[..., Shelf] = Shelf,
    make_totals: Callable[..., Totals] = Totals,
    open_files_max: int = 2,
    recent: RecentKeys | None = None,
    merging: Merging | None = None,
    space: Space | None = None,
    write_list: Callable[[Totals], WriteList] | None = None,
    log: Log | None = None,
) -> AsyncIterator[Parts]:
    """A writer at work in the folder."""
    shelf = make_shelf(folder=folder / "slices", open_files_max=open_files_max, recent=recent, merging=merging)
    totals, holdings = make_totals(folder=folder), Holdings()
    async with Writer(
        shelf=shelf,
        totals=totals,
        holdings=holdings,
        fail=fail,
        room=room,
        space=space,
        write_list=write_list and write_list(totals),
        log=log,
    ) as writer:
        yield Parts(writer=writer, shelf=shelf, totals=totals, holdings=holdings)
