"""A bad network between the nodes: what was acknowledged is counted once, and the nodes get well by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.network import IN_CI, network_round
from tests.torture.rounds import EXIT_KEPT, report

pytestmark = [pytest.mark.e2e]


@pytest.mark.timeout(300)
async def test_every_fault_once(tmp_path: Path) -> None:
    """Cut, half-open, one way, slow, cut within a message, doubled, stopped, and the registry's worker away."""
    found = await network_round(tmp_path, seed=1, faults=IN_CI)
    text, code = report([found])

    assert code == EXIT_KEPT, text
    assert found.faults == dict.fromkeys((fault.name for fault in IN_CI), 1), text
