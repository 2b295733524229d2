"""A sender forgets the counter of a slice once all its batches are answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from api_node.sender import Flight, Sender, Verdict
from common.wire import Receipt
from tests.simulation.parts import SHIPPED


class Forgets(Sender[Any]):
    """The next batch of the slice is number 1 again."""

    def answered(self, flight: Flight[Any], receipts: Sequence[Receipt], now: float) -> list[Verdict[Any]]:
        """As Sender; what has nothing to send needs no counter."""
        verdicts = super().answered(flight, receipts, now)
        for slice_id in {batch.slice for batch in flight.batches} - self._queues.keys():
            del self._last_seq[slice_id]
        return verdicts


PARTS = replace(SHIPPED, sender=Forgets)
