"""The plots that lie beside a report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from bench.goals import EVENTS
from bench.journal import Results

mpl.use("Agg")  # files only: no display is needed

SIZE_INCHES = (8, 5)
NAMES = {
    "tallyslice": "Tallyslice, 1 API + 1 worker",
    "redis-bulk-everysec": "aiohttp bulk + Redis, everysec",
    "redis-bulk-always": "aiohttp bulk + Redis, always",
    "redis-lua-everysec": "Redis + Lua per event",
    "redis-single-everysec": "aiohttp + Redis, everysec",
    "clickhouse": "chdb",
    "pipeline": "pure pipeline (floor)",
    "postgres": "aiohttp + PostgreSQL",
    "empty": "empty handler (floor)",
}
Points = list[tuple[float, float]]


def plot_all(results: Results, page: Path) -> Iterator[tuple[str, Path]]:
    """Draw what was measured; titles and files."""
    plots = [
        ("batch", "Throughput against events a request", _batch),
        ("latency", "Latency of single events against rate (open loop)", _latency),
        ("growth", "Throughput against users in the slice", _growth),
        ("file", "Slice file against users in the slice", _file),
        ("workers", "Cost against the number of workers on one machine", _workers),
    ]
    for name, title, draw in plots:
        figure, axes = plt.subplots(figsize=SIZE_INCHES, layout="constrained")
        if draw(axes, results):
            axes.set_title(title)
            axes.grid(visible=True, which="major", alpha=0.3)
            axes.legend(fontsize="small")
            file = page.with_name(f"{page.stem}-{name}.png")
            figure.savefig(file, dpi=110)
            yield title, file
        plt.close(figure)


def _batch(axes: Any, results: Results) -> bool:  # noqa: ANN401 - matplotlib is not here when types are checked
    def points(row: str) -> Points:
        cases = [("single", "1"), ("sizes", "10"), ("sizes", "100"), ("bulk", "1000"), ("bulk", "10000")]
        # What a Python shop would write for one event is another program than its bulk form.
        singles = {"redis-bulk-everysec": "redis-single-everysec", "redis-bulk-always": "redis-single-always"}
        found = [
            (float(case), results.of(group, singles.get(row, row) if group == "single" else row, case, EVENTS))
            for group, case in cases
        ]
        return [(size, spread.median) for size, spread in found if spread is not None]

    rows = ("tallyslice", "redis-bulk-everysec", "redis-bulk-always", "clickhouse", "pipeline")
    drawn = [_line(axes, points(row), NAMES[row]) for row in rows]
    lua = results.of("bulk", "redis-lua-everysec", "1", EVENTS)
    if lua is not None:
        axes.axhline(lua.median, color="grey", linestyle=":", label=NAMES["redis-lua-everysec"])
    _logarithmic(axes, "events a request", "events a second")
    return any(drawn)


def _latency(axes: Any, results: Results) -> bool:  # noqa: ANN401 - likewise
    drawn = False
    for row in results.rows("rates"):
        color = None
        for value, style in (("p50_ms", "-"), ("p99_ms", "--")):
            points = _points(results, "rates", row, value)
            label = f"{NAMES.get(row, row)}, {value.removesuffix('_ms')}"
            lines = axes.plot(*_columns(points), style, marker=".", color=color, label=label)
            color = lines[0].get_color()
            drawn = drawn or bool(points)
    _logarithmic(axes, "requests a second", "milliseconds since a request was due")
    axes.set_xscale("linear")
    return drawn


def _growth(axes: Any, results: Results) -> bool:  # noqa: ANN401 - likewise
    rows = ("5 % new", "50 % new", "100 % new", "filling")
    drawn = [_line(axes, _points(results, "growth", row, EVENTS), row) for row in rows]
    _logarithmic(axes, "users in the slice", "events a second")
    return any(drawn)


def _file(axes: Any, results: Results) -> bool:  # noqa: ANN401 - likewise
    sizes = _points(results, "growth", "size", "file_mb")
    live = _points(results, "growth", "size", "live_bytes_per_user")
    drawn = [
        _line(axes, sizes, "file"),
        _line(axes, [(users, each * users / 1e6) for users, each in live], "live pages"),
    ]
    _line(axes, [(users, users * 16 / 1e6) for users, _ in sizes], "16 bytes a user")
    _logarithmic(axes, "users in the slice", "MB")
    return any(drawn)


def _workers(axes: Any, results: Results) -> bool:  # noqa: ANN401 - likewise
    bulk = _points(results, "workers", "tallyslice", EVENTS)
    single = _points(results, "workers", "tallyslice", "single_per_second")
    asked = _points(results, "workers", "tallyslice", "question_p50_ms")
    drawn = [
        _line(axes, asked, "question, p50, ms"),
        _line(axes, [(number, 1e3 / rate) for number, rate in single], "single event, ms (1 / throughput)"),
        _line(axes, [(number, 1e6 / rate) for number, rate in bulk], "event in bulk, microseconds (likewise)"),
    ]
    _logarithmic(axes, "workers", "cost")
    axes.set_xscale("log", base=2)
    return any(drawn)


def _points(results: Results, group: str, row: str, value: str) -> Points:
    found = ((float(case), results.of(group, row, case, value)) for case in results.cases(group, row))
    return sorted((at, spread.median) for at, spread in found if spread is not None)


def _columns(points: Iterable[tuple[float, float]]) -> tuple[list[float], list[float]]:
    pairs = list(points)
    return [x for x, _ in pairs], [y for _, y in pairs]


def _line(axes: Any, points: Points, label: str) -> bool:  # noqa: ANN401 - likewise
    if points:
        axes.plot(*_columns(points), marker="o", markersize=4, label=label)
    return bool(points)


def _logarithmic(axes: Any, x: str, y: str) -> None:  # noqa: ANN401 - likewise
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
