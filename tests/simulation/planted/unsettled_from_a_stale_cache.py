"""A node that has heard that a slice is not settled believes it, whatever it hears since."""

from __future__ import annotations

from dataclasses import replace

from api_node.settled_routes import SettledRoutes
from common.routing import Route
from common.slices import SliceId
from tests.simulation.parts import SHIPPED


class Believes(SettledRoutes):
    """Answers zeros for a slice whose events it has just acknowledged."""

    def learn(self, slice_id: SliceId, route: Route) -> None:
        """As SettledRoutes; what was remembered otherwise stays."""
        if route:
            self._routes[slice_id] = route

    async def find(self, slice_id: SliceId) -> Route | None:
        """As SettledRoutes, the quickest first."""
        if slice_id in self._unsettled:
            return None
        return await super().find(slice_id)


PARTS = replace(SHIPPED, routes=Believes)
