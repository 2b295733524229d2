"""What a node of several processes answers as a whole, where one process alone would leave something out.

Who asks for ``/metrics``, or for all routes that a node knows, reaches any one of its processes. That one asks the
others at their own doors (see ``share``), each of which answers for itself, and puts the answers together.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import reduce
from typing import TYPE_CHECKING, Self, TypeVar

import aiohttp

from api_node.peer import Peer
from api_node.share import came_by_own_door
from common.errors import Contradicts, NoAnswer, PeerError, PeerRefuses, WireError, WrongCluster
from common.pins import PinsDiffer, merge_pins
from common.wire import KnownRoutes, Pins, RoutesQuestion, SettledRoute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from aiohttp import web

    from api_node.share import Share
    from common.slices import SliceId

T = TypeVar("T")

FIGURES_PATH = "/live/process"

METRICS_SECONDS = 2.0  # well within the 10 s that Prometheus waits
FIGURES_SECONDS = 0.4  # within what the dashboard waits for a snapshot
ROUTES_SECONDS = 30.0  # the spools are read for it


class Siblings:
    """An async context manager: the other processes of this node.

    Args:
        share: which process this is.
        token: the internal token, if there is one.
    """

    def __init__(self, *, share: Share, token: Callable[[], str | None]) -> None:
        self._share = share
        self._token = token
        self._sessions = AsyncExitStack()
        self._peers: dict[int, Peer] = {}

    async def __aenter__(self) -> Self:
        """Nobody is asked yet."""
        for number in range(self._share.processes):
            if number != self._share.process:
                # A connection for each question: the process behind the door may be another one the next time.
                connector = aiohttp.UnixConnector(path=str(self._share.door(number)), force_close=True)
                session = aiohttp.ClientSession(
                    connector=connector, timeout=aiohttp.ClientTimeout(total=None), cookie_jar=aiohttp.DummyCookieJar()
                )
                await self._sessions.enter_async_context(session)
                self._peers[number] = Peer(session=session, url=f"http://process-{number}", token=self._token)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """End all questions."""
        await self._sessions.aclose()

    async def metrics(self, request: web.Request, own: bytes) -> bytes:
        """The metrics of all processes; a process that does not answer is shown as not ready."""
        if came_by_own_door(request):
            return own
        answers = await asyncio.gather(*(self._metrics(number) for number in self._peers))
        texts = {self._share.process: own, **dict(zip(self._peers, answers, strict=True))}
        # Silent ones last: the first one to tell of a metric says what it is about.
        silent = [number for number, text in texts.items() if text is None]
        told = [text for _, text in sorted(texts.items()) if text is not None]
        return merge_metrics([*told, *map(_not_ready, silent)])

    async def _metrics(self, number: int) -> bytes | None:
        try:
            return await self._peers[number].get("/metrics", seconds=METRICS_SECONDS)
        except (PeerError, WireError):
            return None

    async def figures(self, kind: type[T]) -> dict[int, T | None]:
        """What each of the other processes counts by itself; None of one that does not say."""

        async def one(peer: Peer) -> T | None:
            try:
                return await peer.get_json(FIGURES_PATH, kind, seconds=FIGURES_SECONDS)
            except (PeerError, WireError):
                return None

        return dict(zip(self._peers, await asyncio.gather(*map(one, self._peers.values())), strict=True))

    async def routes(self, request: web.Request, question: RoutesQuestion, own: KnownRoutes) -> KnownRoutes:
        """A page of all routes that the node knows.

        Raises:
            NoAnswer: a process does not answer.
            WrongCluster: it has not joined the cluster.
            Contradicts: the processes know different things.
        """
        if came_by_own_door(request):
            return own
        return merge_routes([own, *await asyncio.gather(*(self._routes(number, question) for number in self._peers))])

    async def _routes(self, number: int, question: RoutesQuestion) -> KnownRoutes:
        try:
            return await self._peers[number].post_packed(
                "/cluster/routes", question, KnownRoutes, seconds=ROUTES_SECONDS
            )
        except (PeerError, WireError) as error:
            kind = WrongCluster if isinstance(error, PeerRefuses) and error.slug == WrongCluster.slug else NoAnswer
            raise kind(f"process {number} of this node does not tell what it knows: {error}") from error


def _not_ready(process: int) -> bytes:
    return b'# HELP tallyslice_ready\n# TYPE tallyslice_ready gauge\ntallyslice_ready{process="%d"} 0.0\n' % process


def merge_metrics(texts: Iterable[bytes]) -> bytes:
    """Expositions in Prometheus' text format as one: each metric once, with the samples of all.

    Args:
        texts: no two have samples with the same labels; their metrics have the same help and type.
    """
    metrics: dict[bytes, list[bytes]] = {}
    for text in texts:
        for block in text.split(b"# HELP ")[1:]:
            about, kind, *samples = block.splitlines(keepends=True)
            name = about.split()[0]
            metrics.setdefault(name, [b"# HELP " + about, kind]).extend(samples)
    return b"".join(line for lines in metrics.values() for line in lines)


def merge_routes(pages: Iterable[KnownRoutes]) -> KnownRoutes:
    """Pages that begin after the same slice as one.

    Raises:
        Contradicts: they do.
    """
    pages = list(pages)
    clusters = {page.cluster for page in pages} - {None}
    if len(clusters) > 1:
        raise Contradicts("the processes of this node belong to different clusters")
    # What a page does not reach, nobody can say of its process.
    end = min((max(_slices(page)) for page in pages if page.more), default=None)
    found: dict[SliceId, SettledRoute] = {}
    unreadable: set[SliceId] = set()
    for page in pages:
        for one in page.routes:
            if found.setdefault(one.slice, one).route != one.route:
                raise Contradicts(f"the processes of this node know two routes of slice {one.slice}")
        unreadable.update(page.unreadable)
    return KnownRoutes(
        cluster=next(iter(clusters), None),
        claims=max(page.claims for page in pages),
        pins=_pins(page.pins for page in pages),
        routes=tuple(one for at, one in sorted(found.items()) if end is None or at <= end),
        more=any(page.more for page in pages),
        unreadable=tuple(at for at in sorted(unreadable - found.keys()) if end is None or at <= end),
    )


def _slices(page: KnownRoutes) -> list[SliceId]:
    return [*(one.slice for one in page.routes), *page.unreadable]


def _pins(found: Iterable[Pins | None]) -> Pins | None:
    known = [pins for pins in found if pins is not None]
    try:
        return reduce(merge_pins, known) if known else None
    except PinsDiffer as error:
        raise Contradicts(f"the processes of this node know different pins: {error}") from error
