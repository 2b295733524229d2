"""Each planted bug is found: a simulation that lets one through would let ours through too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.simulation.history import run
from tests.simulation.parts import SHIPPED
from tests.simulation.runner import parts_of

HISTORIES_MAX = 3_000
PLANTED = sorted(path.stem for path in (Path(__file__).parent / "planted").glob("*.py"))


def test_bugs_are_planted() -> None:
    """The ten that the issue names, and three of the runs of keys."""
    assert len(PLANTED) == 13


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_bug_is_found(planted: str) -> None:
    """Within a few thousand histories, by what clients were told and what is held: nobody looks for the bug itself."""
    parts = parts_of(planted)

    found = next((outcome for seed in range(HISTORIES_MAX) if (outcome := run(seed, parts=parts)).broken), None)

    assert found is not None
    sys.stdout.write(f"{planted}: history {found.seed + 1}: {found.broken}\n")


def test_without_a_bug_the_same_histories_are_well() -> None:
    """What finds the bugs does not find them everywhere."""
    assert [outcome.broken for seed in range(500) if (outcome := run(seed, parts=SHIPPED)).broken] == []
