"""What is asked of API nodes: over the public HTTP contract only, as any client would."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import urlsplit

import aiohttp
import msgspec

from api_node.peer import why_silent
from common.errors import PeerAway
from common.routing import Route
from common.slices import Micros, SliceClock, SliceId
from common.summaries import Summary
from common.wire import Pins, SettledRoute

QUESTION_SECONDS = 10.0  # a node waits up to 3 s for a worker that restarts, and says so then
PROBE_SECONDS = 2.0


class _SliceAnswer(msgspec.Struct, frozen=True, kw_only=True):
    slice: SliceId
    unique_users: int
    events: dict[str, int]
    complete: bool
    late: int = 0

    def summary(self) -> Summary:
        return Summary(
            slice=self.slice, users=self.unique_users, counts=self.events, complete=self.complete, late=self.late
        )


class _AllSlices(msgspec.Struct, frozen=True, kw_only=True):
    slices: tuple[_SliceAnswer, ...]


class _ClusterAnswer(msgspec.Struct, frozen=True, kw_only=True):
    pins: Pins | None = None
    settled: tuple[SettledRoute, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """Of ``GET /cluster``, what the feed needs.

    Attributes:
        clock: how the cluster divides time; None before its first contact.
        routes: settled routes, as many as the node tells.
    """

    clock: SliceClock | None
    routes: dict[SliceId, Route]


def origin(url: str) -> str:
    """Scheme, host and port of a node's URL: what its other paths are appended to.

    Raises:
        ValueError: it is no http or https URL with a host.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        message = "must be the URL of an API node, such as http://localhost:8000/analytics"
        raise ValueError(message)
    return f"{parts.scheme}://{parts.netloc}"


class Questions:
    """Asks API nodes, and probes nodes of both kinds.

    Args:
        session: carries the requests; not closed here.
    """

    def __init__(self, *, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def all_slices(self, node: str) -> dict[SliceId, Summary]:
        """Every slice that holds data, as the API node of this origin counts it.

        Raises:
            PeerAway: it gives no complete answer.
        """
        body = await self._ask(f"{node}/analytics/allslices?format=json")
        try:
            answer = msgspec.json.decode(body, type=_AllSlices)
        except msgspec.DecodeError as error:
            raise PeerAway(f"{node} does not answer like an API node: {error}") from error
        return {one.slice: one.summary() for one in answer.slices}

    async def cluster(self, node: str) -> ClusterView:
        """What the API node of this origin knows of its cluster.

        Raises:
            PeerAway: it gives no answer.
        """
        body = await self._ask(f"{node}/cluster")
        try:
            answer = msgspec.json.decode(body, type=_ClusterAnswer)
        except msgspec.DecodeError as error:
            raise PeerAway(f"{node} does not answer like an API node: {error}") from error
        pins = answer.pins
        clock = None if pins is None else SliceClock(first=Micros(pins.first), length_seconds=pins.length_seconds)
        return ClusterView(clock=clock, routes={one.slice: one.route for one in answer.settled})

    async def unready(self, node: str) -> str | None:
        """Why the node of this origin is not ready yet; None if it is."""
        try:
            async with self._session.get(
                f"{node}/readyz", timeout=aiohttp.ClientTimeout(total=PROBE_SECONDS)
            ) as response:
                text = await response.text(errors="replace")
                if response.status == HTTPStatus.OK:
                    return None
                return "; ".join(text.split("\n")).strip("; ") or f"status {response.status}"
        except (aiohttp.ClientError, TimeoutError, OSError):
            return "it does not answer yet"

    async def _ask(self, url: str) -> bytes:
        try:
            async with self._session.get(
                url, timeout=aiohttp.ClientTimeout(total=QUESTION_SECONDS), headers={"Accept": "application/json"}
            ) as response:
                body = await response.read()
                if response.status != HTTPStatus.OK:
                    raise PeerAway(f"{url} answers with status {response.status}")
                return body
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise PeerAway(f"{url} does not answer: {why_silent(error)}") from error
