"""Histories over real LMDB files, few slices and many."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from api_node.spool import Spool
from tests.simulation.history import run
from tests.simulation.plans import Scale
from tests.simulation.real_files import REAL_FAULTS, RealRegistry, RealShelf, RealSpool, RealTotals, real_parts
from tests.simulation.runner import ACKNOWLEDGED_FLOOR
from worker_node.registry import Registry
from worker_node.shelf import Shelf
from worker_node.totals import Totals

# 60 slices, and 2 of their files open: almost every batch evicts another's.
MANY_SLICES = Scale(slices=60, open_files=(2,), steps=(80, 160), faults=REAL_FAULTS)


@pytest.mark.parametrize(
    ("scale", "histories"),
    [(Scale(faults=REAL_FAULTS), 200), (MANY_SLICES, 60)],
    ids=["few-slices", "60-slices-2-open-files"],
)
@pytest.mark.timeout(600)
def test_a_cluster_keeps_its_promise_on_real_files(tmp_path: Path, scale: Scale, histories: int) -> None:
    """The same histories, decided and stored by the shipped code down to the pages of LMDB."""
    acknowledged = 0
    for seed in range(histories):
        with real_parts(tmp_path) as parts:
            outcome = run(seed, parts=parts, scale=scale)
        acknowledged += outcome.acknowledged

        assert outcome.broken is None, f"seed {seed}: {outcome.broken}"
    sys.stdout.write(f"{histories} histories, {acknowledged} events acknowledged\n")
    assert acknowledged >= ACKNOWLEDGED_FLOOR * histories


@pytest.mark.parametrize(
    ("part", "shipped"),
    [(RealTotals, Totals), (RealRegistry, Registry), (RealSpool, Spool), (RealShelf, Shelf)],
)
def test_the_stores_on_real_files_are_the_shipped_ones(part: type, shipped: type) -> None:
    """They differ in where they find their folder, and in nothing else."""
    assert issubclass(part, shipped)
    assert {name for name in vars(part) if name in vars(shipped) and not name.startswith("__")} == set()
