"""The newest summaries that this node has seen of each worker, for a short time.

Answers and receipts both refresh it. Their order of arrival is not their order of making: an answer that was on its way
while a receipt came in describes an older state. So every summary carries its file and transaction, and an older one
never replaces a newer one of the same file (``Held.replaces``).

::

    question sent ----------------- answer made (txn 7) ......... answer arrives: keeps txn 8
                      receipt of txn 8 arrives: noted in cache and in the question under way
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cachetools import TTLCache

from common.summaries import Summary
from common.wire import Held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from common.slices import SliceId

SUMMARIES_MAX = 20_000  # per worker; some 10 MB
SNAPSHOTS_MAX = 16  # answers about all slices, per worker; dashboards ask for "up to now" most of the time
SNAPSHOT_SUMMARIES_MAX = 200_000  # in all of them; some 100 MB. A single answer that has more is not kept


@dataclass(slots=True, eq=False)
class Watcher:
    """Collects the newest summaries seen while a question is under way; of all slices, or of one."""

    slice: SliceId | None
    seen: dict[SliceId, Held] = field(default_factory=dict)

    def note(self, held: Held) -> None:
        """A summary went by."""
        slice_id = held.summary.slice
        known = self.seen.get(slice_id)
        if known is None or held.replaces(known):
            self.seen[slice_id] = held


class SummaryCache:
    """One worker's summaries."""

    def __init__(self, *, ttl_seconds: float, timer: Callable[[], float]) -> None:
        self._timer = timer
        self._slices: TTLCache[SliceId, Held] = TTLCache(maxsize=SUMMARIES_MAX, ttl=ttl_seconds, timer=timer)
        self._all: TTLCache[SliceId, Watcher] = self._snapshots(ttl_seconds)
        self._watchers: set[Watcher] = set()

    def follow(self, ttl_seconds: float) -> None:
        """Another time to remember: begin anew."""
        self._slices = TTLCache(maxsize=SUMMARIES_MAX, ttl=ttl_seconds, timer=self._timer)
        self._all = self._snapshots(ttl_seconds)

    def get(self, slice_id: SliceId) -> Held | None:
        """The summary of a slice, if it is fresh."""
        held: Held | None = self._slices.get(slice_id)
        return held

    def note(self, held: Held) -> None:
        """A worker has told a summary."""
        slice_id = held.summary.slice
        known = self._slices.get(slice_id)
        if known is None or held.replaces(known):
            self._slices[slice_id] = held
        for watcher in self._watchers:
            if watcher.slice is None or watcher.slice == slice_id:
                watcher.note(held)
        # Counted without expiring them: what is stale by time is asked for again anyway.
        for until, snapshot in self._all.items():
            if slice_id <= until:
                snapshot.note(held)

    def get_all(self, until: SliceId) -> dict[SliceId, Held] | None:
        """All summaries up to a slice, if they were asked for lately; kept as new as what was noted since."""
        snapshot: Watcher | None = self._all.get(until)
        return None if snapshot is None else snapshot.seen

    def forget(self, slice_id: SliceId) -> None:
        """What is known of a slice is wrong: the next question goes to the worker."""
        self._slices.pop(slice_id, None)
        self._all.clear()

    def watch(self, slice_id: SliceId | None) -> Watcher:
        """Begin to collect for a question; end it with ``answered`` or ``drop``."""
        watcher = Watcher(slice_id)
        self._watchers.add(watcher)
        return watcher

    def drop(self, watcher: Watcher) -> None:
        """The question failed."""
        self._watchers.discard(watcher)

    def answered(self, watcher: Watcher, slice_id: SliceId, held: Held | None) -> Held:
        """A question about one slice is answered (None: the worker holds nothing): the newest summary there is."""
        self._watchers.discard(watcher)
        answer = held or Held(summary=Summary(slice=slice_id))
        newer = watcher.seen.get(slice_id)
        if newer is not None and newer.replaces(answer):
            answer = newer
        self.note(answer)
        # The cache may know something newer still, noted before the question was asked.
        known = self._slices.get(slice_id)
        return known if known is not None else answer

    def answered_all(self, watcher: Watcher, until: SliceId, answer: Iterable[Held]) -> dict[SliceId, Held]:
        """A question about all slices up to one is answered."""
        self._watchers.discard(watcher)
        snapshot = Watcher(None, {held.summary.slice: held for held in answer})
        newer = [held for at, held in watcher.seen.items() if at <= until]
        # What the cache knows may be newer than the answer too, when receipts came just before it was asked.
        for held in (*self._slices.values(), *newer):
            if held.summary.slice <= until and held.file:
                snapshot.note(held)
        if len(snapshot.seen) <= SNAPSHOT_SUMMARIES_MAX:
            self._all[until] = snapshot
        return snapshot.seen

    def _snapshots(self, ttl_seconds: float) -> TTLCache[SliceId, Watcher]:
        return TTLCache(maxsize=SNAPSHOT_SUMMARIES_MAX, ttl=ttl_seconds, timer=self._timer, getsizeof=_size)


def _size(snapshot: Watcher) -> int:
    """Of a snapshot, in summaries; small ones count as much as makes them SNAPSHOTS_MAX at most."""
    return max(len(snapshot.seen), SNAPSHOT_SUMMARIES_MAX // SNAPSHOTS_MAX)
