"""The random users: what they send is what an API node reads, and what the model keeps."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from common.events import CLASSIC_TYPES, EventTypes, parse_event, read_json
from common.slices import SECOND, Micros
from tallyslice.crowd import LATE_SECONDS, USERS, Crowd, CrowdEvent

NOW = Micros(1_700_000_000 * SECOND + 123_456)


def drawn(crowd: Crowd) -> Iterator[CrowdEvent]:
    while True:
        yield crowd.draw(NOW)


def test_the_body_says_what_the_event_says() -> None:
    """Timestamp and type are read back as the model keeps them; each user has one name, each event its own id."""
    events = list(islice(drawn(Crowd(tag="t", seed=1)), 2_000))
    parsed = [parse_event(read_json(event.body), EventTypes(CLASSIC_TYPES)) for event in events]

    assert [(one.timestamp, one.type) for one in parsed] == [(event.at, event.type) for event in events]
    assert len({one.id for one in parsed}) == 2_000
    names = {(event.user, one.user) for event, one in zip(events, parsed, strict=True)}
    assert len(names) == len({user for user, _ in names}) == len({name for _, name in names})


def test_the_crowd_is_as_described() -> None:
    """Both types, a tenth late but never by more than two minutes, never in the future, some users more often."""
    events = list(islice(drawn(Crowd(tag="t", seed=2)), 5_000))

    late = [event for event in events if NOW - event.at > SECOND]
    assert 0.05 < len(late) / len(events) < 0.15
    assert all(0 <= NOW - event.at <= (LATE_SECONDS + 1) * SECOND for event in events)
    assert 0.2 < sum(event.type == "click" for event in events) / len(events) < 0.4
    users = [event.user for event in events]
    assert all(0 <= user < USERS for user in users)
    assert users.count(0) > 5 * users.count(USERS - 1)


def test_a_seed_repeats_the_events_and_a_tag_sets_them_apart() -> None:
    one, same, other = (list(islice(drawn(Crowd(tag=tag, seed=3)), 50)) for tag in ("a", "a", "b"))

    assert one == same
    assert [(event.at, event.user, event.type) for event in one] == [
        (event.at, event.user, event.type) for event in other
    ]
    assert not {event.body for event in one} & {event.body for event in other}
