"""What is known of every node of a cluster, asked of all of them at once, and what is wrong with it.

::

    API node    GET /readyz   GET /cluster
    worker      GET /readyz   GET /worker/identity   GET /worker/status   at the registry's host: GET /worker/registry

A node that does not answer is told of as that; the others are not waited for any longer than it takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from common.config import ClusterConfig
from common.errors import PeerAway
from common.wire import Identity, Pins, RegistryState
from tallyslice.questions import Questions

if TYPE_CHECKING:
    from tallyslice.target import Target

T = TypeVar("T")


class Refused(msgspec.Struct, frozen=True):
    """Why the cluster file as it is on disk is not the one that the node runs on."""

    reasons: tuple[str, ...]
    at: str


class Parked(msgspec.Struct, frozen=True):
    """A slice whose batches a worker refuses."""

    outcome: str
    detail: str = ""


class WorkerSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A worker, as an API node sees it."""

    id: str
    state: str
    detail: str | None = None
    queue_events: int = 0
    parked: dict[str, Parked] = {}


class Spooled(msgspec.Struct, frozen=True, kw_only=True):
    """What waits on an API node's disk."""

    events: int = 0
    bytes: int = 0
    age_seconds: float | None = None
    refusal: str | None = None


class ApiState(msgspec.Struct, frozen=True, kw_only=True):
    """Of ``GET /cluster``, what tells how the node is."""

    version: str
    process: int | None = None
    pins: Pins | None = None
    claims: int = 0
    workers: tuple[WorkerSeen, ...] = ()
    spool: Spooled = Spooled()
    refusal: Refused | None = None
    problems: tuple[str, ...] = ()


class SlicesHeld(msgspec.Struct, frozen=True, kw_only=True):
    """How many slices a worker holds, by their state; those that are quarantined by their numbers."""

    open: int = 0
    verifying: int = 0
    closed: int = 0
    quarantined: tuple[int, ...] = ()


