"""Users spread evenly over a route, and each worker holds one contiguous range of keys."""

from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.anonymise import Anonymiser
from common.routing import RoutingEntry, WorkerId, owner_position, proposed_route, range_starts
from common.slices import SliceId

WORKERS = 16
USERS = 32_768
# The chi-square distribution with 15 degrees of freedom exceeds this once in a million times; the keys are the same in
# every run, so the test passes always or never.
CHI_SQUARE_MAX = 56.5

keys = st.binary(min_size=16, max_size=16)


@pytest.mark.parametrize("slice_id", [-1, 0, 1, 1_000_000])
def test_users_are_spread_evenly_over_sixteen_workers(slice_id):
    """Names as similar as user1, user2, ... fill every worker alike."""
    slice_keys = Anonymiser(secret=bytes(range(32))).slice_keys(SliceId(slice_id))
    held = [0] * WORKERS
    for number in range(USERS):
        held[owner_position(slice_keys.user_key(b"user%d" % number), WORKERS)] += 1
    expected = USERS / WORKERS

    assert sum((count - expected) ** 2 / expected for count in held) < CHI_SQUARE_MAX


@given(keys, st.integers(1, 1024))
def test_every_key_has_an_owner_on_the_route(key, workers):
    """Whatever the number of workers."""
    assert 0 <= owner_position(key, workers) < workers


@given(keys, keys, st.integers(1, 1024))
def test_owners_are_in_the_order_of_the_keys(one, other, workers):
    """So a worker's keys are one range, which can be split later."""
    low, high = sorted((one, other))

    assert owner_position(low, workers) <= owner_position(high, workers)


@given(st.dictionaries(st.integers(-50, 50), st.sampled_from("abcd"), min_size=1), st.integers(-60, 60))
def test_a_route_is_what_a_walk_through_the_entries_finds(entries, slice_id):
    """proposed_route agrees with the sentence that defines it."""
    routing = [RoutingEntry(slice=SliceId(at), nodes=(WorkerId(entries[at]),)) for at in sorted(entries)]
    below = [at for at in entries if at <= slice_id]

    assert proposed_route(routing, slice_id) == (entries[max(below) if below else min(entries)],)


@given(st.binary(min_size=16, max_size=16), st.integers(1, 1024), st.data())
def test_the_starts_of_the_ranges_tell_the_same_owner(key: bytes, workers: int, data: st.DataObject) -> None:
    """Anywhere in a range, and at its very first and last key."""
    starts = range_starts(workers)
    if starts:
        edge = int.from_bytes(data.draw(st.sampled_from(starts)), "big")
        key = data.draw(st.sampled_from([key, *((edge + by).to_bytes(8, "big") + key[8:] for by in (-1, 0))]))

    assert bisect_right(starts, key) == owner_position(key, workers)
