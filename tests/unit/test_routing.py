"""Proposed routes, owners and fingerprints, as in common/routing.py."""

import pytest

from common.routing import RoutingEntry, WorkerId, owner_position, proposed_route, range_starts, route_fingerprint
from common.slices import SliceId

A, B, C = WorkerId("a"), WorkerId("b"), WorkerId("c")
ENTRIES = (
    RoutingEntry(slice=SliceId(0), nodes=(A,)),
    RoutingEntry(slice=SliceId(1), nodes=(A, B)),
    RoutingEntry(slice=SliceId(3), nodes=(C,)),
)


@pytest.mark.parametrize(
    ("slice_id", "route"), [(-7, (A,)), (0, (A,)), (1, (A, B)), (2, (A, B)), (3, (C,)), (999, (C,))]
)
def test_a_slice_uses_the_entry_with_the_greatest_slice_not_above_it(slice_id, route):
    """Before the first entry, the first one."""
    assert proposed_route(ENTRIES, slice_id) == route


def test_the_lowest_and_the_highest_key_fall_to_the_ends_of_a_route():
    """Each worker holds one contiguous range of keys."""
    assert owner_position(bytes(16), 3) == 0
    assert owner_position(b"\x55" * 16, 3) == 0
    assert owner_position(b"\x56" + bytes(15), 3) == 1
    assert owner_position(b"\xff" * 16, 3) == 2


def test_a_fingerprint_tells_lists_orders_and_positions_apart():
    """Two routes never read the same, however their ids are cut."""
    routes = [(A,), (A, B), (B, A), (A, B, C), (WorkerId("ab"),), (WorkerId("ab"), C), (A, WorkerId("bc"))]
    fingerprints = {route_fingerprint(route, position) for route in routes for position in range(3)}

    assert len(fingerprints) == 3 * len(routes)
    assert all(len(fingerprint) == 8 for fingerprint in fingerprints)
    assert route_fingerprint((A, B), 0) == route_fingerprint((A, B), 0)


def test_ranges_begin_where_their_first_key_is() -> None:
    """Cut to the bytes that decide; the first range has no start, it begins at zero."""
    assert range_starts(1) == ()
    assert range_starts(2) == (b"\x80" + bytes(7),)
    assert range_starts(3) == (b"\x55" * 7 + b"\x56", b"\xaa" * 7 + b"\xab")
