"""What a load looks like: a live table for a terminal, one line for a file. Pure: from a view to something to print."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from common.routing import Route
from common.slices import SliceClock, SliceId, format_instant
from common.summaries import CLICK, IMPRESSION, Summary
from tallyslice.load.latency import Latency
from tallyslice.load.reconcile import Difference

LINE_SLICES = 3  # in one line of a log: the newest tell what goes on
DIFFERENCES_MAX = 40  # shown; more would scroll the verdict away
_BAR_WIDTH = 40
_WHOLE_SECONDS = len("2017-05-21T17:00:00")


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRow:
    """One slice as it is shown.

    Attributes:
        summary: what the cluster counts.
        start: its first instant, RFC 3339.
        route: its workers; empty if the node did not tell.
        rate: events counted in it a second, lately.
        current: whether it is the slice of now.
    """

    summary: Summary
    start: str
    route: Route
    rate: float
    current: bool

    @property
    def name(self) -> str:
        """Its number, and whether something is missing in it."""
        return str(self.summary.slice) if self.summary.complete else f"{self.summary.slice} (incomplete)"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One look at a load.

    Attributes:
        phase: what is being done, in a word.
        rows: the slices, oldest first.
        elapsed_seconds: since the first event.
        seconds: how long it goes on in all.
        drawn: events sent, or about to be.
        acknowledged: events answered with success.
        retried: tries beyond the first of an event.
        refused: events refused for good.
        waiting: events without an answer yet.
        behind: requests that should have been sent already.
        rate: events acknowledged a second, lately.
        latencies: by kind of request, so far.
        problem: why the numbers are not fresh, if they are not.
    """

    phase: str
    rows: Sequence[SliceRow]
    elapsed_seconds: float
    seconds: float
    drawn: int
    acknowledged: int
    retried: int
    refused: int
    waiting: int
    behind: int
    rate: float
    latencies: Mapping[str, Latency] = field(default_factory=dict)
    problem: str | None = None

    @property
    def counters(self) -> str:
        """The counters that matter, those of trouble only when there is some."""
        return ", ".join(
            [
                f"{self.acknowledged:,} acknowledged",
                f"{self.rate:,.0f} a second",
                f"{self.waiting:,} under way",
                f"{self.retried:,} sent again",
                *([f"{self.refused:,} refused"] if self.refused else []),
                *([f"{self.behind:,} requests behind schedule"] if self.behind else []),
                *(f"p99 {latency.at(99):,.1f} ms" for latency in [*self.latencies.values()][:1] if latency.count),
            ]
        )


def rows(
    *,
    summaries: Mapping[SliceId, Summary],
    routes: Mapping[SliceId, Route],
    clock: SliceClock,
    current: SliceId,
    earlier: Mapping[SliceId, Summary],
    seconds: float,
) -> list[SliceRow]:
    """The rows of what an API node answered, given its answer of some seconds earlier."""
    return [
        SliceRow(
            summary=summary,
            start=format_instant(clock.start(slice_id)),
            route=routes.get(slice_id, ()),
            rate=max(0, _events(summary) - _events(earlier.get(slice_id))) / seconds if seconds > 0 else 0,
            current=slice_id == current,
        )
        for slice_id, summary in sorted(summaries.items())
    ]


def live_table(view: View, *, height: int) -> RenderableType:
    """The table for a terminal of that many lines: the newest slices that fit, a bar, the counters."""
    room = max(height - 10, 1)
    shown = view.rows[-room:]
    older = len(view.rows) - len(shown)
    table = Table(
        "Slice", "Start (UTC)", "Users", "Clicks", "Impressions", "Workers", "New/s",
        caption="; ".join(_notes(view, older)) or None,
        caption_justify="left",
    )  # fmt: skip
    for column in ("Slice", "Users", "Clicks", "Impressions", "New/s"):
        next(one for one in table.columns if one.header == column).justify = "right"
    for row in shown:
        counts = row.summary.counts
        table.add_row(
            row.name,
            row.start[:_WHOLE_SECONDS].replace("T", " "),
            f"{row.summary.users:,}",
            f"{counts.get(CLICK, 0):,}",
            f"{counts.get(IMPRESSION, 0):,}",
            " ".join(row.route),
            f"{row.rate:,.0f}" if row.rate else "",
            style="bold" if row.current else None,
        )
    parts: list[RenderableType] = [table, _bar(view), Text(view.counters, no_wrap=True, overflow="ellipsis")]
    if view.problem:
        parts.append(Text(view.problem, style="yellow", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def _notes(view: View, older: int) -> Iterator[str]:
    if older:
        yield f"{older:,} older slices are not shown"
    if view.rows and view.rows[0].summary.slice < 0:
        yield "events that come late enough fall before slice 0"


def line(view: View) -> str:
    """The same in one line of plain text, with the newest slices."""
    newest = "; ".join(
        f"slice {row.name}: {row.summary.users:,} users, {row.summary.counts.get(CLICK, 0):,} clicks,"
        f" {row.summary.counts.get(IMPRESSION, 0):,} impressions, workers {' '.join(row.route) or '?'}"
        for row in view.rows[-LINE_SLICES:]
    )
    parts = [f"{_clock_text(view)}: {view.counters}", newest, view.problem or ""]
    return " | ".join(part for part in parts if part)


def differences_table(found: Iterable[tuple[str, Difference]]) -> RenderableType:
    """Wrong numbers, each with the API node that gives it."""
    every = list(found)
    more = len(every) - DIFFERENCES_MAX
    table = Table(
        "API node", "Slice", "Number", "Acknowledged", "Counted", caption=f"and {more} more" if more > 0 else None
    )
    for node, wrong in every[:DIFFERENCES_MAX]:
        table.add_row(node, str(wrong.slice), wrong.what, wrong.expected, f"{wrong.counted:,}")
    return table


def latencies_table(latencies: Mapping[str, Latency], seconds: float) -> RenderableType:
    """How many requests of each kind were answered with success, how fast, and how soon."""
    table = Table("Requests", "Answered", "A second", title="Latency since due, in milliseconds", title_justify="left")
    heads = list(Latency().milliseconds())
    for head in heads:
        table.add_column(head)
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for kind, latency in latencies.items():
        shown = [f"{value:,.2f}" for value in latency.milliseconds().values()] if latency.count else [""] * len(heads)
        table.add_row(kind, f"{latency.count:,}", f"{latency.count / seconds if seconds else 0:,.1f}", *shown)
    return table


def _bar(view: View) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    grid.add_row(
        ProgressBar(total=view.seconds, completed=view.elapsed_seconds, width=_BAR_WIDTH), Text(_clock_text(view))
    )
    return grid


def _clock_text(view: View) -> str:
    return f"{view.phase}, {min(view.elapsed_seconds, view.seconds):.0f} of {view.seconds:g} s"


def _events(summary: Summary | None) -> int:
    return 0 if summary is None else sum(summary.counts.values())
