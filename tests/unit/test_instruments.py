"""Our own counters show what the client library's would, and promtool finds nothing to complain about."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as LibraryHistogram
from prometheus_client.parser import text_string_to_metric_families

from api_node.node_metrics import ApiMetrics
from common.metrics import Metrics
from tests.support.needs import program
from worker_node.node_metrics import WorkerMetrics

BUCKETS = (0.1, 0.5, 1, 1000)


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for metric in text_string_to_metric_families(text.decode())
        for one in metric.samples
        if not one.name.endswith("_created")
    }


@given(st.lists(st.sampled_from([0, 0.05, 0.1, 0.100001, 0.5, 1, 3, 1000, 1001])))
def test_a_histogram_shows_what_the_librarys_does(values: list[float]) -> None:
    """Bounds belong to the bucket below them; count and sum are there, before the first value too."""
    metrics, registry = Metrics(), CollectorRegistry()
    ours = metrics.histograms("tallyslice_x_seconds", "x", "of", buckets=BUCKETS).labels("a")
    theirs = LibraryHistogram("tallyslice_x_seconds", "x", ("of",), buckets=BUCKETS, registry=registry).labels("a")

    for value in values:
        ours.observe(value)
        theirs.observe(value)

    shown = {key: value for key, value in samples(metrics.exposition()).items() if key[0].startswith("tallyslice_x")}
    assert shown == samples(generate_latest(registry))


def test_counters_and_gauges() -> None:
    """They show what was counted and set, what a function says, or nothing at all where a follower knows nothing."""
    metrics = Metrics()
    counters = metrics.counters("tallyslice_things", "Things.", "kind")
    counters.labels("a").inc()
    counters.labels("a").inc(2.5)
    counters.labels("b").set_function(lambda: 7)
    counters.labels("c").inc()
    counters.remove("c")
    metrics.gauge("tallyslice_level", "Level.").set(4)
    metrics.gauges("tallyslice_of", "Of.", "who").follow(lambda: {("x",): 1, ("y",): 2})
    metrics.gauges("tallyslice_none", "None.").follow(dict)

    shown = samples(metrics.exposition())
    assert {
        key: value for key, value in shown.items() if key[0] in ("tallyslice_things_total", "tallyslice_level")
    } == {
        ("tallyslice_things_total", (("kind", "a"),)): 3.5,
        ("tallyslice_things_total", (("kind", "b"),)): 7,
        ("tallyslice_level", ()): 4,
    }
    assert [shown["tallyslice_of", (("who", who),)] for who in "xy"] == [1, 2]
    assert not [name for name, _ in shown if name == "tallyslice_none"]


def test_a_metric_is_made_once_and_asked_for_with_its_labels() -> None:
    """A mistake shows when the node is put together, not in a scrape."""
    metrics = Metrics()
    counters = metrics.counters("tallyslice_things", "Things.", "kind")

    with pytest.raises(ValueError, match="tallyslice_things has the labels"):
        counters.labels("a", "b")
    with pytest.raises(ValueError, match="Duplicated"):
        metrics.counters("tallyslice_things", "Things.", "kind")


def test_an_event_is_counted_by_outcome_and_reason() -> None:
    """Whose fault it is can be told without a list of problems."""
    metrics = ApiMetrics()
    for became in ("counted", "spooled", "malformed", "slice-closed", "not-taken", "outcome-unknown", "internal"):
        metrics.events_of(became).inc()

    found = {
        key[1]: value for key, value in samples(metrics.exposition()).items() if key[0] == "tallyslice_events_total"
    }
    assert found == {
        (("outcome", outcome), ("reason", reason)): 1
        for outcome, reason in (
            ("counted", ""), ("spooled", ""), ("rejected", "malformed"), ("rejected", "slice-closed"),
            ("refused", "not-taken"), ("refused", "internal"), ("unknown", "outcome-unknown"),
        )
    }  # fmt: skip


@pytest.mark.parametrize("process", [None, 1])
@pytest.mark.parametrize("make", [ApiMetrics, WorkerMetrics])
def test_promtool_finds_nothing_to_complain_about(make: Callable[[], Metrics], process: int | None) -> None:
    """Names, units, help texts and types follow Prometheus' rules, of one process as of several."""
    promtool = program("promtool", package="prometheus")
    metrics = make()
    metrics.process = process
    if isinstance(metrics, ApiMetrics):
        metrics.events_of("counted").inc()

    checked = subprocess.run(
        [promtool, "check", "metrics"], input=metrics.exposition(), capture_output=True, check=False, timeout=60
    )

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
