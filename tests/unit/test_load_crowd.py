"""The random users: what they send is what an API node reads; seeds repeat it, tags set it apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import pytest

from common.events import CLASSIC_TYPES, Event, EventTypes, parse_event, read_json
from common.slices import SECOND, Micros
from common.summaries import CLICK
from tallyslice.load.crowd import LATE_SECONDS, Crowd, Parcel

NOW = Micros(1_700_000_000 * SECOND + 123_456)
NOW_MILLISECONDS = NOW // 1_000
TYPES = EventTypes(CLASSIC_TYPES)


def crowd(**settings: Any) -> Crowd:
    wanted: dict[str, Any] = {"tag": "t", "seed": 1, "users": 1_000}
    return Crowd(**wanted | settings)


def of_query(text: str) -> Event:
    return parse_event(parse_qsl(text, keep_blank_values=True), TYPES)


@pytest.mark.parametrize("form", ["json", "query", "ndjson"])
def test_the_bodies_say_what_the_columns_say(form: str) -> None:
    """Timestamp, type and id are read back; each user has one name, each event its own id."""
    some = crowd(late=0.5, ids=True)
    if form == "ndjson":
        parcel = some.draw(2_000, NOW)
        pairs = [(parcel.take([n]), parse_event(read_json(line), TYPES)) for n, line in
                 enumerate(parcel.ndjson().splitlines())]  # fmt: skip
    else:
        parcels = [some.draw(1, NOW) for _ in range(2_000)]
        read: Callable[[Parcel], Event] = (
            (lambda one: parse_event(read_json(one.json()), TYPES))
            if form == "json"
            else (lambda one: of_query(one.query()))
        )
        pairs = [(one, read(one)) for one in parcels]

    assert [(one.at[0] * 1_000, next(one.types)) for one, _ in pairs] == [(e.timestamp, e.type) for _, e in pairs]
    assert len({event.id for _, event in pairs}) == 2_000
    names = {(one.users[0], event.user) for one, event in pairs}
    assert len(names) == len({user for user, _ in names}) == len({name for _, name in names})


def test_ids_are_only_there_if_wanted() -> None:
    assert b'"id"' not in crowd().draw(10, NOW).ndjson()
    assert "id=" not in crowd().draw(1, NOW).query()


def test_the_crowd_is_as_described() -> None:
    """Both types, a tenth late but never by more than two minutes, never in the future."""
    parcel = crowd(late=0.1).draw(10_000, NOW)

    late = [at for at in parcel.at if NOW_MILLISECONDS - at > 1_000]
    assert 0.08 < len(late) / len(parcel) < 0.12
    assert all(0 <= NOW_MILLISECONDS - at <= LATE_SECONDS * 1_000 for at in parcel.at)
    assert 0.25 < list(parcel.types).count(CLICK) / len(parcel) < 0.35
    assert crowd().draw(5, NOW).at == [NOW_MILLISECONDS] * 5


def test_users_are_drawn_evenly_or_with_a_skew() -> None:
    even, skewed = (crowd(skew=skew).draw(50_000, NOW).users for skew in (1, 2))

    assert set(even) == set(range(1_000))
    assert min(map(even.count, range(0, 1_000, 100))) > 20
    assert skewed.count(0) > 10 * skewed.count(999)
    assert max(skewed) < 1_000


@pytest.mark.parametrize("new", [0.05, 0.5, 1.0])
def test_new_users_are_numbered_after_the_known_ones(new: float) -> None:
    """Their share is what was asked for; each comes once, in order, over several parcels."""
    some = crowd(new=new)
    users = [user for _ in range(10) for user in some.draw(1_000, NOW).users]

    fresh = [user for user in users if user >= 1_000]
    assert abs(len(fresh) / len(users) - new) < 0.02
    assert fresh == list(range(1_000, 1_000 + len(fresh)))


def test_nobody_but_new_users_need_no_known_ones() -> None:
    assert list(crowd(users=0, new=1.0).draw(5, NOW).users) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="there must be users"):
        crowd(users=0, new=0.5)


def test_a_seed_repeats_the_events_and_a_tag_sets_them_apart() -> None:
    one, same, other, different = (
        crowd(tag=tag, seed=seed, new=0.5, late=0.5, ids=True).draw(50, NOW)
        for tag, seed in (("a", 3), ("a", 3), ("b", 3), ("a", 4))
    )

    assert one.ndjson() == same.ndjson() != different.ndjson()
    assert (one.at, one.users, one.clicks) == (other.at, other.users, other.clicks)
    assert not set(one.lines()) & set(other.lines())


def test_some_of_a_parcel_is_a_parcel() -> None:
    parcel = crowd(late=0.5, ids=True).draw(10, NOW)
    lines = list(parcel.lines())

    assert list(parcel.take([1, 7]).lines()) == [lines[1], lines[7]]
    assert len(crowd().draw(10, NOW).take([3])) == 1
