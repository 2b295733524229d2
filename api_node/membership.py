"""Which cluster this API node is of: the pins, the highest claim number, and where both are kept.

::

    kept on disk?   registry answers?   pins there?   then
    no              yes                 no            ask every worker: all without a cluster -> initialise; else refuse
    any             yes                 yes           join, if they are the same cluster, secret, length and start
    yes             yes                 no            refuse: the registry is lost or empty
    yes             no                  -             go on with what is kept
    no              no                  -             go on with what the workers keep, if they agree; else wait

Nothing here is ever taken back: a node that has joined a cluster never joins another from the same folder. Several
processes of a node share the folder: each adds what it knows to what is kept there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from functools import reduce
from typing import TYPE_CHECKING

import msgspec

from common.errors import (
    ConfigRefused,
    ExitError,
    InputOutputFailed,
    NoAnswer,
    PeerAway,
    PeerError,
    PeerRefuses,
    WireError,
)
from common.judge import judge
from common.lmdb_file import alone_in, sync_folder
from common.pins import PinsDiffer, merge_pins
from common.slices import SECOND, Micros, SliceClock
from common.wire import Identity, Pins, RegistryState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path

    from api_node.registry import Registry
    from common.config import ClusterConfig
    from common.logs import Log
    from common.routing import WorkerId

KEPT_FILE = "identity.json"
RETRY_FIRST_SECONDS, RETRY_MOST_SECONDS = 0.1, 2.0
KEEP_RETRY_SECONDS = 2.0

_REFUSED = "registry-refused"  # the slug of refusals that are already in this node's own words


class _Waiting(PeerAway):
    """A worker of the file is away, so this cannot be the first contact yet."""


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What this node keeps of its cluster."""

    pins: Pins
    claims: int


