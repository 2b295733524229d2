"""Which slice files exist, and which of them are open.

::

    <folder>/41.mdb        the file of slice 41
    <folder>/41.mdb-lock   LMDB's lock file beside it
    <folder>/-3.mdb        slices before the first one have negative numbers
    <folder>/7.mdb.damaged quarantined: what is in it cannot be read, or does not add up
    <folder>/8.mdb.lost    given up by a person, who renamed it: the slice goes on without it, and is incomplete

A quarantined slice has neither zeros nor a sum, and takes no events: no file is made beside the damaged one. If there
is an ``N.mdb`` beside it all the same, somebody has put a copy back, and that is what counts.

An open file costs descriptors and address space, so only so many are open; the one used least recently is closed first.
The shelf belongs to the writer's thread.
"""

from __future__ import annotations

import contextlib
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
from worker_node.key_set import Merging
from worker_node.recent_keys import RecentKeys
from worker_node.slice_store import SliceStore

SLICES_FOLDER = "slices"
OPEN_FILES_MAX = 256  # more slices than that are hardly written at a time
_OPEN_FILES_MIN = 2
DAMAGED, LOST = ".damaged", ".lost"
_NAME = re.compile(r"(-?[0-9]{1,19})\.mdb(\.damaged|\.lost|)", re.ASCII)


def open_files_bound() -> int:
    """How many slice files may be open: theirs is a third of the descriptors that this process may still open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return OPEN_FILES_MAX
    return max(_OPEN_FILES_MIN, min(OPEN_FILES_MAX, (soft - _descriptors_used()) // 3 // DESCRIPTORS))


def _descriptors_used() -> int:
    # /dev/fd is on Linux and on macOS.
    return sum(1 for _ in Path("/dev/fd").iterdir())


class Unverified(Damaged):
    """The file may be damaged, and is being verified: until that is known, it is not touched."""


class Shelf:
    """The slice files in a folder.

    Attributes:
        damaged: slices whose file cannot be read: neither empty nor countable. Set aside under another name.
        unverified: slices whose file may be damaged.
        given_up: slices whose damaged file somebody has renamed to be lost, and which have no other.
        size_bytes: of all files but the damaged ones; any thread may read it.
    """

    def __init__(
        self,
        *,
        folder: Path,
        open_files_max: int,
        recent: RecentKeys | None = None,
        merging: Merging | None = None,
        map_bytes: int = MAP_BYTES,
    ) -> None:
        self.damaged: set[SliceId] = set()
        self.unverified: set[SliceId] = set()
        self.given_up: set[SliceId] = set()
        self.size_bytes = 0
        self._folder = folder
        self._open_files_max = open_files_max
        self._recent = RecentKeys() if recent is None else recent
        self._merging = merging or Merging()
        self._map_bytes = map_bytes
        self._open: OrderedDict[SliceId, SliceStore] = OrderedDict()
        self._slices: set[SliceId] = set()
        self._sizes: dict[SliceId, int] = {}

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
            slice_id, kind = SliceId(int(match[1])), match[2]
            size_bytes = path.stat().st_size
            # A file this small never saw a commit.
            if slice_id in closed or (not kind and size_bytes <= UNUSED_BYTES_MAX):
                lmdb_file.unlink(path)
            else:
                {"": self._slices, DAMAGED: self.damaged, LOST: self.given_up}[kind].add(slice_id)
                if not kind:
                    self._sized(slice_id, size_bytes)
        self.damaged -= self._slices
        self._slices |= self.damaged
        self.given_up -= self._slices
        lmdb_file.sync_folder(self._folder)

    def __contains__(self, slice_id: object) -> bool:
        return slice_id in self._slices

    @property
    def slices(self) -> frozenset[SliceId]:
        """The slices that have a file, be it damaged."""
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
            self.path(slice_id),
            slice_id,
            route=route,
            position=position,
            key_id=key_id,
            recent=self._recent,
            merging=self._merging,
            map_bytes=self._map_bytes,
        )
        lmdb_file.sync_folder(self._folder)
        self._slices.add(slice_id)
        return self._keep(store)

    def crowded(self) -> SliceStore | None:
        """The open store that is to merge next; None if there are few enough keys pending in all of them."""
        if sum(store.pending for store in self._open.values()) <= self._merging.pending_max:
            return None
        return max(self._open.values(), key=lambda store: store.pending)

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
        self._sized(slice_id, 0)
        lmdb_file.unlink(self.path(slice_id))
        lmdb_file.sync_folder(self._folder)

    def quarantine(self, slice_id: SliceId) -> None:
        """Set the file of a slice aside, for good."""
        store = self._open.pop(slice_id, None)
        if store is not None:
            store.close()
        self.damaged.add(slice_id)
        self._sized(slice_id, 0)
        path = self.path(slice_id)
        # If the disk refuses that too, it is damaged all the same, and the next start will find it so again.
        with contextlib.suppress(OSError):
            path.rename(path.with_name(path.name + DAMAGED))
            lmdb_file.unlink(path)  # its lock file
            lmdb_file.sync_folder(self._folder)

    def grew(self, store: SliceStore) -> None:
        """Take note of the size of a file that was written."""
        self._sized(store.slice, store.size_bytes)

    def path(self, slice_id: SliceId) -> Path:
        """Where the file of a slice is."""
        return self._folder / f"{slice_id}.mdb"

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()

    def _load(self, slice_id: SliceId) -> SliceStore | None:
        if slice_id not in self._slices:
            return None
        if slice_id in self.damaged:
            raise Damaged(f"the file of slice {slice_id} is damaged")
        if slice_id in self.unverified:
            raise Unverified(f"the file of slice {slice_id} is being verified")
        try:
            store = SliceStore.open(
                self.path(slice_id),
                slice_id,
                recent=self._recent,
                merging=self._merging,
                map_bytes=self._map_bytes,
            )
        except Damaged:
            self.quarantine(slice_id)
            raise
        if store is None:
            # Killed within its first commit: the pages are there, the meta page that makes them count is not.
            self.remove(slice_id)
        return store

    def _sized(self, slice_id: SliceId, size_bytes: int) -> None:
        self.size_bytes += size_bytes - self._sizes.pop(slice_id, 0)
        if size_bytes:
            self._sizes[slice_id] = size_bytes

    def _keep(self, store: SliceStore) -> SliceStore:
        while len(self._open) >= self._open_files_max:
            self._open.popitem(last=False)[1].close()
        self._open[store.slice] = store
        return store
