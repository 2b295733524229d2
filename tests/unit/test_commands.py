"""The command as a whole: what holds of every command, whichever it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from tallyslice.__main__ import main


def commands(group: click.Group, *before: str) -> Iterator[tuple[str, ...]]:
    """All of them, those of groups too."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        yield (*before, name)
        if isinstance(command, click.Group):
            yield from commands(command, *before, name)


@pytest.mark.parametrize("names", [(), *commands(main)], ids=" ".join)
def test_every_help_shows_its_examples_line_by_line(names: tuple[str, ...]) -> None:
    """As they are typed: nothing runs them together, and no mark of ours is left in the text."""
    said = CliRunner().invoke(main, [*names, "--help"])

    assert said.exit_code == 0
    assert "\\b" not in said.output
    for line in said.output.splitlines():
        assert line.strip() in {"Example:", "Examples:"} or "Examples:" not in line


def test_an_hour_ago_is_no_request_for_help() -> None:
    """`close -1h` begins to close what it names, and never leaves with the 0 of help as if it had."""
    said = CliRunner().invoke(main, ["close", "-1h", "--yes", "--cluster", "nothing-here.json"])

    assert said.exit_code == 78
    assert "nothing-here.json" in said.output


@pytest.mark.parametrize("words", ["version >&-", "version >/dev/full", "version --json >/dev/full"])
def test_output_that_goes_nowhere_is_no_traceback(words: str) -> None:
    """Closed, or onto a full disk: it is said in a sentence, with an exit code of ours."""
    line = f"{sys.executable} -m tallyslice {words}"
    said = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False)

    assert "Traceback" not in said.stderr
    assert said.returncode == (0 if ">&-" in words else 70)


def test_input_that_is_closed_is_no_traceback() -> None:
    """`send` without a FILE, started by something that gives it no standard input: there are no events."""
    line = f"{sys.executable} -m tallyslice send --url http://localhost:1 <&-"
    said = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False)

    assert (said.returncode, said.stderr) == (0, "")
