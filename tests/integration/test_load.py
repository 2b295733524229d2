"""The load generator against real nodes: one by one, in bulk, mixed with reads; and that its check can fail."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tallyslice.interrupts import Interrupts
from tallyslice.load.order import Order
from tallyslice.load.run import Result, load_and_check
from tallyslice.load.traffic import BULK, EVENT, READ
from tests.support.nodes import Clock, Nodes
from tests.support.patience import eventually


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    """Two API nodes and two workers that live now, with slices of a minute."""
    async with Nodes(
        tmp_path, apis=2, workers=2, now=Clock(time.time()), length_of_time_slice=60, first_slice="system"
    ) as nodes:
        yield nodes


async def load(nodes: Nodes, interrupts: Interrupts | None = None, **settings: Any) -> tuple[Result, str]:
    """Its result, and what it says at the end."""
    console = Console(file=StringIO(), width=200)
    wanted: dict[str, Any] = {
        "nodes": tuple(api.node.base for api in nodes.api.values()),
        "seed": 1,
        "connections": 8,
        "seconds": 0.5,
        "rate": 200.0,
        "cache_ttl_seconds": 0.0,
    }
    with console.capture() as capture:
        result = await load_and_check(
            Order(**wanted | settings), console=console, interrupts=interrupts or Interrupts()
        )
    return result, capture.get()


async def counting(nodes: Nodes) -> None:
    """Wait until the load has begun."""

    async def so() -> None:
        assert (await nodes.get("/allslices")).text

    await eventually(so)


async def test_single_events_and_reads_are_counted_exactly(nodes: Nodes) -> None:
    """Both nodes count what was acknowledged; each kind has its latencies, and they are told."""
    result, said = await load(nodes, reads=0.5)

    assert result.held
    assert [one.holds for one in result.verdicts] == [True, True]
    plain = result.plain()
    assert plain["events"] == {"acknowledged": 100, "unknown": 0, "undelivered": 0, "refused": {}}
    assert {kind: of["answered"] for kind, of in plain["requests"].items()} == {EVENT: 100, READ: 100}
    assert all(of["milliseconds"]["p50"] > 0 for of in plain["requests"].values())
    assert (plain["exact"], plain["never_sent"], plain["failed_reads"], plain["differences"]) == (True, 0, 0, [])
    assert "p99.9" in said
    assert "100 events acknowledged, 100 counted" in said
    assert said.rstrip().endswith(": exact")


async def test_bulk_requests_as_fast_as_it_goes_are_counted_exactly(nodes: Nodes) -> None:
    """Whole requests of the wanted size, half of the events of new users, with ids and without."""
    for ids in (True, False):
        result, said = await load(nodes, rate=None, bulk=50, new=0.5, ids=ids, seconds=0.2)
        plain = result.plain()

        assert result.held, said
        requests = plain["requests"][BULK]["answered"]
        assert plain["events"]["acknowledged"] == 50 * requests > 0
        assert plain["events_per_second"] == pytest.approx(50 * plain["requests"][BULK]["per_second"])


async def test_somebody_elses_event_fails_the_check(nodes: Nodes) -> None:
    """One event too many, in a slice that was fed."""
    running = asyncio.create_task(load(nodes, seconds=1.0))
    await counting(nodes)
    answer = await nodes.click("somebody-else", at=nodes.now.seconds)
    result, said = await running

    assert answer.status == 202
    assert not result.held
    assert {wrong["what"] for wrong in result.plain()["differences"]} <= {"users", "click"}
    assert "NOT exact" in said


async def test_the_first_interrupt_ends_it_early_and_still_checks(nodes: Nodes) -> None:
    interrupts = Interrupts()
    interrupts.note()
    result, said = await load(nodes, interrupts, seconds=1_000.0)

    assert result.generator.drawn < 200_000
    assert result.held == (result.generator.drawn > 0 or "0 events acknowledged" in said)
    assert "what was fed is checked" in said


async def test_a_node_that_restarts_meanwhile_is_passed_over(nodes: Nodes) -> None:
    """What it had not taken goes to the other one; every event is counted once."""
    running = asyncio.create_task(load(nodes, seconds=1.0))
    await counting(nodes)
    await nodes.api["1"].stop()
    await nodes.start_api("1")
    result, said = await running

    assert result.held, said
    assert result.generator.acknowledged == 200
