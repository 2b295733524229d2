"""A simulated API node: the product's routes, senders, drains, spool and caches, in the shell that ``WorkerLink`` is.

The shell is written anew here, without a loop: each turn of a stream is one call, so that a history decides when it
happens, and what happens in between. Its rules are those of ``api_node/worker_client.py``:

::

    turn of a sender   spooled, and the worker is back: retire; live events go on in a new stream
                       away, or the rest of a spooled slice is here: spill
                       spooled: begin to drain
                       take an envelope
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from api_node.sender import Closed, ClosedBatch, Done, Events, Flight, Moved, Sender, TurnedAway, Verdict
from api_node.spool import SpooledBatch, SpoolKey
from api_node.spool_room import SpooledStream
from api_node.summary_cache import Watcher
from common.config import ClusterConfig
from common.errors import NoAnswer, NotTaken, PeerAway, SliceClosed
from common.routing import Route, WorkerId, owner_position
from common.slices import Micros, SliceId
from common.wire import Batch, Claim, Envelope, Held, Outcome, RegistryState, Reply, Settled, decode, encode
from tests.simulation.faults import Faults
from tests.simulation.ledger import Event, Fate, Waiter
from tests.simulation.sim_loop import LoopTasks, Silence, SimLoop, finish

if TYPE_CHECKING:
    from api_node.drain import Drain
    from tests.simulation.world import World

LOOP = SimLoop()
TTL_SECONDS = 1.0
PATIENCE_SECONDS = 3.0  # for a reply, or an answer
ROUTE_SECONDS = 0.05  # on the loop's clock: a call to the registry, and no second one
PIECE_BYTES = 200  # read from the spool at once: a batch or two, so that its pages are turned


@dataclass(slots=True, eq=False)
class Request:
    """An envelope on its way, and where its reply belongs."""

    link: Link
    life: int
    sender: Sender[Any]
    flight: Flight[Any]
    body: bytes
    sent_at: float
    drain: Drain | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether a reply still has somebody to reach."""
        return self.link.node.life == self.life and self.link.in_flight.get(self.sender) is self


@dataclass(slots=True, eq=False)
class Asked:
    """A question on its way to a worker, or its answer on the way back."""

    link: Link
    life: int
    slice: SliceId
    watcher: Watcher
    least: Mapping[str, int]
    asked_at: float
    answer: Held | None = None
    is_answered: bool = False


