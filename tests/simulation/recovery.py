"""What an operator does with ``tallyslice registry``: rebuild a lost registry, put a new disk in a lost one's place.

The order of the calls is that of ``tallyslice/recovery.py``; what they decide is decided by the product's parts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from common.errors import ConfigRefused, NotTaken
from common.slices import SECOND, Micros
from common.wire import Rebuild, ReplaceWorker, SettledRoute
from tallyslice.merge import Merged, Told, merge
from tests.simulation.machine import Machine
from tests.simulation.node import Node
from tests.simulation.plans import PINS
from tests.simulation.stores import REGISTRY
from tests.simulation.world import Broken, World

MEANWHILE_SHARE = 0.5


def rebuild(world: World) -> None:
    """Rebuild the registry from what everybody knows. Everything must be up.

    Raises:
        Broken: two routes are known for one slice.
    """
    host = world.machines[PINS.registry]
    for machine in world.machines.values():
        machine.faults.spare()  # people see to it that everybody lives while they are asked
    others = [*map(_worker_told, world.machines.values()), *map(_node_told, world.nodes)]
    # All slices of the history have begun: what nobody knows of them stays unknown, if something must.
    now = Micros(PINS.first + (world.slices[-1] + 1) * PINS.length_seconds * SECOND)
    try:
        merged = merge((_registry_told(host), *others), everybody=True, now=now)
    except ConfigRefused as error:
        if host.registry.claims >= max(one.claims for one in others):
            raise Broken(f"the registry cannot be rebuilt: {error}") from error
        # A file from before an earlier rebuild, with a claim that nobody had heard of then. It is proven old: people
        # have been told so, and take it away.
        world.say("the registry's old file is taken away")
        host.stop()
        host.disk.unlink(REGISTRY)
        host.start()
        merged = _merged_without_file(others, now)
    own = host.registry.claims
    _settle_meanwhile(world)
    world.say(f"the registry is rebuilt: {len(merged.routes)} routes, {host.registry.claims - own} settled meanwhile")
    host.registry.rebuild(
        Rebuild(
            host=host.uuid,
            own=own,
            known=merged.known,
            claims=merged.claims,
            pins=merged.pins,
            routes=merged.routes,
        ),
        known=host.totals.claims,
    )
    assert host.registry.pins is not None
    world.pins = host.registry.pins
    for machine in world.machines.values():
        machine.pins = world.pins
        machine.totals.set_pins(world.pins)
        machine.writer.note_claims_now(merged.claims)
    for node in world.nodes:
        node.membership.pins = world.pins
        node.membership.saw_claims(merged.claims)
        node.kept_claims = node.membership.claims
    # No network keeps anything for as long as people take.
    world.copies.clear()
    world.claims_made.clear()


def _settle_meanwhile(world: World) -> None:
    """Nodes do not wait for the operator: after everybody was asked they settle routes, if the registry lets them."""
    for node in world.nodes:
        if world.random.random() < MEANWHILE_SHARE:
            with contextlib.suppress(NotTaken):
                node.settle(world.random.choice(world.slices))


def replace_worker(world: World, machine: Machine) -> None:
    """A worker's disk is lost for good: an empty one takes its place. The registry must be up, and nowhere near it."""
    host, new = world.machines[PINS.registry], f"uuid-{machine.worker}-{world.step}"
    if host.registry.pins is None or host.registry.claims < host.totals.claims:
        return
    world.worker_died(machine)
    world.lose_replies(machine)
    lost_uuid, machine.uuid = machine.uuid, new
    machine.disk.contents.clear()
    world.backups.pop(machine.worker, None)
    machine.start()
    number = host.registry.claims + 1
    lost = [one for one in host.registry.routes(None).routes if machine.worker in one.route]
    world.say(f"worker {machine.worker} gets a new disk; {len(lost)} slices were on the lost one")
    machine.writer.lose_now(lost, number)
    replacement = ReplaceWorker(cluster=PINS.cluster, id=machine.worker, lost=lost_uuid, uuid=new, number=number)
    host.faults.spare()
    pins = host.registry.replace_worker(replacement, known=host.totals.claims).pins
    assert pins is not None
    host.writer.note_claims_now(number)
    machine.totals.set_pins(pins)
    world.pins = machine.pins = pins
    for one in lost:
        world.given_up[machine.worker, one.slice] = world.step
    world.replaced.pop(machine.worker, None)
    world.renewed.add(machine.worker)
    for node in world.nodes:
        # Some hear of it at once, the others when the worker refuses what was meant for the lost disk.
        if node.is_up and world.random.random() < 0.5:
            node.membership.pins = pins


def _merged_without_file(told: Sequence[Told], now: Micros) -> Merged:
    try:
        return merge(told, everybody=True, now=now)
    except ConfigRefused as error:
        raise Broken(f"the nodes know different routes: {error}") from error


def _registry_told(host: Machine) -> Told:
    known = host.registry.routes(None)
    return Told(
        who="the registry",
        cluster=known.cluster,
        claims=known.claims,
        pins=known.pins,
        routes={one.slice: one for one in known.routes},
    )


def _worker_told(machine: Machine) -> Told:
    held = machine.all_held()
    routes = {at: SettledRoute(slice=at, route=one.route, number=0) for at, one in held.items() if one.route}
    return Told(
        who=f"worker-{machine.worker}",
        cluster=PINS.cluster,
        claims=machine.totals.claims,
        pins=machine.totals.pins,
        routes=routes,
        unreadable=frozenset(held.keys() - routes.keys()),
    )


def _node_told(node: Node) -> Told:
    spooled = node.room.spool.routes()
    known = {at: route for at, route in spooled.items() if route} | node.routes.all_known()
    return Told(
        who=f"api-{node.name}",
        cluster=PINS.cluster,
        claims=node.membership.claims,
        pins=node.membership.pins,
        routes={at: SettledRoute(slice=at, route=route, number=0) for at, route in known.items()},
        unreadable=frozenset(spooled.keys() - known.keys()),
    )
