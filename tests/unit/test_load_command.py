"""``tallyslice load``: what it refuses before it sends anything."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from tallyslice.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "which cluster?"),
        (["localhost:8000"], "must be the URL of an API node"),
        (["http://localhost:8000", "--closed", "--rate", "5"], "--closed is as fast as it goes"),
        (["http://localhost:8000", "--bulk", "0"], "--bulk"),
        (["http://localhost:8000", "--bulk", "65537"], "--bulk"),
        (["http://localhost:8000", "--reads", "101"], "--reads"),
        (["http://localhost:8000", "--new", "-1"], "--new"),
        (["http://localhost:8000", "--users", "0"], "--users"),
        (["http://localhost:8000", "--rate", "0"], "--rate"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(arguments: list[str], complaint: str) -> None:
    """Exit code 64, and the option is named."""
    result = CliRunner().invoke(main, ["load", *arguments])

    assert result.exit_code == 64
    assert complaint in result.stderr