class WorkerState(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /worker/status``."""

    version: str
    refusal: Refused | None = None
    slices: SlicesHeld = SlicesHeld()
    waiting_events: int = 0
    free_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHealth:
    """One node.

    Attributes:
        name: such as ``api-0``.
        url: as the cluster file has it.
        unready: why it is not ready; None if it is.
        away: why it does not answer at all; None if it does.
        state: what it tells of itself.
        identity: of a worker.
    """

    name: str
    url: str
    unready: str | None = None
    away: str | None = None
    state: ApiState | WorkerState | None = None
    identity: Identity | None = None

    @property
    def condition(self) -> str:
        """In a word: ``ready``, ``not ready`` or ``away``."""
        if self.away is not None:
            return "away"
        return "ready" if self.unready is None else "not ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterHealth:
    """A whole cluster.

    Attributes:
        config: the cluster file.
        nodes: API nodes, then workers, in the file's order.
        registry: what the registry tells; None if it does not.
        registry_problem: why it does not.
    """

    config: ClusterConfig
    nodes: Sequence[NodeHealth]
    registry: RegistryState | None
    registry_problem: str | None

    @property
    def answers(self) -> bool:
        """Whether any node does."""
        return any(node.away is None for node in self.nodes)

    @property
    def pins(self) -> Pins | None:
        """The cluster's constants, as whoever knows the most tells them."""
        if self.registry is not None and self.registry.pins is not None:
            return self.registry.pins
        told = [node.state.pins for node in self.nodes if isinstance(node.state, ApiState)]
        told += [node.identity.pins for node in self.nodes if node.identity is not None]
        return next((pins for pins in told if pins is not None), None)

    def problems(self) -> list[str]:
        """What people should look at, a sentence each; empty if all is well."""
        found: dict[str, list[str]] = {}  # the same told by many nodes is one problem
        for who, text in self._problems():
            found.setdefault(text, []).append(who)
        return [f"{', '.join(names)}: {text}" for text, names in found.items()]

    def notes(self) -> list[str]:
        """What is not wrong, and yet good to know."""
        versions = {node.state.version for node in self.nodes if node.state is not None}
        if len(versions) == 1 and self.config.version not in versions:
            return [f"All nodes run on another cluster file than this one: version {versions.pop()}."]
        return []

    def _problems(self) -> Iterator[tuple[str, str]]:
        for node in self.nodes:
            if node.away is not None:
                yield node.name, node.away
                continue
            if node.unready is not None:
                yield node.name, f"not ready: {node.unready}"
            if node.state is not None and node.state.refusal is not None:
                reasons = "; ".join(node.state.refusal.reasons)
                yield node.name, f"refused the cluster file at {node.state.refusal.at}: {reasons}"
            if isinstance(node.state, ApiState):
                yield from _of_api(node.name, node.state)
            elif isinstance(node.state, WorkerState) and node.state.slices.quarantined:
                slices = ", ".join(map(str, node.state.slices.quarantined))
                yield node.name, f"slice files are damaged and set aside: slices {slices}"
        yield from self._of_all()

    def _of_all(self) -> Iterator[tuple[str, str]]:
        versions = {node.name: node.state.version for node in self.nodes if node.state is not None}
        if len(set(versions.values())) > 1:
            told = ", ".join(f"{name} {version}" for name, version in versions.items())
            yield "cluster", f"the nodes run on different cluster files: {told}"
        pins = self.pins
        for node in self.nodes:
            if pins is None or node.identity is None:
                continue
            pinned = pins.workers.get(node.identity.id)
            if node.identity.cluster not in (None, pins.cluster):
                yield node.name, f"belongs to another cluster: {node.identity.cluster}"
            elif pinned not in (None, node.identity.uuid):
                yield node.name, f"runs on data directory {node.identity.uuid}, and is known by {pinned}"
        if self.registry_problem is not None:
            yield "registry", self.registry_problem
        elif self.registry is not None:
            known = max((node.identity.claims for node in self.nodes if node.identity is not None), default=0)
            if self.registry.claims < known:
                yield "registry", f"it is lost or old: {known} claims are known, and it has {self.registry.claims}"


def _of_api(name: str, state: ApiState) -> Iterator[tuple[str, str]]:
    yield from ((name, text) for text in state.problems)
    if state.spool.events:
        yield name, f"{state.spool.events:,} events are in its spool: their worker is away"
    for worker in state.workers:
        for slice_id, parked in worker.parked.items():
            yield name, f"worker {worker.id} refuses slice {slice_id} ({parked.outcome}): {parked.detail}"


async def look(target: Target, config: ClusterConfig) -> ClusterHealth:
    """Ask every node of a cluster file."""
    async with target.session() as session:
        questions = Questions(session=session, headers=target.headers)
        workers = Questions(session=session)
        apis = (
            _api(questions, f"api-{name}", url, target.api_nodes[f"api-{name}"])
            for name, url in config.api_nodes.items()
        )
        nodes, (registry, problem) = await asyncio.gather(
            asyncio.gather(*apis, *(_worker(workers, f"worker-{name}", url) for name, url in _workers(config))),
            _tried(workers.ask(f"{config.worker_nodes[config.registry]}/registry", RegistryState)),
        )
        return ClusterHealth(config=config, nodes=nodes, registry=registry, registry_problem=problem)


def _workers(config: ClusterConfig) -> Sequence[tuple[str, str]]:
    nodes: Mapping[str, str] = {str(name): url for name, url in config.worker_nodes.items()}
    return [*nodes.items()]


async def _api(questions: Questions, name: str, url: str, origin: str) -> NodeHealth:
    unready, (state, away) = await asyncio.gather(
        questions.unready(origin), _tried(questions.ask(f"{origin}/cluster", ApiState))
    )
    return NodeHealth(name=name, url=url, unready=unready, away=away, state=state)


async def _worker(questions: Questions, name: str, url: str) -> NodeHealth:
    base = url.removesuffix("/worker")
    unready, (identity, away), (state, _) = await asyncio.gather(
        questions.unready(base),
        _tried(questions.ask(f"{url}/identity", Identity)),
        # An older worker does not know this question: then less is known of it.
        _tried(questions.ask(f"{url}/status", WorkerState)),
    )
    return NodeHealth(name=name, url=url, unready=unready, away=away, state=state, identity=identity)


async def _tried(question: Awaitable[T]) -> tuple[T | None, str | None]:
    """The answer, or why there is none."""
    try:
        return await question, None
    except PeerAway as error:
        return None, str(error)
