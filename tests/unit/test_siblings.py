"""What the processes of a node answer together: every metric and every route once, and all that any of them knows."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from api_node.node_metrics import ApiMetrics
from api_node.siblings import merge_metrics, merge_routes
from common.errors import Contradicts
from common.routing import Route, WorkerId
from common.slices import SliceId
from common.wire import KnownRoutes, Pins, SettledRoute

PINS = Pins(cluster="c", first=0, length_seconds=60, secret_id="s", registry=WorkerId("0"), workers={})
ROUTE: Route = (WorkerId("0"), WorkerId("1"))


def metrics_of(process: int | None, **events: int) -> bytes:
    metrics = ApiMetrics()
    metrics.process = process
    for outcome, count in events.items():
        metrics.events_of(outcome).inc(count)
    metrics.request_seconds.labels("POST", "/analytics").observe(0.002)
    return metrics.exposition()


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by its name and labels; fails where one is there twice, or a metric is."""
    metrics = list(text_string_to_metric_families(text.decode()))
    assert len({metric.name for metric in metrics}) == len(metrics)
    found = {}
    for sample in (sample for metric in metrics for sample in metric.samples):
        key = sample.name, frozenset(sample.labels.items())
        assert key not in found
        found[key] = sample.value
    return found


def known(*slices: int, route: Route = ROUTE, more: bool = False, unreadable: tuple[int, ...] = ()) -> KnownRoutes:
    return KnownRoutes(
        cluster="c",
        claims=len(slices),
        pins=PINS,
        routes=tuple(SettledRoute(slice=SliceId(at), route=route, number=0) for at in slices),
        more=more,
        unreadable=tuple(map(SliceId, unreadable)),
    )


def told(page: KnownRoutes) -> list[int]:
    return [one.slice for one in page.routes]


def test_a_process_labels_every_sample_of_its_own() -> None:
    """The same samples as without a label, otherwise."""
    plain, labelled = samples(metrics_of(None, counted=3)), samples(metrics_of(7, counted=3))

    expected = {(name, labels | {("process", "7")}): value for (name, labels), value in plain.items()}
    assert labelled.keys() == expected.keys()
    # What is read from the system is another moment's.
    moments = {key for key in expected if key[0].startswith(("process_", "python_", "tallyslice_time_"))}
    assert {key: labelled[key] for key in expected.keys() - moments} == {
        key: expected[key] for key in expected.keys() - moments
    }


def test_merged_metrics_are_all_samples_under_one_heading_each() -> None:
    """One process may have samples that another has not, and one may have told nothing but a single metric."""
    texts = [
        metrics_of(0, counted=3),
        metrics_of(1, counted=5, spooled=1),
        b'# HELP tallyslice_ready\n# TYPE tallyslice_ready gauge\ntallyslice_ready{process="2"} 0.0\n',
    ]
    merged = merge_metrics(texts)

    assert samples(merged) == {key: value for text in texts for key, value in samples(text).items()}
    assert merged.count(b"# HELP tallyslice_ready 1 while") == 1


def test_merged_routes_are_those_of_all() -> None:
    """Ascending, each once, with the highest claim number; what one can read is not unreadable."""
    page = merge_routes([known(1, 5, unreadable=(9,)), known(2, 5, 6, unreadable=(1, 3))])

    assert told(page) == [1, 2, 5, 6]
    assert (page.cluster, page.claims, page.pins, page.more) == ("c", 3, PINS, False)
    assert page.unreadable == (3, 9)


def test_a_process_that_has_not_joined_has_nothing_to_say() -> None:
    stranger = KnownRoutes(cluster=None, claims=0, pins=None)

    assert merge_routes([stranger, known(4)]) == known(4)
    assert merge_routes([stranger, stranger]) == stranger


@given(st.lists(st.sets(st.integers(0, 30)), min_size=1, max_size=4), st.integers(1, 5))
def test_pages_together_leave_nothing_out(processes: list[set[int]], size: int) -> None:
    """Whoever asks page by page gets each slice that any process knows, once, in order."""
    found: list[int] = []
    more = True
    while more:
        after = found[-1] if found else -1
        left = [sorted(at for at in slices if at > after) for slices in processes]
        page = merge_routes([known(*slices[:size], more=len(slices) > size) for slices in left])
        found += told(page)
        more = page.more

    assert found == sorted(set().union(*processes))


@pytest.mark.parametrize(
    "other",
    [
        known(5, route=(WorkerId("1"),)),
        KnownRoutes(cluster="d", claims=0, pins=None),
        KnownRoutes(cluster="c", claims=0, pins=msgspec.structs.replace(PINS, first=1)),
    ],
    ids=["route", "cluster", "pins"],
)
def test_processes_that_contradict_each_other_are_not_believed(other: KnownRoutes) -> None:
    with pytest.raises(Contradicts):
        merge_routes([known(5), other])
