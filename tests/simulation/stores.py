"""The product's stores over files in memory: the classes are the product's, only the file beneath them is swapped.

::

    Disk      what one machine keeps when its process dies: contents by name
    Totals, Registry, Spool   their one file
    Shelf     its folder of slice files; the stores on it are the product's ``SliceStore``
    Writer    run inline: its thread's work, called one after the other
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from api_node import spool
from api_node.spool import Spool
from common.lmdb_file import Damaged, Kind, LmdbFile
from common.routing import Route
from common.slices import SliceId
from common.summaries import Summary
from common.wire import Held, Receipt, SettledRoute
from tests.simulation.faults import Faults
from tests.simulation.memory_file import Content, MemoryFile
from worker_node import registry, slice_store, totals
from worker_node.holdings import Holdings
from worker_node.key_set import RUNS, Merging
from worker_node.receiver import Label, NumberedBatch, split
from worker_node.recent_keys import RecentKeys
from worker_node.registry import Registry
from worker_node.room import Load
from worker_node.shelf import Shelf
from worker_node.slice_store import SliceStore
from worker_node.totals import Totals
from worker_node.writer import Writer, _Delivery

NOWHERE = Path("/nonexistent")  # no store in memory touches a path
SLICE_PREFIX = "slice "
REGISTRY = registry.FILE_NAME


class Disk:
    """What one machine keeps."""

    def __init__(self, faults: Faults) -> None:
        self.contents: dict[str, Content] = {}
        self.faults = faults

    def file(self, name: str, databases: Mapping[str, Kind]) -> LmdbFile:
        """An opening of the file of that name, made if it is not there."""
        content = self.contents.get(name)
        if content is None:
            content = self.contents[name] = Content()
        return MemoryFile(content=content, databases=databases, faults=self.faults)

    def unlink(self, name: str) -> None:
        """Remove a file."""
        self.contents.pop(name, None)

    def slices(self) -> list[SliceId]:
        """The slices that have a file."""
        return [SliceId(int(name[len(SLICE_PREFIX) :])) for name in self.contents if name.startswith(SLICE_PREFIX)]

    def users(self, slice_id: SliceId) -> frozenset[bytes]:
        """The user keys in a slice's file."""
        content = self.contents.get(_name(slice_id))
        tables = {} if content is None else content.tables
        runs = [run for name, run in tables.get(RUNS, {}).items() if name.startswith(slice_store.USERS_KEY)]
        return frozenset(chain(tables.get("users", {}).get(slice_store.USERS_KEY, ()), *map(split, runs)))

    def backup(self) -> dict[str, Content]:
        """A copy of everything."""
        return {name: content.copy() for name, content in self.contents.items()}

    def restore(self, backup: Mapping[str, Content], *, only: str | None = None) -> None:
        """Go back to a copy of everything, or of one file."""
        if only is None:
            self.contents = {name: content.copy() for name, content in backup.items()}
        elif only in backup:
            self.contents[only] = backup[only].copy()
        else:
            self.contents.pop(only, None)


class MemoryTotals(Totals):
    """``totals.mdb`` in memory."""

    def __init__(self, *, disk: Disk) -> None:
        super().__init__(folder=NOWHERE)
        self._file = disk.file(totals.FILE_NAME, totals.DATABASES)


class MemoryRegistry(Registry):
    """``registry.mdb`` in memory."""

    def __init__(self, *, disk: Disk) -> None:
        super().__init__(folder=NOWHERE)
        self._file = disk.file(registry.FILE_NAME, registry.DATABASES)


class MemorySpool(Spool):
    """``spool.mdb`` in memory."""

    def __init__(self, *, disk: Disk, cluster: str) -> None:
        super().__init__(folder=NOWHERE, cluster=cluster)
        self._file = disk.file(spool.FILE_NAME, spool.DATABASES)


