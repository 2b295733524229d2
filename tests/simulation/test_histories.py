"""Histories of a whole cluster, and what they are made of: the shipped code."""

from __future__ import annotations

import sys

import pytest

from api_node.drain import Drain
from api_node.sender import Sender
from api_node.settled_routes import SettledRoutes
from api_node.spool import Spool
from api_node.summary_cache import SummaryCache
from common.judge import judge
from common.routing import owner_position
from common.wire import decode_envelope
from tests.simulation import machine, node, world
from tests.simulation.history import run
from tests.simulation.parts import SHIPPED
from tests.simulation.runner import ACKNOWLEDGED_FLOOR, Report, run_many
from worker_node.receiver import address
from worker_node.recent_keys import RecentKeys
from worker_node.registry import Registry
from worker_node.shelf import Shelf
from worker_node.slice_store import SliceStore
from worker_node.totals import Totals
from worker_node.writer import Writer

# Found by longer runs, each with what was wrong; other draws may have made another history of it since.
FOUND = {
    5003849: "a node let go of a worker that a route names which it had learned from it, not from the old registry",
    5449884: "a damaged record whose route nobody could tell went out without one",
    5459921: "a damaged record whose route nobody could tell held up, or spoiled, the other slices of its stream",
}
HISTORIES = 10_000  # half a minute on two idle cores; a million by hand, see __main__.py


@pytest.mark.timeout(600)
def test_a_cluster_keeps_its_promise_through_ten_thousand_histories() -> None:
    """Whatever is lost, repeated, killed, set back or closed: acknowledged events are counted once, or it is said."""
    report = run_many(HISTORIES, seed=0, jobs=2)
    sys.stdout.write(report.text())

    assert not report.broken, report.text()
    assert report.void() is None


@pytest.mark.parametrize("seed", FOUND)
def test_what_was_found_is_mended(seed: int) -> None:
    """Histories that were broken once are well."""
    assert run(seed).broken is None


def test_an_idle_run_proves_nothing() -> None:
    """Histories that acknowledge too little do not pass, however well they end."""
    idle = Report(histories=10, acknowledged=int(10 * ACKNOWLEDGED_FLOOR) - 1)

    assert "less than" in (idle.void() or "")


def test_a_seed_is_a_history() -> None:
    """The same seed is the same history, step by step: a failure can be looked at again."""
    for seed in range(40):
        first: list[str] = []
        second: list[str] = []

        assert run(seed, trace=first) == run(seed, trace=second)
        assert first == second


@pytest.mark.parametrize(
    ("part", "shipped"),
    [
        (SHIPPED.sender, Sender),
        (SHIPPED.drain, Drain),
        (SHIPPED.routes, SettledRoutes),
        (SHIPPED.cache, SummaryCache),
        (SHIPPED.store, SliceStore),
        (type(SHIPPED.recent()), RecentKeys),
        (vars(world)["judge"], judge),
        (vars(node)["owner_position"], owner_position),
        (vars(machine)["address"], address),
        (vars(machine)["decode_envelope"], decode_envelope),
    ],
)
def test_the_parts_are_the_shipped_ones(part: object, shipped: object) -> None:
    """Not copies, not models."""
    assert part is shipped


@pytest.mark.parametrize(
    ("part", "shipped", "swapped"),
    [
        (SHIPPED.spool, Spool, set()),
        (SHIPPED.totals, Totals, set()),
        (SHIPPED.registry, Registry, set()),
        (SHIPPED.shelf, Shelf, {"start", "create", "remove", "_load"}),
        # And a damaged file, which no fault there makes, is a defect at once.
        (SHIPPED.writer, Writer, {"_call_back", "_set_aside"}),
    ],
)
def test_of_the_stores_only_the_file_is_swapped(part: type, shipped: type, swapped: set[str]) -> None:
    """Only what opens a file, or needs a thread, is another; every decision is the shipped store's."""
    overridden = {name for name in vars(part) if name in vars(shipped) and not name.startswith("__")}

    assert issubclass(part, shipped)
    assert overridden == swapped
