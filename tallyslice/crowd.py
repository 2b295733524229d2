"""Random users who click and look: the demonstration's events.

A few users are often there and many seldom (weights like 1/rank), as on real sites; a share of the events is late, as
from phones that were offline. Names carry a tag that is new with every run, so the users of two runs never mix, and the
growth of a slice's unique users is exactly the users of this run.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import accumulate

import msgspec

from common.slices import Micros

USERS = 1_000
CLICK_SHARE = 0.3  # the rest are impressions: people look more than they click
LATE_SHARE = 0.1
LATE_SECONDS = 120.0
_HEAD = 10  # weights are 1/(rank + head): without it the first user would make every seventh event

_MILLISECOND = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CrowdEvent:
    """One event, ready to be sent as often as it takes.

    Attributes:
        at: its timestamp.
        user: the number of the user.
        type: ``click`` or ``impression``.
        body: the event as JSON; the same bytes whenever it is sent.
    """

    at: Micros
    user: int
    type: str
    body: bytes


class Crowd:
    """Draws events.

    Args:
        tag: makes this run's users and ids its own.
        seed: with the same seed the same users do the same things; None: something else every time.
    """

    def __init__(self, *, tag: str, seed: int | None = None) -> None:
        self._tag = tag
        self._random = random.Random(seed)
        self._weights = list(accumulate(1 / (rank + _HEAD) for rank in range(USERS)))
        self._numbers = range(USERS)
        self._drawn = 0

    def draw(self, now: Micros) -> CrowdEvent:
        """The next event."""
        self._drawn += 1
        dice = self._random.random
        user = self._random.choices(self._numbers, cum_weights=self._weights)[0]
        event_type = "click" if dice() < CLICK_SHARE else "impression"
        late_seconds = dice() * LATE_SECONDS if dice() < LATE_SHARE else 0.0
        # Whole milliseconds: the form of a timestamp that clients use most.
        milliseconds = now // _MILLISECOND - int(late_seconds * 1_000)
        body = msgspec.json.encode(
            {
                "timestamp": milliseconds,
                "user": f"user-{self._tag}-{user}",
                "event": event_type,
                "id": f"{self._tag}-{self._drawn}",
            }
        )
        return CrowdEvent(at=Micros(milliseconds * _MILLISECOND), user=user, type=event_type, body=body)
