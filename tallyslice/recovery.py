"""Rebuilding the registry, and giving a worker whose disk was lost another data directory: the calls, in their order.

Nothing here is taken back when it breaks off half-way: both can simply be run again.

::

    rebuild         registry: its number   every node: all routes it knows   merge   registry: pages, the last one
                                                                                     makes it settle again
                    every node: hears the new number and the pins
    replace worker  new directory: which slices were lost   registry: pins it, under the next number
                    every worker: hears the pins

A registry that is set back, or rebuilt by others, between the questions and the last write refuses, and it begins anew.
So does a replacement if anything was settled meanwhile: the new directory has to hear of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from api_node.peer import Peer
from common.config import ClusterConfig
from common.errors import ConfigRefused, InputOutputFailed, PeerError, PeerRefuses, WireError
from common.judge import judge
from common.routing import WorkerId
from common.slices import Micros, SliceId
from common.wire import (
    ROUTES_PAGE_MAX,
    SLICE_MAX,
    Identity,
    Join,
    KnownRoutes,
    LostSlices,
    Pins,
    Rebuild,
    RegistryState,
    ReplaceWorker,
    RoutesQuestion,
    SettledRoute,
)
from tallyslice.merge import Merged, Told, merge
from tallyslice.target import origin

if TYPE_CHECKING:
    import aiohttp

CALL_SECONDS = 60.0  # a worker opens thousands of slice files for a page of routes
TRIES = 20  # the registry's file is replaced during few of them, or rebuilt by others; each takes some ten milliseconds
JOINING_TRIES, JOINING_PAUSE_SECONDS = 10, 0.5  # nodes try to join at least every two seconds
THE_REGISTRY = "the registry"

_ASK_AGAIN = ("conflict", "registry-behind")  # what was asked for is not the newest any more

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """How a rebuild went.

    Attributes:
        told: by each who answered.
        merged: what the registry has now, or would have.
        deaf: those who have not heard of it yet, and why.
    """

    told: tuple[Told, ...]
    merged: Merged
    deaf: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """How a replacement went.

    Attributes:
        pins: as they are now.
        lost: slices that were settled before and name the worker.
        restored: those of them that it has a file of.
        was_well: the worker runs on the pinned directory already.
        deaf: those who have not heard of it yet, and why.
    """

    pins: Pins
    was_well: bool = False
    lost: frozenset[SliceId] = frozenset()
    restored: frozenset[SliceId] = frozenset()
    deaf: tuple[str, ...] = ()


class _Slices(msgspec.Struct, frozen=True, kw_only=True):
    slices: frozenset[SliceId]


class Recovery:
    """The nodes of a cluster file, as they are asked here.

    Args:
        session: carries the requests; not closed here.
        config: the cluster file.
        token: the internal token, if there is one.
        api_token: what API nodes are shown instead.
        tell: gets a line for people whenever something is done.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        config: ClusterConfig,
        token: str | None,
        tell: Tell,
        api_token: str | None = None,
    ) -> None:
        self._config = config
        self._tell = tell
        self._workers = {
            worker: Peer(session=session, url=url, token=lambda: token) for worker, url in config.worker_nodes.items()
        }
        self._apis = {
            api: Peer(session=session, url=f"{origin(url)}/cluster", token=lambda: api_token or token)
            for api, url in config.api_nodes.items()
        }

    async def rebuild(self, *, without: frozenset[str], now: Micros, dry_run: bool) -> Rebuilt:
        """Rebuild the registry.

        Args:
            without: names of nodes (``worker-0``, ``api-0``) that are not asked, because they are lost.
            now: the time.
            dry_run: stop before anything is changed.

        Raises:
            ConfigRefused: what the nodes know contradicts itself, or the file.
            InputOutputFailed: a node does not answer.
        """
        for _ in range(TRIES):
            host = await self._host()
            told = await self._ask_everybody(without)
            # After the others: what is settled from now on, the registry's file has, and nobody else need tell it.
            old = await self._registry_told()
            # The host's own number too: it may be left out, and what it heard of before this began is not news.
            file = replace(old, claims=max(old.claims, host.claims))
            merged = merge((file, *told), everybody=not without, now=now)
            self._judge(merged)
            if dry_run:
                return Rebuilt(told=(old, *told), merged=merged)
            try:
                await self._write(merged, host=host.uuid, own=old.claims)
            except PeerRefuses as error:
                if error.slug not in _ASK_AGAIN:
                    raise _refused(error) from error
                self._tell(f"once more: {error}")
                continue
            except (PeerError, WireError) as error:
                raise _silent(THE_REGISTRY, error) from error
            deaf = await self._spread(merged.pins, merged.claims, without)
            return Rebuilt(told=(old, *told), merged=merged, deaf=tuple(deaf))
        raise InputOutputFailed(f"the registry's file changed otherwise during each of {TRIES} tries: try again")

    async def replace_worker(self, worker: WorkerId) -> Replaced:
        """Pin the data directory that answers at a worker's URL in place of the one that was lost.

        Raises:
            ConfigRefused: this cannot be its new directory.
            InputOutputFailed: a node does not answer.
        """
        try:
            return await self._replace(worker)
        except PeerRefuses as error:
            raise _refused(error) from error
        except (PeerError, WireError) as error:
            raise InputOutputFailed(str(error)) from error

    async def _replace(self, worker: WorkerId) -> Replaced:
        peer = self._workers[worker]
        found = await peer.get_json("/identity", Identity, seconds=CALL_SECONDS)
        state = await self._state()
        pins = state.pins
        if pins is None:
            raise ConfigRefused(["the registry is empty: rebuild it first"])
        pinned = pins.workers.get(worker)
        if found.uuid == pinned:
            # Perhaps it broke off after that: then not everybody has heard.
            deaf = await self._spread(pins, state.claims, frozenset())
            return Replaced(pins=pins, was_well=True, deaf=tuple(deaf))
        _require_new(worker, found, pinned)
        restored = (await peer.get_json("/slices", _Slices, seconds=CALL_SECONDS)).slices
        for _ in range(TRIES):
            number = (await self._state()).claims + 1
            lost = [one for one in (await self._registry_told()).routes.values() if worker in one.route]
            await self._lose(peer, found, lost, number)
            self._tell(f"worker {worker} knows of {len(lost):,} slices that its lost directory may have held")
            replacement = ReplaceWorker(
                cluster=pins.cluster, id=worker, lost=pinned or "", uuid=found.uuid, number=number
            )
            try:
                state = await self._registry.post_json(
                    "/registry/replace", replacement, RegistryState, seconds=CALL_SECONDS
                )
            except PeerRefuses as error:
                if error.slug != "conflict":
                    raise
                self._tell(f"once more: {error}")
                continue
            self._tell(f"the registry has pinned {found.uuid}")
            assert state.pins is not None  # noqa: S101 - it has just changed them
            deaf = await self._spread(state.pins, state.claims, frozenset())
            slices = frozenset(one.slice for one in lost)
            return Replaced(pins=state.pins, lost=slices, restored=slices & restored, deaf=tuple(deaf))
        raise InputOutputFailed(f"the registry settled new routes during each of {TRIES} tries: try again")

    async def _lose(self, peer: Peer, found: Identity, lost: Sequence[SettledRoute], number: int) -> None:
        for page, more in _pages(lost):
            message = LostSlices(id=found.id, uuid=found.uuid, number=number, routes=page, more=more)
            await peer.post_packed("/lost", message, Identity, seconds=CALL_SECONDS)

    @property
    def _registry(self) -> Peer:
        return self._workers[self._config.registry]

    async def _state(self) -> RegistryState:
        return await self._registry.get_json("/registry", RegistryState, seconds=CALL_SECONDS)

    async def _host(self) -> Identity:
        """The worker that hosts the registry; its registry may be lost, but not another cluster's."""
        try:
            host = await self._registry.get_json("/identity", Identity, seconds=CALL_SECONDS)
            if host.id != self._config.registry:
                raise ConfigRefused([f"{self._registry.url} answers as worker {host.id}: are the URLs swapped?"])
            await self._state()
        except PeerRefuses as error:
            raise _refused(error) from error
        except (PeerError, WireError) as error:
            raise _silent(f"worker-{self._config.registry}, which hosts the registry,", error) from error
        return host

    async def _registry_told(self) -> Told:
        try:
            known = await _all_routes(self._registry, "/registry/routes")
        except (PeerError, WireError) as error:
            raise _silent(THE_REGISTRY, error) from error
        return _told(THE_REGISTRY, known)

    async def _ask_everybody(self, without: frozenset[str]) -> list[Told]:
        asked = {name: peer for name, peer in self._nodes() if name not in without}
        answers = await asyncio.gather(*(self._ask(name, peer) for name, peer in asked.items()))
        missing = [answer for answer in answers if isinstance(answer, str)]
        if missing:
            raise InputOutputFailed(
                "\n".join([*missing, "every node must answer; --without NODE leaves a lost one out"])
            )
        return [answer for answer in answers if isinstance(answer, Told)]

    async def _ask(self, name: str, peer: Peer) -> Told | str:
        """What a node knows, or why it does not tell."""
        try:
            identity = None
            if (worker := self._worker(name)) is not None:
                identity = await peer.get_json("/identity", Identity, seconds=CALL_SECONDS)
                if identity.id != worker:
                    return f"{peer.url} answers as worker {identity.id}, not {worker}: are the URLs swapped?"
            told = _told(name, await _all_routes(peer, "/routes"), identity)
        except (PeerError, WireError) as error:
            self._tell(f"{name} does not tell what it knows: {error}")
            return f"{name} does not tell what it knows: {error}"
        self._tell(f"{name} knows {len(told.routes):,} routes")
        return told

    def _nodes(self) -> Iterator[tuple[str, Peer]]:
        yield from ((f"worker-{worker}", peer) for worker, peer in self._workers.items())
        yield from ((f"api-{api}", peer) for api, peer in self._apis.items())

    def _worker(self, name: str) -> WorkerId | None:
        kind, _, plain = name.partition("-")
        return WorkerId(plain) if kind == "worker" else None

    def _judge(self, merged: Merged) -> None:
        named = frozenset(worker for one in merged.routes for worker in one.route)
        verdict = judge(None, self._config, pins=merged.pins, named=named)
        if not verdict.accepted:
            raise ConfigRefused(list(verdict.refusals))

    async def _write(self, merged: Merged, *, host: str, own: int) -> None:
        done = 0
        for page, more in _pages(merged.routes):
            message = Rebuild(
                host=host,
                own=own,
                known=merged.known,
                claims=merged.claims,
                pins=merged.pins,
                routes=page,
                more=more,
            )
            await self._registry.post_packed("/registry/rebuild", message, RegistryState, seconds=CALL_SECONDS)
            done += len(page)
            self._tell(f"the registry has taken in {done:,} of {len(merged.routes):,} routes")

    async def _spread(self, pins: Pins, claims: int, without: frozenset[str]) -> list[str]:
        """Let everybody hear of the pins and the number, so that no older registry is ever believed.

        Returns:
            Who has not heard, and why. They will, from others; only until then they might believe an older one.
        """
        nodes = [(name, peer) for name, peer in self._nodes() if name not in without]
        answers = await asyncio.gather(*(self._spread_to(name, peer, pins, claims) for name, peer in nodes))
        return [answer for answer in answers if answer is not None]

    async def _spread_to(self, name: str, peer: Peer, pins: Pins, claims: int) -> str | None:
        try:
            if (worker := self._worker(name)) is not None:
                uuid = pins.workers.get(worker)
                if uuid is None:
                    return None  # a new worker: API nodes bring it in, with all there is to know
                await peer.post_json("/join", Join(id=worker, uuid=uuid, pins=pins), Identity, seconds=CALL_SECONDS)
            await _announce(peer, RoutesQuestion(cluster=pins.cluster, claims=claims, after=SliceId(SLICE_MAX)))
        except (PeerError, WireError) as error:
            return f"{name}: {error}"
        return None


