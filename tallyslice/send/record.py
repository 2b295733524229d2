"""What became of the lines that were sent: numbers, and the first few of those that were not taken.

Names the line and what was wrong, never what was in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import msgspec

from tallyslice.send.fates import UNKNOWN, Refusal

SHOWN_MAX = 20  # a file with one mistake has it in every line
KEPT_MAX = 1_000  # told in JSON, neighbours as one; all are in the file of --rejects


@dataclass(slots=True, eq=False, kw_only=True)
class Record:
    """The numbers so far.

    Attributes:
        rejects: gets a line of JSON for each line that was not taken.
        lines: that were delivered, or given up.
        accepted: counted, those that were counted before included.
        repeated: counted before.
        repeats_unknown: whether further ones may have been.
        rejected: refused for good.
        unknown: that may or may not be counted: no answer came, and without an id they cannot be sent again.
        undelivered: surely not counted: no API node took them in time.
        resent: how often a line was sent again.
        gave_up: whether the rest was not even tried, because no API node took anything.
        trouble: why lines are being sent again right now, or nothing.
    """

    rejects: IO[bytes] | None = None
    lines: int = 0
    accepted: int = 0
    repeated: int = 0
    repeats_unknown: bool = False
    rejected: int = 0
    unknown: int = 0
    undelivered: int = 0
    resent: int = 0
    gave_up: bool = False
    trouble: str = ""
    kept: list[dict[str, Any]] = field(default_factory=list)

    @property
    def well(self) -> bool:
        """Whether every line is counted."""
        return not (self.rejected or self.unknown or self.undelivered)

    def took(self, lines: int, *, repeated: int | None) -> None:
        """So many lines are counted."""
        self.lines += lines
        self.accepted += lines
        self.repeated += repeated or 0
        self.repeats_unknown |= repeated is None

    def lost(self, number: int, refusal: Refusal) -> None:
        """A line is not counted, or nobody knows."""
        self.lines += 1
        if refusal.slug == UNKNOWN:
            self.unknown += 1
        elif refusal.again:
            self.undelivered += 1
        else:
            self.rejected += 1
        told = {"type": refusal.slug, "field": refusal.field, "detail": refusal.detail}
        if self.rejects is not None:
            self.rejects.write(msgspec.json.encode({"line": number, **told}) + b"\n")
        if self.kept and self.kept[-1] == {"line": self.kept[-1]["line"], "to": number - 1, **told}:
            self.kept[-1]["to"] = number
        elif len(self.kept) < KEPT_MAX:
            self.kept.append({"line": number, "to": number, **told})

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "lines": self.lines,
            "accepted": self.accepted,
            "repeated": None if self.repeats_unknown else self.repeated,
            "rejected": self.rejected,
            "unknown": self.unknown,
            "undelivered": self.undelivered,
            "resent": self.resent,
            "gave_up": self.gave_up,
            "errors": self.kept,
        }

    def told(self) -> Iterator[str]:
        """For people: a sentence of numbers, then what was wrong, line by line."""
        again = f", {self.repeated:,} of them counted before" if self.repeated else ""
        parts = [f"{self.accepted:,} accepted{again}"]
        parts += [f"{self.rejected:,} rejected"] if self.rejected else []
        parts += [f"{self.undelivered:,} not delivered"] if self.undelivered else []
        parts += [f"{self.unknown:,} may or may not be counted"] if self.unknown else []
        yield f"{self.lines:,} events: {', '.join(parts)}."
        shown = sorted(self.kept[:SHOWN_MAX], key=lambda one: int(one["line"]))
        for one in shown:
            lines = f"line {one['line']}" if one["to"] == one["line"] else f"lines {one['line']} to {one['to']}"
            yield f"  {lines}: {one['field'] + ': ' if one['field'] else ''}{one['detail']}"
        more = self.rejected + self.unknown + self.undelivered - sum(one["to"] - one["line"] + 1 for one in shown)
        if more:
            yield f"  and {more:,} more; --rejects FILE writes all of them down"
        if self.unknown:
            yield "  Events with ids could have been sent again: --ids NAME gives them some."
        if self.gave_up:
            yield "  Gave up: what comes behind them in the input was not tried."