class MemoryShelf(Shelf):
    """The slice files in memory. Which of them are open, and which is closed next, is the product's."""

    def __init__(
        self,
        *,
        disk: Disk,
        open_files_max: int,
        make_store: Callable[..., SliceStore],
        recent: RecentKeys,
        merging: Merging,
    ) -> None:
        super().__init__(folder=NOWHERE, open_files_max=open_files_max, recent=recent, merging=merging)
        self._disk = disk
        self._make_store = partial(make_store, recent=recent, merging=merging)

    def start(self, *, closed: Container[SliceId]) -> None:
        """As Shelf."""
        for slice_id in self._disk.slices():
            if slice_id in closed:
                self._disk.unlink(_name(slice_id))
            else:
                self._slices.add(slice_id)

    def create(self, slice_id: SliceId, *, route: Route, position: int, key_id: bytes) -> SliceStore:
        """As Shelf and SliceStore."""
        label = Label(file=os.urandom(16), route=route, position=position, key_id=key_id)
        held = Held(summary=Summary(slice=slice_id), route=route, file=label.file)
        file = self._disk.file(_name(slice_id), slice_store.DATABASES)
        self._disk.faults.point()
        self._slices.add(slice_id)
        return self._keep(self._make_store(file=file, slice_id=slice_id, label=label, held=held))

    def remove(self, slice_id: SliceId) -> None:
        """As Shelf."""
        self._disk.faults.point()
        store = self._open.pop(slice_id, None)
        if store is not None:
            store.close()
        self._slices.discard(slice_id)
        self._disk.unlink(_name(slice_id))

    def _load(self, slice_id: SliceId) -> SliceStore | None:
        if slice_id not in self._slices:
            return None
        file = self._disk.file(_name(slice_id), slice_store.DATABASES)
        file.open()
        if file.txn == 0:
            self.remove(slice_id)
            return None
        label, held = file.read(lambda txn: slice_store._load(file, txn, slice_id))  # noqa: SLF001 - the product's own reading
        return self._make_store(file=file, slice_id=slice_id, label=label, held=held)


def _name(slice_id: SliceId) -> str:
    return f"{SLICE_PREFIX}{slice_id}"


class InlineWriter(Writer):
    """The writer without its thread: what the thread would do is called, and done when the call returns."""

    def __init__(self, *, shelf: Shelf, totals: Totals, holdings: Holdings) -> None:
        super().__init__(shelf=shelf, totals=totals, holdings=holdings, fail=_must_not_fail)

    def begin(self) -> None:
        """Open the files, as the thread does first."""
        self._open()
        open_slices, closed_slices = self._opened.result()
        self._holdings.begin(open_slices=open_slices, closed_slices=closed_slices)

    def receive_group(self, envelopes: Sequence[tuple[Sequence[NumberedBatch], int]]) -> list[list[Receipt]]:
        """Commit several envelopes (batches, claim number) as one group; the receipts of each."""
        slots = [_Slot() for _ in envelopes]
        deliveries: list[Any] = [
            _Delivery(items, claims, Load(0, 0), slot, [None] * len(items))  # type: ignore[arg-type]
            for (items, claims), slot in zip(envelopes, slots, strict=True)
        ]
        self._commit(deliveries)
        return [slot.receipts for slot in slots]

    def look_now(self, slice_id: SliceId) -> Held | None:
        """What a slice holds, as ``look`` finds it.

        Raises:
            Damaged: its file cannot be read.
        """
        if (held := self._holdings.latest(slice_id)) is not None:
            return held
        if slice_id not in self._holdings:
            return None
        found = self._look([slice_id])[slice_id]
        if isinstance(found, Damaged):
            raise found
        return found

    def close_now(self, slice_id: SliceId) -> None:
        """Close a slice."""
        self._close(slice_id)

    def lose_now(self, routes: Sequence[SettledRoute], number: int) -> None:
        """Keep which slices a lost disk held."""
        self._lose(routes, number)

    def slices(self) -> list[SliceId]:
        """The slices that the worker knows of."""
        return self._holdings.between(None, None)

    def note_claims_now(self, claims: int) -> None:
        """Keep a claim number."""
        self._totals.note_claims(claims)

    def end(self) -> None:
        """Close the files: after a stop and after a kill alike, since nothing uncommitted is in them."""
        self._shelf.close()
        self._totals.close()

    def _set_aside(self, slice_id: SliceId, damage: Damaged) -> None:
        raise AssertionError(f"the file of slice {slice_id} is damaged, and no fault has damaged it") from damage

    def _call_back(self, work: Callable[..., None], *arguments: object) -> None:
        work(*arguments)


@dataclass(slots=True)
class _Slot:
    """What the writer takes for the future of a delivery."""

    receipts: Any = None

    def done(self) -> bool:
        return self.receipts is not None

    def set_result(self, receipts: object) -> None:
        self.receipts = receipts


def _must_not_fail(error: BaseException) -> None:
    raise error
