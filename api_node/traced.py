"""The way in of events where there are traces: the batches remember which sampled requests wait for them.

Subclasses, put in by the composition root, so that the hot path has not even a question where there are none.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from api_node.bulk import BulkRequest
from api_node.intake import Intake

if TYPE_CHECKING:
    from api_node.columns import Column
    from api_node.delivery import Waiter
    from api_node.places import Place
    from common.events import Event
    from common.tracing import Tracing

TRACES_MAX = 32  # of a batch; of more requests in it the first ones are told


class TracedIntake(Intake):
    """Takes events, and links what is sampled."""

    def __init__(self, *, tracing: Tracing, **parts: Any) -> None:  # noqa: ANN401 - those of Intake
        super().__init__(**parts)
        self._tracing = tracing
        self.bulk_request = partial(TracedBulkRequest, tracing=tracing)

    def _put(self, event: Event, place: Place) -> Waiter:
        waiter = super()._put(event, place)
        _link(waiter, self._tracing)
        return waiter


class TracedBulkRequest(BulkRequest):
    """The same of many events."""

    def __init__(self, *, tracing: Tracing, **parts: Any) -> None:  # noqa: ANN401 - those of BulkRequest
        super().__init__(**parts)
        self._tracing = tracing

    def _put(self, column: Column) -> None:
        super()._put(column)
        for part in self._placed[-1][1]:
            _link(part.waiter, self._tracing)


def _link(waiter: Waiter, tracing: Tracing) -> None:
    for one in tracing.sampled():
        if len(waiter.traces) < TRACES_MAX and one not in waiter.traces:
            waiter.traces = (*waiter.traces, one)
