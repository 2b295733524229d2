"""One history: a seed decides which faults it knows and what happens; then everything heals, and is checked.

::

    draw the faults --> 20 to 80 steps --> the faults go away --> all is delivered --> old copies arrive --> check
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from common.errors import Contradicts, RegistryBehind
from common.routing import WorkerId
from tests.simulation import recovery
from tests.simulation.checker import check
from tests.simulation.faults import Killed
from tests.simulation.ledger import Fate
from tests.simulation.memory_file import Content
from tests.simulation.node import Request
from tests.simulation.parts import SHIPPED, Parts
from tests.simulation.plans import CONFIGS, LIVE_SLICES, PINS, SMALL, WHOLE, WORKERS, Scale
from tests.simulation.stores import REGISTRY
from tests.simulation.world import Broken, World
from worker_node.receiver import StreamRecord

T = TypeVar("T")

HEALING_ROUNDS_MAX = 60
# Beyond every backoff of a parked slice.
HEALING_SECONDS = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a history came to."""

    seed: int
    steps: int
    acknowledged: int
    faults: tuple[str, ...]
    answers: dict[str, int]
    broken: str | None = None


def run(seed: int, *, parts: Parts = SHIPPED, scale: Scale = SMALL, trace: list[str] | None = None) -> Outcome:
    """Play the history of a seed, and check it."""
    history = History(seed=seed, parts=parts, scale=scale, trace=trace)
    broken = None
    try:
        history.play()
        history.heal()
        check(history)
    except Broken as error:
        broken = str(error)
    except Killed:
        broken = "somebody died, and nobody saw it: a fault of the simulation"
    except Exception as error:  # noqa: BLE001 - whatever a part raises here is as bad as a wrong sum, and needs its seed
        broken = f"{type(error).__name__}: {error}"
        if trace is not None:
            trace.append(traceback.format_exc())
    finally:
        history.end()
    return Outcome(
        seed=seed,
        steps=history.step,
        acknowledged=history.ledger.acknowledged(),
        faults=history.drawn,
        answers={outcome.value: number for outcome, number in history.outcomes.items()},
        broken=broken,
    )


