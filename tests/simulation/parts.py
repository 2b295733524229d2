"""What a simulated cluster is built of: the product's classes, each of which ``planted/`` may swap for a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from api_node.drain import Drain
from api_node.sender import Sender
from api_node.settled_routes import SettledRoutes
from api_node.summary_cache import SummaryCache
from tests.simulation.stores import InlineWriter, MemoryRegistry, MemoryShelf, MemorySpool, MemoryTotals
from worker_node.slice_store import SliceStore


def _drawn(_node: str, drawn: int) -> bytes:
    """A name that no stream of the history had before; the product draws 16 random bytes."""
    return drawn.to_bytes(16, "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """How each part is made.

    Attributes:
        new_stream: names a stream, given its node and how many streams the history has drawn.
    """

    sender: type[Sender[Any]] = Sender
    drain: type[Drain] = Drain
    routes: type[SettledRoutes] = SettledRoutes
    cache: type[SummaryCache] = SummaryCache
    spool: type[MemorySpool] = MemorySpool
    store: Callable[..., SliceStore] = SliceStore
    totals: type[MemoryTotals] = MemoryTotals
    registry: type[MemoryRegistry] = MemoryRegistry
    shelf: type[MemoryShelf] = MemoryShelf
    writer: type[InlineWriter] = InlineWriter
    new_stream: Callable[[str, int], bytes] = _drawn


SHIPPED = Parts()
