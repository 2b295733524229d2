"""What is known of a cluster while somebody watches it: asked of whichever API node answers, kept when none does.

The current slice, its workers and the slice before are asked for each time; of older slices one a time, in turn:
late events still come to them, though few.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from common.errors import InputOutputFailed
from common.slices import EARLIEST, SECOND, Micros, SliceClock, SliceId
from tallyslice.health import WorkerSeen
from tallyslice.query import SliceAnswer
from tallyslice.questions import AnyNode

SLICES = 24  # a day of hours; as many as fit are shown
RATES = 60  # as many looks back as the sparkline is wide


class _Workers(msgspec.Struct, frozen=True, kw_only=True):
    workers: tuple[SliceAnswer, ...] = ()


class _Cluster(msgspec.Struct, frozen=True, kw_only=True):
    workers: tuple[WorkerSeen, ...] = ()
    problems: tuple[str, ...] = ()


_NONE = SliceId(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One look.

    Attributes:
        node: who answered.
        at: the time of day.
        clock: how the cluster divides time; None until somebody told.
        current: the slice of that time.
        slices: what is known of it and those before, by number.
        workers: what each worker holds of the current slice.
        states: how each worker is, by its id.
        rate: events counted a second, lately.
        rates: the same of each look, oldest first.
        problems: what people should know.
        stale_seconds: how old all this is, because nobody answers; 0: it is fresh.
    """

    node: str
    at: Micros
    clock: SliceClock | None = None
    current: SliceId = _NONE
    slices: Mapping[SliceId, SliceAnswer] = field(default_factory=dict)
    workers: Sequence[SliceAnswer] = ()
    states: Mapping[str, WorkerSeen] = field(default_factory=dict)
    rate: float = 0
    rates: Sequence[float] = ()
    problems: Sequence[str] = ()
    stale_seconds: float = 0


class Look:
    """Asks, and remembers.

    Args:
        nodes: whom to ask.
        now: the time of day.
        timer: seconds, for rates.
    """

    def __init__(self, *, nodes: AnyNode, now: Callable[[], Micros], timer: Callable[[], float]) -> None:
        self._nodes = nodes
        self._now = now
        self._timer = timer
        self._clock: SliceClock | None = None
        self._slices: dict[SliceId, SliceAnswer] = {}
        self._older = 0
        self._rates: deque[float] = deque(maxlen=RATES)
        self._asked: float | None = None
        self._seen = Seen(node=nodes.latest, at=now())

    async def again(self) -> Seen:
        """Look once more; if nobody answers, what is known, and since when.

        Raises:
            NotPermitted: the nodes want a token, or another one.
        """
        try:
            self._seen = await self._look()
        except InputOutputFailed as error:
            stale = 0.1 if self._asked is None else max(self._timer() - self._asked, 0.1)
            return replace(self._seen, at=self._now(), rate=0, problems=str(error).splitlines(), stale_seconds=stale)
        return self._seen

    async def _look(self) -> Seen:
        if self._clock is None:
            self._clock = await self._nodes.clock()
        at, earlier = self._now(), sum(_events(one) for one in self._slices.values())
        known = set(self._slices)
        current = self._clock.slice_at(at)
        for slice_id in self._wanted(current):
            self._slices[slice_id] = await self._nodes.ask(_path("", self._within(slice_id, at)), SliceAnswer)
        workers = await self._nodes.ask(_path("/perworker", at), _Workers)
        cluster = await self._nodes.ask("/cluster", _Cluster)
        # What was not known before has not been counted just now.
        new = sum(_events(one) for slice_id, one in self._slices.items() if slice_id in known or slice_id == current)
        self._measure(new - earlier if known else 0)
        for slice_id in [one for one in self._slices if one <= current - SLICES]:
            del self._slices[slice_id]
        return Seen(
            node=self._nodes.latest,
            at=at,
            clock=self._clock,
            current=current,
            slices=dict(self._slices),
            workers=workers.workers,
            states={worker.id: worker for worker in cluster.workers},
            rate=self._rates[-1] if self._rates else 0,
            rates=tuple(self._rates),
            problems=cluster.problems,
        )

    def _wanted(self, current: SliceId) -> list[SliceId]:
        """The slices to ask for this time."""
        newest = [SliceId(current - back) for back in range(SLICES)]
        missing = [one for one in newest if one not in self._slices]
        self._older = self._older % (SLICES - 2) + 1
        return sorted({current, SliceId(current - 1), newest[1 + self._older], *missing})

    def _within(self, slice_id: SliceId, at: Micros) -> int:
        assert self._clock is not None  # noqa: S101 - who asks knows it
        return max(min(self._clock.start(slice_id), at), EARLIEST)

    def _measure(self, new: int) -> None:
        at = self._timer()
        if self._asked is not None and at > self._asked:
            self._rates.append(max(new, 0) / (at - self._asked))
        self._asked = at


def _path(kind: str, instant: int) -> str:
    return f"/analytics{kind}?format=json&partial=true&timestamp={instant / SECOND:.6f}"


def _events(answer: SliceAnswer) -> int:
    return sum(answer.events.values())
