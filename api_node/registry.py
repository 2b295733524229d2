"""The registry, as an API node sees it: where the cluster's constants and the routes of slices are settled, once.

A Protocol of four calls, because the registry hosted by a worker will not stay the only one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from common.wire import Claim, Pins, PinWorker, RegistryState, Settled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from api_node.peer import Peer
    from common.routing import Route, WorkerId
    from common.slices import SliceId

# The registry answers from memory or one small commit. Long enough for a busy disk, short enough that the workers can
# still be asked within the deadline of a question.
CALL_SECONDS = 1.0


class Registry(Protocol):
    """Put-if-absent of pins and routes. The first proposal wins, for good.

    All calls raise ``PeerAway`` when the registry does not answer, and ``PeerRefuses`` when it will not: because it is
    of another cluster, or because it is older than what the caller knows (slug ``registry-behind``).
    """

    async def state(self) -> RegistryState:
        """What is pinned (None before the first contact), the claim number, what settled routes name."""
        ...

    async def initialise(self, pins: Pins) -> RegistryState:
        """Propose the pins; the answer tells what holds."""
        ...

    async def pin_worker(self, cluster: str, worker: WorkerId, uuid: str) -> RegistryState:
        """Propose the data directory of a worker that the pins do not know; the answer tells what holds.

        Refused (slug ``wrong-worker``) if they know it by another one by now.
        """
        ...

    async def claim(self, cluster: str, claims: int, routes: Mapping[SliceId, Route]) -> Settled:
        """Propose a route for each slice; one with an empty route is only asked for."""
        ...


class HostedRegistry:
    """The registry hosted by a worker."""

    def __init__(self, *, peer: Peer) -> None:
        self.peer = peer

    async def state(self) -> RegistryState:
        """See Registry."""
        return await self.peer.get_json("/registry", RegistryState, seconds=CALL_SECONDS)

    async def initialise(self, pins: Pins) -> RegistryState:
        """See Registry."""
        return await self.peer.post_json("/registry/pins", pins, RegistryState, seconds=CALL_SECONDS)

    async def pin_worker(self, cluster: str, worker: WorkerId, uuid: str) -> RegistryState:
        """See Registry."""
        pin = PinWorker(cluster=cluster, id=worker, uuid=uuid)
        return await self.peer.post_json("/registry/workers", pin, RegistryState, seconds=CALL_SECONDS)

    async def claim(self, cluster: str, claims: int, routes: Mapping[SliceId, Route]) -> Settled:
        """See Registry."""
        claim = Claim(cluster=cluster, claims=claims, routes=dict(routes))
        return await self.peer.post_json("/registry/claims", claim, Settled, seconds=CALL_SECONDS)
