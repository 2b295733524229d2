"""A worker that was killed answers at once: nothing of what it had is verified first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.start import measure

pytestmark = [pytest.mark.e2e]

USERS = 100_000
SECONDS_MAX = 10.0  # of a busy machine, at this size; by hand it is 2 s at a hundred times as many


async def test_a_killed_worker_answers_at_once(tmp_path: Path) -> None:
    """With every user it had, and the one that came last before the kill."""
    found = await measure(tmp_path, users=USERS, starts=2)

    assert found.text == f"unique_users,{USERS + 2}\nclicks,{USERS + 2}\nimpressions,0\n"
    assert max(found.seconds) < SECONDS_MAX
    assert "verification_begins" not in found.log
