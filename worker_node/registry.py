"""``registry.mdb``: the cluster's pins and the routes of its slices, each settled once. At one worker of the cluster.

::

    database  key                    value
    facts     b"pins"                msgpack: the pins, once somebody proposed them
              b"claims"              u64, big-endian: the claim number, where no route bears it
              b"rebuild"             u64, big-endian: while it is being rebuilt: the claim number that it will have
    routes    slice                  msgpack: SettledRoute: slice, route, number
    numbers   u64, big-endian        the slice that was settled under this number

    slice: 8 bytes, big-endian, counted from the smallest int64, so that they sort as numbers

Everything here is put-if-absent: the first proposal wins, and the answer tells what holds. Claims are numbered from 1
without gaps, so that whoever has heard of a number that is not here knows that this file is old, or is not the one.
A rebuilt registry begins far beyond every number that anybody has heard of, for the same reason.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import msgspec

from common.errors import Contradicts, Malformed, RegistryBehind, TallysliceError, WrongCluster, WrongWorker
from common.lmdb_file import MAP_BYTES, Kind, LmdbFile, Txn, open_or_fail
from common.pins import PinsDiffer, merge_pins
from common.routing import Route, WorkerId
from common.slices import Micros, SliceClock, SliceId
from common.wire import (
    ROUTE_WORKERS_MAX,
    ROUTES_PAGE_MAX,
    SLICE_MAX,
    SLICE_MIN,
    Claim,
    KnownRoutes,
    Pins,
    PinWorker,
    Rebuild,
    RegistryState,
    ReplaceWorker,
    Settled,
    SettledRoute,
)

if TYPE_CHECKING:
    from types import TracebackType

T = TypeVar("T")

FILE_NAME = "registry.mdb"
DATABASES = {"facts": Kind.MAP, "routes": Kind.MAP, "numbers": Kind.MAP}
PINS, CLAIMS, REBUILD = b"pins", b"claims", b"rebuild"
WORKERS_MAX = 4 * ROUTE_WORKERS_MAX  # pinned ever: four generations of the longest route
WORKER_ID_CHARACTERS_MAX = 64  # as in the cluster file
RECENT_MAX = 100  # routes shown in /cluster: some days of hours

_KEY_BYTES = 8
_encode = msgspec.msgpack.encode
_decode_route = msgspec.msgpack.Decoder(SettledRoute).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """How many slices may be open at a time, as the config and the clock have it at the moment of a claim.

    Attributes:
        slices_max: settled slices that are not closed, at most.
        first_open: the first slice that is not closed by its time; None if slices are never closed.
        now: the current slice: it and the next one are never turned away. None while nothing is pinned.
    """

    slices_max: int
    first_open: SliceId | None = None
    now: SliceId | None = None


class Registry:
    """The file ``registry.mdb`` in a data directory. Belongs to one thread."""

    def __init__(self, *, folder: Path, map_bytes: int = MAP_BYTES) -> None:
        self.pins: Pins | None = None
        self.claims = 0
        self.named: frozenset[WorkerId] = frozenset()
        self._slices: list[SliceId] = []
        self._recent: deque[SettledRoute] = deque(maxlen=RECENT_MAX)
        self._rebuilding = 0
        self._file = LmdbFile(path=folder / FILE_NAME, databases=DATABASES, map_bytes=map_bytes)

    def open(self) -> None:
        """Open the file, or make it.

        Raises:
            InputOutputFailed: it cannot be opened.
        """
        open_or_fail(self._file)
        if self._file.txn:
            self._file.read(self._load)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def state(self) -> RegistryState:
        """What is settled, as committed."""
        return RegistryState(
            pins=self.pins, claims=self.claims, named=tuple(sorted(self.named)), recent=tuple(self._recent)
        )

    @property
    def settled(self) -> int:
        """How many slices are settled."""
        return len(self._slices)

    @property
    def is_rebuilding(self) -> bool:
        """Whether it is being rebuilt, so that it settles nothing."""
        return self._rebuilding != 0

    def routes(self, after: SliceId | None) -> KnownRoutes:
        """A page of what is settled, ascending."""
        if not self._file.txn:
            return KnownRoutes(cluster=None, claims=0, pins=None)
        found = self._file.read(lambda txn: self._page(txn, after))
        return KnownRoutes(
            cluster=None if self.pins is None else self.pins.cluster,
            claims=self.claims,
            pins=self.pins,
            routes=tuple(found[:ROUTES_PAGE_MAX]),
            more=len(found) > ROUTES_PAGE_MAX,
        )

    def pin(self, pins: Pins) -> RegistryState:
        """Settle the cluster's constants, if there are none yet."""
        if self.pins is None:
            self._put_pins(pins)
        return self.state()

    def pin_worker(self, pin: PinWorker) -> RegistryState:
        """Settle a worker's data directory, if there is none yet.

        Raises:
            WrongCluster: the caller means another cluster.
            WrongWorker: another data directory is settled.
        """
        pins = self._pinned(pin.cluster)
        known = pins.workers.get(pin.id)
        if known is None:
            if len(pins.workers) >= WORKERS_MAX or len(pin.id) > WORKER_ID_CHARACTERS_MAX:
                raise Contradicts(f"a cluster has at most {WORKERS_MAX} workers, with ids of a reasonable length")
            self._put_pins(msgspec.structs.replace(pins, workers={**pins.workers, pin.id: pin.uuid}))
        elif known != pin.uuid:
            raise WrongWorker(f"worker {pin.id} is pinned to the data directory {known}, not {pin.uuid}")
        return self.state()

    def claim(self, claim: Claim, *, known: int, door: Door) -> Settled:
        """Settle the routes of slices that have none yet; durable when this returns.

        Args:
            claim: what to settle.
            known: the highest claim number that this worker has heard of.
            door: how many slices may be open.

        Raises:
            WrongCluster: the caller means another cluster.
            RegistryBehind: the caller, or this worker, knows of claims that are not here.
            Malformed: a route is none.
        """
        pins = self._pinned(claim.cluster)
        self._require_newest(max(claim.claims, known))
        for slice_id, route in claim.routes.items():
            _check(slice_id, route)
        found, new, over, unknown = self._file.read(lambda txn: self._settle(txn, claim, door, _known_from(pins)))
        if new:
            self._file.write(lambda txn: self._put_routes(txn, new))
            self._remember(new)
        return Settled(claims=self.claims, routes=(*found, *new), over=tuple(over), unknown=tuple(unknown))

    def replace_worker(self, replacement: ReplaceWorker, *, known: int) -> RegistryState:
        """Settle another data directory of a worker, in place of a lost one; durable when this returns.

        Args:
            replacement: which, and the claim number that it is to have.
            known: the highest claim number that this worker has heard of.

        Raises:
            WrongCluster: the caller means another cluster.
            WrongWorker: the directory that is settled is not the one that the caller means.
            RegistryBehind: this worker knows of claims that are not here.
            Contradicts: something was settled since the caller looked.
        """
        pins = self._pinned(replacement.cluster)
        self._require_newest(known)
        worker, number = replacement.id, replacement.number
        if pins.workers.get(worker) != replacement.lost:
            raise WrongWorker(f"worker {worker} is not pinned to the data directory {replacement.lost}")
        if number != self.claims + 1:
            raise Contradicts(f"the next claim number is {self.claims + 1}, not {number}: look again")
        replaced = msgspec.structs.replace(
            pins,
            workers={**pins.workers, worker: replacement.uuid},
            replaced={**pins.replaced, worker: number},
        )
        self._put_pins(replaced, claims=number)
        return self.state()

    def rebuild(self, rebuild: Rebuild, *, known: int) -> RegistryState:
        """Take in what everybody together knows; durable when this returns. Until all of it is there, settle nothing.

        Nothing is taken out. So what was settled here since everybody was asked stays, and need not be asked for.

        Args:
            rebuild: what everybody together knew.
            known: the highest claim number that this worker has heard of.

        Raises:
            WrongCluster: this registry is another cluster's.
            Contradicts: something may have been settled, and lost again, since everybody was asked, or a slice or a
                number has another route here.
            RegistryBehind: the new claim number is not beyond this registry's.
            Malformed: a route is none.
        """
        pins = self._with_pins(rebuild.pins)
        if self.claims < rebuild.own:
            had = f"has {self.claims} claims, and had {rebuild.own} when everybody was asked"
            raise Contradicts(f"the registry's file was set back meanwhile: it {had}: ask again")
        if max(self.claims, rebuild.known) < known:
            # Whoever was told of the last one may hold events under its route.
            raise Contradicts(f"{known} claims are known by now, and this file has {self.claims}: ask again")
        if rebuild.claims <= self.claims:
            raise RegistryBehind(f"the registry has {self.claims} claims already: it cannot have {rebuild.claims}")
        for one in rebuild.routes:
            _check(one.slice, one.route)
        self._file.write(lambda txn: self._take_in(txn, rebuild, pins))
        if rebuild.more:
            self._rebuilding = rebuild.claims
        else:
            self._slices.clear()
            self._recent.clear()
            self._file.read(self._load)
        return self.state()

    def _with_pins(self, brought: Pins) -> Pins:
        if self.pins is None:
            return brought
        self._pinned(brought.cluster)
        try:
            return merge_pins(self.pins, brought)
        except PinsDiffer as error:
            raise Contradicts(f"this registry has other constants: {error}") from error

    def _take_in(self, txn: Txn, rebuild: Rebuild, pins: Pins) -> None:
        facts, routes = self._file.database("facts"), self._file.database("routes")
        number = rebuild.claims.to_bytes(_KEY_BYTES, "big")
        new = []
        for one in rebuild.routes:
            stored = txn.get(_slice_key(one.slice), db=routes)
            if stored is None:
                new.append(one)
            elif _decode_route(stored).route != one.route:
                raise Contradicts(f"slice {one.slice} is settled under another route here: ask again")
        if taken := [one.number for one in new if one.number <= self.claims]:
            # Another rebuild came first, and claims went on from its number.
            raise Contradicts(f"number {taken[0]} is settled here already: ask again")
        self._put_routes(txn, new)
        txn.put(PINS, _encode(pins), db=facts)
        txn.put(REBUILD, number, db=facts)
        if not rebuild.more:
            txn.delete(REBUILD, db=facts)
            txn.put(CLAIMS, number, db=facts)

    def _page(self, txn: Txn, after: SliceId | None) -> list[SettledRoute]:
        cursor = txn.cursor(self._file.database("routes"))
        if not (cursor.first() if after is None else cursor.set_range(_slice_key(after) + b"\0")):
            return []
        return [_decode_route(stored) for _, stored in islice(cursor, ROUTES_PAGE_MAX + 1)]

    def _require_newest(self, known: int) -> None:
        if self._rebuilding:
            raise RegistryBehind("this registry is being rebuilt; if that was broken off, rebuild it again")
        if self.claims < known:
            raise RegistryBehind(f"{known} claims are known, and this registry has {self.claims}: rebuild it")

    def _settle(
        self, txn: Txn, claim: Claim, door: Door, known_from: SliceId | None
    ) -> tuple[list[SettledRoute], list[SettledRoute], list[SliceId], list[SliceId]]:
        found: list[SettledRoute] = []
        new: list[SettledRoute] = []
        over: list[SliceId] = []
        unknown: list[SliceId] = []
        room = door.slices_max - self._open_slices(door)
        for slice_id, route in claim.routes.items():
            stored = txn.get(_slice_key(slice_id), db=self._file.database("routes"))
            if stored is not None:
                found.append(_decode_route(stored))
            elif known_from is not None and slice_id < known_from:
                unknown.append(slice_id)
            elif route and (len(new) < room or (door.now is not None and slice_id - door.now in (0, 1))):
                new.append(SettledRoute(slice=slice_id, route=route, number=self.claims + len(new) + 1))
            elif route:
                over.append(slice_id)
        return found, new, over, unknown

    def _open_slices(self, door: Door) -> int:
        if door.first_open is None:
            return len(self._slices)
        return len(self._slices) - bisect_left(self._slices, door.first_open)

    def _pinned(self, cluster: str) -> Pins:
        if self.pins is None:
            # Whoever asks has joined a cluster, which had its pins from a registry.
            raise RegistryBehind("nothing is pinned here: if this was the cluster's registry, it is lost: rebuild it")
        if self.pins.cluster != cluster:
            raise WrongCluster(f"this registry is that of cluster {self.pins.cluster}")
        return self.pins

    def _put_pins(self, pins: Pins, *, claims: int | None = None) -> None:
        def work(txn: Txn) -> None:
            facts = self._file.database("facts")
            txn.put(PINS, _encode(pins), db=facts)
            if claims is not None:
                txn.put(CLAIMS, claims.to_bytes(_KEY_BYTES, "big"), db=facts)

        self._file.write(work)
        self.pins = pins
        if claims is not None:
            self.claims = claims

    def _put_routes(self, txn: Txn, routes: list[SettledRoute]) -> None:
        for one in routes:
            key = _slice_key(one.slice)
            txn.put(key, _encode(one), db=self._file.database("routes"))
            txn.put(one.number.to_bytes(_KEY_BYTES, "big"), key, db=self._file.database("numbers"))

    def _remember(self, routes: list[SettledRoute]) -> None:
        for one in routes:
            self._recent.append(one)
            insort(self._slices, one.slice)
            self.claims = one.number
        self.named = self.named.union(*(one.route for one in routes))

    def _load(self, txn: Txn) -> None:
        facts = self._file.database("facts")
        pins = txn.get(PINS, db=facts)
        self.pins = None if pins is None else msgspec.msgpack.decode(pins, type=Pins)
        settled = [_decode_route(stored) for _, stored in txn.cursor(self._file.database("routes"))]
        self._remember(sorted(settled, key=lambda one: one.number))
        self.claims = max(self.claims, int.from_bytes(txn.get(CLAIMS, b"", db=facts), "big"))
        self._rebuilding = int.from_bytes(txn.get(REBUILD, b"", db=facts), "big")


