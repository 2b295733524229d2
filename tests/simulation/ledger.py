"""What clients did and what they were told: the other side of the books, kept where no node can touch it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from common.routing import WorkerId
from common.slices import SliceId


class Fate(Enum):
    """What became of a batch, as far as clients were told."""

    WAITING = "not answered yet"
    COUNTED = "acknowledged: on the worker's disk"
    SPOOLED = "acknowledged: on the node's disk"
    REFUSED = "answered: not counted, and never will be"
    UNKNOWN = "the node died first, or its disk lost it: counted, or not"


@dataclass(slots=True, eq=False)
class Event:
    """One event of one client. With ``id_key`` it is retried until it is acknowledged, or refused for good."""

    slice: SliceId
    type: str
    user_key: bytes
    id_key: bytes | None = None
    acknowledged: bool = False
    ended: bool = False  # the client was told 422, and gives up


@dataclass(slots=True, eq=False)
class Waiter:
    """What waits for a batch: the events in it."""

    node: str
    life: int
    worker: WorkerId
    slice: SliceId
    stream: bytes
    events: list[Event] = field(default_factory=list)
    fate: Fate = Fate.WAITING
    at: float = 0.0  # when it was decided
    step: int = 0  # likewise, in steps of the history

    def decide(self, fate: Fate, *, at: float, step: int) -> None:
        """Tell the clients."""
        self.fate, self.at, self.step = fate, at, step
        if fate in (Fate.COUNTED, Fate.SPOOLED):
            for event in self.events:
                event.acknowledged = True


class Ledger:
    """All events and all batches of a history."""

    def __init__(self) -> None:
        self.keyed: list[Event] = []
        self.waiters: list[Waiter] = []
        self.refused = 0  # at the door

    def acknowledged(self) -> int:
        """How many events were answered with success."""
        return sum(len(one.events) for one in self.waiters if one.fate in (Fate.COUNTED, Fate.SPOOLED))

    def batches(self, worker: WorkerId, slice_id: SliceId) -> list[Waiter]:
        """The batches of a slice that led to a worker."""
        return [one for one in self.waiters if one.worker == worker and one.slice == slice_id and one.events]

    def slices(self) -> set[SliceId]:
        """The slices that batches were made of."""
        return {one.slice for one in self.waiters}


def count(batches: Iterable[Waiter]) -> Counter[str]:
    """What these batches come to: events with an id once, the others each time."""
    counts: Counter[str] = Counter()
    seen: set[bytes] = set()
    for batch in batches:
        for event in batch.events:
            if event.id_key is None:
                counts[event.type] += 1
            elif event.id_key not in seen:
                seen.add(event.id_key)
                counts[event.type] += 1
    return counts


def count_unkeyed(batches: Iterable[Waiter]) -> Counter[str]:
    """What these batches come to without the events that have an id."""
    return Counter(event.type for batch in batches for event in batch.events if event.id_key is None)


def users(batches: Iterable[Waiter]) -> set[bytes]:
    """The users of these batches."""
    return {event.user_key for batch in batches for event in batch.events}
