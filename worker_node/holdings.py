"""What this worker holds, as committed: the event loop's own view, so that hot reading touches no disk.

Only the loop touches it. The writer's thread hands over what it committed in the order of its commits.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable

from cachetools import LRUCache

from common.slices import SliceId
from common.wire import QUESTION_SLICES_MAX, Held

# Summaries remembered: as many as one question can ask for, about 1 KiB each.
SUMMARIES_MAX = QUESTION_SLICES_MAX


class Holdings:
    """The slices held, open and closed, and the latest summaries."""

    def __init__(self, *, summaries_max: int = SUMMARIES_MAX) -> None:
        self._slices: list[SliceId] = []
        self._open: list[SliceId] = []
        self._quarantined: set[SliceId] = set()
        self._latest: LRUCache[SliceId, Held] = LRUCache(maxsize=summaries_max)

    def begin(self, *, open_slices: Iterable[SliceId], closed_slices: Iterable[SliceId]) -> None:
        """Take what the disk has at start."""
        self._open = sorted(open_slices)
        self._slices = sorted({*self._open, *closed_slices})

    def __len__(self) -> int:
        return len(self._slices)

    def __contains__(self, slice_id: SliceId) -> bool:
        return _has(self._slices, slice_id)

    def is_open(self, slice_id: SliceId) -> bool:
        """Whether the slice has a file, as far as is known here."""
        return _has(self._open, slice_id)

    @property
    def open_count(self) -> int:
        """How many slices are neither closed nor quarantined."""
        return len(self._open)

    @property
    def quarantined_count(self) -> int:
        """How many slices are quarantined."""
        return len(self._quarantined)

    def quarantined(self, most: int) -> list[SliceId]:
        """So many of the quarantined slices, ascending."""
        return sorted(self._quarantined)[:most]

    def between(self, after: SliceId | None, until: SliceId | None) -> list[SliceId]:
        """The slices held in ``after < slice <= until``, ascending; None is no bound."""
        first = 0 if after is None else bisect_right(self._slices, after)
        last = len(self._slices) if until is None else bisect_right(self._slices, until)
        return self._slices[first:last]

    def open_before(self, bound: SliceId) -> list[SliceId]:
        """The slices below the bound that are neither closed nor quarantined, ascending."""
        return self._open[: bisect_left(self._open, bound)]

    def latest(self, slice_id: SliceId) -> Held | None:
        """The slice as last committed; None if that is not in memory."""
        return self._latest.get(slice_id)

    def keep(self, held: Held) -> None:
        """Remember the state of a slice that was committed or read."""
        slice_id = held.summary.slice
        if not _has(self._slices, slice_id):
            insort(self._slices, slice_id)
            insort(self._open, slice_id)
        self._latest[slice_id] = held

    def opened(self, slice_id: SliceId) -> None:
        """The slice has a file now; perhaps it was closed without one, because a lost directory had held it."""
        if _has(self._slices, slice_id) and not _has(self._open, slice_id):
            insort(self._open, slice_id)

    def closed(self, slice_id: SliceId) -> None:
        """The slice has no file any more; its summary stays."""
        _drop(self._open, slice_id)

    def quarantine(self, slice_id: SliceId) -> None:
        """The file of the slice is damaged: the slice is held, and what it holds is not known."""
        self._latest.pop(slice_id, None)
        _drop(self._open, slice_id)
        self._quarantined.add(slice_id)

    def forget(self, slice_id: SliceId) -> None:
        """The slice turned out to hold nothing."""
        _drop(self._open, slice_id)
        _drop(self._slices, slice_id)


def _has(ordered: list[SliceId], slice_id: SliceId) -> bool:
    at = bisect_left(ordered, slice_id)
    return at < len(ordered) and ordered[at] == slice_id


def _drop(ordered: list[SliceId], slice_id: SliceId) -> None:
    if _has(ordered, slice_id):
        del ordered[bisect_left(ordered, slice_id)]
