"""Events a second, from counts that are looked at now and then."""

from __future__ import annotations

import pytest

from dashboard.rates import WINDOW_SECONDS, Growth, Rate


def test_one_look_tells_nothing() -> None:
    assert Rate().note(10.0, 500) is None


def test_growth_by_time_over_the_window() -> None:
    """A steady flow has its rate at each look; when it stops, the rate is gone a window later, and not before."""
    rate = Rate()
    steady = [rate.note(float(at), 100 * at) for at in range(20)]
    still = [rate.note(20.0 + at, 1900) for at in range(8)]

    assert steady[0] is None
    assert steady[1:] == [pytest.approx(100)] * 19
    assert still[0] == pytest.approx(80)
    assert still[int(WINDOW_SECONDS)] == 0


def test_nobody_looked_for_a_while() -> None:
    """What happened meanwhile is no rate of now."""
    rate = Rate()
    rate.note(0.0, 0)
    rate.note(1.0, 100)

    assert rate.note(60.0, 9000) is None
    assert rate.note(61.0, 9050) == pytest.approx(50)


def test_a_count_that_begins_anew() -> None:
    """A node was restarted: it has no negative rate."""
    rate = Rate()
    rate.note(0.0, 1000)
    rate.note(1.0, 1100)

    assert rate.note(2.0, 30) is None
    assert rate.note(3.0, 50) == pytest.approx(20)


def test_growth_counts_from_the_first_answer_on() -> None:
    """What a worker held before is no growth; a slice that begins grows from nothing, one that leaves takes nothing."""
    growth = Growth()
    growth.note({1: 1000, 2: 500})
    first = growth.total
    growth.note({1: 1002, 2: 510})
    second = growth.total
    growth.note({2: 511, 3: 7})

    assert (first, second, growth.total) == (0, 12, 20)


def test_a_loss_is_no_growth() -> None:
    """A worker that runs on an old copy has fewer; what it takes then counts."""
    growth = Growth()
    growth.note({1: 1000})
    growth.note({1: 400})
    growth.note({1: 410})

    assert growth.total == 10
