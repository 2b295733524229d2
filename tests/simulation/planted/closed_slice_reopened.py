"""A batch for a closed slice makes a new file for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from common.slices import SliceId
from common.wire import Held
from tests.simulation.parts import SHIPPED
from tests.simulation.stores import InlineWriter
from worker_node.receiver import Decision, NumberedBatch


class Reopens(InlineWriter):
    """Only looks whether there is a file, and not why there is none."""

    def _apply(self, slice_id: SliceId, items: Sequence[NumberedBatch]) -> tuple[list[Decision], Held | None]:
        closed = self._totals.closed(slice_id) is not None
        if closed and self._shelf.get(slice_id) is None and items[0].batch.seq == 1:
            self._create(items[0])
        return super()._apply(slice_id, items)


PARTS = replace(SHIPPED, writer=Reopens)
