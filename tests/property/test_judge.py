"""Over random pairs of configs: accepted if and only if no pinned value changes and no named worker vanishes."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from common.config import ClusterConfig, parse_config
from common.judge import differing, judge, route_plan
from common.routing import proposed_route
from common.slices import parse_instant
from common.wire import SettledRoute
from tests.support.configs import FOLDER, cluster_fields, pins_of, workers

DATES = ("2017-05-20", "2017-05-21")
IDS = "abcd"
worker_sets = st.frozensets(st.sampled_from(IDS))


@st.composite
def configs(draw):
    """Good configs that differ in what the judge looks at, and in some things that it does not."""
    ids = draw(st.lists(st.sampled_from(IDS), min_size=1, unique=True))
    nodes = st.lists(st.sampled_from(ids), min_size=1, unique=True)
    fields = cluster_fields(
        worker_nodes=workers(*ids),
        length_of_time_slice=draw(st.sampled_from([60, 61])),
        first_slice=draw(st.sampled_from(["system", *DATES])),
        routing=[
            {"slice": at, "nodes": draw(nodes)} for at in draw(st.sets(st.integers(-9, 9), min_size=1, max_size=4))
        ],
        registry=draw(st.none() | st.sampled_from(ids)),
        max_slices=draw(st.sampled_from([10, 20])),
    )
    return parse_config(json.dumps(fields).encode(), folder=FOLDER)


def pinned_values(config: ClusterConfig, first: int) -> tuple[object, ...]:
    """What a cluster whose slice 0 starts at ``first`` would pin for this config."""
    return (config.length_of_time_slice, first if config.first_slice is None else config.first_slice, config.registry)


@given(configs(), st.none() | configs(), configs(), worker_sets, st.sampled_from(DATES))
def test_a_change_is_accepted_iff_no_pinned_value_changes_and_no_named_worker_vanishes(
    founding, running, proposed, named, system
):
    """Whatever is running, and at start too."""
    first = parse_instant(f"{system}T00:00:00Z")
    pins = pins_of(founding, first=first)
    same = pinned_values(proposed, pins.first) == pinned_values(founding, first)

    assert judge(running, proposed, pins=pins, named=named).accepted == (same and named <= proposed.worker_nodes.keys())


@given(configs(), configs())
def test_without_pins_and_registry_only_what_keeps_the_running_values_and_workers_is_accepted(running, proposed):
    """The running values count as pinned, and no worker may go."""
    same = all(
        getattr(running, name) == getattr(proposed, name)
        for name in ("length_of_time_slice", "first_slice", "registry")
    )

    assert judge(running, proposed, pins=None, named=None).accepted == (
        same and running.worker_nodes.keys() <= proposed.worker_nodes.keys()
    )


@given(configs(), configs())
def test_changes_are_empty_iff_nothing_but_the_file_differs(running, proposed):
    """The version alone is no change; nor is another way to write the same routing, or another order of workers."""
    alike = (
        running.worker_nodes == proposed.worker_nodes
        and pinned_values(running, -1) == pinned_values(proposed, -1)
        and running.max_slices == proposed.max_slices
        and all(proposed_route(running.routing, at) == proposed_route(proposed.routing, at) for at in range(-11, 12))
    )

    assert (judge(running, proposed, pins=None, named=None).changes == ()) == alike


@given(configs(), configs(), st.dictionaries(st.integers(-12, 12), st.sampled_from([("a",), ("a", "b"), ("b", "a")])))
def test_a_plan_says_for_every_slice_what_each_of_its_sources_says(old, new, settled):
    """Its ranges cover all slices once, and none could be joined with the next."""
    plan = route_plan(old, new, settled)
    for slice_id in range(-14, 15):
        [line] = [
            line
            for line in plan
            if (line.first is None or line.first <= slice_id) and (line.last is None or slice_id <= line.last)
        ]

        assert line.old == proposed_route(old.routing, slice_id)
        assert line.new == proposed_route(new.routing, slice_id)
        assert line.settled == settled.get(slice_id)
    for line, following in pairwise(plan):
        assert line.last is not None
        assert line.last + 1 == following.first
        assert (line.old, line.new, line.settled) != (following.old, following.new, following.settled)


@given(configs(), st.dictionaries(st.integers(-12, 12), st.sampled_from([("a",), ("a", "b"), ("b", "a")])))
def test_the_settled_routes_that_differ_are_those_that_the_file_would_not_propose(config, settled):
    """In the order in which they came."""
    routes = [SettledRoute(slice=at, route=route, number=1) for at, route in settled.items()]

    assert [one.slice for one in differing(config, routes)] == [
        at for at, route in settled.items() if proposed_route(config.routing, at) != route
    ]
