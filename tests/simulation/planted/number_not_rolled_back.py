"""The last number of a stream is kept in memory too, and stays when the transaction that raised it is done again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from common.wire import Outcome
from tests.simulation.parts import SHIPPED
from worker_node.receiver import Decision, NumberedBatch
from worker_node.slice_store import SliceStore, _Application

REPEATED = Decision(outcome=Outcome.DUPLICATE, repeats=None)


class Remembers(SliceStore):
    """Asks the file only about numbers that are new to its memory."""

    def __init__(self, **parts: object) -> None:
        super().__init__(**parts)  # type: ignore[arg-type]
        self._last: dict[bytes, int] = {}

    def apply(self, items: Sequence[NumberedBatch]) -> list[Decision]:
        """The memory changes while the transaction is under way."""

        def work(application: _Application) -> list[Decision]:
            new = [item for item in items if item.batch.seq > self._last.get(item.stream, 0)]
            decisions = application.run(new)
            told = dict(zip(map(id, new), decisions, strict=True))
            for item, decision in zip(new, decisions, strict=True):
                if decision.outcome is Outcome.APPLIED:
                    self._last[item.stream] = item.batch.seq
            return [told.get(id(item), REPEATED) for item in items]

        return self._commit(work)


PARTS = replace(SHIPPED, store=Remembers)
