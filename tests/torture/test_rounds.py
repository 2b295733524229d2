"""A run that did too little is void, one that found anything is broken, and one that was broken off goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.torture.rounds import EXIT_BROKEN, EXIT_KEPT, EXIT_VOID, FLOOR, Book, Round, report


def a_round(**changes: Any) -> Round:
    """One in which everything held, fast enough."""
    found: dict[str, Any] = {
        "seed": 1,
        "seconds": 20.0,
        "faults": {"worker-0 random moment": 3},
        "sent": 5_010,
        "attempts": {"acknowledged worker": 5_000, "unknown": 10},
        "acknowledged": 5_000,
        "unknown": 10,
        "counted": 5_004,
        "users": 700,
        "whole_seconds": 10.0,
        "whole_acknowledged": int(10 * FLOOR),
        "problems": [],
    }
    return Round(**(found | changes))


def test_what_held_and_was_fast_enough_is_good():
    text, code = report([a_round(), a_round(seed=2)])

    assert code == EXIT_KEPT
    assert "10,000 acknowledged <= 10,008 counted <= 10,020" in text


def test_below_the_floor_a_run_is_void():
    """So is one that was never whole."""
    assert report([a_round(whole_acknowledged=int(10 * FLOOR) - 1)])[1] == EXIT_VOID
    assert report([a_round(whole_seconds=0.0)])[1] == EXIT_VOID


def test_one_problem_breaks_a_run_however_slow_it_was():
    text, code = report([a_round(), a_round(seed=2, problems=["one is lost"], whole_seconds=1000.0)])

    assert code == EXIT_BROKEN
    assert "seed 2: one is lost" in text


def test_a_run_that_was_broken_off_goes_on_and_a_finished_one_does_not(tmp_path: Path):
    path = tmp_path / "state" / "run.jsonl"
    Book(path).add(a_round())
    again = Book(path)
    again.add(a_round(seed=2))

    assert [one.seed for one in Book(path).rounds] == [1, 2]
    assert (again.faults, again.acknowledged) == (6, 10_000)
    again.close()
    assert Book(path).rounds == []
