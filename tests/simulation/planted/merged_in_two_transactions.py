"""Runs are gone from the file before their keys are in the tree."""

from __future__ import annotations

from dataclasses import replace

from tests.simulation.parts import SHIPPED
from worker_node.key_set import RUNS
from worker_node.slice_store import SliceStore


class TwoTransactions(SliceStore):
    """Whoever dies between the two has counted users who are not there, and will count them again."""

    def merge(self) -> None:
        """First away with what is pending; then what is left of it, and the keys."""
        runs = self._file.database(RUNS)
        pending = self._file.write(lambda txn: {name: txn.pop(name, db=runs) for name, _ in list(txn.cursor(runs))})
        self._file.write(lambda txn: [txn.put(name, run, db=runs) for name, run in pending.items() if run is not None])
        super().merge()


PARTS = replace(SHIPPED, store=TwoTransactions)
