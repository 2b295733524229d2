"""What the tests with real processes share."""

from __future__ import annotations

import itertools

import pytest

from tests.support.cluster import FIRST, HOUR

_hours = itertools.count(1)


@pytest.fixture
def hour() -> int:
    """The first second of a slice of an hour that no other test uses: tests may share a cluster, in any order."""
    return FIRST + HOUR * next(_hours)
