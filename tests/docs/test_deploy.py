"""docs/deploy.md tells of everything in deploy/ how far it is tested."""

from __future__ import annotations

import re

from tests.support.pages import ROOT, tables

PAGE = ROOT / "docs/deploy.md"
WORDS = ("run in a test", "parsed only", "unchecked", "in a test")


def test_every_artefact_has_its_status() -> None:
    """Each folder of deploy/ is linked in the first column of the table, and the second one says it in bold."""
    table = next(table for table in tables(PAGE) if table.heads[0] == "artefact")
    linked = {name for row in table.rows for name in re.findall(r"\]\(\.\./deploy/([a-z]+)", row[0])}

    assert linked == {path.name for path in (ROOT / "deploy").iterdir()}
    for row in table.rows:
        assert any(word in row[1] for word in WORDS), row
        assert row[1].startswith("**"), row


def test_what_is_said_to_be_tested_is() -> None:
    """The tests that the table names are there; each row names one."""
    table = next(table for table in tables(PAGE) if table.heads[0] == "artefact")
    for row in table.rows:
        named = re.findall(r"`(tests/[\w/]+\.py)`", row[2])

        assert named, row
        assert [name for name in named if not (ROOT / name).is_file()] == []
