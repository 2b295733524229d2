"""What is asked of API nodes: over the public HTTP contract only, as any client would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

import aiohttp
import msgspec

from api_node.peer import why_silent
from common.errors import InputOutputFailed, NotPermitted, PeerAway
from common.routing import Route
from common.slices import Micros, SliceClock, SliceId
from common.summaries import Summary
from common.wire import Pins, SettledRoute

if TYPE_CHECKING:
    from tallyslice.target import Target

T = TypeVar("T")

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


class _Problem(msgspec.Struct):
    detail: str = ""


class Questions:
    """Asks API nodes, and probes nodes of both kinds.

    Args:
        session: carries the requests; not closed here.
        headers: go along with each, such as a token.
    """

    def __init__(self, *, session: aiohttp.ClientSession, headers: Mapping[str, str] | None = None) -> None:
        self._session = session
        self._headers = {"Accept": "application/json", **(headers or {})}

    async def all_slices(self, node: str) -> dict[SliceId, Summary]:
        """Every slice that holds data, as the API node of this origin counts it.

        Raises:
            PeerAway: it gives no complete answer.
        """
        answer = await self.ask(f"{node}/analytics/allslices?format=json", _AllSlices)
        return {one.slice: one.summary() for one in answer.slices}

    async def cluster(self, node: str) -> ClusterView:
        """What the API node of this origin knows of its cluster.

        Raises:
            PeerAway: it gives no answer.
        """
        answer = await self.ask(f"{node}/cluster", _ClusterAnswer)
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

    async def ask(self, url: str, kind: type[T]) -> T:
        """GET, and read the JSON.

        Raises:
            PeerAway: there is no answer, or not one of an API node.
            NotPermitted: it wants a token, or another one.
        """
        body = await self.fetch(url)
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeError) as error:
            raise PeerAway(f"{url} does not answer like a node of Tallyslice: {error}") from error

    async def fetch(self, url: str) -> bytes:
        """GET; the body as it is.

        Raises:
            PeerAway: there is no answer, or it is not 200.
            NotPermitted: it wants a token, or another one.
        """
        try:
            async with self._session.get(
                url,
                timeout=aiohttp.ClientTimeout(total=QUESTION_SECONDS),
                headers=self._headers,
                allow_redirects=False,  # or the token would go wherever somebody sends us
            ) as response:
                body = await response.read()
                status = response.status
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise PeerAway(f"{url} does not answer: {why_silent(error)}") from error
        if status == HTTPStatus.OK:
            return body
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise not_permitted(url, status, detail_of(body))
        detail = detail_of(body)
        raise PeerAway(f"{url} answers with status {status}{': ' if detail else ''}{detail}")


def not_permitted(url: str, status: int, detail: str) -> NotPermitted:
    """What to say where a node wants a token, or another one."""
    hint = "give one with --token-file" if status == HTTPStatus.UNAUTHORIZED else "this token does not open it"
    return NotPermitted(f"{url} answers with status {status}: {detail or 'no explanation'} ({hint})")


def detail_of(body: bytes) -> str:
    """What a problem says; nothing if it is none."""
    try:
        return msgspec.json.decode(body, type=_Problem).detail
    except (msgspec.DecodeError, UnicodeError):
        return ""


class AnyNode:
    """Asks the API nodes of a target until one answers: the one that answered last is asked first.

    Attributes:
        latest: the name of the node that answered last, or is asked next.
    """

    def __init__(self, *, target: Target, questions: Questions) -> None:
        self.latest = next(iter(target.api_nodes))
        self._nodes = target.api_nodes
        self._hint = [target.hint] if target.hint else []
        self._questions = questions

    async def ask(self, path: str, kind: type[T]) -> T:
        """GET from whichever API node answers, and read the JSON.

        Raises:
            InputOutputFailed: none does.
            NotPermitted: they want a token, or another one.
        """
        body = await self.fetch(path)
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeError) as error:
            message = f"{self._nodes[self.latest]}{path} does not answer like a node of Tallyslice: {error}"
            raise InputOutputFailed(message) from error

    async def fetch(self, path: str) -> bytes:
        """GET from whichever API node answers; the body as it is.

        Raises:
            InputOutputFailed: none does.
            NotPermitted: they want a token, or another one.
        """
        problems = []
        for name in (self.latest, *(name for name in self._nodes if name != self.latest)):
            try:
                body = await self._questions.fetch(f"{self._nodes[name]}{path}")
            except PeerAway as error:
                problems.append(str(error))
            else:
                self.latest = name
                return body
        raise InputOutputFailed("\n".join([*problems, *self._hint]))

    async def clock(self) -> SliceClock:
        """How the cluster divides time.

        Raises:
            InputOutputFailed: nobody can tell.
        """
        pins = (await self.ask("/cluster", _ClusterAnswer)).pins
        if pins is None:
            node = self._nodes[self.latest]
            raise InputOutputFailed(f"{node} has not met its cluster yet: it waits for every worker of its file")
        return SliceClock(first=Micros(pins.first), length_seconds=pins.length_seconds)