class RegistryThread:
    """An async context manager: the registry's file and its own thread, so that a claim waits for no group of batches.

    The file is opened, and made, when it is first asked for: only at the worker that hosts the registry.
    """

    def __init__(self, *, registry: Registry, fail: Callable[[BaseException], None]) -> None:
        self._registry = registry
        self._fail = fail
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="registry")
        self._is_open = False

    async def __aenter__(self) -> Self:
        """Nothing is opened yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Finish what was asked for, and close the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._registry.close)
        self._thread.shutdown()

    @property
    def is_open(self) -> bool:
        """Whether anybody has asked for it yet."""
        return self._is_open

    @property
    def file(self) -> Registry:
        """The registry itself, whose numbers any thread may read, and nothing else."""
        return self._registry

    async def ask(self, question: Callable[[Registry], T]) -> T:
        """Put a question to the registry, on its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, question)

    def _run(self, question: Callable[[Registry], T]) -> T:
        try:
            if not self._is_open:
                self._registry.open()
                self._is_open = True
            return question(self._registry)
        except TallysliceError:
            raise
        except BaseException as error:
            # As in the writer: a disk that refuses is not to be trusted any more.
            self._fail(error)
            raise


def _known_from(pins: Pins) -> SliceId | None:
    """The first slice of which it is known whether it is settled; None if that is known of all."""
    if pins.unknown_before is None:
        return None
    clock = SliceClock(first=Micros(pins.first), length_seconds=pins.length_seconds)
    # A slice that began at that very instant began after it.
    return SliceId(clock.slice_at(Micros(pins.unknown_before - 1)) + 1)


def _check(slice_id: int, route: Route) -> None:
    if not SLICE_MIN <= slice_id <= SLICE_MAX:
        raise Malformed("a slice is an int64", field="routes")
    if any(len(name) > WORKER_ID_CHARACTERS_MAX for name in route):
        raise Malformed(f"the route of slice {slice_id} names what is no worker", field="routes")
    if len(route) > ROUTE_WORKERS_MAX or len(set(route)) != len(route):
        raise Malformed(f"the route of slice {slice_id} names a worker twice, or too many", field="routes")


def _slice_key(slice_id: int) -> bytes:
    return (slice_id - SLICE_MIN).to_bytes(_KEY_BYTES, "big")
