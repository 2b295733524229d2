"""What the nodes of a cluster know of its routes, put together. Pure: from what was told to a registry, or to problems.

::

    told by                    its routes                                     their numbers
    the registry's old file    all that it had settled, if it is not lost     as claimed
    a worker                   of its slices, open, closed, or lost with      not known
                               an earlier data directory
    an API node                of its cache, and of its spools                not known

A slice has one route for good. So two routes for one slice mean that one of those who told them is not to be believed,
and which one is for people to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

import msgspec

from common.errors import ConfigRefused
from common.judge import show_route
from common.pins import PinsDiffer, merge_pins
from common.routing import Route
from common.slices import Micros, SliceId
from common.wire import Identity, Pins, SettledRoute

# Far beyond what anybody can have claimed without a single living node hearing of it.
NUMBERS_STEP = 1_000_000
CONFLICTS_MAX = 20  # shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one node told, or the registry.

    Attributes:
        who: in words.
        cluster: that it belongs to; None: to none yet.
        claims: the highest claim number that it knows.
        pins: as it knows them.
        routes: slice -> route and number; number 0 where it is not known.
        unreadable: slices whose route it should know, but cannot read.
        identity: of a worker.
    """

    who: str
    cluster: str | None = None
    claims: int = 0
    pins: Pins | None = None
    routes: Mapping[SliceId, SettledRoute] = field(default_factory=dict)
    unreadable: frozenset[SliceId] = frozenset()
    identity: Identity | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The registry as it must be.

    Attributes:
        pins: the cluster's constants.
        claims: its claim number.
        known: the highest claim number that anybody knew.
        routes: ascending by slice.
        unclear: slices that somebody has, without being able to read their route, and nobody else knows.
    """

    pins: Pins
    claims: int
    known: int
    routes: tuple[SettledRoute, ...]
    unclear: tuple[SliceId, ...]


def merge(told: Sequence[Told], *, everybody: bool, now: Micros) -> Merged:
    """Put together what was told.

    Args:
        told: by each who answered.
        everybody: whether nobody is missing.
        now: before it, what nobody knows may be what the missing ones knew.

    Raises:
        ConfigRefused: what was told contradicts itself.
    """
    pins = _pins(told)
    problems = [*_strangers(told, pins), *_conflicts(told)]
    if problems:
        raise ConfigRefused(problems)
    routes: dict[SliceId, SettledRoute] = {}
    for one in (one for each in told for one in each.routes.values()):
        # The number that a claim had, where anybody knows it.
        if one.slice not in routes or one.number > routes[one.slice].number:
            routes[one.slice] = one
    known = max(each.claims for each in told)
    # Of a rebuild that was broken off, the registry's file has numbers beyond its claim number.
    given = max((one.number for one in routes.values()), default=0)
    base = (max(known, given) // NUMBERS_STEP + 2) * NUMBERS_STEP
    unnumbered = {at: base + place for place, at in enumerate(_without_number(routes), 1)}
    unclear = tuple(sorted({at for each in told for at in each.unreadable} - routes.keys()))
    if not everybody or unclear:
        pins = merge_pins(pins, msgspec.structs.replace(pins, unknown_before=now))
    return Merged(
        pins=pins,
        claims=base + len(unnumbered),
        known=known,
        routes=tuple(
            msgspec.structs.replace(one, number=unnumbered.get(at, one.number)) for at, one in sorted(routes.items())
        ),
        unclear=unclear,
    )


def _without_number(routes: Mapping[SliceId, SettledRoute]) -> list[SliceId]:
    return sorted(at for at, one in routes.items() if not one.number)


def _pins(told: Sequence[Told]) -> Pins:
    of_cluster: dict[str, list[str]] = {}
    for each in told:
        if each.cluster is not None:
            of_cluster.setdefault(each.cluster, []).append(each.who)
    if not of_cluster:
        raise ConfigRefused(["nobody who answers belongs to a cluster: there is nothing to rebuild"])
    if len(of_cluster) > 1:
        parts = (f"{cluster} ({', '.join(who)})" for cluster, who in of_cluster.items())
        raise ConfigRefused([f"these nodes are of different clusters: {'; '.join(parts)}"])
    try:
        return reduce(merge_pins, [each.pins for each in told if each.pins is not None])
    except PinsDiffer as error:
        raise ConfigRefused([f"the nodes know different pins: {error}"]) from error


def _strangers(told: Iterable[Told], pins: Pins) -> Iterator[str]:
    for each in told:
        if each.identity is None:
            continue
        worker, uuid = each.identity.id, each.identity.uuid
        pinned = pins.workers.get(worker, uuid)
        if pinned != uuid:
            yield (
                f"{each.who} runs on data directory {uuid}, but the cluster knows it by {pinned}: mount the right one, "
                f"or, if that is lost for good, say --without {each.who}"
            )


def _conflicts(told: Iterable[Told]) -> Iterator[str]:
    found: dict[SliceId, dict[Route, list[str]]] = {}
    for each in told:
        for at, one in each.routes.items():
            found.setdefault(at, {}).setdefault(one.route, []).append(each.who)
    conflicts = [(at, routes) for at, routes in sorted(found.items()) if len(routes) > 1]
    for at, routes in conflicts[:CONFLICTS_MAX]:
        sides = "; ".join(f"{show_route(route)}, says {', '.join(who)}" for route, who in routes.items())
        yield f"slice {at} has two routes: {sides}"
    if len(conflicts) > CONFLICTS_MAX:
        yield f"and {len(conflicts) - CONFLICTS_MAX} more slices likewise"
