"""Medians, spreads and how numbers are written: what every table of the benchmark is made of. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

_THOUSAND, _MILLION = 1_000, 1_000_000
_HUNDRED, _TEN = 100, 10


@dataclass(frozen=True, slots=True)
class Spread:
    """What several rounds of one row have shown.

    Attributes:
        median: of all rounds.
        least: the smallest.
        most: the greatest.
        rounds: how many there were.
    """

    median: float
    least: float
    most: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """The spread of one or more values."""
        return cls(statistics.median(values), min(values), max(values), len(values))


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed.

    Args:
        values: one or more.
        share: 0 to 1, as 0.99.
    """
    ordered = sorted(values)
    # The small amount: 0.99 * 100 is a little more than 99 in binary.
    rank = -int(-(share * len(ordered) - 1e-9) // 1)
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def short(value: float) -> str:
    """Three digits that matter: 412,000; 8,120; 96.3; 4.12; 0.034."""
    if abs(value) >= _MILLION:
        return f"{round(value, -4):,.0f}"
    if abs(value) >= _HUNDRED * _THOUSAND:
        return f"{round(value, -3):,.0f}"
    if abs(value) >= _TEN * _THOUSAND:
        return f"{round(value, -2):,.0f}"
    if abs(value) >= _THOUSAND:
        return f"{round(value, -1):,.0f}"
    if abs(value) >= _HUNDRED:
        return f"{value:.0f}"
    return f"{value:.3g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> str:
    """A Markdown table whose columns line up, so that it can also be read where nobody renders it.

    Args:
        head: the titles.
        rows: as many cells each.
        right: the columns that are numbers.
    """
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    numbers = set(right)

    def line(row: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if column in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = (f"{'-' * (width - 1)}:" if column in numbers else "-" * width for column, width in enumerate(widths))
    return "\n".join([line(cells[0]), f"| {' | '.join(rule)} |", *(line(row) for row in cells[1:])]) + "\n"