def _require_new(worker: WorkerId, found: Identity, pinned: str | None) -> None:
    if found.id != worker:
        raise ConfigRefused([f"worker {found.id} answers at the URL of worker {worker}: are the URLs swapped?"])
    if pinned is None:
        raise ConfigRefused([f"worker {worker} was never pinned: an API node brings it in, nothing is to be replaced"])
    if found.cluster is not None:
        # What it holds would pass for all there is, though others counted on while it was away.
        used = f"data directory {found.uuid}, which is in use since it joined cluster {found.cluster}"
        raise ConfigRefused([f"worker {worker} runs on {used}: start it on an empty folder"])


async def _all_routes(peer: Peer, path: str) -> KnownRoutes:
    """All pages of what a node knows, as one."""
    routes: list[SettledRoute] = []
    unreadable: list[SliceId] = []
    after: SliceId | None = None
    while True:
        answer = await peer.post_packed(path, RoutesQuestion(after=after), KnownRoutes, seconds=CALL_SECONDS)
        routes += answer.routes
        unreadable += answer.unreadable
        ends = [*(one.slice for one in answer.routes[-1:]), *answer.unreadable[-1:]]
        if not answer.more or not ends:
            return msgspec.structs.replace(answer, routes=tuple(routes), unreadable=tuple(unreadable), more=False)
        after = max(ends)


