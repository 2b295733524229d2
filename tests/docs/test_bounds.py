"""The table of bounds in docs/operations.md is true, and nothing is missing in it."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re

from common.config import ClusterConfig
from tests.support.pages import ROOT, section, tables

OPERATIONS = ROOT / "docs/operations.md"
PACKAGES = ("api_node", "common", "dashboard", "worker_node")

# Not of something that grows: what a key of the cluster file may be, which docs/configuration.md lists, and the size
# below which a file of LMDB has no data, and how long before its time a slice is claimed.
OTHERS = {
    *(
        ("common.config", name)
        for name in (
            "LENGTH_SECONDS_MAX", "SPAN_SECONDS_MAX", "RELOAD_SECONDS_MAX", "CACHE_TTL_SECONDS_MAX", "SLICES_MAX",
            "SPOOL_BYTES_MAX", "ORIGINS_MAX", "PROXIES_MAX",
        )
    ),
    ("api_node.settled_routes", "AHEAD_SECONDS_MAX"),
    ("common.rates", "RATE_MAX"),
    ("common.rates", "SPAN_SECONDS_MAX"),
    ("common.lmdb_file", "UNUSED_BYTES_MAX"),
    ("common.wire", "SLICE_MAX"),
}  # fmt: skip


def bounds() -> dict[tuple[str, ...], float]:
    """Module and constant, or key of the cluster file -> the number in the table."""
    table = next(table for table in tables(OPERATIONS) if table.heads[1:2] == ("where its bound is set",))
    return {tuple(re.findall(r"`([^`]+)`", row[1])): float(row[2]) for row in table.rows}


def constants() -> set[tuple[str, str]]:
    """Module and name of every public constant that ends in _MAX."""
    found: set[tuple[str, str]] = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            names = [name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            found.update((module, name.id) for name in names if re.fullmatch(r"[A-Z][A-Z_]*_MAX", name.id))
    return found


def test_the_numbers_are_those_of_the_code() -> None:
    """A constant of a module, or the default of a key of the cluster file."""
    defaults = {field.name.replace("_", "-"): field.default for field in dataclasses.fields(ClusterConfig)}

    for where, number in bounds().items():
        set_there = defaults[where[0]] if len(where) == 1 else getattr(importlib.import_module(where[0]), where[1])
        assert set_there == number, where


def test_every_bound_is_in_the_table() -> None:
    """Whoever adds a constant that bounds something also says what happens there."""
    listed = {where for where in bounds() if len(where) == 2}

    assert constants() - listed - OTHERS == set()
    assert constants() >= OTHERS


def test_every_bound_says_what_happens_there() -> None:
    assert section(OPERATIONS, "Bounds")
    table = next(table for table in tables(OPERATIONS) if table.heads[1:2] == ("where its bound is set",))

    assert [row[0] for row in table.rows if not row[3].strip()] == []
