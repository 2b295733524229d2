"""Which events are taken, by their time, and why others are not."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from api_node.places import Places
from common.errors import OutsideWindow, RequestError, SliceClosed
from common.slices import SECOND, Micros, SliceClock
from tests.support.configs import cluster_config

NOW = 1_800_000_000 * SECOND
HOUR = 3600 * SECOND
CLOCK = SliceClock(first=Micros(NOW - 10 * HOUR), length_seconds=3600)


def new_places(ticks: Iterator[int], **settings: object) -> Places:
    config = cluster_config(**settings)
    nothing: Any = None
    membership: Any = SimpleNamespace(clock=CLOCK)
    return Places(
        config=lambda: config,
        membership=membership,
        routes=nothing,
        anonymiser=nothing,
        now=lambda: Micros(next(ticks)),
    )


@pytest.mark.parametrize(
    ("settings", "at", "error", "why"),
    [
        ({}, 86400 * SECOND, None, ""),
        ({}, 86400 * SECOND + 1, OutsideWindow, "in the future"),
        ({"max_past_seconds": 60}, -60 * SECOND, None, ""),
        ({"max_past_seconds": 60}, -60 * SECOND - 1, OutsideWindow, "in the past"),
        ({"close_after_seconds": 60}, -60 * SECOND, None, ""),
        ({"close_after_seconds": 3600}, -HOUR, None, ""),
        ({"close_after_seconds": 0}, -1, SliceClosed, "is closed"),
        ({"close_after_seconds": 0, "max_past_seconds": 60}, -61 * SECOND, OutsideWindow, "in the past"),
        ({"close_after_seconds": 0, "max_future_seconds": 60}, 61 * SECOND, OutsideWindow, "in the future"),
    ],
)
def test_the_window(settings: dict[str, object], at: int, error: type[RequestError] | None, why: str) -> None:
    """Its edges belong to it. Whoever is told why not is told the bound that it is beyond."""
    # close-after 0: the slice before NOW, which begins one, is closed
    places = new_places(iter([NOW]), **settings)

    if error is None:
        assert places.slice_at(Micros(NOW + at)) == CLOCK.slice_at(Micros(NOW + at))
    else:
        with pytest.raises(error, match=why):
            places.slice_at(Micros(NOW + at))


@pytest.mark.parametrize("settings", [{}, {"close_after_seconds": 60}, {"max_past_seconds": 60}])
def test_a_clock_that_goes_on_does_not_change_the_reason(settings: dict[str, object]) -> None:
    """An event may be within the window a microsecond after it was found to be beyond."""
    places = new_places(count(NOW), **settings)

    with pytest.raises(OutsideWindow, match="in the future"):
        places.slice_at(Micros(NOW + 86400 * SECOND + 1))


def test_the_span_is_the_window() -> None:
    """What a loop over many events compares with."""
    places = new_places(iter([NOW]), max_past_seconds=7200, close_after_seconds=1, max_future_seconds=5)

    assert places.open_span() == (NOW - HOUR, NOW + 5 * SECOND)
