"""What was acknowledged against what is counted: two plain models and their differences. Pure.

An event whose outcome stayed unknown (no answer came, however often it was sent again) may be counted or not, so a
slice is right if its numbers are within what that allows::

    users and events acknowledged  <=  counted now - counted before  <=  the same and those of unknown outcome

Everything is per slice: users are the set of those seen, events are counted by type.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from common.slices import SliceId
from common.summaries import Summary

Summaries = Mapping[SliceId, Summary]


@dataclass(slots=True)
class SliceModel:
    """What must be known of one slice. A user is a number here: only the crowd knows its name."""

    users: set[int] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, user: int, event_type: str) -> None:
        """Count one event."""
        self.users.add(user)
        self.counts[event_type] += 1

    def add_all(self, users: Iterable[int], event_types: Iterable[str]) -> None:
        """Count many."""
        self.users.update(users)
        self.counts.update(event_types)


class Model:
    """Exactly what was acknowledged, and apart from it, what may have been counted besides."""

    def __init__(self) -> None:
        self.acknowledged: defaultdict[SliceId, SliceModel] = defaultdict(SliceModel)
        self.unknown: defaultdict[SliceId, SliceModel] = defaultdict(SliceModel)

    @property
    def slices(self) -> list[SliceId]:
        """Every slice that an event may have got into, oldest first."""
        return sorted(self.acknowledged.keys() | self.unknown.keys())

    @property
    def events(self) -> int:
        """How many events were acknowledged."""
        return sum(part.counts.total() for part in self.acknowledged.values())

    @property
    def events_unknown(self) -> int:
        """How many events may have been counted without that anybody knows."""
        return sum(part.counts.total() for part in self.unknown.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One number of one slice that is not what it must be.

    Attributes:
        slice: the slice.
        what: ``users``, ``complete``, or the event type.
        least: the smallest number that would be right.
        most: the greatest.
        counted: the number that the cluster gives.
    """

    slice: SliceId
    what: str
    least: int
    most: int
    counted: int

    @property
    def expected(self) -> str:
        """The number that would be right, or the range of those."""
        return f"{self.least:,}" if self.least == self.most else f"{self.least:,} to {self.most:,}"


def differences(model: Model, *, before: Summaries, after: Summaries) -> tuple[Difference, ...]:
    """Every number that is wrong, by slice, in the slices that were fed.

    Args:
        model: what was acknowledged.
        before: what the cluster counted before the first event.
        after: what it counts now.
    """
    return tuple(
        wrong
        for slice_id in model.slices
        for wrong in _of_slice(
            slice_id,
            model,
            before.get(slice_id, Summary(slice=slice_id)),
            after.get(slice_id, Summary(slice=slice_id)),
        )
    )


def touched_by_others(model: Model, *, before: Summaries, after: Summaries) -> tuple[SliceId, ...]:
    """The slices that changed although they were not fed.

    No error of the cluster's: an event counted in the wrong slice is missing in its own.
    """
    others = (before.keys() | after.keys()) - set(model.slices)
    return tuple(sorted(slice_id for slice_id in others if before.get(slice_id) != after.get(slice_id)))


def _of_slice(slice_id: SliceId, model: Model, before: Summary, after: Summary) -> list[Difference]:
    sure = model.acknowledged.get(slice_id, SliceModel())
    maybe = model.unknown.get(slice_id, SliceModel())
    types = sorted(sure.counts.keys() | maybe.counts.keys() | before.counts.keys() | after.counts.keys())
    # Each: what it is, the least and the most that would be right, what is counted.
    numbers = [
        ("users", len(sure.users), len(sure.users | maybe.users), after.users - before.users),
        *(
            (name, sure.counts[name], sure.counts[name] + maybe.counts[name], _grown(name, before, after))
            for name in types
        ),
        # A slice that was incomplete before cannot be blamed on what was fed since.
        ("complete", int(before.complete), 1, int(after.complete)),
    ]
    return [
        Difference(slice=slice_id, what=what, least=least, most=most, counted=counted)
        for what, least, most, counted in numbers
        if not least <= counted <= most
    ]


def _grown(name: str, before: Summary, after: Summary) -> int:
    return after.counts.get(name, 0) - before.counts.get(name, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What the cluster counted since ``before``, in the slices that were fed.

    Attributes:
        events: of all types.
        users: unique users, summed over the slices.
        slices: how many slices that is.
    """

    events: int
    users: int
    slices: int


def counted(model: Model, *, before: Summaries, after: Summaries) -> Counted:
    """The totals for the one line that says how it went."""
    events = users = 0
    for slice_id in model.slices:
        old, new = before.get(slice_id, Summary(slice=slice_id)), after.get(slice_id, Summary(slice=slice_id))
        events += sum(new.counts.values()) - sum(old.counts.values())
        users += new.users - old.users
    return Counted(events=events, users=users, slices=len(model.slices))
