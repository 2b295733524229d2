"""Summaries add up and are shown, as in common/summaries.py."""

import pytest

from common.slices import Micros, SliceClock, SliceId, parse_instant
from common.summaries import Summary, add, to_json, to_text

S = SliceId(41)


def test_the_sum_of_the_workers_is_plain_addition():
    """Each user belongs to one worker, so nothing is counted twice."""
    total = add(
        S, [Summary(slice=S, users=2, counts={"click": 3}), Summary(slice=S, users=1, counts={"click": 1, "x": 4})]
    )

    assert total == Summary(slice=S, users=3, counts={"click": 4, "x": 4})
    assert add(S, []) == Summary(slice=S)


@pytest.mark.parametrize(
    ("parts", "all_answered", "complete"),
    [
        ([Summary(slice=S)], True, True),
        ([Summary(slice=S)], False, False),
        ([Summary(slice=S), Summary(slice=S, complete=False)], True, False),
    ],
)
def test_a_sum_is_complete_if_every_worker_answered_and_every_part_is(parts, all_answered, complete):
    """One missing worker, or one incomplete part, is enough."""
    assert add(S, parts, all_answered=all_answered).complete is complete


def test_late_events_add_up():
    """They are told apart in the sum too."""
    assert add(S, [Summary(slice=S, late=2), Summary(slice=S, late=3)]).late == 5


@pytest.mark.parametrize(
    ("summary", "empty"),
    [
        (Summary(slice=S), True),
        (Summary(slice=S, counts={"click": 0}), True),
        (Summary(slice=S, users=1), False),
        (Summary(slice=S, counts={"click": 1}), False),
        (Summary(slice=S, late=1), False),
        (Summary(slice=S, complete=False), False),
    ],
)
def test_a_summary_is_empty_if_nothing_is_known_to_have_arrived(summary, empty):
    """An incomplete one is not: something did arrive, and is gone."""
    assert summary.is_empty is empty


def test_the_text_form_has_users_clicks_impressions_and_then_other_types_by_name():
    """Types that did not occur are left out, the classic two never."""
    counts = {"view": 1, "add.to.cart": 2, "impression": 5, "none": 0}

    assert to_text(Summary(slice=S)) == "unique_users,0\nclicks,0\nimpressions,0\n"
    assert to_text(Summary(slice=S, users=3, counts=counts)) == (
        "unique_users,3\nclicks,0\nimpressions,5\nadd.to.cart,2\nview,1\n"
    )
    assert to_text(Summary(slice=S, late=4)).endswith("\nlate,4\n")
    assert to_text(Summary(slice=S), users_label="unqiue_users").startswith("unqiue_users,0\n")


def test_the_json_form_is_the_one_of_the_contract():
    """With the span of the slice."""
    clock = SliceClock(first=Micros(parse_instant("2017-05-20T00:00:00Z")), length_seconds=3600)

    assert to_json(Summary(slice=S, users=3, counts={"impression": 5, "click": 2, "x": 0}), clock) == {
        "slice": 41,
        "start": "2017-05-21T17:00:00Z",
        "end": "2017-05-21T18:00:00Z",
        "unique_users": 3,
        "clicks": 2,
        "impressions": 5,
        "events": {"click": 2, "impression": 5},
        "complete": True,
    }
    assert to_json(Summary(slice=S, late=1, complete=False), clock)["late"] == 1
