"""What a look at a cluster looks like: a screen for a terminal of any size, or a line for a file. Pure."""

from __future__ import annotations

from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from common.slices import SECOND, SliceId, format_instant
from common.summaries import CLICK, IMPRESSION
from tallyslice.query import SliceAnswer
from tallyslice.screen import new_table
from tallyslice.watch.look import Seen

WIDTH, HEIGHT = 80, 24  # what every terminal has
PROBLEMS_MAX = 3
OTHERS_MAX = 1  # types beside clicks and impressions that fit beside them
_SPARKS = "▁▂▃▄▅▆▇█"
_FIXED_LINES = 13  # all but the rows of slices and workers
_STYLES = {"ok": "green", "away": "bold red", "refused": "bold red"}


def screen(seen: Seen, *, width: int = WIDTH, height: int = HEIGHT) -> RenderableType:
    """The whole screen."""
    problems = [Text(f"! {text}", style="yellow", no_wrap=True, overflow="ellipsis") for text in _problems(seen)]
    if seen.clock is None:
        return Group(_head(seen), Text(), *problems, Text("Waiting for an answer ...", style="dim"))
    room = max(height - _FIXED_LINES - len(problems), 2)
    workers = min(len(seen.workers), max(room // 2, 1))
    return Group(
        _head(seen),
        Text(),
        _figures(seen),
        _sparkline(seen, width),
        Text(),
        _slices(seen, rows=room - workers, width=width),
        Text(),
        _workers(seen, rows=workers),
        *problems,
    )


def line(seen: Seen) -> str:
    """The same in one line of plain text."""
    if seen.clock is None:
        return "no answer yet: " + "; ".join(seen.problems)
    now = seen.slices.get(seen.current, SliceAnswer(slice=seen.current))
    parts = [
        f"{format_instant(seen.at)[:19]}Z slice {seen.current}: {now.unique_users or 0:,} users",
        *(f"{count:,} {name}s" for name, count in _counts(now).items()),
        f"{seen.rate:,.0f} events a second",
    ]
    return " | ".join([", ".join(parts), *_problems(seen)])


def _problems(seen: Seen) -> list[str]:
    stale = [f"stale for {seen.stale_seconds:,.0f} s"] if seen.stale_seconds and seen.clock is not None else []
    away = [
        f"worker {state.id} is {state.state}: {state.detail or 'no answer yet'}"
        for state in seen.states.values()
        if state.state in ("away", "refused")
    ]
    found = [*stale, *seen.problems, *away]
    return found if len(found) <= PROBLEMS_MAX else [*found[: PROBLEMS_MAX - 1], "and more: see `tallyslice status`"]


def _counts(answer: SliceAnswer) -> dict[str, int]:
    """Clicks and impressions first, then other types that occurred, by name."""
    others = sorted(answer.events.keys() - {CLICK, IMPRESSION})
    return {name: answer.events.get(name, 0) for name in (CLICK, IMPRESSION, *others)}


def _head(seen: Seen) -> Text:
    head = Text("Tallyslice", style="bold", no_wrap=True, overflow="ellipsis")
    if seen.clock is not None:
        start, end = (_time(at) for at in (seen.clock.start(seen.current), seen.clock.end(seen.current)))
        left = max(seen.clock.end(seen.current) - seen.at, 0) // SECOND
        minutes, seconds = divmod(left, 60)
        span = f"  slice {seen.current}, {start} to {end} UTC, ends in {minutes}:{seconds:02}"
        head.append(span, style="not bold")
    head.append(f"  from {seen.node}", style="dim")
    if seen.stale_seconds:
        head.append("  STALE", style="bold red")
    return head


def _figures(seen: Seen) -> Table:
    now = seen.slices.get(seen.current, SliceAnswer(slice=seen.current))
    others = sorted(now.events.keys() - {CLICK, IMPRESSION})[:OTHERS_MAX]
    table = Table.grid(padding=(0, 4, 0, 0))
    names = ("users", "clicks", "impressions", *others, "events a second")
    values = (
        now.unique_users or 0,
        *(now.events.get(name, 0) for name in (CLICK, IMPRESSION, *others)),
        round(seen.rate),
    )
    table.add_row(*(Text(f"{value:,}", style="bold cyan") for value in values))
    table.add_row(*(Text(name, style="dim") for name in names))
    return table


def _sparkline(seen: Seen, width: int) -> Text:
    rates = seen.rates[-(width - 1) :]
    most = max(rates, default=0)
    steps = len(_SPARKS) - 1
    text = "".join(_SPARKS[round(rate / most * steps) if most else 0] for rate in rates)
    return Text(text or _SPARKS[0], style="cyan", no_wrap=True, overflow="crop")


def _slices(seen: Seen, *, rows: int, width: int) -> Table:
    shown = [SliceId(at) for at in range(seen.current - rows + 1, seen.current + 1)]
    answers = [seen.slices.get(at, SliceAnswer(slice=at)) for at in shown]
    most = max((_events(answer) for answer in answers), default=0) or 1
    numbers = ("Users", "Clicks", "Impressions")
    table = new_table("Slice", "From", *numbers, "Events", numbers=("Slice", *numbers))
    for answer in answers:
        table.add_row(
            str(answer.slice),
            "" if seen.clock is None else _time(seen.clock.start(answer.slice)),
            f"{answer.unique_users or 0:,}",
            f"{answer.events.get(CLICK, 0):,}",
            f"{answer.events.get(IMPRESSION, 0):,}",
            Bar(most, 0, _events(answer), width=max(width - 56, 8), color="cyan"),
            style="bold" if answer.slice == seen.current else None,
        )
    return table


def _workers(seen: Seen, *, rows: int) -> Table:
    total = sum(one.unique_users or 0 for one in seen.workers) or 1
    numbers = ("Users", "Share", "Clicks", "Impressions", "Queue")
    table = new_table("Worker", "State", *numbers, numbers=numbers)
    for one in seen.workers[:rows]:
        state = seen.states.get(one.worker)
        condition = Text("?" if state is None else state.state)
        condition.stylize(_STYLES.get(condition.plain, ""))
        users = one.unique_users
        table.add_row(
            one.worker,
            condition,
            "?" if users is None else f"{users:,}",
            "" if users is None else f"{users / total:.0%}",
            f"{one.events.get(CLICK, 0):,}",
            f"{one.events.get(IMPRESSION, 0):,}",
            "" if state is None else f"{state.queue_events:,}",
        )
    if len(seen.workers) > rows:
        table.add_row(f"and {len(seen.workers) - rows} more")
    return table


def _events(answer: SliceAnswer) -> int:
    return sum(answer.events.values())


def _time(instant: int) -> str:
    """The time of day; of a slice that begins at midnight, its date."""
    text = format_instant(instant)
    return text[5:10] if text[11:19] == "00:00:00" else text[11:19]
