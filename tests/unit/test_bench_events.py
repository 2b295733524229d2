"""The events of the benchmark, and what they must be counted as."""

import json

from bench.events import Count, Events, draw, draw_growing


def test_the_same_seed_draws_the_same_events():
    """So every row of every run is fed with the same."""
    assert draw(at=7, events=100, users=10, seed=1) == draw(at=7, events=100, users=10, seed=1)
    assert draw(at=7, events=100, users=10, seed=1) != draw(at=7, events=100, users=10, seed=2)


def test_bodies_hold_what_is_counted():
    """What a peer reads from the bodies gives the count that it is checked against."""
    events = draw(at=7, events=95, users=10, seed=1, ids=True)

    bodies = events.bodies(10)

    lines = [json.loads(line) for body in bodies for line in body.splitlines()]
    assert [len(body.splitlines()) for body in bodies] == [10] * 9 + [5]
    assert {line["timestamp"] for line in lines} == {7}
    assert len({line["id"] for line in lines}) == 95
    assert events.count() == Count(
        users=len({line["user"] for line in lines}),
        clicks=sum(line["event"] == "click" for line in lines),
        impressions=sum(line["event"] == "impression" for line in lines),
    )


def test_growing_events_have_so_many_new_users():
    """New users are numbered from the first that is not known; all others are known."""
    events = draw_growing(at=7, events=200, known=1_000, new_share=0.05, seed=1)

    assert sorted(user for user in events.users if user >= 1_000) == list(range(1_000, 1_010))


def test_single_events_are_queries():
    """With the type as a flag."""
    events = Events(at=7, users=[3], types=["click"])

    assert list(events.queries()) == ["timestamp=7&user=user-00000003&click"]
