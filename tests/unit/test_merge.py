"""What everybody knows, put together, is the registry as it was, or a reason why it cannot be told."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigRefused
from common.routing import WorkerId
from common.slices import Micros, SliceId
from common.wire import Identity, Pins, SettledRoute
from tallyslice.merge import CONFLICTS_MAX, NUMBERS_STEP, Told, merge

NOW = Micros(1_000)
PINS = Pins(
    cluster="c", first=5, length_seconds=60, secret_id="s", registry=WorkerId("0"), workers={WorkerId("0"): "u"}
)


def told(who, routes=None, *, numbers=None, claims=0, pins=PINS, **more):
    """What somebody told: slice -> route, one letter a worker."""
    known = {
        SliceId(at): SettledRoute(
            slice=SliceId(at), route=tuple(map(WorkerId, route)), number=(numbers or {}).get(at, 0)
        )
        for at, route in (routes or {}).items()
    }
    return Told(who=who, cluster=pins and pins.cluster, claims=claims, pins=pins, routes=known, **more)


def stranger(who):
    return told(who, pins=None)


def merged(*every, everybody=True):
    return merge(every, everybody=everybody, now=NOW)


def routes(of):
    return {one.slice: "".join(one.route) for one in of.routes}


def problems(*every):
    with pytest.raises(ConfigRefused) as refused:
        merged(*every)
    return refused.value.problems


def test_everything_that_anybody_knows_is_there():
    found = merged(told("a", {1: "01"}), told("b", {1: "01", -7: "2"}), told("c"))

    assert routes(found) == {-7: "2", 1: "01"}
    assert [one.slice for one in found.routes] == [-7, 1]


def test_the_number_is_far_beyond_all_that_are_known():
    for claims in (0, 1, NUMBERS_STEP - 1, NUMBERS_STEP, 7 * NUMBERS_STEP + 5):
        found = merged(told("a", claims=claims), told("b", {1: "0"}, claims=0))

        assert found.known == claims
        assert found.claims > claims + NUMBERS_STEP


def test_a_claim_keeps_its_number_where_anybody_knows_it():
    """The others get numbers beyond all known ones, in the order of their slices; the claim number is the last."""
    found = merged(told("r", {3: "0", 5: "0"}, numbers={3: 1, 5: 2}, claims=2), told("w", {3: "0", 9: "0", 7: "0"}))

    numbers = {one.slice: one.number for one in found.routes}
    assert (numbers[3], numbers[5]) == (1, 2)
    assert (numbers[7], numbers[9]) == (found.claims - 1, found.claims)


def test_no_number_of_a_rebuild_that_was_broken_off_is_given_twice():
    """Its first pages are in the registry's file, numbered beyond the claim number that this still has."""
    begun = merged(told("r", claims=2), told("w", {3: "0", 5: "0"}))
    at_3 = begun.routes[0]

    found = merged(told("r", {3: "0"}, numbers={3: at_3.number}, claims=2), told("w", {3: "0", 5: "0"}))

    assert found.routes[0] == at_3
    assert found.routes[1].number > begun.claims


def test_two_routes_for_one_slice_stop_it():
    """Both are named, and who says so."""
    assert problems(told("a", {1: "01", 2: "0"}), told("b", {1: "10"}), told("c", {1: "01"})) == [
        'slice 1 has two routes: ["0", "1"], says a, c; ["1", "0"], says b'
    ]


def test_of_many_conflicts_some_are_shown():
    slices = range(CONFLICTS_MAX + 3)

    found = problems(told("a", dict.fromkeys(slices, "0")), told("b", dict.fromkeys(slices, "1")))

    assert len(found) == CONFLICTS_MAX + 1
    assert found[-1] == "and 3 more slices likewise"


def test_nodes_of_different_clusters_stop_it():
    other = msgspec.structs.replace(PINS, cluster="d")

    assert problems(told("a"), stranger("n"), told("b", pins=other), told("e")) == [
        "these nodes are of different clusters: c (a, e); d (b)"
    ]


def test_where_nobody_belongs_to_a_cluster_there_is_nothing_to_rebuild():
    assert problems(stranger("a"), stranger("b")) == [
        "nobody who answers belongs to a cluster: there is nothing to rebuild"
    ]


def test_other_constants_stop_it():
    assert (
        "the nodes know different pins: secret_id"
        in problems(told("a"), told("b", pins=msgspec.structs.replace(PINS, secret_id="t")))[0]
    )


@pytest.mark.parametrize("pinned", ["0", "7"])
def test_a_worker_on_another_directory_stops_it(pinned):
    """Unless it is new, and not pinned yet."""
    identity = Identity(id=WorkerId(pinned), uuid="other", cluster=None, claims=0)
    found = (told("a"), told("worker", pins=None, identity=identity))

    if pinned == "0":
        assert "but the cluster knows it by u" in problems(*found)[0]
    else:
        assert merged(*found).pins == PINS


def test_without_somebody_what_nobody_knows_stays_unknown():
    assert merged(told("a")).pins.unknown_before is None
    assert merged(told("a"), everybody=False).pins.unknown_before == NOW


def test_that_something_is_unknown_stays():
    earlier = msgspec.structs.replace(PINS, unknown_before=NOW - 1)

    assert merged(told("a"), told("b", pins=earlier)).pins.unknown_before == NOW - 1
    assert merged(told("a"), told("b", pins=earlier), everybody=False).pins.unknown_before == NOW


def test_a_route_that_cannot_be_read_is_unknown_unless_somebody_else_knows_it():
    damaged = told("a", unreadable=frozenset({SliceId(1), SliceId(2)}))

    found = merged(damaged, told("b", {1: "0"}))

    assert found.unclear == (2,)
    assert found.pins.unknown_before == NOW
    assert merged(damaged, told("b", {1: "0", 2: "0"})).pins.unknown_before is None


@given(
    settled=st.dictionaries(st.integers(-50, 50), st.sampled_from(["0", "1", "01", "10"]), max_size=30),
    kept=st.lists(st.sets(st.integers(-50, 50)), min_size=1, max_size=4),
)
def test_whoever_forgets_what_it_is_the_registry_again(settled, kept):
    """Each node knows a part of what was settled: together it is all that any of them knows, each number once."""
    every = [told(str(n), {at: settled[at] for at in part if at in settled}) for n, part in enumerate(kept)]

    found = merged(*every)

    assert routes(found) == {at: route for at, route in settled.items() if any(at in part for part in kept)}
    assert len({one.number for one in found.routes}) == len(found.routes)
    assert merged(*reversed(every)).routes == found.routes
