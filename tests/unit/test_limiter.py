"""Who has called how often, as in common/limiter.py and common/rates.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.limiter import CALLERS_MAX, Limiter, Spent
from common.rates import RATE_MAX, SPAN_SECONDS_MAX, Rate, RateRefused, parse_rate


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("1000/second", Rate(1000, 1)),
        ("1 per second", Rate(1, 1)),
        ("100/minute", Rate(100, 60)),
        ("100 / 2 hours", Rate(100, 7200)),
        ("5/10 seconds", Rate(5, 10)),
        ("9/day", Rate(9, 86_400)),
        (f"{RATE_MAX}/{SPAN_SECONDS_MAX} seconds", Rate(RATE_MAX, SPAN_SECONDS_MAX)),
    ],
)
def test_a_rate_is_read(text: str, rate: Rate) -> None:
    """As people write it for other servers."""
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text",
    ["", "0/second", "1/0 seconds", "-1/second", "1.5/second", "1/second; 2/minute", "2/days/x", "2/2 days", "1000",
     f"{RATE_MAX + 1}/second", "\u0661/second", "1/second\n", 5, None, ["1/second"]],
)  # fmt: skip
def test_what_is_no_rate_is_refused(text: object) -> None:
    """Nor one over the bounds."""
    with pytest.raises(RateRefused):
        parse_rate(text)


def test_a_caller_may_again_when_his_span_is_over() -> None:
    """It began with his first request."""
    clock = Clock()
    limiter, rate = Limiter(now=clock), Rate(2, 10)
    clock.seconds = 3.5
    assert limiter.spend("a", rate) is None
    clock.seconds = 9
    assert limiter.spend("a", rate) is None

    assert limiter.spend("a", rate) == Spent(rate, 5)
    clock.seconds = 13.4
    assert limiter.spend("a", rate) == Spent(rate, 1)
    clock.seconds = 13.5
    assert limiter.spend("a", rate) is None


def test_callers_are_counted_apart() -> None:
    """And so is one under another rate."""
    limiter = Limiter(now=Clock())

    assert [limiter.spend(name, Rate(1, 10)) is None for name in ("a", "b", "a")] == [True, True, False]
    assert limiter.spend("a", Rate(2, 10)) is None


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from("abc")), max_size=60), st.integers(1, 5), st.integers(1, 4))
def test_no_more_than_the_rate_comes_in(steps: list[tuple[float, str]], requests: int, seconds: int) -> None:
    """In each span that begins with a caller's request: the same as a plain list of times says."""
    clock = Clock()
    limiter, rate = Limiter(now=clock), Rate(requests, seconds)
    spans: dict[str, tuple[float, int]] = {}

    for pause, caller in steps:
        clock.seconds += pause
        end, count = spans.get(caller, (0.0, 0))
        if clock.seconds >= end:
            end, count = clock.seconds + seconds, 0
        spans[caller] = end, count + 1
        spent = limiter.spend(caller, rate)
        assert (spent is None) == (count < requests)
        if spent is not None:
            assert 1 <= spent.seconds <= seconds


def test_so_many_callers_are_known_and_no_more() -> None:
    """Whoever comes with a million addresses only makes his own first ones forgotten, and takes no more memory."""
    clock = Clock()
    limiter, rate = Limiter(now=clock), Rate(1, 60)
    limiter.spend("first", rate)

    for number in range(CALLERS_MAX + 5):
        limiter.spend(f"address-{number}", rate)
        assert len(limiter) <= CALLERS_MAX

    assert len(limiter) == CALLERS_MAX
    assert limiter.spend(f"address-{CALLERS_MAX}", rate) is not None
    assert limiter.spend("first", rate) is None


def test_callers_are_forgotten_when_their_span_is_over() -> None:
    """At the next caller's first request: addresses do not stay in memory."""
    clock = Clock()
    limiter, rate = Limiter(now=clock), Rate(1, 1)
    for number in range(1000):
        limiter.spend(f"address-{number}", rate)
    clock.seconds = 1

    limiter.spend("another", rate)

    assert len(limiter) == 1
