"""Wrong parts, planted to show that the torture notices them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from common.wire import STREAM_BYTES, Outcome
from tests.torture.points import shelf_of
from worker_node.app import Parts
from worker_node.receiver import Decision, NumberedBatch
from worker_node.slice_store import SliceStore


class ForgetfulStore(SliceStore):
    """Forgets how far a stream came, so that what is sent again counts again."""

    def apply(self, items: Sequence[NumberedBatch]) -> list[Decision]:
        """Apply everything, as if it were the first of its stream."""
        first = [
            replace(item, stream=os.urandom(STREAM_BYTES), batch=msgspec.structs.replace(item.batch, seq=1))
            for item in items
        ]
        return super().apply(first)


class HastyStore(SliceStore):
    """Says that a batch is counted one group before it commits it: what a kill finds in memory is lost."""

    late: tuple[NumberedBatch, ...] = ()

    def apply(self, items: Sequence[NumberedBatch]) -> list[Decision]:
        """Commit what came the last time."""
        if self.late:
            super().apply(self.late)
        self.late = tuple(items)
        return [Decision(outcome=Outcome.APPLIED)] * len(items)


WRONG = {
    "forgetful": Parts(shelf=shelf_of(ForgetfulStore)),
    "hasty": Parts(shelf=shelf_of(HastyStore)),
}
"""By name: how a worker's stores are made."""