class Link:
    """A node's link to one worker."""

    def __init__(self, *, node: Node, worker: WorkerId) -> None:
        self.node = node
        self.worker = worker
        self.away = False
        self.silent = False  # the last call got no answer
        self.senders: list[Sender[Waiter]] = []
        self.drains: dict[bytes, Drain] = {}
        self.in_flight: dict[Sender[Any], Request] = {}
        self.cache = node.world.parts.cache(ttl_seconds=TTL_SECONDS, timer=lambda: node.world.now)

    def put(self, event: Event, route: Route, key_id: bytes) -> None:
        """Put an event into the open batch of its slice."""
        if event.user_key[-1] % 2:
            waiter, _ = self._current().add(event.slice, route, key_id, event.type, event.user_key, event.id_key)
        else:
            # As one of many. Without a draw of its own, so that the histories of old seeds stay what they were.
            many = Events((event.type,), b"\0", event.user_key, event.id_key or b"")
            waiter = self._current().extend(event.slice, route, key_id, many)[0].waiter
        if not waiter.events:
            waiter.slice = event.slice
        waiter.events.append(event)

    def turns(self) -> list[Sender[Waiter] | Drain]:
        """What may do something now: no envelope of it is in flight, and it may have something to do."""
        live: list[Sender[Waiter] | Drain] = [
            it for it in self.senders if it not in self.in_flight and (it.has_spooled or it.retired or not it.is_empty)
        ]
        sending = {request.drain for request in self.in_flight.values()}
        return live + [it for it in self.drains.values() if it not in sending]

    def turn(self, whose: Sender[Waiter] | Drain) -> Request | None:
        """One turn of a stream; an envelope if it sends one.

        Raises:
            Killed: the process died while it wrote to its spool.
        """
        if not isinstance(whose, Sender):
            return self._drain(whose)
        if whose.retired and whose.is_empty:
            self.senders.remove(whose)
            self.drain_spools()
            return None
        if whose.has_spooled and not self.away:
            whose.retired = True
        if self.away or whose.must_spill:
            self._spill(whose)
            return None
        if whose.has_spooled:
            self.drain_spools()
        flight = whose.take(self.node.world.now)
        return None if flight is None else self._send(whose, flight, None)

    def answered(self, request: Request, body: bytes) -> None:
        """A reply has come.

        Raises:
            Killed: the process died while it wrote to its spool.
        """
        del self.in_flight[request.sender]
        now, reply = self.node.world.now, decode(body, Reply)
        self.silent = False
        self.node.membership.saw_claims(reply.claims)
        for receipt in reply.receipts:
            if receipt.held is not None:
                self.cache.note(receipt.held)
            self.node.world.saw_outcome(receipt.outcome)
            if receipt.outcome is Outcome.WRONG_WORKER:
                self.node.join_again()
        if request.drain is None:
            for verdict in request.sender.answered(request.flight, reply.receipts, now):
                self._act(verdict)
            return
        finish(request.drain.answered(request.sender, request.flight, reply.receipts, now))
        if request.drain.is_done:
            self._end(request.drain)
            self.drain_spools()

    def failed(self, request: Request) -> None:
        """No reply came in time."""
        if request.is_awaited:
            del self.in_flight[request.sender]
            request.sender.failed(request.flight)
            self.silent = True

    def came_back(self) -> None:
        """The worker answers again."""
        self.away = self.silent = False

    def drain_spools(self) -> None:
        """Begin to drain what leads to this worker, where no stream is still filling it."""
        filling = {it.stream for it in self.senders if not it.retired or it.must_spill}
        draining = {name for drain in self.drains.values() for name in drain.streams}
        world, room = self.node.world, self.node.room
        leading = [name for name, worker in room.spool.streams().items() if worker == self.worker]
        for name in sorted(leading, key=world.birth):
            if name not in filling and name not in draining:
                self.drains[name] = world.parts.drain(
                    source=SpooledStream(room.spool, name, self.worker),
                    room=cast("Any", room),
                    empty_batch=self.node.empty_batch,
                    log=cast("Any", Silence()),
                )

    @property
    def is_idle(self) -> bool:
        """Whether every batch is answered for, the spooled ones too; but for those whose route nobody can tell."""
        spooled = self.worker in self.node.room.spool.streams().values()
        waiting = [at for at, events in self.node.room.spool.events.items() if events]
        stuck = bool(waiting) and all(map(self.node.world.is_unknown, waiting))
        drained = stuck or (not spooled and not self.drains)
        return drained and not self.in_flight and all(it.is_empty for it in self.senders)

    def _current(self) -> Sender[Waiter]:
        if not self.senders or self.senders[-1].retired:
            world = self.node.world
            stream = world.new_stream(self.node.name)

            def new_waiter() -> Waiter:
                return world.new_waiter(self.node, self.worker, stream)

            self.senders.append(world.parts.sender(stream=stream, new_waiter=new_waiter, jitter=world.random.random))
        return self.senders[-1]

    def _send(self, sender: Sender[Any], flight: Flight[Any], drain: Drain | None) -> Request:
        node = self.node
        body = encode(
            Envelope(
                cluster=node.membership.cluster,
                worker=node.membership.pins.workers[self.worker],
                stream=sender.stream,
                claims=node.membership.claims,
                batches=tuple(batch.raw for batch in flight.batches),
                spooled=drain is not None,
            )
        )
        request = self.in_flight[sender] = Request(self, node.life, sender, flight, body, node.world.now, drain)
        return request

    def _spill(self, sender: Sender[Waiter]) -> None:
        batches = sender.spill()
        if batches:
            self.node.world.birth(sender.stream)
            self.node.keep(self.worker, sender.stream, batches)
            for spooled in sender.spilled(batches):
                self.node.world.decide(spooled.waiter, Fate.SPOOLED)

    def _drain(self, drain: Drain) -> Request | None:
        taken = finish(drain.take(self.node.world.now))
        if taken is not None:
            return self._send(*taken, drain)
        if drain.is_done:
            self._end(drain)
            self.drain_spools()
        return None

    def _end(self, drain: Drain) -> None:
        for name in [name for name, it in self.drains.items() if it is drain]:
            del self.drains[name]

    def _act(self, verdict: Verdict[Waiter]) -> None:
        world = self.node.world
        if isinstance(verdict, Moved):
            current = self._current()
            for batch in verdict.batches:
                batch.waiter.stream = current.stream
                current.adopt(batch, regressed=verdict.regressed)
            if verdict.regressed:
                self.cache.forget(verdict.slice)
        elif isinstance(verdict, Done):
            world.decide(verdict.waiter, Fate.COUNTED)
        elif isinstance(verdict, Closed):
            for event in verdict.waiter.events:
                event.ended = True
            world.decide(verdict.waiter, Fate.REFUSED)
        elif isinstance(verdict, TurnedAway):
            world.decide(verdict.waiter, Fate.REFUSED)


