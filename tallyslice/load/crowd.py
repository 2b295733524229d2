"""Random users who click and look: seeded, so that every cluster and every peer gets the same events.

Each event is of a user known before (0 to ``users`` - 1) or, with a share of ``new``, of one that nobody has seen, who
gets the next number. The known ones are drawn evenly, or with ``skew`` above 1 some much more often than others, as on
real sites. A share of the events is late, as from phones that were offline.

Names and ids carry a tag. With a tag that is new in every run the users of two runs never mix, and the growth of a
slice's unique users is exactly the users of this run.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from common.slices import Micros
from common.summaries import CLICK, IMPRESSION

CLICK_SHARE = 0.3  # the rest are impressions: people look more than they click
LATE_SECONDS = 120.0
JSON, NDJSON = "application/json", "application/x-ndjson"

_MILLISECOND = 1_000
_TYPES = (IMPRESSION, CLICK)  # by whether it is a click


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """Some events in columns, drawn together and sent in one request.

    Attributes:
        tag: of the run.
        at: the timestamps, in milliseconds.
        users: the users' numbers.
        clicks: whether each is a click.
        ids: the events' numbers; empty if they go without ids.
    """

    tag: str
    at: Sequence[int]
    users: Sequence[int]
    clicks: Sequence[bool]
    ids: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.users)

    @property
    def types(self) -> Iterator[str]:
        """The event types."""
        return (_TYPES[click] for click in self.clicks)

    def take(self, positions: Sequence[int]) -> Parcel:
        """Some of the events, by their positions."""
        return Parcel(
            tag=self.tag,
            at=[self.at[n] for n in positions],
            users=[self.users[n] for n in positions],
            clicks=[self.clicks[n] for n in positions],
            ids=[self.ids[n] for n in positions] if self.ids else (),
        )

    def lines(self) -> Iterator[str]:
        """Each event as a JSON object."""
        tag, ids = self.tag, self.ids
        for n, (at, user, click) in enumerate(zip(self.at, self.users, self.clicks, strict=True)):
            key = f',"id":"{tag}-{ids[n]}"' if ids else ""
            yield f'{{"timestamp":{at},"user":"user-{tag}-{user}","event":"{_TYPES[click]}"{key}}}'

    def json(self) -> bytes:
        """The only event, as the body of ``POST /analytics``."""
        (line,) = self.lines()
        return line.encode()

    def ndjson(self) -> bytes:
        """All events, as the body of ``POST /events``."""
        return ("\n".join(self.lines()) + "\n").encode()

    def query(self) -> str:
        """The only event, as the query of ``POST /analytics``."""
        (at,), (user,), (click,) = self.at, self.users, self.clicks
        key = f"&id={self.tag}-{self.ids[0]}" if self.ids else ""
        return f"timestamp={at}&user=user-{self.tag}-{user}{key}&{_TYPES[click]}"


class Crowd:
    """Draws events.

    Args:
        tag: makes the users and ids of a run its own; letters, digits, hyphens.
        seed: with the same seed the same users do the same things; None: something else every time.
        users: how many are known from the start.
        new: the share of events that come from new users.
        skew: 1: the known ones are equally active; 2: the busiest of a thousand makes every thirtieth event.
        late: the share of events that are up to two minutes late.
        ids: whether each event has an id.

    Raises:
        ValueError: there would be nobody.
    """

    def __init__(
        self,
        *,
        tag: str,
        seed: int | None = None,
        users: int,
        new: float = 0.0,
        skew: float = 1.0,
        late: float = 0.0,
        ids: bool = False,
    ) -> None:
        if users < 1 and new < 1:
            raise ValueError("there must be users, or all must be new")
        self._tag = tag
        self._random = random.Random(seed)
        self._users = users
        self._new = new
        self._next_user = users
        self._skew = skew
        self._late = late
        self._ids = ids
        self.drawn = 0

    def draw(self, events: int, now: Micros) -> Parcel:
        """The next events, as of now.

        Args:
            events: how many.
            now: when they happen, but for those that are late; to the millisecond, as most clients tell it.
        """
        dice = self._random.random
        first, self.drawn = self.drawn, self.drawn + events
        return Parcel(
            tag=self._tag,
            at=self._times(events, now // _MILLISECOND),
            users=self._choose(events),
            clicks=[dice() < CLICK_SHARE for _ in range(events)],
            ids=range(first, first + events) if self._ids else (),
        )

    def _choose(self, events: int) -> list[int]:
        dice, users, skew = self._random.random, self._users, self._skew
        if not self._new:
            return [int(users * dice() ** skew) for _ in range(events)]
        chosen = []
        for _ in range(events):
            if dice() < self._new:
                chosen.append(self._next_user)
                self._next_user += 1
            else:
                chosen.append(int(users * dice() ** skew))
        return chosen

    def _times(self, events: int, now: int) -> list[int]:
        if not self._late:
            return [now] * events
        dice, late, span = self._random.random, self._late, LATE_SECONDS * 1_000
        return [now - int(dice() * span) if dice() < late else now for _ in range(events)]
