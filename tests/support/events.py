"""Events to post, and a plain model of what must be counted of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote

CANARY = "Kanarienvogel"
"""Every user and every event id of the tests carries it, so one search tells whether a name got anywhere."""


def user(number: int | str) -> str:
    """A user name that must never be seen again."""
    return f"{CANARY}-{number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """One event, as a client would post it.

    Attributes:
        at: Unix seconds.
        user: the name.
        type: ``click``, ``impression`` or another.
        id: the event's id; None where it has none.
    """

    at: float
    user: str
    type: str = "click"
    id: str | None = None

    @property
    def query(self) -> str:
        """As the query string of ``POST /analytics``."""
        identity = "" if self.id is None else f"&id={quote(self.id, safe='')}"
        return f"timestamp={self.at}&user={quote(self.user, safe='')}&{self.type}{identity}"


class Model:
    """What must be known of each slice: a set of users and a count per type. Repeated ids count once."""

    def __init__(self, *, first: float, length: float) -> None:
        self._first = first
        self._length = length
        self.users: dict[int, set[str]] = defaultdict(set)
        self.counts: dict[int, Counter[str]] = defaultdict(Counter)
        self._ids: set[tuple[int, str, str, str]] = set()

    def add(self, posts: Iterable[Post]) -> None:
        """Count the events."""
        for post in posts:
            at = int((post.at - self._first) // self._length)
            if post.id is not None:
                identity = (at, post.user, post.type, post.id)
                if identity in self._ids:
                    continue
                self._ids.add(identity)
            self.users[at].add(post.user)
            self.counts[at][post.type] += 1

    @property
    def slices(self) -> list[int]:
        """The slices with events, ascending."""
        return sorted(self.counts)

    def text(self, at: int) -> str:
        """The answer that a slice must give."""
        counts = self.counts.get(at, Counter())
        return tally(len(self.users.get(at, ())), counts["click"], counts["impression"])


def tally(users: int, clicks: int, impressions: int) -> str:
    """An answer of three numbers, as text."""
    return f"unique_users,{users}\nclicks,{clicks}\nimpressions,{impressions}\n"
