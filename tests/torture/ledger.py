"""What was sent, what became of it, and so what may be counted. Pure: no socket, no file, no clock.

::

    type        sent                                          must be counted
    click       with an id, again and again until success     exactly once
    impression  without id, by users who come back            acknowledged <= counted <= acknowledged + unknown
    solo        without id, each by a user of its own         likewise, and exactly as often as such users are stored

``solo`` is what makes a loss or a double of events without id visible one by one: such an event and its user are in one
batch, so there are exactly as many of the one as of the other, whatever was answered.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.support.cluster import FIRST, HOUR
from tests.support.events import Post

KEYED, POOLED, SOLO = "click", "impression", "solo"
WORKER = "worker"  # the durability of what a worker has on disk
TYPES = (KEYED, POOLED, SOLO)


def slice_of(post: Post) -> int:
    """The slice that the event falls into."""
    return int((post.at - FIRST) // HOUR)


@dataclass(slots=True)
class Sheet:
    """One slice.

    Attributes:
        begun: events by type that were sent, or are about to be.
        taken: acknowledged events by type.
        by_worker: likewise, those that were on a worker's disk by then.
        unknown: likewise, of those whose fate nobody told us.
        users: type -> names of the users of acknowledged events.
        doubtful: type -> names of the users of the unknown ones.
    """

    begun: Counter[str] = field(default_factory=Counter)
    taken: Counter[str] = field(default_factory=Counter)
    by_worker: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    users: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    doubtful: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    @property
    def sure(self) -> set[str]:
        """Users who must be stored."""
        return set().union(*self.users.values())

    @property
    def possible(self) -> set[str]:
        """Users who may be."""
        return self.sure.union(*self.doubtful.values())

    def problems(self, name: str, users: int, counts: Mapping[str, int]) -> list[str]:
        """What is wrong with an answer about the slice; empty if nothing is.

        Args:
            name: whose answer it is, for the text.
            users: unique users as answered.
            counts: events by type as answered.
        """
        found = []
        for kind in sorted({*counts, *self.taken}):
            low, count = self.taken[kind], counts.get(kind, 0)
            high = low + self.unknown[kind]
            if not low <= count <= high:
                what = "lost" if count < low else "too many"
                found.append(f"{name}: {count} of type {kind}, but {low} to {high} were sent: {what}")
        low, high = len(self.sure), len(self.possible)
        if not low <= users <= high:
            found.append(f"{name}: {users} unique users, but there are {low} to {high}")
        return found


class Ledger:
    """All slices."""

    def __init__(self) -> None:
        self.sheets: defaultdict[int, Sheet] = defaultdict(Sheet)

    def begun(self, post: Post) -> None:
        """The event is about to be sent for the first time."""
        self.sheets[slice_of(post)].begun[post.type] += 1

    def acknowledged(self, post: Post, *, durability: str = WORKER) -> None:
        """The event was answered with success. An event with an id is noted once, however often it was sent."""
        sheet = self.sheets[slice_of(post)]
        sheet.taken[post.type] += 1
        sheet.by_worker[post.type] += durability == WORKER
        sheet.users[post.type].add(post.user)

    def unknown(self, post: Post) -> None:
        """The event was sent, and it is not known what became of it. Nobody sends it again."""
        sheet = self.sheets[slice_of(post)]
        sheet.unknown[post.type] += 1
        sheet.doubtful[post.type].add(post.user)

    def total(self) -> Counter[str]:
        """How many events are ``acknowledged``, and how many are ``unknown``."""
        sums = Counter[str]()
        for sheet in self.sheets.values():
            sums["acknowledged"] += sheet.taken.total()
            sums["unknown"] += sheet.unknown.total()
        return sums
