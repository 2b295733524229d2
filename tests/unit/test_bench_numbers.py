"""Medians, spreads, percentiles and tables of the benchmark."""

import pytest

from bench.numbers import Spread, percentile, short, table


def test_a_spread_has_the_median_and_both_ends():
    """The median of an even number of rounds lies between the two in the middle."""
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert Spread.of([4.0, 1.0, 2.0, 3.0]) == Spread(2.5, 1.0, 4.0, 4)


@pytest.mark.parametrize(("share", "found"), [(0.5, 50), (0.99, 99), (0.999, 100), (1.0, 100), (0.0, 1)])
def test_a_percentile_is_a_value_that_was_seen(share, found):
    """Of 1 to 100, the p99 is 99: the smallest value that 99 of 100 do not exceed."""
    assert percentile(range(100, 0, -1), share) == found


@pytest.mark.parametrize(
    ("value", "text"),
    [(1_234_567, "1,230,000"), (412_345, "412,000"), (81_234, "81,200"), (8_123, "8,120"), (812.3, "812"),
     (96.31, "96.3"), (4.123, "4.12"), (0.0341, "0.0341"), (1.0, "1"), (0, "0")],
)  # fmt: skip
def test_a_number_is_written_with_three_digits(value, text):
    """More would claim what no benchmark knows."""
    assert short(value) == text


def test_a_table_lines_up():
    """It is read as often in a terminal as on a page."""
    assert table(["row", "events/s"], [["a", "1,000"], ["longer", "5"]], right=[1]) == (
        "| row    | events/s |\n"
        "| ------ | -------: |\n"
        "| a      |    1,000 |\n"
        "| longer |        5 |\n"
    )  # fmt: skip
