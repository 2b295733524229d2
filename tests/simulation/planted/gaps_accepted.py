"""A batch whose predecessors are not there is applied all the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from common.lmdb_file import Txn
from common.wire import CHECK_BYTES
from tests.simulation.parts import SHIPPED
from worker_node.receiver import Decision, NumberedBatch, StreamRecord
from worker_node.slice_store import SliceStore


class AcceptsGaps(SliceStore):
    """So nobody ever learns that something was lost."""

    def apply(self, items: Sequence[NumberedBatch]) -> list[Decision]:
        """As SliceStore; a gap is filled with nothing first."""
        if self._file.txn:
            self._file.write(lambda txn: self._fill_gaps(txn, items))
        return super().apply(items)

    def _fill_gaps(self, txn: Txn, items: Sequence[NumberedBatch]) -> None:
        streams = self._file.database("streams")
        for item in items:
            stored = txn.get(item.stream, db=streams)
            last = 0 if stored is None else StreamRecord.from_bytes(stored).seq
            if item.batch.seq > last + 1:
                txn.put(item.stream, StreamRecord(item.batch.seq - 1, bytes(CHECK_BYTES)).to_bytes(), db=streams)


PARTS = replace(SHIPPED, store=AcceptsGaps)
