"""Moments at which a node kills itself: stores that spring a trap, to be swapped in where a node is built.

::

    worker, for a batch:   before-transaction
                           file-made            the slice's file is there, and empty
                           in-transaction       all batches of the group are decided on, nothing is put yet
                           in-commit            at some moment while LMDB writes
                           after-commit         before the receipt leaves
                           in-merge             at some moment while keys that are pending are merged
    worker, for a route:   before-claim, after-claim
    API node, spooling:    before-spool
                           in-spool             at some moment while LMDB writes
                           after-spool          before anybody is told
    API node, draining:    before-unspool       the worker has answered for it, and it is still on disk
                           after-unspool

The product has no flag for any of this.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any, overload

from api_node.spool import SpoolKey
from api_node.spool_room import SpooledStream, SpoolRoom
from common.routing import Route, WorkerId
from common.slices import SliceId
from common.wire import Claim, Settled
from worker_node.app import Parts
from worker_node.key_set import Merging
from worker_node.receiver import Decision, NumberedBatch
from worker_node.registry import Door, Registry
from worker_node.shelf import Shelf
from worker_node.slice_store import SliceStore

# So few that keys are merged again and again while events come one by one.
MERGING = Merging(pending_max=40, part_keys=10, run_keys_min=1)
COMMIT_SECONDS = 0.004  # about as long as a commit takes


class Point(StrEnum):
    """See the top of the module."""

    BEFORE_TRANSACTION = "before-transaction"
    FILE_MADE = "file-made"
    IN_TRANSACTION = "in-transaction"
    IN_COMMIT = "in-commit"
    AFTER_COMMIT = "after-commit"
    IN_MERGE = "in-merge"
    BEFORE_CLAIM = "before-claim"
    AFTER_CLAIM = "after-claim"
    BEFORE_SPOOL = "before-spool"
    IN_SPOOL = "in-spool"
    AFTER_SPOOL = "after-spool"
    BEFORE_UNSPOOL = "before-unspool"
    AFTER_UNSPOOL = "after-unspool"


OF_WORKERS = tuple(Point)[:6]
OF_THE_REGISTRY = tuple(Point)[6:8]
OF_API_NODES = tuple(Point)[8:]
_WHILE_WRITING = frozenset({Point.IN_COMMIT, Point.IN_MERGE, Point.IN_SPOOL})


def die() -> None:
    """SIGKILL, from within."""
    os.kill(os.getpid(), signal.SIGKILL)


class Trap:
    """Springs when its point is passed for the ``nth`` time. Used by one thread."""

    def __init__(self, point: Point, nth: int) -> None:
        self._point = point
        self._left = nth

    def passes(self, point: Point) -> None:
        """Passing a point; may not return."""
        if point is not self._point:
            return
        self._left -= 1
        if self._left:
            return
        if point in _WHILE_WRITING:
            threading.Thread(target=_die_soon, daemon=True).start()
        else:
            die()


def _die_soon() -> None:
    time.sleep(random.random() * COMMIT_SECONDS)
    die()


class _Passing(Sequence[NumberedBatch]):
    """The batches of a transaction; whoever has seen the last one is inside it."""

    def __init__(self, items: Sequence[NumberedBatch], trap: Trap) -> None:
        self._items = items
        self._trap = trap

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, at: int) -> NumberedBatch: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[NumberedBatch]: ...
    def __getitem__(self, at: int | slice) -> NumberedBatch | Sequence[NumberedBatch]:
        return self._items[at]

    def __iter__(self) -> Iterator[NumberedBatch]:
        yield from self._items
        self._trap.passes(Point.IN_TRANSACTION)
        self._trap.passes(Point.IN_COMMIT)


def shelf_of(store_class: type[SliceStore], *, made: Callable[[], None] = lambda: None) -> type[Shelf]:
    """A shelf whose stores are of another class; ``made`` is called when a file was made, before it is used."""

    class OtherShelf(Shelf):
        def __init__(self, **given: Any) -> None:
            super().__init__(merging=MERGING, **given)

        def get(self, slice_id: SliceId) -> SliceStore | None:
            store = super().get(slice_id)
            if store is not None:
                store.__class__ = store_class
            return store

        def create(self, slice_id: SliceId, *, route: Route, position: int, key_id: bytes) -> SliceStore:
            store = super().create(slice_id, route=route, position=position, key_id=key_id)
            store.__class__ = store_class
            made()
            return store

    return OtherShelf


def trapped(trap: Trap) -> Parts:
    """A worker's stores with a trap in them."""

    class Store(SliceStore):
        def apply(self, items: Sequence[NumberedBatch]) -> list[Decision]:
            trap.passes(Point.BEFORE_TRANSACTION)
            decisions = super().apply(_Passing(items, trap))
            trap.passes(Point.AFTER_COMMIT)
            return decisions

        def merge(self) -> None:
            trap.passes(Point.IN_MERGE)
            super().merge()

    class TrappedRegistry(Registry):
        def claim(self, claim: Claim, *, known: int, door: Door) -> Settled:
            trap.passes(Point.BEFORE_CLAIM)
            settled = super().claim(claim, known=known, door=door)
            trap.passes(Point.AFTER_CLAIM)
            return settled

    return Parts(shelf=shelf_of(Store, made=lambda: trap.passes(Point.FILE_MADE)), registry=TrappedRegistry)


def trapped_room(trap: Trap) -> type[SpoolRoom]:
    """An API node's spools with a trap in them."""

    class TrappedRoom(SpoolRoom):
        async def keep(self, cluster: str, worker: WorkerId, batches: Sequence[tuple[bytes, bytes]]) -> None:
            trap.passes(Point.BEFORE_SPOOL)
            trap.passes(Point.IN_SPOOL)
            await super().keep(cluster, worker, batches)
            trap.passes(Point.AFTER_SPOOL)

        async def answered(self, source: SpooledStream, keys: Iterable[SpoolKey]) -> None:
            trap.passes(Point.BEFORE_UNSPOOL)
            await super().answered(source, keys)
            trap.passes(Point.AFTER_UNSPOOL)

    return TrappedRoom
