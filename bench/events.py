"""The events that every row is fed with: seeded, the same for all, and what must be counted afterwards.

A user is drawn evenly from all users, a third of the events are clicks. Bodies and requests are made before the clock
starts: what a client does to make its JSON is no part of any row.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

CLICK, IMPRESSION = "click", "impression"
_CLICK_SHARE = 1 / 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What a slice must hold: exact users, exact events of each type."""

    users: int
    clicks: int
    impressions: int

    @property
    def events(self) -> int:
        """All of them."""
        return self.clicks + self.impressions


@dataclass(frozen=True, kw_only=True)
class Events:
    """Events of one slice.

    Attributes:
        at: their timestamp, Unix seconds.
        users: the number of each event's user.
        types: each event's type.
        ids: whether each carries an id of its own.
    """

    at: int
    users: Sequence[int]
    types: Sequence[str]
    ids: bool = False

    def count(self) -> Count:
        """What they must be counted as."""
        types = Counter(self.types)
        return Count(users=len(set(self.users)), clicks=types[CLICK], impressions=types[IMPRESSION])

    def names(self) -> Iterator[str]:
        """The users' names."""
        return (name(user) for user in self.users)

    @cached_property
    def lines(self) -> Sequence[bytes]:
        """Each as a line of NDJSON; made once, because the same events are fed to many."""
        return [
            f'{{"timestamp":{self.at},"user":"{name(user)}","event":"{event}"{self._id(number)}}}\n'.encode()
            for number, (user, event) in enumerate(zip(self.users, self.types, strict=True))
        ]

    def bodies(self, batch: int) -> list[bytes]:
        """NDJSON bodies of ``batch`` events; the last one may be shorter."""
        return [b"".join(self.lines[at : at + batch]) for at in range(0, len(self.lines), batch)]

    def queries(self) -> Iterator[str]:
        """Each as the query of one request."""
        for user, event in zip(self.users, self.types, strict=True):
            yield f"timestamp={self.at}&user={name(user)}&{event}"

    def _id(self, number: int) -> str:
        return f',"id":"{number:08}"' if self.ids else ""


def name(user: int) -> str:
    """The name of a user: as long as many real ones, 13 characters."""
    return f"user-{user:08}"


def draw(*, at: int, events: int, users: int, seed: int, ids: bool = False) -> Events:
    """Events of users 0 to ``users`` - 1."""
    dice = random.Random(seed)
    return Events(at=at, users=dice.choices(range(users), k=events), types=_types(dice, events), ids=ids)


def draw_growing(*, at: int, events: int, known: int, new_share: float, seed: int) -> Events:
    """Events of which some are of users never seen before, numbered from ``known`` on; the rest of users below it."""
    dice = random.Random(seed)
    new = round(events * new_share)
    users = [*range(known, known + new), *dice.choices(range(known), k=events - new)]
    dice.shuffle(users)
    return Events(at=at, users=users, types=_types(dice, events))


def _types(dice: random.Random, events: int) -> list[str]:
    return dice.choices((CLICK, IMPRESSION), weights=(_CLICK_SHARE, 1 - _CLICK_SHARE), k=events)
