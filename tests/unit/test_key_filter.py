"""A filter rules out most keys that it has not learnt, and none that it has."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_node import key_filter
from worker_node.key_filter import Filters, KeyFilter

_keys = st.lists(st.binary(min_size=16, max_size=16), max_size=20)


@pytest.fixture(scope="module")
def shared():
    return KeyFilter()


@given(_keys, _keys)
def test_what_was_learnt_is_possible(shared, learnt, others):
    """Whatever else was learnt, and however few keys are asked for."""
    shared.learn(learnt)

    assert set(learnt) <= shared.possible([*others, *learnt]) <= {*others, *learnt}


def test_most_of_what_was_not_learnt_is_ruled_out():
    """Also at one of many workers, whose user keys all begin alike."""
    draw = Random(1)
    made = KeyFilter()
    made.learn([bytes(4) + draw.randbytes(12) for _ in range(10_000)])

    assert len(made.possible([bytes(4) + draw.randbytes(12) for _ in range(10_000)])) < 50


def test_so_many_filters_are_made_at_a_time():
    filters = Filters(filters_max=1)

    first = filters.new()

    assert first is not None
    assert filters.new() is None
    del first
    assert filters.new() is not None


def test_a_filter_that_has_learnt_too_much_is_full():
    made = KeyFilter()

    made.learn([bytes(16)] * 10)
    assert not made.is_full
    made._keys = key_filter.FILTER_KEYS_MAX  # noqa: SLF001 - to learn as many takes a second
    made.learn([bytes(16)])

    assert made.is_full
