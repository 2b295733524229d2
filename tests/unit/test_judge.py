"""What may replace the running config, as in common/judge.py."""

import pytest

from common.judge import PlanLine, Verdict, differing, judge, route_plan
from common.routing import WorkerId
from common.slices import SliceId
from common.wire import SettledRoute
from tests.support.configs import cluster_config, pins_of, workers

THREE = cluster_config(worker_nodes=workers("0", "1", "2"))
PINS = pins_of(THREE)
NOBODY = frozenset[WorkerId]()


def ids(letters):
    """Workers of these one-letter ids."""
    return frozenset(map(WorkerId, letters))


def line(first, last, old, new, settled=None):
    """A line of a plan."""
    return PlanLine(first=first, last=last, old=old, new=new, settled=settled)


def routing(**entries):
    """s0="01" stands for {"slice": 0, "nodes": ["0", "1"]}."""
    return [{"slice": int(at.removeprefix("s")), "nodes": list(nodes)} for at, nodes in entries.items()]


def test_the_same_config_is_accepted_and_changes_nothing():
    """So is any config at the very first start."""
    assert judge(THREE, THREE, pins=PINS, named=NOBODY) == Verdict()
    assert judge(None, THREE, pins=None, named=None).accepted
    assert judge(THREE, THREE, pins=None, named=None).accepted


@pytest.mark.parametrize("running", [THREE, None])
def test_a_change_of_what_is_pinned_is_refused(running):
    """While running and at start alike, each with what must stay."""
    other = cluster_config(length_of_time_slice=61, first_slice="2017-05-21", registry="1")

    assert judge(running, other, pins=PINS, named=NOBODY).refusals == (
        "length-of-time-slice: 61 is not what the cluster has pinned; must stay 60",
        ("first-slice: 2017-05-21T00:00:00Z is not what the cluster has pinned; "
        'must stay 2017-05-20T00:00:00Z (or "system")'),
        'registry: "1" is not what the cluster has pinned; must stay "0"',
    )  # fmt: skip


def test_system_is_whatever_is_pinned():
    """So it may always replace a date, and the pinned date may replace it."""
    system = cluster_config(worker_nodes=workers("0", "1", "2"), first_slice="system")

    assert judge(THREE, system, pins=PINS, named=NOBODY).accepted
    assert judge(system, THREE, pins=PINS, named=NOBODY).accepted
    assert not judge(system, THREE, pins=pins_of(system, first=7), named=NOBODY).accepted


def test_the_registry_stays_even_where_the_file_only_implies_it():
    """Listing another worker first moves it, unless the file names it."""
    urls = {"1": "http://localhost:9001/worker", "0": "http://localhost:9000/worker"}

    assert not judge(THREE, cluster_config(worker_nodes=urls), pins=PINS, named=NOBODY).accepted
    assert judge(THREE, cluster_config(worker_nodes=urls, registry="0"), pins=PINS, named=NOBODY).accepted


@pytest.mark.parametrize("running", [THREE, None])
def test_a_worker_that_a_settled_route_names_cannot_be_removed(running):
    """Others can; the registry's host cannot in any case."""
    two = cluster_config()

    assert judge(running, two, pins=PINS, named=ids("01")).accepted
    assert judge(running, two, pins=PINS, named=ids("012")).refusals == (
        'worker-nodes: worker "2" holds settled slices and cannot be removed',
    )
    assert judge(
        running, cluster_config(worker_nodes=workers("1"), routing=routing(s0="1")), pins=PINS, named=NOBODY
    ).refusals == ('worker-nodes: worker "0" hosts the registry and cannot be removed',)


def test_while_the_registry_is_away_no_worker_can_be_removed():
    """Nobody knows what it holds. At start nothing is removed: a node must come up while the registry is away."""
    two = cluster_config()

    assert judge(THREE, two, pins=PINS, named=None).refusals == (
        'worker-nodes: worker "2" cannot be removed while the registry cannot say which workers hold settled slices',
    )
    assert judge(None, two, pins=PINS, named=None).accepted


def test_while_the_pins_are_not_known_the_running_values_count_as_pinned():
    """They may be; a wrong guess would be a wrong number."""
    other = cluster_config(length_of_time_slice=61, first_slice="system", registry="1")

    assert judge(cluster_config(), other, pins=None, named=NOBODY).refusals == (
        "length-of-time-slice: 61 cannot replace 60 while the cluster's pins are not known",
        'first-slice: "system" cannot replace 2017-05-20T00:00:00Z while the cluster\'s pins are not known',
        'registry: "1" cannot replace "0" while the cluster\'s pins are not known',
    )


def test_a_verdict_says_what_changes_slice_range_by_slice_range():
    """And everything else in the words of the file."""
    running = cluster_config(api_nodes={"a": "http://a:1/analytics", "b": "http://b:1/analytics"}, first_slice="system")
    proposed = cluster_config(
        api_nodes={"a": "http://a:2/analytics", "c": "http://c:1/analytics"},
        worker_nodes=workers("0", "1", "2"),
        length_of_time_slice=61,
        routing=routing(s0="0", s1="012", s3="0", s5="1"),
        max_past_seconds=60,
        cors_origins=["https://shop.example.org"],
    )

    assert judge(running, proposed, pins=PINS, named=NOBODY).changes == (
        'API node "a" moves from http://a:1/analytics to http://a:2/analytics',
        'API node "b" goes',
        'API node "c" comes, at http://c:1/analytics',
        'worker "2" comes, at http://localhost:9002/worker',
        "length-of-time-slice: 60 -> 61",
        'first-slice: "system" -> 2017-05-20T00:00:00Z',
        'slices 1 to 2, where not settled: ["0"] -> ["0", "1", "2"]',
        'slices 5 and later, where not settled: ["0"] -> ["1"]',
        "max-past-seconds: null -> 60",
        'cors-origins: [] -> ["https://shop.example.org"]',
    )


def test_a_plan_covers_all_slices_in_ranges():
    """Those below the first entry use it; a settled slice is a range of its own, joined with its like."""
    old = cluster_config(routing=routing(s0="0"))
    new = cluster_config(routing=routing(s0="0", s2="01", s9="0"))
    zero, both = (WorkerId("0"),), (WorkerId("0"), WorkerId("1"))
    settled = {SliceId(2): zero, SliceId(3): zero, SliceId(5): both, SliceId(-4): zero}

    assert route_plan(old, new, settled) == (
        line(None, -5, zero, zero),
        line(-4, -4, zero, zero, zero),
        line(-3, 1, zero, zero),
        line(2, 3, zero, both, zero),
        line(4, 4, zero, both),
        line(5, 5, zero, both, both),
        line(6, 8, zero, both),
        line(9, None, zero, zero),
    )
    assert route_plan(old, old, {}) == (line(None, None, zero, zero),)


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        (None, None, "all slices"),
        (None, 3, "slices up to 3"),
        (3, None, "slices 3 and later"),
        (3, 3, "slice 3"),
        (-3, 3, "slices -3 to 3"),
    ],
)
def test_a_range_is_told_in_words(first, last, words):
    """For people."""
    assert line(first, last, (), ()).slices == words


def test_settled_routes_are_compared_with_what_the_file_proposes_now():
    """Order counts."""
    config = cluster_config(routing=routing(s0="0", s1="01"))
    routes = {0: "0", 1: "10", 2: "01", -1: "1"}
    settled = [
        SettledRoute(slice=SliceId(at), route=tuple(map(WorkerId, names)), number=7) for at, names in routes.items()
    ]

    assert differing(config, settled) == [settled[1], settled[3]]
