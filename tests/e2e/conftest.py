"""What the tests with real processes share."""

from __future__ import annotations

import itertools

import pytest

from tests.support.cluster import FIRST, HOUR

# Every other one: a test may use the slice after its own as well.
_hours = itertools.count(1, 2)


@pytest.fixture
def hour() -> int:
    """The first second of a slice of an hour that no other test uses, nor the one after it.

    So tests may share a cluster, in any order.
    """
    return FIRST + HOUR * next(_hours)
