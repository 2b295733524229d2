"""The stream's number is written in a transaction of its own, after the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tests.simulation.parts import SHIPPED
from worker_node.receiver import Decision, NumberedBatch
from worker_node.slice_store import SliceStore, _Application


class TwoTransactions(SliceStore):
    """Whoever dies between the two has counted a batch that it does not know."""

    def apply(self, items: Sequence[NumberedBatch]) -> list[Decision]:
        """First the data, then the numbers."""
        records: dict[bytes, bytes] = {}

        def data(application: _Application) -> list[Decision]:
            txn, streams = application._txn, self._file.database("streams")  # noqa: SLF001 - to do wrong what it does
            before = {item.stream: txn.get(item.stream, db=streams) for item in items}
            decisions = application.run(items)
            for stream, record in before.items():
                now = txn.get(stream, db=streams)
                if now is not None and now != record:
                    records[stream] = now
                    txn.pop(stream, db=streams)
                    if record is not None:
                        txn.put(stream, record, db=streams)
            return decisions

        decisions = self._commit(data)
        self._file.write(lambda txn: [txn.put(at, it, db=self._file.database("streams")) for at, it in records.items()])
        self._committed(self.held.summary)
        return decisions


PARTS = replace(SHIPPED, store=TwoTransactions)