class History(World):
    """A cluster, and what happens to it."""

    def __init__(self, *, seed: int, parts: Parts, scale: Scale, trace: list[str] | None) -> None:
        self.knows: tuple[str, ...] = ()
        super().__init__(seed=seed, parts=parts, scale=scale, trace=trace)
        self.knows = tuple(name for name, share in scale.faults.items() if self.random.random() < share)
        self.drawn = self.knows
        self._length = self.random.randint(*scale.steps)
        self._aside: dict[str, tuple[str, dict[str, Content]]] = {}  # the true disks of workers that run on another
        self._registry_set_back = False
        self.say(f"seed {seed}: {', '.join(self.knows) or 'no faults'}")

    def faulty(self, fault: str) -> bool:
        """Whether this history knows the fault."""
        return fault in self.knows

    def play(self) -> None:
        """All steps."""
        steps = [(step, weight) for step, weight, fault in STEPS if fault is None or fault in self.knows]
        chosen = self.random.choices([it[0] for it in steps], weights=[it[1] for it in steps], k=self._length)
        for step in chosen:
            self.step += 1
            self.now += 0.01
            step(self)

    # Steps without a fault.

    def put_some(self) -> None:
        """A client sends a few events."""
        if node := self._one(self.up()):
            slice_id = self.random.choice(self.slices)
            for _ in range(self.random.choice((1, 1, 2, 3))):
                if len(self.slices) > LIVE_SLICES:
                    slice_id = self.random.choice(self.slices)
                self.put(node, self.new_event(slice_id, keyed=self.random.random() < 0.35))

    def put_again(self) -> None:
        """A client retries an event that it has not heard of."""
        node = self._one(self.up())
        event = self._one([it for it in self.ledger.keyed if not it.acknowledged and not it.ended])
        if node and event:
            self.put(node, event)

    def round_trip(self) -> None:
        """An envelope goes there and back."""
        if request := self.take():
            self.deliver([request])
            if self.replies and self.replies[-1][0] is request:
                self.reply(len(self.replies) - 1)

    def take(self) -> Request | None:
        """A stream has its turn."""
        link = self._one([it for it in self.links() if it.senders or it.drains])
        return self.turn(link, self.random.randrange(8)) if link else None

    def arrive(self) -> None:
        """An envelope arrives; sometimes those behind it with it."""
        if request := self._one(self.requests):
            group = [request]
            if self.random.random() < 0.3:
                group += [it for it in self.requests if it.link.worker == request.link.worker and it is not request]
            self.deliver(group)

    def reply_arrives(self) -> None:
        """A reply arrives."""
        if self.replies:
            self.reply(self.random.randrange(len(self.replies)))

    def wait(self) -> None:
        """Time passes."""
        self.now += self.random.choice((0.1, 0.3, 1.5, 5.0))

    def question(self) -> None:
        """Somebody asks."""
        if node := self._one(self.up()):
            self.ask(node, self.random.choice(self.slices))

    def question_moves(self) -> None:
        """A question, or its answer, arrives."""
        if self.asked:
            self.answer(self.random.randrange(len(self.asked)))

    def keep_claims(self) -> None:
        """A node writes down the claim number."""
        if node := self._one(self.up()):
            node.kept_claims = node.membership.claims

    def come_to_life(self) -> None:
        """What is down is started: everything, but for the unlucky."""
        for machine in self.machines.values():
            if not machine.is_up and self.random.random() < 0.7:
                self.say(f"worker {machine.worker} starts")
                machine.start()
        for node in self.nodes:
            if not node.is_up and self.random.random() < 0.7:
                self.say(f"node {node.name} starts")
                node.start()
        for link in self.links():
            if link.away and self.machines[link.worker].is_up:
                self.say(f"node {link.node.name}: worker {link.worker} is back")
                link.came_back()
            link.drain_spools()

    # Steps that are faults.

    def lose(self) -> None:
        """An envelope or its reply is lost, or only late."""
        if link := self._one([it for it in self.links() if it.in_flight]):
            self.time_out(self.random.choice(list(link.in_flight.values())))

    def copy_arrives(self) -> None:
        """An old copy arrives."""
        if self.copies:
            self.arrive_again(self.random.randrange(len(self.copies)))

    def worker_dies(self) -> None:
        """At once, or while it writes."""
        if machine := self._one([it for it in self.machines.values() if it.is_up]):
            if self.random.random() < 0.6:
                machine.faults.kill_at(self.random.randint(1, 5))
            else:
                self.worker_died(machine)

    def node_dies(self) -> None:
        """At once, or while it writes to its spool."""
        if node := self._one(self.up()):
            if self.random.random() < 0.5:
                node.faults.kill_at(self.random.randint(1, 3))
            else:
                self.node_died(node)

    def go_away(self) -> None:
        """A worker has been silent for so long that it counts as away."""
        if link := self._one([it for it in self.links() if not it.away]):
            self.say(f"node {link.node.name}: worker {link.worker} is away")
            link.away = True

    def spill(self) -> None:
        """A stream whose worker is away has its turn."""
        if link := self._one([it for it in self.links() if it.away and it.senders]):
            self.turn(link, self.random.randrange(8))

    def close_something(self) -> None:
        """The doors of a slice are closed, or, a day later, its file at one worker."""
        slice_id = self.random.choice(self.slices[:2])
        machine = self._one([it for it in self.machines.values() if it.is_up])
        if slice_id not in self.doors_closed:
            self.say(f"the doors of slice {slice_id} are closed")
            self.doors_closed.add(slice_id)
        elif machine:
            self.close(machine, slice_id)

    def run_out_of_space(self) -> None:
        """A worker refuses a slice, or takes it again."""
        machine = self.random.choice(list(self.machines.values()))
        machine.refusing ^= {self.random.choice(self.slices)}

    def registry_comes_and_goes(self) -> None:
        """The network between the nodes and the registry."""
        self.registry_away = not self.registry_away

    def claim_again(self) -> None:
        """An old copy of a claim arrives."""
        claim, host = self._one(self.claims_made), self.machines[PINS.registry]
        if claim and host.is_up and host.worker not in self._aside:
            try:
                host.claim(claim)
            except Killed:
                self.worker_died(host)
            except (RegistryBehind, Contradicts):
                pass

    def config_changes(self) -> None:
        """A node finds another cluster file."""
        if node := self._one(self.up()):
            self.change_config(node, self.random.choice(CONFIGS))

    def back_up(self) -> None:
        """An operator makes a backup of a worker's disk."""
        machine = self.random.choice(list(self.machines.values()))
        if machine.worker not in self._aside:
            self.backups.setdefault(machine.worker, []).append(machine.disk.backup())
            self.say(f"a backup of worker {machine.worker}")

    def old_disk(self) -> None:
        """A worker comes back with a backup for its disk."""
        machine = self._one([it for it in self.machines.values() if self.backups.get(it.worker)])
        if machine is None or machine.worker in self._aside:
            return
        if machine.hosts_registry and self._registry_set_back:
            # Both files at once: not solved, see ``plans.FAULTS``.
            return
        self.worker_died(machine)
        backup = self.random.choice(self.backups[machine.worker])
        self._note_lost(machine.worker, backup)
        self.set_back(machine, backup)
        machine.start()

    def foreign_disk(self) -> None:
        """A worker comes back on an empty disk: its volume is not mounted."""
        machine = self.random.choice(list(self.machines.values()))
        self.worker_died(machine)
        if machine.worker in self._aside:
            self._own_disk(machine.worker)
        else:
            self._aside[machine.worker] = (machine.uuid, machine.disk.contents)
            machine.uuid, machine.disk.contents = "another", {}
            self.say(f"worker {machine.worker} comes back on an empty disk")
        machine.start()

    def old_registry(self) -> None:
        """The registry's file is replaced by an older one, or is gone."""
        host = self.machines[PINS.registry]
        if host.worker in self._aside or host.worker in self.replaced:
            return
        self.worker_died(host)
        backups = [it[REGISTRY] for it in self.backups.get(host.worker, [])]
        host.disk.contents.pop(REGISTRY)
        if backups and self.random.random() < 0.7:
            host.disk.contents[REGISTRY] = self.random.choice(backups).copy()
        self._registry_set_back = True
        self.say("the registry's file is an old one, or gone")
        host.start()

    def rebuild(self) -> None:
        """An operator rebuilds the registry, when everybody is there to be asked."""
        up = [it.is_up for it in self.machines.values()] + [it.is_up for it in self.nodes]
        if all(up) and not self._aside:
            recovery.rebuild(self)

    def lose_disk(self) -> None:
        """A worker's disk is lost for good, and an operator replaces it."""
        machine = self.machines[self.random.choice(WORKERS[1:])]
        if self.machines[PINS.registry].is_up and not self._aside:
            recovery.replace_worker(self, machine)

    def damage_spool(self) -> None:
        """A record in a spool rots."""
        node = self.random.choice(self.nodes)
        content = node.disk.contents.get("spool.mdb")
        table = content.tables.get("batches") if content else None
        if table:
            key = self.random.choice(sorted(table))
            self.rot(key)
            table[key] = table[key][:-1] + bytes([table[key][-1] ^ 1])

    # Healing.

    def heal(self) -> None:
        """The faults go away, and everything is delivered.

        Raises:
            Broken: it is not.
        """
        self.say("everything heals")
        self._restore()
        for _ in range(HEALING_ROUNDS_MAX):
            self._carry_all()
            self.now += HEALING_SECONDS
            wanting = [it for it in self.ledger.keyed if not it.acknowledged and not it.ended]
            wanting = [it for it in wanting if not self.is_unknown(it.slice)]
            busy = [link for link in self.links() if not link.is_idle]
            if not wanting and not busy:
                break
            for event in wanting:
                self.put(self.random.choice(self.nodes), event)
            for link in self.links():
                link.came_back()
                link.drain_spools()
                for index in range(len(link.turns())):
                    self.turn(link, index)
        else:
            raise Broken(
                f"does not heal: {len(busy)} links still have something to deliver, {len(wanting)} events are open"
            )
        self._last_copies()

    def _carry_all(self) -> None:
        """Whatever is on its way arrives, in any order."""
        while self.requests or self.replies:
            if self.requests and (not self.replies or self.random.random() < 0.5):
                self.arrive()
            else:
                self.reply_arrives()

    def _restore(self) -> None:
        self.knows = tuple(it for it in self.knows if it != "lost claims")
        self.registry_away = False
        for machine in self.machines.values():
            machine.faults.spare()
            machine.refusing.clear()
            if machine.worker in self._aside:
                machine.stop()
                self._own_disk(machine.worker)
        for machine in self.machines.values():
            if not machine.is_up:
                machine.start()
        for node in self.nodes:
            node.faults.spare()
            if not node.is_up:
                node.start()
            if node.config.worker_nodes.keys() != WHOLE.worker_nodes.keys():
                node.follow(WHOLE)
        if self._registry_set_back:
            recovery.rebuild(self)

    def end(self) -> None:
        """Everything stops."""
        for machine in self.machines.values():
            machine.stop()
        for node in self.nodes:
            if node.is_up:
                node.kill()

    def _last_copies(self) -> None:
        """Slices whose time has come are closed everywhere; then whatever is still on its way arrives."""
        for slice_id in sorted(self.doors_closed):
            if self.random.random() < 0.5:
                for machine in self.machines.values():
                    self.close(machine, slice_id)
        while self.copies:
            self.arrive_again(self.random.randrange(len(self.copies)))
        self.now += HEALING_SECONDS

    def _own_disk(self, worker: str) -> None:
        machine = next(it for it in self.machines.values() if it.worker == worker)
        machine.uuid, machine.disk.contents = self._aside.pop(worker)

    def _note_lost(self, worker: WorkerId, backup: dict[str, Content]) -> None:
        """Which streams had something acknowledged that is not in the backup: if they go on, they must notice."""
        for place in [it for it in self.lost if it[0] == worker]:
            del self.lost[place]
        acknowledged = Counter(
            (one.slice, one.stream)
            for one in self.ledger.waiters
            if one.worker == worker and one.fate is Fate.COUNTED and one.events
        )
        for (slice_id, stream), last in acknowledged.items():
            content = backup.get(f"slice {slice_id}")
            record = content.tables.get("streams", {}).get(stream) if content else None
            if record is None or StreamRecord.from_bytes(record).seq < last:
                self.lost.setdefault((worker, slice_id), {})[stream] = self.step

    def _one(self, of: list[T]) -> T | None:
        return self.random.choice(of) if of else None


