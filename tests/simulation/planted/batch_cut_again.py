"""When no reply came, the batches of a slice are sent again as one, under the first one's number."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from api_node.sender import ClosedBatch, Flight, Sender
from common.wire import NO_ID, Batch, decode_batch, encode
from tests.simulation.parts import SHIPPED


class CutsAgain(Sender[Any]):
    """Saves a few bytes, and forgets that the first of them may have been applied."""

    def failed(self, flight: Flight[Any]) -> None:
        """All that is closed of a slice becomes one batch."""
        super().failed(flight)
        for slice_id in {batch.slice for batch in flight.batches}:
            queue = self._queues[slice_id]
            while len(queue.closed) > 1 and queue.parked is None:
                second = queue.closed.pop()
                queue.closed[-1] = _joined(queue.closed[-1], second)
                self._last_seq[slice_id] -= 1


def _joined(first: ClosedBatch[Any], second: ClosedBatch[Any]) -> ClosedBatch[Any]:
    first.waiter.events += second.waiter.events
    second.waiter.events = []
    raw = encode(_one(decode_batch(first.raw), decode_batch(second.raw)))
    return dataclasses.replace(first, raw=raw, events=first.events + second.events)


def _one(first: Batch, second: Batch) -> Batch:
    names = tuple(dict.fromkeys(first.names + second.names))
    ids = (first.ids or NO_ID * len(first.kinds)) + (second.ids or NO_ID * len(second.kinds))
    return msgspec.structs.replace(
        first,
        names=names,
        kinds=bytes(names.index(batch.names[kind]) for batch in (first, second) for kind in batch.kinds),
        users=first.users + second.users,
        ids=ids if ids.strip(b"\0") else b"",
    )


PARTS = dataclasses.replace(SHIPPED, sender=CutsAgain)
