"""Which slice files are being written, kept in ``totals.mdb``, so that only those are verified after a bad exit.

::

    first write to a slice's file      its name is put on the list: one small commit
    not written for ten minutes        taken from it with the next such commit
    clean stop                         the list is emptied

    at start, the list says            then
    nothing                            the worker stopped cleanly
    slices, of this very boot          it was killed: nothing to verify, they stay on the list
    slices, of another boot            the machine went down: these are verified
    slices, and commit-failed is set   a commit failed: all of them are verified

A process that is killed takes nothing along: what it wrote is in the kernel's page cache, which survives it, and LMDB's
own rule (pages first, synced, then the meta page that makes them count) holds within it. So a kill -9 needs no
verification, and the worker answers at once; to read every page of a slice takes 0.7 s per million users. What can
leave a file that is not as it was written is a machine that goes down with a disk that lied about a sync, or a disk
that refused a write. The first is told by the kernel's id of its boot; where there is none to be had, every bad exit
counts as one. The second is told by the mark that ``fail`` leaves (``failure_mark.py``).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from common.lmdb_file import STORE_ERRORS
from common.slices import SliceId

if TYPE_CHECKING:
    from worker_node.failure_mark import FailureMark
    from worker_node.totals import Totals

# Long enough that a slice is put on the list once, short enough that few are on it: those of the current hour.
IDLE_SECONDS = 600.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def this_boot() -> bytes:
    """Names the time since the machine was last started; empty where the system does not tell."""
    try:
        return _BOOT_ID.read_bytes().strip()
    except OSError:
        return b""


class WriteList:
    """The list. Belongs to the writer's thread.

    Attributes:
        suspects: slices whose file must be verified before it is used.
    """

    def __init__(
        self,
        *,
        totals: Totals,
        mark: FailureMark | None = None,
        boot: Callable[[], bytes] = this_boot,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self.suspects: set[SliceId] = set()
        self._totals = totals
        self._mark = mark
        self._boot = boot
        self._seconds = seconds
        self._written: dict[SliceId, float] = {}  # when, of those on the list
        self._outdated: set[SliceId] = set()  # on the list too, but to be noted anew before they are written

    def begin(self) -> None:
        """See what the worker before this one left. ``totals`` is open."""
        listed, now = self._totals.writing(), self._seconds()
        boot, failed = self._boot(), self._mark is not None and self._mark.is_set
        self._written = dict.fromkeys(listed, now)
        self.suspects = {slice_id for slice_id, then in listed.items() if failed or not boot or then != boot}
        self._settle()

    def note(self, slices: Collection[SliceId]) -> None:
        """These files are about to be written; durable when this returns."""
        now = self._seconds()
        new = [slice_id for slice_id in slices if slice_id not in self._written]
        if new:
            idle = [
                slice_id
                for slice_id, then in self._written.items()
                if now - then > IDLE_SECONDS and slice_id not in self.suspects
            ]
            self._totals.note_writing(new, ended={*idle, *self._outdated}.difference(new), boot=self._boot())
            self._outdated.clear()
            for slice_id in idle:
                del self._written[slice_id]
        self._written.update(dict.fromkeys(slices, now))

    def verified(self, slice_id: SliceId) -> None:
        """It is known what the file of a suspect is worth."""
        self.suspects.discard(slice_id)
        self._written.pop(slice_id, None)
        self._outdated.add(slice_id)
        self._settle()

    def end(self) -> None:
        """All files are closed, as they should be."""
        sound = {*self._written, *self._outdated} - self.suspects
        if sound:
            # If the disk refuses, some files will be verified in vain.
            with contextlib.suppress(*STORE_ERRORS):
                self._totals.note_writing((), ended=sound, boot=b"")

    def _settle(self) -> None:
        if not self.suspects and self._mark is not None:
            self._mark.clear()
