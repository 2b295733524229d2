"""The report: one table of all rows, one of the goals, what it ran on, and how each peer ran."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench import machine
from bench.goals import EVENTS, GOALS, verdict
from bench.groups.feeding import BULK, SINGLE
from bench.journal import Entry, Result, Results
from bench.numbers import Spread, short, table
from bench.peers import redis_lua
from bench.peers.peer import Peer
from bench.plots import plot_all

US = "tallyslice"
PEERS: dict[str, Peer] = {peer.name: peer for peer in [*BULK, *redis_lua.PEERS, *SINGLE]}

# Of each group, the values that are shown: name, title.
SHOWN: dict[str, list[tuple[str, str]]] = {
    "bulk": [(EVENTS, "events/s"), ("p50_ms", "p50 ms"), ("p99_ms", "p99 ms")],
    "single": [(EVENTS, "events/s"), ("p50_ms", "p50 ms"), ("p99_ms", "p99 ms")],
    "sizes": [(EVENTS, "events/s"), ("p50_ms", "p50 ms"), ("p99_ms", "p99 ms")],
    "questions": [
        ("requests_per_second", "answers/s"),
        ("median_ms", "one alone, ms"),
        ("p50_ms", "p50 ms"),
        ("p99_ms", "p99 ms"),
        ("written_per_second", "events/s meanwhile"),
    ],
    "growth": [
        (EVENTS, "events/s"),
        ("live_bytes_per_user", "live bytes/user"),
        ("file_mb", "file MB"),
        ("file_per_live", "file/live"),
        ("api_private_mb", "API own MB"),
        ("worker_private_mb", "worker own MB"),
        ("worker_resident_mb", "worker resident MB"),
    ],
    "rates": [("p50_ms", "p50 ms"), ("p90_ms", "p90 ms"), ("p99_ms", "p99 ms"), ("p999_ms", "p99.9 ms")],
    "workers": [
        (EVENTS, "bulk events/s"),
        ("single_per_second", "single events/s"),
        ("question_p50_ms", "question p50 ms"),
        ("question_p99_ms", "question p99 ms"),
        ("resident_mb", "resident MB"),
        ("ready_seconds", "ready after s"),
    ],
    "idle": [
        ("resident_mb", "resident MB"),
        ("api_resident_mb", "API node MB"),
        ("worker_resident_mb", "worker MB"),
        ("first_answer_seconds", "first answer s"),
    ],
}
TITLES = {
    "bulk": "Bulk: 1,000 and 10,000 events a request, 300,000 users",
    "single": "One event per request, 64 connections",
    "sizes": "Between the two: 10 and 100 events a request",
    "questions": "GET /analytics",
    "growth": "Growth: users in the slice",
    "rates": "Latency of single events at a fixed rate (open loop)",
    "workers": "Number of workers, all on this machine; no cache, so every question asks all of them",
    "idle": "At rest: one API node and one worker",
}
CASES = {
    "bulk": "events a request",
    "single": "events a request",
    "sizes": "events a request",
    "questions": "case",
    "growth": "users",
    "rates": "requests/s",
    "workers": "workers",
    "idle": "case",
}
# Redis takes one event per command, however many there are in a pipeline.
_CASE_OF = {("bulk", "1"): "100 commands a pipeline"}


def summary(results: Sequence[Result]) -> str:
    """One measurement in a line, for whoever watches."""
    result = results[-1]
    shown = [f"{name} {short(value)}" for name, value in result.values.items()][:3]
    more = f" (and {len(results) - 1} more)" if len(results) > 1 else ""
    return f"{', '.join(shown)}{more}"


def report(results: Results, entries: Sequence[Entry], page: Path, *, data: Path, quick: bool) -> tuple[str, str]:
    """Write the plots beside the page.

    Returns:
        The page; and the one table that is printed.
    """
    goals = goals_table(results)
    groups = [group for group in TITLES if any(results.rows(group))]
    tables = [f"## {TITLES[group]}\n\n{group_table(results, group)}" for group in groups]
    plots = [f"![{title}]({file.name})" for title, file in plot_all(results, page)]
    parts = [
        f"# How fast: {page.stem}",
        _before(entries, quick=quick),
        f"## Goals\n\n{goals}\n{_GOALS_NOTE}",
        *tables,
        "## Plots\n\n" + "\n\n".join(plots),
        "## Machine\n\n" + table(["what", "which"], machine.described(data)),
        "## How each ran\n\n" + table(["row", "how"], ((peer.title, peer.config) for peer in PEERS.values())),
        _AFTER,
    ]
    printed = "\n".join(f"{TITLES[group]}\n{group_table(results, group)}" for group in groups)
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n", f"{printed}\n{goals}"


def goals_table(results: Results) -> str:
    """Each goal, and whether it is met."""
    rows = []
    for goal in GOALS:
        value, word = verdict(goal, results)
        rows.append([goal.work, goal.text, value, goal.wanted(), word])
    return table(["work", "compared with, or what", "measured", "goal", ""], rows, right=[2, 3])


def group_table(results: Results, group: str) -> str:
    """All rows of a group: medians, with the least and the most of all rounds of the first value."""
    shown = [(name, title) for name, title in SHOWN[group] if _anywhere(results, group, name)]
    compared = group in ("bulk", "single", "sizes") and US in results.rows(group)
    rows = []
    for row in results.rows(group):
        for case in results.cases(group, row):
            spreads = [results.of(group, row, case, name) for name, _ in shown]
            cells = [PEERS[row].title if row in PEERS else row, _CASE_OF.get((group, case), case)]
            first = next((spread for spread in spreads if spread is not None), None)
            cells += ["" if spread is None else short(spread.median) for spread in spreads]
            cells.append("" if first is None else _range(first))
            if compared:
                cells += _times(results, group, case, spreads[0])
            rows.append(cells)
    head = ["row", CASES[group], *(title for _, title in shown), "least..most (rounds)"]
    head += ["Tallyslice is"] if compared else []
    return table(head, rows, right=range(2, len(head)))


def _times(results: Results, group: str, case: str, other: Spread | None) -> list[str]:
    """How many times as fast the cluster of one API node and one worker is."""
    cases = ["1000", "10000"] if (group, case) == ("bulk", "1") else [case]
    ours = [results.of(group, US, one, EVENTS) for one in cases]
    if other is None or not any(ours):
        return [""]
    return ["; ".join(f"{short(one.median / other.median)}x" for one in ours if one is not None)]


def _range(spread: Spread) -> str:
    if spread.rounds == 1:
        return "(1)"
    return f"{short(spread.least)}..{short(spread.most)} ({spread.rounds})"


def _anywhere(results: Results, group: str, name: str) -> bool:
    return any(
        results.of(group, row, case, name) is not None
        for row in results.rows(group)
        for case in results.cases(group, row)
    )


def _before(entries: Sequence[Entry], *, quick: bool) -> str:
    if not entries:
        return "Nothing was measured."
    commits = ", ".join(dict.fromkeys(entry.commit for entry in entries))
    loads = [entry.load for entry in entries]
    text = (
        f"Measured from {entries[0].at} to {entries[-1].at}, commit {commits} (a star: with changes). "
        f"Load average of the machine before each measurement: {min(loads):.1f} to {max(loads):.1f}. "
        "Numbers are medians of alternating rounds; ratios compare medians of this one run. Every peer was asked for "
        "what it counted, and was right, before its time counted. How it is done and why it is fair: "
        "[docs/performance.md](../../docs/performance.md#benchmarks-how-to-run-what-is-compared-and-why-it-is-fair)."
    )
    if quick:
        text += "\n\n**A quick run**: little of everything, to see that all of it works. Its numbers are no results."
    return text


_GOALS_NOTE = """
A goal without a unit is a ratio. "Own memory" leaves out pages of files, which the kernel drops when it needs the room.
"""

_AFTER = """## Commands

```
make bench                        # all of it, about 25 minutes; goes on where it was broken off
make bench ONLY=bulk,single       # parts
make bench QUICK=1                # little of everything
```

Every single measurement is in the `.jsonl` file beside this page."""
