"""What rounds have in common: results, kept on disk so that a run can be taken up again, and what they add up to."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

FLOOR = 200.0
"""Acknowledged events a second while the cluster is whole; below it a run has shown nothing."""

EXIT_KEPT, EXIT_BROKEN, EXIT_VOID = 0, 1, 2


class Round(msgspec.Struct, kw_only=True, frozen=True):
    """What happened in one round.

    Attributes:
        seed: of the round.
        seconds: it took.
        faults: what was done to the cluster, and how often.
        sent: events, each counted once however often it was tried.
        attempts: requests by what became of them.
        acknowledged: events answered with success.
        unknown: events without id, of which it is not known what became.
        counted: events that the cluster shows at the end, over all slices.
        users: unique users likewise.
        whole_seconds: how long all nodes were up under load.
        whole_acknowledged: events acknowledged meanwhile.
        problems: what must not be; empty if everything held.
        asked: questions asked meanwhile, by how complete the answer was; each complete one was held against the bounds.
        notes: measurements, for people.
    """

    seed: int
    seconds: float
    faults: dict[str, int]
    sent: int
    attempts: dict[str, int]
    acknowledged: int
    unknown: int
    counted: int
    users: int
    whole_seconds: float
    whole_acknowledged: int
    problems: list[str]
    asked: dict[str, int] = {}
    notes: list[str] = []

    @property
    def rate(self) -> float:
        """Acknowledged events a second while the cluster was whole."""
        return self.whole_acknowledged / self.whole_seconds if self.whole_seconds else 0.0

    def line(self) -> str:
        """The round in a line."""
        verdict = "held" if not self.problems else f"{len(self.problems)} PROBLEMS"
        faults, possible = sum(self.faults.values()), self.acknowledged + self.unknown
        return (
            f"seed {self.seed}: {faults} faults, {self.sent:,} sent, "
            f"{self.acknowledged:,} acknowledged <= {self.counted:,} counted <= {possible:,}, "
            f"{self.users:,} users, {self.rate:,.0f}/s whole, {self.seconds:.0f} s: {verdict}"
        )


class Book:
    """The rounds of a run, in a file of a JSON line each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_bytes().splitlines() if path.exists() else []
        self.rounds = [msgspec.json.decode(line, type=Round) for line in lines]

    def add(self, one: Round) -> None:
        """Note a round."""
        self.rounds.append(one)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(msgspec.json.encode(one) + b"\n")

    def close(self) -> None:
        """The run is over: the next one begins from the start."""
        if self.path.exists():
            self.path.rename(self.path.with_suffix(".finished.jsonl"))

    @property
    def faults(self) -> int:
        """How many there were."""
        return sum(sum(one.faults.values()) for one in self.rounds)

    @property
    def acknowledged(self) -> int:
        """How many events were."""
        return sum(one.acknowledged for one in self.rounds)


def report(rounds: Sequence[Round], *, floor: float = FLOOR) -> tuple[str, int]:
    """All rounds together: a text, and the exit code."""
    faults = sum((Counter(one.faults) for one in rounds), Counter[str]())
    attempts = sum((Counter(one.attempts) for one in rounds), Counter[str]())
    seconds = sum(one.whole_seconds for one in rounds)
    rate = sum(one.whole_acknowledged for one in rounds) / seconds if seconds else 0.0
    acknowledged, counted = (sum(getattr(one, name) for one in rounds) for name in ("acknowledged", "counted"))
    possible = acknowledged + sum(one.unknown for one in rounds)
    asked = sum((Counter(one.asked) for one in rounds), Counter[str]())
    problems = [f"seed {one.seed}: {text}" for one in rounds for text in one.problems]
    lines = [
        f"{faults.total():,} faults in {len(rounds)} rounds, {sum(one.seconds for one in rounds):,.0f} s",
        *(f"  {count:6,}  {what}" for what, count in sorted(faults.items())),
        f"{sum(one.sent for one in rounds):,} events, {attempts.total():,} requests",
        *(f"  {count:10,}  {what}" for what, count in sorted(attempts.items())),
        f"{acknowledged:,} acknowledged <= {counted:,} counted <= {possible:,} acknowledged or unknown",
        f"{sum(one.users for one in rounds):,} unique users, summed over slices, compared one by one",
        f"{rate:,.0f} acknowledged a second while the cluster was whole ({seconds:,.0f} s); the floor is {floor:,.0f}",
        f"{asked.total():,} questions meanwhile",
        *(f"  {count:10,}  {what}" for what, count in sorted(asked.items())),
        *(text for one in rounds for text in one.notes),
        *problems,
    ]
    if problems:
        return "\n".join([*lines, f"BROKEN: {len(problems)} problems"]), EXIT_BROKEN
    if rate < floor:
        return "\n".join([*lines, "VOID: too little was counted to show anything"]), EXIT_VOID
    return "\n".join([*lines, "HELD: nothing lost, nothing twice"]), EXIT_KEPT


def show_progress(text: str) -> None:
    """A line that is written over and over, where somebody looks."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def clear_progress() -> None:
    """Make room for a whole line."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
