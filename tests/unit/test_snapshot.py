"""What is left out of a page that has no room for it, and that it says so."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from dashboard.snapshot import (
    SETTLED_SHOWN_MAX,
    TEXT_CHARACTERS_MAX,
    TEXTS_SHOWN_MAX,
    TYPES_SHOWN_MAX,
    WORKERS_SHOWN_MAX,
    Settled,
    Worker,
    chosen,
    largest,
    runs,
    shortened,
)

ROUTES = st.lists(st.tuples(st.integers(1, 3), st.sampled_from([("0",), ("0", "1")]), st.booleans()), max_size=40)


def worker(name: int, state: str = "ok") -> Worker:
    return Worker(
        id=str(name), state=state, detail=None, in_route=True, users=0, events=0, queue_events=0, spool_events=0,
        parked=0, silent_seconds=None,
    )  # fmt: skip


@given(st.dictionaries(st.text(max_size=5), st.integers(0, 9), max_size=40))
def test_no_event_is_lost_among_many_types(counts: dict[str, int]) -> None:
    """The largest by name, the rest as one number: together they are all."""
    shown, more, events = largest(counts)

    assert len(shown) <= TYPES_SHOWN_MAX
    assert sum(count for _, count in shown) + events == sum(counts.values())
    assert len(shown) + more == sum(count > 0 for count in counts.values())
    assert shown == sorted(shown, key=lambda one: (-one[1], one[0]))


@given(ROUTES)
def test_runs_are_the_slices_they_were_made_of(steps: list[tuple[int, tuple[str, ...], bool]]) -> None:
    """Those shown are the newest, each slice in one run, with its own route."""
    at, routes = 0, []
    for gap, workers, differs in steps:
        at += gap
        routes.append((at, workers, differs))

    shown = runs(routes)

    back = [(slice_id, run.workers) for run in reversed(shown) for slice_id in range(run.first, run.last + 1)]
    assert back == [(slice_id, workers) for slice_id, workers, _ in routes][len(routes) - len(back) :]
    assert len(shown) == SETTLED_SHOWN_MAX or len(back) == len(routes)
    assert any(run.differs for run in shown) == any(differs for _, _, differs in routes[len(routes) - len(back) :])


def test_runs_end_where_the_route_does() -> None:
    found = runs([(1, ("0",), False), (2, ("0",), False), (3, ("0", "1"), False), (7, ("0", "1"), True)])

    assert [(run.first, run.last) for run in found] == [(7, 7), (3, 3), (1, 2)]
    assert isinstance(found[0], Settled)


def test_of_many_workers_those_that_are_not_well_are_shown() -> None:
    """In their order, like the others."""
    many = [worker(at, "away" if at in {70, 90} else "ok") for at in range(100)]

    shown = [int(one.id) for one in chosen(many)]

    assert len(shown) == WORKERS_SHOWN_MAX
    assert shown == [*range(WORKERS_SHOWN_MAX - 2), 70, 90]
    assert chosen(many[:5]) == many[:5]


def test_texts_have_their_room() -> None:
    """Long ones are cut, and of many it is said how many are missing."""
    long = shortened(["x" * 5000])
    many = shortened([str(at) for at in range(TEXTS_SHOWN_MAX + 3)])

    assert len(long[0]) == TEXT_CHARACTERS_MAX
    assert many[-1] == "and 3 more: see /cluster"
    assert len(many) == TEXTS_SHOWN_MAX + 1
    assert msgspec.json.encode(many)
