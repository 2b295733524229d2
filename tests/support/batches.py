"""Batches as an API node would number them, for tests of the worker."""

from __future__ import annotations

from collections.abc import Sequence

from common.routing import WorkerId
from common.slices import SliceId
from common.wire import NO_ID, Batch, check_of, encode
from worker_node.receiver import NumberedBatch, split

KEY_ID = b"keyid-01"
ROUTE = (WorkerId("0"),)
STREAM = b"stream-000000001"
OTHER_STREAM = b"stream-000000002"

Event = tuple[str, str] | tuple[str, str, str]
"""user, type, and an id where there is one: short words that stand for keys."""


def key(word: str) -> bytes:
    """16 bytes that stand for a user or an id."""
    return word.encode().ljust(16, b".")


def a_batch(
    *events: Event,
    seq: int = 1,
    at: int = 0,
    route: Sequence[str] = ROUTE,
    key_id: bytes = KEY_ID,
    regressed: bool = False,
) -> Batch:
    """A batch of these events in slice ``at``."""
    names = tuple(dict.fromkeys(event[1] for event in events))
    ids = b"".join(key(event[2]) if len(event) == 3 else NO_ID for event in events)
    return Batch(
        slice=SliceId(at),
        seq=seq,
        route=tuple(map(WorkerId, route)),
        key_id=key_id,
        names=names,
        kinds=bytes(names.index(event[1]) for event in events),
        users=b"".join(key(event[0]) for event in events),
        ids=ids if any(len(event) == 3 for event in events) else b"",
        regressed=regressed,
    )


def numbered(batch: Batch, *, stream: bytes = STREAM, position: int = 0, spooled: bool = False) -> NumberedBatch:
    """The batch as it reaches the writer."""
    return NumberedBatch(stream, batch, split(batch.users), check_of(encode(batch)), position, spooled)


def item(*events: Event, stream: bytes = STREAM, spooled: bool = False, seq: int = 1, at: int = 0) -> NumberedBatch:
    """Both at once."""
    return numbered(a_batch(*events, seq=seq, at=at), stream=stream, spooled=spooled)
