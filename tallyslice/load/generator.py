"""Traffic on a driver: one load, from its first request to its last answer."""

from __future__ import annotations

from collections.abc import Callable

from common.slices import Micros, SliceClock
from tallyslice.load.connection import Target
from tallyslice.load.driver import GIVE_UP_SECONDS, Driver
from tallyslice.load.order import Order
from tallyslice.load.traffic import Shipment, Traffic


class Generator:
    """Sends what an order wants, and keeps count.

    Args:
        order: what to send, and where to.
        tag: new in every run: makes its users and ids its own.
        clock: which slice an event falls into.
        now: the time of day.
        give_up_seconds: how long, after the schedule is over, the last events are sent again.

    Attributes:
        traffic: what became of the events and reads.
    """

    def __init__(
        self,
        order: Order,
        *,
        tag: str,
        clock: SliceClock,
        now: Callable[[], Micros],
        give_up_seconds: float = GIVE_UP_SECONDS,
    ) -> None:
        targets = [Target.of(node, context=order.tls, token=order.token) for node in order.nodes]
        self.traffic = Traffic(order=order, targets=targets, crowd=order.crowd(tag), clock=clock, now=now)
        self._driver: Driver[Shipment] = Driver(
            targets=targets,
            work=self.traffic,
            pace=order.pace(),
            connections=order.lanes,
            give_up_seconds=give_up_seconds,
        )

    @property
    def drawn(self) -> int:
        """How many events were drawn."""
        return self.traffic.drawn

    @property
    def acknowledged(self) -> int:
        """How many of them were answered with success."""
        return self.traffic.acknowledged

    @property
    def retried(self) -> int:
        """How many tries beyond the first were made."""
        return self._driver.retried

    @property
    def behind(self) -> int:
        """How many requests are due and not sent; after the end: how many never were."""
        return self._driver.behind

    @property
    def seconds(self) -> float:
        """From the first request to the newest answer."""
        return self._driver.seconds

    def stop(self) -> None:
        """Draw no more events; those under way are still sent until they are acknowledged."""
        self._driver.stop()

    def give_up(self) -> None:
        """Also stop sending again what is not acknowledged."""
        self._driver.give_up()

    async def run(self) -> None:
        """Send until the schedule is through and every event has its answer, or is given up."""
        await self._driver.run()