async def _announce(peer: Peer, question: RoutesQuestion) -> None:
    """Let a node hear of a claim number; one that could not join without the registry does so within seconds."""
    for left in reversed(range(JOINING_TRIES)):
        try:
            await peer.post_packed("/routes", question, KnownRoutes, seconds=CALL_SECONDS)
        except PeerRefuses as error:
            if error.slug != "wrong-cluster" or not left:
                raise
            await asyncio.sleep(JOINING_PAUSE_SECONDS)
        else:
            return


def _told(who: str, known: KnownRoutes, identity: Identity | None = None) -> Told:
    return Told(
        who=who,
        cluster=known.cluster,
        claims=known.claims,
        pins=known.pins,
        routes={one.slice: one for one in known.routes},
        unreadable=frozenset(known.unreadable),
        identity=identity,
    )


def _pages(routes: Sequence[SettledRoute]) -> Iterator[tuple[tuple[SettledRoute, ...], bool]]:
    """Pages, each with whether more follow; one empty page of nothing."""
    starts = range(0, max(len(routes), 1), ROUTES_PAGE_MAX)
    for at in starts:
        yield tuple(routes[at : at + ROUTES_PAGE_MAX]), at != starts[-1]


def _refused(error: PeerRefuses) -> ConfigRefused:
    return ConfigRefused([str(error)])


def _silent(who: str, error: Exception) -> InputOutputFailed:
    return InputOutputFailed(f"{who} does not answer: {error}")
