"""What a simulated cluster is built of: the product's classes, each of which ``planted/`` may swap for a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from api_node.drain import Drain
from api_node.sender import Sender
from api_node.settled_routes import SettledRoutes
from api_node.spool import Spool
from api_node.summary_cache import SummaryCache
from tests.simulation.faults import Faults
from tests.simulation.stores import Disk, InlineWriter, MemoryRegistry, MemoryShelf, MemorySpool, MemoryTotals
from worker_node.key_set import Merging
from worker_node.recent_keys import RecentKeys
from worker_node.registry import Registry
from worker_node.shelf import Shelf
from worker_node.slice_store import SliceStore
from worker_node.totals import Totals

RECENT_KEYS_MAX = 12
# So few that a history merges again and again.
MERGING = Merging(pending_max=6, part_keys=2, run_keys_min=1)


def _few() -> RecentKeys:
    """So few that a history forgets some of them again and again."""
    return RecentKeys(keys_max=RECENT_KEYS_MAX)


def _drawn(_node: str, drawn: int) -> bytes:
    """A name that no stream of the history had before; the product draws 16 random bytes."""
    return drawn.to_bytes(16, "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """How each part is made.

    Attributes:
        new_stream: names a stream, given its node and how many streams the history has drawn.
    """

    disk: Callable[[Faults], Disk] = Disk
    sender: type[Sender[Any]] = Sender
    drain: type[Drain] = Drain
    routes: type[SettledRoutes] = SettledRoutes
    cache: type[SummaryCache] = SummaryCache
    spool: Callable[..., Spool] = MemorySpool
    store: Callable[..., SliceStore] = SliceStore
    recent: Callable[[], RecentKeys] = _few
    merging: Merging = MERGING
    totals: Callable[..., Totals] = MemoryTotals
    registry: Callable[..., Registry] = MemoryRegistry
    shelf: Callable[..., Shelf] = MemoryShelf
    writer: type[InlineWriter] = InlineWriter
    new_stream: Callable[[str, int], bytes] = _drawn


SHIPPED = Parts()