class Room:
    """What the drains take for ``SpoolRoom``: one spool, and no thread."""

    def __init__(self, *, node: Node) -> None:
        self.spool = node.world.parts.spool(disk=node.disk, cluster=node.membership.cluster)
        self._world = node.world
        self.spool.open()

    async def batches(self, source: SpooledStream, *, after: SpoolKey | None, bytes_max: int) -> list[SpooledBatch]:
        """See SpoolRoom; in small pieces."""
        return source.spool.batches(source.stream, after=after, bytes_max=min(bytes_max, PIECE_BYTES))

    async def answered(self, source: SpooledStream, keys: Sequence[SpoolKey]) -> None:
        """See SpoolRoom."""
        source.spool.answered(keys)

    async def rename(self, source: SpooledStream, renamed: Sequence[tuple[SpoolKey, bytes, bytes]]) -> None:
        """See SpoolRoom."""
        for old, stream, raw in renamed:
            self._world.birth(stream)
            self._world.renamed(old, stream, raw)
        source.spool.rename(renamed)


@dataclass(slots=True)
class Member:
    """What the parts take for ``Membership``: a node that has joined."""

    pins: Any
    claims: int = 0
    named: set[WorkerId] = field(default_factory=set)

    @property
    def cluster(self) -> str:
        """The cluster id."""
        return str(self.pins.cluster)

    def saw_claims(self, number: int) -> None:
        """See Membership."""
        self.claims = max(self.claims, number)


