"""A simulated cluster: its machines, its nodes, its network and clock, and what may happen to them.

Everything that is left to chance comes from one ``random.Random(seed)``. Which faults a history knows at all is drawn
first, so that some histories are calm but for one fault, and others know them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from api_node.spool import SpoolKey
from common.anonymise import Anonymiser
from common.errors import NoAnswer, PeerAway, PeerRefuses, RequestError, SliceClosed
from common.judge import judge
from common.routing import WorkerId
from common.slices import SliceId
from common.wire import Claim, Held, Outcome, Pins, Settled, decode_batch
from tests.simulation.faults import Faults, Killed
from tests.simulation.ledger import Event, Fate, Ledger, Waiter
from tests.simulation.machine import Machine
from tests.simulation.memory_file import Content
from tests.simulation.node import PATIENCE_SECONDS, TTL_SECONDS, Asked, Link, Node, Request
from tests.simulation.parts import Parts
from tests.simulation.plans import CONFIGS, PINS, SECRET, WORKERS, Scale

if TYPE_CHECKING:
    from collections.abc import Iterator

    from common.config import ClusterConfig

USERS = 6
TYPES = ("click", "impression")
COPIES_MAX = 40
_ANONYMISER = Anonymiser(secret=SECRET)
_KEYS: dict[tuple[int, int], bytes] = {}


class Broken(AssertionError):
    """The cluster broke its promise."""


class World:
    """A cluster in the middle of a history."""

    def __init__(self, *, seed: int, parts: Parts, scale: Scale, trace: list[str] | None = None) -> None:
        self.random = Random(seed)
        self.parts = parts
        self.trace = trace
        self.now = 0.0
        self.step = 0
        self.pins = PINS
        self.ledger = Ledger()
        self.first_slice = self.random.choice((-2, 0, 2))
        self.slices = [SliceId(self.first_slice + at) for at in range(scale.slices)]
        self.doors_closed: set[SliceId] = set()
        self.requests: list[Request] = []
        self.replies: list[tuple[Request, bytes]] = []
        self.copies: list[tuple[WorkerId, bytes]] = []
        self.asked: list[Asked] = []
        self.claims_made: list[Claim] = []
        self.registry_away = False
        self.replaced: dict[WorkerId, int] = {}  # worker -> the step at which its disk went back in time
        self.lost: dict[tuple[WorkerId, SliceId], dict[bytes, int]] = {}
        self.given_up: dict[tuple[WorkerId, SliceId], int] = {}  # on a lost disk -> the step at which it was replaced
        self.renewed: set[WorkerId] = set()  # workers with a new disk
        self.backups: dict[WorkerId, list[dict[str, Content]]] = {}
        self.outcomes: dict[Outcome, int] = {}
        self.rotten: list[Waiter] = []  # batches whose record in a spool cannot be read
        self._drawn = 0
        self._in_spools: dict[tuple[bytes, SliceId, int], Waiter] = {}
        self._births: dict[bytes, int] = {}
        self._acked_at: dict[SliceId, tuple[float, str, int]] = {}
        full_share = self.random.choice((0.0, 0.0, 0.1))
        self.machines = {
            worker: Machine(
                worker=worker,
                pins=PINS,
                parts=parts,
                faults=Faults(random=self.random, full_share=full_share),
                open_files_max=self.random.choice(scale.open_files),
            )
            for worker in WORKERS
        }
        for machine in self.machines.values():
            machine.join()
        names = ("a", "b")[: self.random.choice((1, 2, 2))]
        self.nodes = [
            Node(name=name, world=self, config=self.random.choice(CONFIGS), faults=Faults(random=self.random))
            for name in names
        ]
        for node in self.nodes:
            node.start()

    # What the nodes ask of the world.

    def say(self, text: str) -> None:
        """A line of the trace."""
        if self.trace is not None:
            self.trace.append(f"{self.step:4} {self.now:7.2f}  {text}")

    def new_stream(self, node: str) -> bytes:
        """A name for a stream."""
        self._drawn += 1
        stream = self.parts.new_stream(node, self._drawn)
        self.birth(stream)
        return stream

    def birth(self, stream: bytes) -> int:
        """When the history first heard of a stream: an order that does not hang on random names."""
        return self._births.setdefault(stream, len(self._births))

    def new_waiter(self, node: Node, worker: WorkerId, stream: bytes) -> Waiter:
        """What waits for a batch."""
        waiter = Waiter(node.name, node.life, worker, SliceId(0), stream)
        self.ledger.waiters.append(waiter)
        return waiter

    def decide(self, waiter: Waiter, fate: Fate) -> None:
        """A batch is answered."""
        waiter.decide(fate, at=self.now, step=self.step)
        if fate is Fate.COUNTED:
            self._acked_at.setdefault(waiter.slice, (self.now, waiter.node, waiter.life))
        if self.trace is not None:
            self.say(f"    {self.name(waiter.stream)} slice {waiter.slice}: {len(waiter.events)} events {fate.name}")

    def saw_outcome(self, outcome: Outcome) -> None:
        """A receipt arrived."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def key_id(self, slice_id: SliceId) -> bytes:
        """Names the key of a slice."""
        return _ANONYMISER.slice_keys(slice_id).key_id

    def call_registry(self, node: Node, claim: Claim) -> Settled:
        """A call to the registry, which may be lost on the way there or back.

        Raises:
            PeerAway: no answer.
            PeerRefuses: it answered that it will not.
        """
        host = self.machines[PINS.registry]
        if self.registry_away or not host.is_up or (self.faulty("lost claims") and self.random.random() < 0.15):
            raise PeerAway("the registry is away")
        try:
            settled = host.claim(claim)
        except Killed:
            self.worker_died(host)
            raise PeerAway("the registry died") from None
        except RequestError as error:
            raise PeerRefuses(str(error), slug=error.slug) from error
        self.claims_made.append(claim)
        if self.trace is not None:
            shown = {one.slice: ",".join(one.route) for one in settled.routes}
            self.say(f"    {node.name} claims {claim.routes}: {shown}")
        if self.faulty("lost claims") and self.random.random() < 0.15:
            raise PeerAway("the registry's answer was lost")
        return settled

    def spooled(self, stream: bytes, slice_id: SliceId, seq: int, waiter: Waiter) -> None:
        """A batch is in a spool under this name."""
        self._in_spools[stream, slice_id, seq] = waiter

    def renamed(self, old: SpoolKey, stream: bytes, raw: bytes) -> None:
        """A batch in a spool has another name."""
        waiter = self._in_spools.get((old.stream, old.slice, old.seq))
        batch = decode_batch(raw)
        if waiter is not None:
            self._in_spools[stream, batch.slice, batch.seq] = waiter
            waiter.stream = stream

    def rot(self, name: bytes) -> None:
        """A record in a spool cannot be read any more: what was in it is lost, if it was not counted."""
        key = SpoolKey.from_bytes(name)
        waiter = self._in_spools.get((key.stream, key.slice, key.seq))
        if waiter is not None:
            self.say(f"the record of {self.name(key.stream)} {key.slice}:{key.seq} rots")
            waiter.fate = Fate.UNKNOWN
            self.rotten.append(waiter)
            for event in waiter.events:
                # Its client was told otherwise, and would not retry; that somebody does keeps the books simple.
                event.acknowledged = False

    def is_unknown(self, slice_id: SliceId) -> bool:
        """Whether the registry was rebuilt, and nobody could tell the route that the slice may have; it is up."""
        registry = self.machines[PINS.registry].registry
        settled = {one.slice for one in registry.routes(None).routes}
        return registry.pins is not None and registry.pins.unknown_before is not None and slice_id not in settled

    def pins_at_registry(self) -> Pins | None:
        """What the registry answers to somebody who joins; None if it does not."""
        host = self.machines[PINS.registry]
        return host.registry.pins if host.is_up and not self.registry_away else None

    def look(self, machine: Machine, slice_id: SliceId) -> Held | None:
        """What a worker says of a slice; None if it dies over it: a file that never saw a commit is removed then."""
        try:
            return machine.held(slice_id)
        except Killed:
            self.worker_died(machine)
            return None

    def links_gone(self, links: Sequence[Link]) -> None:
        """A node's new config does not list these workers any more."""
        for link in links:
            if link.senders or link.drains:
                raise Broken(f"node {link.node.name} may forget worker {link.worker}, which holds settled slices")

    def faulty(self, _fault: str) -> bool:
        """Whether this history knows the fault; a calm world knows none."""
        return False

    # What happens.

    def put(self, node: Node, event: Event) -> bool:
        """A client sends an event."""
        try:
            taken = node.put(event)
        except SliceClosed:
            event.ended = True
            taken = False
        if not taken:
            self.ledger.refused += 1
        if self.trace is not None:
            key = "-" if event.id_key is None else event.id_key.hex()[:4]
            what = f"{event.type} user {event.user_key.hex()[:4]} id {key} slice {event.slice}"
            self.say(f"put {what} at {node.name}: {'taken' if taken else 'turned away'}")
        return taken

    def new_event(self, slice_id: SliceId, *, keyed: bool) -> Event:
        """An event of somebody."""
        user = self.random.randrange(USERS)
        key = _KEYS.get((slice_id, user))
        if key is None:
            key = _KEYS[slice_id, user] = _ANONYMISER.slice_keys(slice_id).user_key(b"user%d" % user)
        event_type = TYPES[self.random.random() < 0.3]
        if not keyed:
            return Event(slice_id, event_type, key)
        event = Event(slice_id, event_type, key, self.random.randbytes(16))
        self.ledger.keyed.append(event)
        return event

    def turn(self, link: Link, index: int) -> Request | None:
        """One turn of a stream of the link."""
        turns = link.turns()
        if not turns:
            return None
        try:
            request = link.turn(turns[index % len(turns)])
        except Killed:
            self.node_died(link.node)
            return None
        if request is not None:
            self.requests.append(request)
            if self.trace is not None:
                batches = " ".join(f"{it.slice}:{it.seq}({it.events})" for it in request.flight.batches)
                kind = "drains" if request.drain else "sends"
                self.say(
                    f"{link.node.name} {kind} {self.name(request.sender.stream)} -> worker {link.worker}: {batches}"
                )
        return request

    def deliver(self, requests: Sequence[Request], *, copied: bool = False) -> None:
        """Envelopes for one worker arrive there together."""
        machine = self.machines[requests[0].link.worker]
        for request in requests:
            if not copied:
                self.requests.remove(request)
            if (copied or self.random.random() < 0.2) and len(self.copies) < COPIES_MAX:
                self.copies.append((machine.worker, request.body))
        if not machine.is_up:
            for request in requests:
                request.link.failed(request)
            self.say(f"worker {machine.worker} is down")
            return
        try:
            replies = machine.receive([request.body for request in requests])
        except Killed:
            self.worker_died(machine)
            for request in requests:
                request.link.failed(request)
            return
        self.replies += zip(requests, replies, strict=True)

    def reply(self, index: int) -> None:
        """A reply arrives; or reaches nobody."""
        request, body = self.replies.pop(index)
        if not request.is_awaited:
            return
        if self.now - request.sent_at > PATIENCE_SECONDS:
            self.time_out(request)
            return
        self.say(f"reply to {self.name(request.sender.stream)}")
        try:
            request.link.answered(request, body)
        except Killed:
            self.node_died(request.link.node)

    def time_out(self, request: Request) -> None:
        """No reply in time: the envelope is lost, or only late."""
        if request in self.requests:
            self.requests.remove(request)
            if self.random.random() < 0.5 and len(self.copies) < COPIES_MAX:
                self.copies.append((request.link.worker, request.body))
        self.say(f"time-out of {self.name(request.sender.stream)}")
        request.link.failed(request)

    def arrive_again(self, index: int) -> None:
        """An old copy of an envelope arrives; nobody waits for its reply."""
        worker, body = self.copies.pop(index)
        machine = self.machines[worker]
        if machine.is_up:
            self.say(f"an old copy arrives at worker {worker}")
            try:
                machine.receive([body])
            except Killed:
                self.worker_died(machine)

    def worker_died(self, machine: Machine) -> None:
        """A worker's process ends without a word."""
        self.say(f"worker {machine.worker} dies")
        machine.stop()

    def node_died(self, node: Node) -> None:
        """An API node's process ends without a word: nobody knows what became of what it had not answered."""
        self.say(f"node {node.name} dies")
        for waiter in self.ledger.waiters:
            if waiter.node == node.name and waiter.life == node.life and waiter.fate is Fate.WAITING:
                waiter.decide(Fate.UNKNOWN, at=self.now, step=self.step)
        node.kill()
        self.requests = [it for it in self.requests if it.link.node is not node or self._lingers(it)]

    def _lingers(self, request: Request) -> bool:
        # On its way already: it arrives although its sender is dead.
        if self.random.random() < 0.5 and len(self.copies) < COPIES_MAX:
            self.copies.append((request.link.worker, request.body))
        return False

    def close(self, machine: Machine, slice_id: SliceId) -> None:
        """A worker closes a slice whose grace has passed."""
        self.say(f"worker {machine.worker} closes slice {slice_id}")
        try:
            machine.writer.close_now(slice_id)
        except Killed:
            self.worker_died(machine)

    def change_config(self, node: Node, config: ClusterConfig) -> None:
        """A node finds a new cluster file, and judges it as ``api_node/app.py`` does."""
        named: frozenset[WorkerId] | None = frozenset(node.membership.named)
        if node.config.worker_nodes.keys() - config.worker_nodes.keys():
            named = self._workers_named(node)
        if judge(node.config, config, pins=PINS, named=named).accepted:
            self.say(f"node {node.name} follows a new config")
            node.follow(config)

    def _workers_named(self, node: Node) -> frozenset[WorkerId] | None:
        """As ``Membership.workers_named``; None if the registry does not answer, or is not the real one."""
        host = self.machines[PINS.registry]
        if self.registry_away or not host.is_up or host.registry.pins is None:
            return None
        if host.registry.claims < node.membership.claims:
            return None
        node.membership.named |= host.registry.named
        return frozenset(node.membership.named)

    def set_back(self, machine: Machine, backup: dict[str, Content]) -> None:
        """A worker's disk is replaced by a backup of it; the process is down."""
        assert not machine.is_up
        registry = machine.disk.contents.get("registry.mdb") if machine.hosts_registry else None
        machine.disk.restore(backup)
        if registry is not None:
            machine.disk.contents["registry.mdb"] = registry
        self.replaced[machine.worker] = self.step
        # No network keeps anything for as long as it takes to replace a disk.
        self.copies = [copy for copy in self.copies if copy[0] != machine.worker]
        self.lose_replies(machine)
        self.say(f"worker {machine.worker} goes back to an old disk")

    def lose_replies(self, machine: Machine) -> None:
        """Nothing that a worker had to do with is on its way any more."""
        for request in [*self.requests, *(request for request, _ in self.replies)]:
            if request.link.worker == machine.worker:
                request.link.failed(request)
        self.requests = [it for it in self.requests if it.link.worker != machine.worker]
        self.replies = [it for it in self.replies if it[0].link.worker != machine.worker]

    # Questions.

    def ask(self, node: Node, slice_id: SliceId) -> None:
        """A client asks a node about a slice: what the node answers at once is checked, the rest later.

        Raises:
            Broken: the answer is not what it must be.
        """
        try:
            route = node.find(slice_id)
        except NoAnswer:
            return
        if route is None:
            self._check_unsettled(node, slice_id)
            return
        for worker in route:
            link = node.links.get(worker)
            if link is None:
                continue
            held = link.cache.get(slice_id)
            if held is not None:
                # What others took may be missing for as long as an answer may be on its way, and then be remembered.
                least = self.least(node, worker, slice_id, others_before=self.now - TTL_SECONDS - PATIENCE_SECONDS)
                self.check_at_least(node, worker, slice_id, held.summary.counts, least)
            else:
                least = self.least(node, worker, slice_id, others_before=self.now)
                self.asked.append(Asked(link, node.life, slice_id, link.cache.watch(slice_id), least, self.now))

    def answer(self, index: int) -> None:
        """A question reaches its worker, or the answer the node.

        Raises:
            Broken: it is not what it must be.
        """
        asked = self.asked[index]
        link = asked.link
        machine = self.machines[link.worker]
        pinned = link.node.membership.pins.workers[link.worker]
        too_late = self.now - asked.asked_at > PATIENCE_SECONDS
        if too_late or link.node.life != asked.life or not machine.is_up or machine.uuid != pinned:
            self.asked.pop(index)
            link.cache.drop(asked.watcher)
            return
        if not asked.is_answered:
            asked.answer, asked.is_answered = self.look(machine, asked.slice), machine.is_up
            return
        self.asked.pop(index)
        if asked.answer is not None:
            link.node.routes.learn(asked.slice, asked.answer.route)
        held = link.cache.answered(asked.watcher, asked.slice, asked.answer)
        self.check_at_least(link.node, link.worker, asked.slice, held.summary.counts, asked.least)

    def least(self, node: Node, worker: WorkerId, slice_id: SliceId, *, others_before: float) -> dict[str, int]:
        """What an answer of this node must have at least: what it acknowledged itself, and others before a time."""
        counts: dict[str, int] = {}
        if worker in self.replaced or worker in self.renewed:
            return counts
        for batch in self.ledger.waiters:
            if batch.slice != slice_id or batch.worker != worker or batch.fate is not Fate.COUNTED:
                continue
            if (batch.node, batch.life) == (node.name, node.life) or batch.at <= others_before:
                for event in batch.events:
                    if event.id_key is None:
                        counts[event.type] = counts.get(event.type, 0) + 1
        return counts

    def check_at_least(self, node: Node, worker: WorkerId, slice_id: SliceId, counts: object, least: object) -> None:
        """An answer has everything that it must have."""
        if worker in self.replaced or worker in self.renewed:
            return
        for event_type, number in least.items():  # type: ignore[attr-defined]
            if counts.get(event_type, 0) < number:  # type: ignore[attr-defined]
                text = f"node {node.name} answers {counts} for worker {worker}, slice {slice_id}: at least {least}"
                raise Broken(text)

    def _check_unsettled(self, node: Node, slice_id: SliceId) -> None:
        acked = self._acked_at.get(slice_id)
        if acked is None:
            return
        at, name, life = acked
        if (name, life) == (node.name, node.life) or at + TTL_SECONDS <= self.now:
            raise Broken(f"node {node.name} answers zeros for slice {slice_id}, which has acknowledged events")

    def name(self, stream: bytes) -> str:
        """A stream, in the trace."""
        return f"s{self.birth(stream)}"

    def up(self) -> list[Node]:
        """The nodes that run."""
        return [node for node in self.nodes if node.is_up]

    def links(self) -> Iterator[Link]:
        """The links of the nodes that run."""
        for node in self.nodes:
            if node.is_up:
                yield from node.links.values()