Step = Callable[[History], object]
STEPS: tuple[tuple[Step, float, str | None], ...] = (
    (History.put_some, 24, None),
    (History.put_again, 4, None),
    (History.round_trip, 20, None),
    (History.take, 8, None),
    (History.arrive, 8, None),
    (History.reply_arrives, 8, None),
    (History.wait, 3, None),
    (History.question, 5, None),
    (History.question_moves, 5, None),
    (History.keep_claims, 2, None),
    (History.come_to_life, 6, None),
    (History.lose, 6, "time-outs"),
    (History.copy_arrives, 5, "copies"),
    (History.worker_dies, 4, "worker dies"),
    (History.node_dies, 2, "node dies"),
    (History.go_away, 4, "spool"),
    (History.spill, 4, "spool"),
    (History.close_something, 3, "closing"),
    (History.run_out_of_space, 3, "no space"),
    (History.registry_comes_and_goes, 3, "registry away"),
    (History.claim_again, 2, "lost claims"),
    (History.config_changes, 4, "configs"),
    (History.back_up, 3, "old disk"),
    (History.old_disk, 2, "old disk"),
    (History.foreign_disk, 2, "foreign disk"),
    (History.back_up, 2, "old registry"),
    (History.old_registry, 2, "old registry"),
    (History.rebuild, 2, "old registry"),
    (History.damage_spool, 2, "damage"),
    (History.lose_disk, 2, "lost disk"),
)