class Membership:
    """The node's place in its cluster. ``pins`` is None until it has joined."""

    def __init__(
        self,
        *,
        folder: Path,
        config: Callable[[], ClusterConfig],
        secret_id: str,
        registry: Registry,
        identities: Callable[[], Awaitable[dict[WorkerId, Identity | PeerError]]],
        now: Callable[[], Micros],
        log: Log,
    ) -> None:
        self.pins: Pins | None = None
        self.claims = 0
        self.named: set[WorkerId] = set()
        self.problem: str | None = "has not joined its cluster yet"
        self.joined = asyncio.Event()
        self._folder = folder
        self._config = config
        self._secret_id = secret_id
        self._registry = registry
        self._identities = identities
        self._now = now
        self._log = log
        self._clock: SliceClock | None = None
        self._named_at = 0  # the claim number up to which ``named`` is everything
        self._unkept = asyncio.Event()
        self._keeping = asyncio.Lock()

    @property
    def clock(self) -> SliceClock:
        """The cluster's division of time.

        Raises:
            NoAnswer: the node has not joined yet.
        """
        if self._clock is None:
            raise NoAnswer(f"this node {self.problem}")
        return self._clock

    @property
    def cluster(self) -> str:
        """The cluster id.

        Raises:
            NoAnswer: the node has not joined yet.
        """
        if self.pins is None:
            raise NoAnswer(f"this node {self.problem}")
        return self.pins.cluster

    @property
    def knows_all_slices(self) -> bool:
        """Whether the registry knows every slice that holds data; not if it was rebuilt without somebody."""
        return self.pins is not None and self.pins.unknown_before is None

    def reason(self) -> str | None:
        """For readiness."""
        return self.problem if self.pins is None else None

    def saw_claims(self, number: int) -> None:
        """Some node knows of this many claims; so a registry with fewer is not the real one."""
        if number > self.claims:
            self.claims = number
            self._unkept.set()

    async def hear_registry(self) -> None:
        """Ask the registry what is new there; durable when this returns.

        Raises:
            PeerError: it does not answer, or is not of this cluster.
            InputOutputFailed: the disk does not take it; this node knows it all the same.
        """
        state = await self._registry.state()
        self._take_pins(self._ours(state))
        self.saw_claims(state.claims)
        self._hear_named(state)
        await self._keep()

    def known(self) -> tuple[Pins | None, int]:
        """The pins and the highest claim number that this node knows, or kept from before if it has not joined yet."""
        kept = self._read_kept() if self.pins is None else None
        return (self.pins, self.claims) if kept is None else (kept.pins, max(self.claims, kept.claims))

    async def join(self) -> None:
        """One try to join, or to hear news of the registry.

        Raises:
            ConfigRefused: the cluster's pins contradict this node's secret or config.
            PeerError: not now; ``problem`` says why.
        """
        kept = self._read_kept()
        if kept is not None:
            self._check(kept.pins)  # whoever answers where the file now has the registry
        # Before the registry is asked: what is heard of while it answers may be newer than its answer.
        claims = max(self.claims, kept.claims if kept else 0)
        try:
            state = await self._registry.state()
            if state.pins is None:
                state = await self._first_contact(kept)
        except _Waiting:
            raise
        except (PeerError, WireError) as error:
            await self._go_on_without(kept, error)
            return
        assert state.pins is not None  # noqa: S101 - first contact ends in pins, or raises
        await self._accept(state, kept, claims)

    async def keep_joining(self, fail: Callable[[ExitError], None]) -> None:
        """Try until the registry itself has let this node in; a task's body."""
        delay = RETRY_FIRST_SECONDS
        while True:
            try:
                await self.join()
            except ExitError as error:
                fail(error)
                return
            except (PeerError, WireError):
                pass  # in self.problem
            if self.problem is None:
                return
            await asyncio.sleep(delay)
            delay = min(delay * 2, RETRY_MOST_SECONDS)

    async def keep_claims(self) -> None:
        """Write the pins and the claim number whenever there is news of them; a task's body."""
        await self.joined.wait()
        while True:
            await self._unkept.wait()
            try:
                await self._keep()
            except InputOutputFailed as error:
                # Workers keep the claim number too, so the node goes on; it tries again until its disk takes it.
                self._log.error("identity_not_kept", error=error)
                self._unkept.set()
                await asyncio.sleep(KEEP_RETRY_SECONDS)

    async def workers_named(self, *, fresh: bool = True) -> frozenset[WorkerId]:
        """The workers that settled routes name.

        Args:
            fresh: ask the registry in any case; otherwise only if routes were settled that are not known here.

        Raises:
            PeerError: the registry does not answer, or is not the real one: it is another cluster's, or old.
        """
        known = self.claims
        if fresh or known > self._named_at:
            state = await self._registry.state()
            self._ours(state)
            if state.claims < known:
                raise PeerRefuses(_behind(state.claims, known), slug="registry-behind")
            self._hear_named(state)
        return frozenset(self.named)

    async def pin_worker(self, worker: WorkerId, uuid_found: str) -> str:
        """The uuid that the cluster pinned for the worker's data directory; proposes the one found if there is none.

        Raises:
            PeerError: the registry does not answer, or refuses.
        """
        assert self.pins is not None  # noqa: S101 - workers are only asked after joining
        pinned = self.pins.workers.get(worker)
        if pinned == uuid_found:
            return pinned
        # Unknown here, or another: what the registry says now counts, another node may have pinned it meanwhile.
        state = await (
            self._registry.state() if pinned else self._registry.pin_worker(self.cluster, worker, uuid_found)
        )
        return self._take_pins(self._ours(state)).workers.get(worker, "")

    async def _first_contact(self, kept: _Kept | None) -> RegistryState:
        """The registry knows no cluster. Only if nobody does is this the beginning of one."""
        known = self.pins or (kept.pins if kept else None)
        if known is not None:
            raise self._refused(f"the registry is empty, but this node belongs to cluster {known.cluster}")
        config = self._config()
        identities = await self._identities()
        uuids: dict[WorkerId, str] = {}
        away: PeerError | None = None
        for worker, identity in identities.items():
            if isinstance(identity, PeerError):
                away = identity
                continue
            if identity.cluster is not None:
                raise self._refused(f"the registry is empty, but worker {worker} belongs to cluster {identity.cluster}")
            if identity.id != worker:
                raise self._refused(_swapped(worker, identity))
            uuids[worker] = identity.uuid
        if away is not None:
            self.problem = f"waits for every worker before the first contact: {away}"
            raise _Waiting(self.problem)
        # Whole seconds, so that the slices' bounds are easy to read.
        first = config.first_slice if config.first_slice is not None else self._now() // SECOND * SECOND
        pins = Pins(
            cluster=uuid.uuid4().hex,
            first=first,
            length_seconds=config.length_of_time_slice,
            secret_id=self._secret_id,
            registry=config.registry,
            workers=uuids,
        )
        return await self._registry.initialise(pins)

    async def _go_on_without(self, kept: _Kept | None, error: PeerError | WireError) -> None:
        if self.pins is None and kept is not None and isinstance(error, PeerAway):
            self._take_pins(kept.pins)
            self.saw_claims(kept.claims)
            self.joined.set()
        elif self.pins is None and isinstance(error, PeerAway):
            found = [it for it in (await self._identities()).values() if isinstance(it, Identity)]
            held = [it.pins for it in found if it.pins is not None]
            if len({pins.cluster for pins in held}) == 1:
                # One of them may not have heard yet of what was pinned later.
                pins = _together(held)
                self._check(pins)
                self._take_pins(pins)
                self.saw_claims(max(it.claims for it in found if it.cluster == pins.cluster))
                self.joined.set()
        if isinstance(error, PeerRefuses) and error.slug != _REFUSED:
            # Not our own words yet. Nobody here keeps a registry: this is not the worker it should be, most likely.
            host = self._config().registry
            found_there = (await self._identities()).get(host)
            if isinstance(found_there, Identity) and found_there.id != host:
                raise self._refused(_swapped(host, found_there)) from error
            raise self._refused(f"the registry refuses: {error}") from error
        if not isinstance(error, PeerRefuses):
            self.problem = f"cannot reach the registry: {error}"
        raise error

    async def _accept(self, state: RegistryState, kept: _Kept | None, claims: int) -> None:
        pins = state.pins
        assert pins is not None  # noqa: S101 - the caller looked
        known = self.pins or (kept.pins if kept else None)
        if known is not None and known.cluster != pins.cluster:
            text = f"the registry is of cluster {pins.cluster}, but this node belongs to cluster {known.cluster}"
            raise ConfigRefused([text])
        self._check(pins)
        verdict = judge(None, self._config(), pins=pins, named=frozenset(state.named))
        if verdict.refusals:
            raise ConfigRefused(list(verdict.refusals))
        if known is None:
            # What a worker was told later than this registry: it may be an old one.
            found = [it for it in (await self._identities()).values() if isinstance(it, Identity)]
            pins = _together([pins, *(it.pins for it in found if it.pins is not None and it.cluster == pins.cluster)])
        else:
            pins = _together([known, pins])
        self._take_pins(pins)
        self.saw_claims(max(claims, state.claims))
        self._hear_named(state)
        await self._keep()
        self.joined.set()
        if state.claims < claims:
            raise self._refused(_behind(state.claims, claims))
        self.problem = None
        self._log.info("joined", cluster=pins.cluster, claims=self.claims)

    def _check(self, pins: Pins) -> None:
        if pins.secret_id != self._secret_id:
            text = (
                f"secret-file: this secret has id {self._secret_id}, but the cluster was begun with {pins.secret_id}; "
                "give this node the cluster's secret"
            )
            raise ConfigRefused([text])
        verdict = judge(None, self._config(), pins=pins, named=frozenset())
        if verdict.refusals:
            raise ConfigRefused(list(verdict.refusals))

    def _ours(self, state: RegistryState) -> Pins:
        if state.pins is None or state.pins.cluster != self.cluster:
            message = "the registry is not of this node's cluster"
            raise PeerRefuses(message, slug="wrong-cluster")
        return state.pins

    def _hear_named(self, state: RegistryState) -> None:
        self.named.update(state.named)
        self._named_at = max(self._named_at, state.claims)

    def _take_pins(self, pins: Pins) -> Pins:
        if self.pins is not None:
            pins = _together([self.pins, pins])
        if pins != self.pins:
            self._unkept.set()
        self.pins = pins
        self._clock = SliceClock(first=Micros(pins.first), length_seconds=pins.length_seconds)
        return pins

    def _refused(self, text: str) -> PeerRefuses:
        if self.problem != text:
            self._log.error("registry_refused", reason=text)
        self.problem = text
        return PeerRefuses(text, slug=_REFUSED)

    def _read_kept(self) -> _Kept | None:
        try:
            return msgspec.json.decode((self._folder / KEPT_FILE).read_bytes(), type=_Kept)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            message = f"{self._folder / KEPT_FILE} cannot be read ({type(error).__name__}): restore it, or move it away"
            raise InputOutputFailed(message) from error

    async def _keep(self) -> None:
        """Write what is known now; one at a time, so that nothing older is ever written over it."""
        async with self._keeping:
            assert self.pins is not None  # noqa: S101 - there is nothing to keep before
            self._unkept.clear()
            await asyncio.to_thread(self._write_kept, _Kept(pins=self.pins, claims=self.claims))

    def _write_kept(self, kept: _Kept) -> None:
        """Add to what is kept, and replace the file in one step."""
        target = self._folder / KEPT_FILE
        draft = target.with_suffix(f".{os.getpid()}.tmp")
        try:
            with alone_in(self._folder):
                content = msgspec.json.encode(self._added(self._read_kept(), kept))
                with draft.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(target)
                sync_folder(self._folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            message = f"{target} cannot be written (errno {error.errno})"
            raise InputOutputFailed(message) from error

    def _added(self, there: _Kept | None, kept: _Kept) -> _Kept:
        """What another process of this node may have kept meanwhile, and what this one knows."""
        if there is None:
            return kept
        try:
            return _Kept(pins=merge_pins(there.pins, kept.pins), claims=max(there.claims, kept.claims))
        except PinsDiffer as error:
            message = f"{self._folder / KEPT_FILE} was written by somebody else: {error}"
            raise InputOutputFailed(message) from error


def _together(found: Iterable[Pins]) -> Pins:
    """What nodes of one cluster have pinned: an older answer takes nothing back.

    Raises:
        PeerRefuses: they contradict each other.
    """
    try:
        return reduce(merge_pins, found)
    except PinsDiffer as error:
        message = f"not everybody has the same pins: {error}"
        raise PeerRefuses(message, slug="wrong-cluster") from error


def _behind(claims: int, known: int) -> str:
    return f"the registry has {claims} claims, but {known} are known: it is lost or old"


def _swapped(worker: WorkerId, found: Identity) -> str:
    return f"worker {worker} answers as worker {found.id}: are the URLs swapped?"
