"""Nodes are killed at any moment, under load: nothing acknowledged is lost, nothing is counted twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.kills import kill_round
from tests.torture.rounds import EXIT_BROKEN, EXIT_KEPT, report
from tests.torture.wrong import WRONG

pytestmark = [pytest.mark.e2e]


@pytest.mark.timeout(300)
async def test_kill_nine(tmp_path: Path) -> None:
    """20 kills of any node, registry's worker and API nodes too, at random moments and named points."""
    found = await kill_round(tmp_path, seed=1, kills=20, acknowledged=10_000)
    text, code = report([found])

    assert code == EXIT_KEPT, text
    assert sum(found.faults.values()) >= 20, text
    assert found.acknowledged >= 10_000, text


@pytest.mark.e2e_full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("wrong", sorted(WRONG))
async def test_a_planted_bug_is_noticed(tmp_path: Path, wrong: str) -> None:
    """A worker that forgets its numbers, or acknowledges too early, does not get through."""
    found = await kill_round(tmp_path, seed=1, kills=12, acknowledged=4_000, wrong=wrong)

    assert report([found])[1] == EXIT_BROKEN
