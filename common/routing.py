"""Who holds what: the proposed route of a slice, and the worker of a user key within a route.

A route is the ordered list of the workers that hold one slice. The config proposes, the registry settles; see
``api_node/registry.py`` for the second half of that sentence.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.slices import SliceId

WorkerId = NewType("WorkerId", str)
Route = tuple[WorkerId, ...]

# The owner is chosen by the key's first 8 bytes: they spread evenly over any number of workers a config can hold.
_OWNER_BITS = 64
_OWNER_BYTES = _OWNER_BITS // 8
FINGERPRINT_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingEntry:
    """From ``slice`` on (until the next entry), new slices go to ``nodes``."""

    slice: SliceId
    nodes: Route


def proposed_route(entries: Sequence[RoutingEntry], slice_id: int) -> Route:
    """The route that the config proposes for a slice.

    That is the entry with the greatest ``slice`` that is not above it; a slice before the first entry uses the first.

    Args:
        entries: at least one, in ascending order of ``slice``.
        slice_id: any slice.
    """
    at = bisect_right(entries, slice_id, key=lambda entry: entry.slice)
    return entries[max(at - 1, 0)].nodes


def owner_position(user_key: bytes, workers: int) -> int:
    """The position in a route of ``workers`` workers that holds the user key.

    ``key * N >> bits``: the top bits decide, so each worker holds one contiguous range of keys.
    """
    return int.from_bytes(user_key[:_OWNER_BYTES], "big") * workers >> _OWNER_BITS


def range_starts(workers: int) -> tuple[bytes, ...]:
    """Where the ranges of the positions from 1 on begin: ``bisect_right(starts, user_key)`` is ``owner_position``.

    In half the time. Each is the smallest key of its range, cut to the bytes that decide: a whole key that begins with
    them sorts behind them.
    """
    return tuple((-(-(at << _OWNER_BITS) // workers)).to_bytes(_OWNER_BYTES, "big") for at in range(1, workers))


def route_fingerprint(route: Route, position: int) -> bytes:
    """8 bytes that differ for any other list, order, or position of the worker in it.

    BLAKE2b (RFC 7693) over the position and each worker id behind its length, so no two lists read the same.
    """
    digest = blake2b(position.to_bytes(4, "big"), digest_size=FINGERPRINT_BYTES, person=b"tslice/route")
    for worker in route:
        name = worker.encode()
        digest.update(len(name).to_bytes(4, "big"))
        digest.update(name)
    return digest.digest()
