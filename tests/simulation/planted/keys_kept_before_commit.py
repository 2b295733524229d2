"""A cache of ids learns them while the transaction is under way, and keeps them when it is done again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from common.lmdb_file import Txn
from common.summaries import Summary
from tests.simulation.parts import SHIPPED
from tests.simulation.recent_keys import RecentKeys
from worker_node.receiver import Decision, NumberedBatch
from worker_node.slice_store import _Application


class TooSoon(RecentKeys):
    """Takes an event for a repeat that is not in the file."""

    def apply(self, items: Sequence[NumberedBatch]) -> list[Decision]:
        """As RecentKeys, but for the moment."""

        def work(txn: Txn) -> tuple[list[Decision], Summary]:
            decisions, summary = _Application(self, self._file, txn).run(self.unknown(items))
            self.remember(items, decisions)
            return decisions, summary

        decisions, summary = self._file.write(work)
        self._committed(summary)
        return decisions


PARTS = replace(SHIPPED, store=TooSoon)
