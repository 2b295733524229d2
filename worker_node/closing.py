"""When slices end for good: ``close-after-seconds`` and then ``close-grace-seconds`` after their end.

::

    slice          end        + close-after                    + close-grace
    |---------------|----------------|-------------------------------|
      new events are taken           API nodes answer 422            the worker closes the slice

``tallyslice close`` does it earlier, at any time after the end: then it is the workers that refuse what comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from common.errors import Contradicts
from common.slices import SECOND, Micros, SliceClock, SliceId, format_instant
from worker_node.registry import Door

if TYPE_CHECKING:
    from common.config import ClusterConfig
    from worker_node.holdings import Holdings
    from worker_node.membership import Membership
    from worker_node.writer import Writer

LOOK_SECONDS = 1.0  # a look costs nothing while nothing is due
SLICES_A_LOOK_MAX = 64  # after a long time off, so that closing leaves the writer time for others


class Closing:
    """Closes slices when it is time."""

    def __init__(
        self,
        *,
        membership: Membership,
        holdings: Holdings,
        writer: Writer,
        config: Callable[[], ClusterConfig],
        now: Callable[[], Micros],
    ) -> None:
        self._membership = membership
        self._holdings = holdings
        self._writer = writer
        self._config = config
        self._now = now

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.close_due()
            await asyncio.sleep(LOOK_SECONDS)

    async def close_due(self) -> None:
        """Close the slices that are due."""
        config, clock = self._config(), self._membership.clock
        if config.close_after_seconds is None or clock is None:
            return
        bound = _first_younger(clock, self._now(), config.close_after_seconds + config.close_grace_seconds)
        await self._writer.close_slices(self._holdings.open_before(bound)[:SLICES_A_LOOK_MAX])

    def require_ended(self, slice_id: SliceId) -> None:
        """Whether a slice may be closed before its time: not before it has ended.

        Raises:
            Contradicts: it has not, or nobody here knows.
        """
        clock, now = self._membership.clock, self._now()
        if clock is None or clock.end(slice_id) > now:
            ends = "" if clock is None else f": it ends at {format_instant(clock.end(slice_id))}"
            raise Contradicts(f"slice {slice_id} has not ended{ends}")

    def door(self) -> Door:
        """How many slices may be settled now, for the registry."""
        config, clock, now = self._config(), self._membership.clock, self._now()
        if clock is None:
            return Door(slices_max=config.max_slices)
        after = config.close_after_seconds
        return Door(
            slices_max=config.max_slices,
            first_open=None if after is None else _first_younger(clock, now, after),
            now=clock.slice_at(now),
        )


def _first_younger(clock: SliceClock, now: Micros, seconds: float) -> SliceId:
    """The first slice whose end is less than so many seconds ago."""
    return clock.slice_at(Micros(now - int(seconds * SECOND)))
