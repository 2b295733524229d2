"""``registry.mdb``: the cluster's pins and the routes of its slices, each settled once. At one worker of the cluster.

::

    database  key                    value
    facts     b"pins"                msgpack: the pins, once somebody proposed them
    routes    slice                  msgpack: SettledRoute: slice, route, number
    numbers   u64, big-endian        the slice that was settled under this number

    slice: 8 bytes, big-endian, counted from the smallest int64, so that they sort as numbers

Everything here is put-if-absent: the first proposal wins, and the answer tells what holds. Claims are numbered from 1
without gaps, so that whoever has heard of a number that is not here knows that this file is old, or is not the one.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import msgspec

from common.errors import Contradicts, Malformed, RegistryBehind, TallysliceError, WrongCluster, WrongWorker
from common.lmdb_file import MAP_BYTES, Kind, LmdbFile, Txn, open_or_fail
from common.routing import Route, WorkerId
from common.slices import SliceId
from common.wire import (
    ROUTE_WORKERS_MAX,
    SLICE_MAX,
    SLICE_MIN,
    Claim,
    Pins,
    PinWorker,
    RegistryState,
    Settled,
    SettledRoute,
)

if TYPE_CHECKING:
    from types import TracebackType

T = TypeVar("T")

FILE_NAME = "registry.mdb"
DATABASES = {"facts": Kind.MAP, "routes": Kind.MAP, "numbers": Kind.MAP}
PINS = b"pins"
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
        self._pinned(claim.cluster)
        if self.claims < max(claim.claims, known):
            message = f"{max(claim.claims, known)} claims are known, and this registry has {self.claims}: rebuild it"
            raise RegistryBehind(message)
        for slice_id, route in claim.routes.items():
            _check(slice_id, route)
        found, new, over = self._file.read(lambda txn: self._settle(txn, claim, door))
        if new:
            self._file.write(lambda txn: self._put_routes(txn, new))
            self._remember(new)
        return Settled(claims=self.claims, routes=(*found, *new), over=over)

    def _settle(
        self, txn: Txn, claim: Claim, door: Door
    ) -> tuple[list[SettledRoute], list[SettledRoute], tuple[SliceId, ...]]:
        found: list[SettledRoute] = []
        new: list[SettledRoute] = []
        over: list[SliceId] = []
        room = door.slices_max - self._open_slices(door)
        for slice_id, route in claim.routes.items():
            stored = txn.get(_slice_key(slice_id), db=self._file.database("routes"))
            if stored is not None:
                found.append(_decode_route(stored))
            elif route and (len(new) < room or (door.now is not None and slice_id - door.now in (0, 1))):
                new.append(SettledRoute(slice=slice_id, route=route, number=self.claims + len(new) + 1))
            elif route:
                over.append(slice_id)
        return found, new, tuple(over)

    def _open_slices(self, door: Door) -> int:
        if door.first_open is None:
            return len(self._slices)
        return len(self._slices) - bisect_left(self._slices, door.first_open)

    def _pinned(self, cluster: str) -> Pins:
        if self.pins is None:
            raise Contradicts("nothing is pinned here yet")
        if self.pins.cluster != cluster:
            raise WrongCluster(f"this registry is that of cluster {self.pins.cluster}")
        return self.pins

    def _put_pins(self, pins: Pins) -> None:
        self._file.write(lambda txn: txn.put(PINS, _encode(pins), db=self._file.database("facts")))
        self.pins = pins

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
        pins = txn.get(PINS, db=self._file.database("facts"))
        self.pins = None if pins is None else msgspec.msgpack.decode(pins, type=Pins)
        settled = [_decode_route(stored) for _, stored in txn.cursor(self._file.database("routes"))]
        self._remember(sorted(settled, key=lambda one: one.number))


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


def _check(slice_id: int, route: Route) -> None:
    if not SLICE_MIN <= slice_id <= SLICE_MAX:
        raise Malformed("a slice is an int64", field="routes")
    if len(route) > ROUTE_WORKERS_MAX or len(set(route)) != len(route):
        raise Malformed(f"the route of slice {slice_id} names a worker twice, or too many", field="routes")


def _slice_key(slice_id: int) -> bytes:
    return (slice_id - SLICE_MIN).to_bytes(_KEY_BYTES, "big")
