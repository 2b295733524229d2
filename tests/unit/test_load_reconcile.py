"""The model of what was acknowledged, held against what a cluster counts."""

from __future__ import annotations

import pytest

from common.slices import SliceId
from common.summaries import Summary
from tallyslice.load.reconcile import Counted, Difference, Model, counted, differences, touched_by_others

ONE = SliceId(1)


def summary(users: int, *, slice_id: int = 1, complete: bool = True, **counts: int) -> dict[SliceId, Summary]:
    return {SliceId(slice_id): Summary(slice=SliceId(slice_id), users=users, counts=counts, complete=complete)}


@pytest.fixture
def model() -> Model:
    """Two users, two clicks and an impression in slice 1."""
    model = Model()
    for user, event_type in ((7, "click"), (7, "click"), (8, "impression")):
        model.acknowledged[ONE].add(user, event_type)
    return model


def test_equal_numbers_are_no_difference(model: Model) -> None:
    """What was acknowledged, counted exactly, leaves nothing to say."""
    after = summary(2, click=2, impression=1)

    assert differences(model, before={}, after=after) == ()


@pytest.mark.parametrize(
    ("after", "what"),
    [
        (summary(1, click=2, impression=1), "users"),
        (summary(3, click=2, impression=1), "users"),
        (summary(2, click=1, impression=1), "click"),
        (summary(2, click=2, impression=2), "impression"),
        (summary(2, click=2, impression=1, purchase=1), "purchase"),
        (summary(2, complete=False, click=2, impression=1), "complete"),
    ],
)
def test_each_wrong_number_is_a_difference(model: Model, after: dict[SliceId, Summary], what: str) -> None:
    """One too few, one too many, a type that nobody sent, an incomplete slice."""
    assert [one.what for one in differences(model, before={}, after=after)] == [what]


def test_a_slice_that_is_not_counted_at_all_is_a_difference_in_every_number(model: Model) -> None:
    found = differences(model, before={}, after={})

    assert found == (
        Difference(slice=ONE, what="users", least=2, most=2, counted=0),
        Difference(slice=ONE, what="click", least=2, most=2, counted=0),
        Difference(slice=ONE, what="impression", least=1, most=1, counted=0),
    )


def test_what_was_counted_before_is_taken_off(model: Model) -> None:
    """A cluster that held data before the feed must have grown by what was fed."""
    before = summary(10, click=5)
    after = summary(12, click=7, impression=1)

    assert differences(model, before=before, after=after) == ()
    assert counted(model, before=before, after=after) == Counted(events=3, users=2, slices=1)


def test_events_of_unknown_outcome_may_be_counted_or_not(model: Model) -> None:
    """A new user's click and a known user's impression: each may be in the numbers, nothing else may."""
    model.unknown[ONE].add(9, "click")
    model.unknown[ONE].add(7, "impression")

    assert (model.events, model.events_unknown) == (3, 2)
    for users, clicks, impressions in ((2, 2, 1), (3, 3, 1), (3, 3, 2)):
        assert not differences(model, before={}, after=summary(users, click=clicks, impression=impressions))
    (wrong,) = differences(model, before={}, after=summary(4, click=3, impression=2))
    assert (wrong.what, wrong.expected) == ("users", "2 to 3")


def test_a_slice_that_somebody_else_fed_is_named_and_not_wrong(model: Model) -> None:
    """An event of ours that was counted there instead would be missing in its own slice."""
    before = summary(3, slice_id=4, click=3)
    after = summary(2, click=2, impression=1) | before | summary(1, slice_id=5, click=1)

    assert differences(model, before=before, after=after) == ()
    assert touched_by_others(model, before=before, after=after) == (5,)


def test_a_slice_that_was_incomplete_before_stays_allowed(model: Model) -> None:
    """Its gap is older than the feed."""
    before = summary(0, complete=False)
    after = summary(2, complete=False, click=2, impression=1)

    assert differences(model, before=before, after=after) == ()
