"""The same simulation over real LMDB files: the product's stores as they are, on a RAM disk where there is one.

Nothing can be set back here while it is open, so histories over real files leave out the faults that swap disks.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from api_node.spool import Spool
from common.slices import SliceId
from common.wire import Held
from tests.simulation.faults import Faults
from tests.simulation.parts import SHIPPED, Parts
from tests.simulation.plans import FAULTS
from tests.simulation.stores import Disk, InlineWriter
from worker_node.key_set import Merging
from worker_node.receiver import Decision, NumberedBatch
from worker_node.recent_keys import RecentKeys
from worker_node.registry import Registry
from worker_node.shelf import SLICES_FOLDER, Shelf
from worker_node.slice_store import SliceStore
from worker_node.totals import Totals

FAULTS_OF_DISKS = frozenset({"old disk", "foreign disk", "old registry", "damage", "lost disk"})
REAL_FAULTS = {name: share for name, share in FAULTS.items() if name not in FAULTS_OF_DISKS}
# So small that files outgrow it: the map is full again and again, and grows.
MAP_BYTES = 64 << 10
_RAM_DISK = Path("/dev/shm")  # noqa: S108 - only what is made in it is used, under a name of its own


class FolderDisk(Disk):
    """A disk that is a folder."""

    def __init__(self, faults: Faults, *, folder: Path) -> None:
        super().__init__(faults)
        self.folder = folder
        folder.mkdir()


class RealTotals(Totals):
    """As it is."""

    def __init__(self, *, disk: FolderDisk) -> None:
        super().__init__(folder=disk.folder, map_bytes=MAP_BYTES)


class RealRegistry(Registry):
    """As it is."""

    def __init__(self, *, disk: FolderDisk) -> None:
        super().__init__(folder=disk.folder, map_bytes=MAP_BYTES)


class RealSpool(Spool):
    """As it is."""

    def __init__(self, *, disk: FolderDisk, cluster: str) -> None:
        super().__init__(folder=disk.folder, cluster=cluster, map_bytes=MAP_BYTES)


class RealShelf(Shelf):
    """As it is."""

    def __init__(
        self,
        *,
        disk: FolderDisk,
        open_files_max: int,
        make_store: Callable[..., SliceStore],
        recent: RecentKeys,
        merging: Merging,
    ) -> None:
        assert make_store is SliceStore
        super().__init__(
            folder=disk.folder / SLICES_FOLDER,
            open_files_max=open_files_max,
            recent=recent,
            merging=merging,
            map_bytes=MAP_BYTES,
        )
        self.faults = disk.faults


class RealWriter(InlineWriter):
    """May die before and after the transaction of each slice."""

    def _apply(self, slice_id: SliceId, items: Sequence[NumberedBatch]) -> tuple[list[Decision], Held | None]:
        assert isinstance(self._shelf, RealShelf)
        self._shelf.faults.point()
        told = super()._apply(slice_id, items)
        self._shelf.faults.point()
        return told


@contextmanager
def real_parts(fallback: Path) -> Iterator[Parts]:
    """The product's parts, with their files in a folder that is gone afterwards.

    Args:
        fallback: a folder to use where there is no RAM disk.
    """
    numbers = itertools.count()
    with tempfile.TemporaryDirectory(dir=_RAM_DISK if _RAM_DISK.is_dir() else fallback) as made:

        def disk(faults: Faults) -> Disk:
            return FolderDisk(faults, folder=Path(made) / str(next(numbers)))

        yield replace(
            SHIPPED,
            disk=disk,
            totals=RealTotals,
            registry=RealRegistry,
            spool=RealSpool,
            shelf=RealShelf,
            writer=RealWriter,
        )