class _RegistryCalls:
    """What the routes take for the client of the registry."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def claim(self, cluster: str, claims: int, routes: Mapping[SliceId, Route]) -> Settled:
        claim = Claim(cluster=cluster, claims=claims, routes=dict(routes))
        try:
            return self._node.world.call_registry(self._node, claim)
        except PeerAway:
            LOOP.wait(ROUTE_SECONDS)
            raise

    async def state(self) -> RegistryState:
        raise NotImplementedError

    initialise = pin_worker = state  # never asked here


class Node:
    """One API node. ``life`` counts its processes; ``kept_claims`` and its disk outlive them."""

    def __init__(self, *, name: str, world: World, config: ClusterConfig, faults: Faults) -> None:
        self.name = name
        self.world = world
        self.config = config
        self.faults = faults
        self.disk = world.parts.disk(faults)
        self.life = 0
        self.is_up = False
        self.kept_claims = 0

    def start(self) -> None:
        """The process starts, and drains what it finds in its spool."""
        self.faults.spare()
        self.life += 1
        self.membership = Member(pins=self.world.pins, claims=self.kept_claims)
        self.routes = self.world.parts.routes(
            membership=cast("Any", self.membership),
            registry=cast("Any", _RegistryCalls(self)),
            config=lambda: self.config,
            ask_workers=self._routes_held,
            tasks=cast("Any", LoopTasks(LOOP)),
            log=cast("Any", Silence()),
            deadline_seconds=ROUTE_SECONDS,
        )
        self._forgot_at = self.world.now
        self.room = Room(node=self)
        self.links = {worker: Link(node=self, worker=worker) for worker in self.config.worker_nodes}
        self.is_up = True
        for link in self.links.values():
            link.drain_spools()

    def kill(self) -> None:
        """The process dies: what was not answered is in nobody's memory."""
        self.faults.spare()
        self.is_up = False
        self.life += 1
        self.room.spool.close()

    def put(self, event: Event) -> bool:
        """Take an event, as ``Intake`` does; whether it was taken.

        Raises:
            SliceClosed: it is too late for the slice.
        """
        world = self.world
        if event.slice in world.doors_closed:
            raise SliceClosed("")
        try:
            route = self.settle(event.slice)
            link = self.links.get(route[owner_position(event.user_key, len(route))])
            if link is None:
                return False
            link.put(event, route, world.key_id(event.slice))
        except NotTaken:
            return False
        return True

    def settle(self, slice_id: SliceId) -> Route:
        """The settled route, claimed if need be.

        Raises:
            NotTaken: it cannot be known right now.
        """
        return self.routes.known(slice_id) or LOOP.run_until_complete(self.routes.settle(slice_id))

    def join_again(self) -> None:
        """Hear from the registry which data directories are pinned now."""
        pins = self.world.pins_at_registry()
        if pins is not None:
            self.membership.pins = pins

    def find(self, slice_id: SliceId) -> Route | None:
        """The settled route, as a question finds it.

        Raises:
            NoAnswer: it cannot be known right now.
        """
        if self.world.now - self._forgot_at >= TTL_SECONDS:
            # "Not settled" is remembered by a clock of its own; a config makes the node forget it.
            self._forgot_at = self.world.now
            self.routes.follow(self.config)
        return LOOP.run_until_complete(self.routes.find(slice_id))

    def follow(self, config: ClusterConfig) -> None:
        """A new config was accepted."""
        self.config = config
        self.routes.follow(config)
        gone = self.links.keys() - config.worker_nodes.keys()
        links = {worker: self.links.get(worker) or Link(node=self, worker=worker) for worker in config.worker_nodes}
        self.world.links_gone([self.links[worker] for worker in sorted(gone)])
        self.links = links

    def keep(self, worker: WorkerId, stream: bytes, batches: Sequence[ClosedBatch[Any]]) -> None:
        """Put batches into the spool."""
        for batch in batches:
            self.world.spooled(stream, batch.slice, batch.seq, batch.waiter)
        at = Micros(int(self.world.now * 1_000_000))
        self.room.spool.append(worker, [(stream, batch.raw) for batch in batches], at=at)

    async def empty_batch(self, slice_id: SliceId, seq: int) -> Batch:
        """Stands for a damaged record of the spool, as in ``api_node/app.py``."""
        route = self.find(slice_id)
        if route is None:
            raise NoAnswer("")
        return Batch(
            slice=slice_id,
            seq=seq,
            route=route,
            key_id=self.world.key_id(slice_id),
            names=(),
            kinds=b"",
            users=b"",
            regressed=True,
        )

    async def _routes_held(self, slices: Sequence[SliceId]) -> dict[SliceId, Route]:
        found: dict[SliceId, Route] = {}
        for machine in self.world.machines.values():
            for slice_id in slices:
                if machine.is_up and machine.worker in self.links:
                    self.membership.saw_claims(machine.totals.claims)  # every answer brings it along
                    held = self.world.look(machine, slice_id)
                    if held is not None and held.route:
                        found[slice_id] = held.route
        return found
