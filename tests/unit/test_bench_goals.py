"""Which goals are met; what is kept of a run that is broken off."""

import pytest

from bench.goals import EVENTS, GOALS, Goal, verdict
from bench.journal import Entry, Journal, Result, Results


def entry(*results, group="bulk", unit="unit", round_=0):
    return Entry(group=group, unit=unit, round=round_, at="", commit="", load=0.0, results=results)


def bulk(row, *rates, case="1000"):
    return [entry(Result(row, case, {EVENTS: rate}), round_=number) for number, rate in enumerate(rates)]


@pytest.fixture
def against_pipeline():
    return next(goal for goal in GOALS if "pipeline" in goal.text)


def test_a_ratio_compares_medians(against_pipeline):
    """One round that went wrong decides nothing."""
    results = Results([*bulk("tallyslice", 300.0, 1.0, 330.0), *bulk("pipeline", 200.0, 200.0, 9_000.0)])

    assert verdict(against_pipeline, results) == ("1.5x", "met")


def test_a_goal_that_is_not_met_says_so(against_pipeline):
    """Loudly."""
    results = Results([*bulk("tallyslice", 99.0), *bulk("pipeline", 100.0)])

    assert verdict(against_pipeline, results) == ("0.99x", "**not met**")


def test_what_was_not_measured_is_neither_met_nor_missed(against_pipeline):
    """A ratio needs both of its sides."""
    results = Results(bulk("tallyslice", 99.0))

    assert verdict(against_pipeline, results) == ("", "not measured")


def test_of_some_things_less_is_better():
    """The bound itself is good enough."""
    goal = Goal(work="w", text="t", bound=10, at_most=True, unit=" ms", look=lambda _: 10.0)

    assert verdict(goal, Results([])) == ("10 ms", "met")
    assert not goal.met(10.1)
    assert goal.wanted() == "at most 10 ms"


def test_every_line_of_the_table_has_its_goals():
    """Those of the work that must be shown, each once."""
    named = [(goal.work, goal.text) for goal in GOALS]

    assert len(set(named)) == len(named) == 21
    assert all(verdict(goal, Results([]))[1] == "not measured" for goal in GOALS)


def test_a_run_goes_on_where_it_was_broken_off(tmp_path):
    """What was measured is found again; half a line, which a killed run leaves, is measured anew."""
    path = tmp_path / "run.jsonl"
    Journal(path).add(entry(Result("tallyslice", "1000", {EVENTS: 1.0}), unit="one"))
    with path.open("ab") as file:
        file.write(b'{"group":"bulk","unit":"two"')

    again = Journal(path)
    again.add(entry(Result("tallyslice", "1000", {EVENTS: 3.0}), unit="one", round_=1))

    assert again.has("bulk", "one", 0)
    assert not again.has("bulk", "two", 0)
    found = Results(Journal(path).entries).of("bulk", "tallyslice", "1000", EVENTS)
    assert found is not None
    assert (found.median, found.rounds) == (2.0, 2)
