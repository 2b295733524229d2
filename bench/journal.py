"""What was measured, kept as it comes: a line of JSON per measurement, so that a run that is broken off goes on.

::

    {"group": "bulk", "unit": "tallyslice 1000", "round": 0, "at": "...", "commit": "...", "load": 0.4,
     "results": [{"row": "tallyslice", "case": "1000", "values": {"events_per_second": 412345.6, ...}}]}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from bench.numbers import Spread


class Result(msgspec.Struct, frozen=True):
    """What one measurement says of one row.

    Attributes:
        row: the name of the peer, or of what else was looked at.
        case: the size, the rate, ...
        values: what was measured, by name.
    """

    row: str
    case: str
    values: Mapping[str, float]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement.

    Attributes:
        group: the part of the benchmark.
        unit: what was measured together.
        round: counted from 0.
        at: when, ISO 8601.
        commit: of the tree.
        load: the machine's load average before it: what else was running.
        results: what came of it.
    """

    group: str
    unit: str
    round: int
    at: str
    commit: str
    load: float
    results: tuple[Result, ...]


class Journal:
    """The file, and all that is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[Entry] = []
        if path.exists():
            # The last line of a run that was killed may be half a line.
            whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
            self.entries = [msgspec.json.decode(line, type=Entry) for line in whole]
            path.write_bytes(b"".join(whole))

    def add(self, entry: Entry) -> None:
        """Keep a measurement."""
        self.entries.append(entry)
        with self.path.open("ab") as file:
            file.write(msgspec.json.encode(entry) + b"\n")

    def has(self, group: str, unit: str, round_: int) -> bool:
        """Whether it was measured already."""
        return any((entry.group, entry.unit, entry.round) == (group, unit, round_) for entry in self.entries)


class Results:
    """The measurements of a run, to be looked up."""

    def __init__(self, entries: list[Entry]) -> None:
        self._values: dict[tuple[str, str, str, str], list[float]] = {}
        for entry in entries:
            for result in entry.results:
                for name, value in result.values.items():
                    self._values.setdefault((entry.group, result.row, result.case, name), []).append(value)

    def of(self, group: str, row: str, case: str, value: str) -> Spread | None:
        """All rounds of one value; None if it was not measured."""
        found = self._values.get((group, row, case, value))
        return Spread.of(found) if found else None

    def cases(self, group: str, row: str) -> Iterator[str]:
        """The cases of a row, in the order in which they were first measured."""
        return iter(dict.fromkeys(case for of, name, case, _ in self._values if (of, name) == (group, row)))

    def rows(self, group: str) -> Iterator[str]:
        """The rows of a group, likewise."""
        return iter(dict.fromkeys(row for of, row, _, _ in self._values if of == group))
