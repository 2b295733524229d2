"""Which slice files exist, and which of them are open.

::

    <folder>/41.mdb        the file of slice 41
    <folder>/41.mdb-lock   LMDB's lock file beside it
    <folder>/-3.mdb        slices before the first one have negative numbers

An open file costs descriptors and address space, so only so many are open; the one used least recently is closed first.
The shelf belongs to the writer's thread.
"""

from __future__ import annotations

import re
import resource
from collections import OrderedDict
from collections.abc import Container
from pathlib import Path

from common import lmdb_file
from common.lmdb_file import DESCRIPTORS, MAP_BYTES, UNUSED_BYTES_MAX, Damaged
from common.routing import Route
from common.slices import SliceId
from common.wire import Held
from worker_node.slice_store import SliceStore

SLICES_FOLDER = "slices"
OPEN_FILES_MAX = 256  # more slices than that are hardly written at a time
_OPEN_FILES_MIN = 2
_NAME = re.compile(r"(-?[0-9]{1,19})\.mdb", re.ASCII)


def open_files_bound() -> int:
    """How many slice files may be open: theirs is a third of the descriptors that this process may still open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return OPEN_FILES_MAX
    return max(_OPEN_FILES_MIN, min(OPEN_FILES_MAX, (soft - _descriptors_used()) // 3 // DESCRIPTORS))


def _descriptors_used() -> int:
    # /dev/fd is on Linux and on macOS.
    return sum(1 for _ in Path("/dev/fd").iterdir())


class Shelf:
    """The slice files in a folder.

    Attributes:
        damaged: slices whose file cannot be read: neither empty nor countable.
    """

    def __init__(self, *, folder: Path, open_files_max: int, map_bytes: int = MAP_BYTES) -> None:
        self.damaged: set[SliceId] = set()
        self._folder = folder
        self._open_files_max = open_files_max
        self._map_bytes = map_bytes
        self._open: OrderedDict[SliceId, SliceStore] = OrderedDict()
        self._slices: set[SliceId] = set()

    def start(self, *, closed: Container[SliceId]) -> None:
        """See which files exist, and remove those that a crash left behind.

        Args:
            closed: slices whose file was about to be removed.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        lmdb_file.sync_folder(self._folder.parent)
        for path in list(self._folder.iterdir()):
            match = _NAME.fullmatch(path.name)
            if match is None:
                continue
            slice_id = SliceId(int(match[1]))
            # A file this small never saw a commit.
            if path.stat().st_size <= UNUSED_BYTES_MAX or slice_id in closed:
                lmdb_file.unlink(path)
            else:
                self._slices.add(slice_id)
        lmdb_file.sync_folder(self._folder)

    def __contains__(self, slice_id: object) -> bool:
        return slice_id in self._slices

    @property
    def slices(self) -> frozenset[SliceId]:
        """The slices that have a file."""
        return frozenset(self._slices)

    @property
    def open_files(self) -> int:
        """How many files are open."""
        return len(self._open)

    def get(self, slice_id: SliceId) -> SliceStore | None:
        """The open store of a slice; None if there is no file.

        Raises:
            Damaged: there is one, and it cannot be read.
        """
        store = self._open.get(slice_id)
        if store is not None:
            self._open.move_to_end(slice_id)
            return store
        store = self._load(slice_id)
        return store and self._keep(store)

    def create(self, slice_id: SliceId, *, route: Route, position: int, key_id: bytes) -> SliceStore:
        """Make the file of a slice that has none; its name is durable when this returns."""
        store = SliceStore.create(
            self._path(slice_id),
            slice_id,
            route=route,
            position=position,
            key_id=key_id,
            map_bytes=self._map_bytes,
        )
        lmdb_file.sync_folder(self._folder)
        self._slices.add(slice_id)
        return self._keep(store)

    def look(self, slice_id: SliceId) -> Held | None:
        """What a slice holds; None if there is no file. A file that is not open is closed again.

        So a question about all slices does not push those out that are being written.

        Raises:
            Damaged: there is a file, and it cannot be read.
        """
        store = self._open.get(slice_id)
        if store is not None:
            return store.held
        store = self._load(slice_id)
        if store is None:
            return None
        store.close()
        return store.held

    def remove(self, slice_id: SliceId) -> None:
        """Remove the file of a slice; durable when this returns."""
        store = self._open.pop(slice_id, None)
        if store is not None:
            store.close()
        self._slices.discard(slice_id)
        lmdb_file.unlink(self._path(slice_id))
        lmdb_file.sync_folder(self._folder)

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()

    def _load(self, slice_id: SliceId) -> SliceStore | None:
        if slice_id not in self._slices:
            return None
        if slice_id in self.damaged:
            raise Damaged(f"the file of slice {slice_id} is damaged")
        try:
            store = SliceStore.open(self._path(slice_id), slice_id, map_bytes=self._map_bytes)
        except Damaged:
            self.damaged.add(slice_id)
            raise
        if store is None:
            # Killed within its first commit: the pages are there, the meta page that makes them count is not.
            self.remove(slice_id)
        return store

    def _keep(self, store: SliceStore) -> SliceStore:
        while len(self._open) >= self._open_files_max:
            self._open.popitem(last=False)[1].close()
        self._open[store.slice] = store
        return store

    def _path(self, slice_id: SliceId) -> Path:
        return self._folder / f"{slice_id}.mdb"
