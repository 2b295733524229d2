"""Is what a node that is stopped has on its disk as it was written, and does it fit together?

::

    worker      slices/N.mdb     its structure, page by page; then label, fingerprint, members against counts; in a
                                 process each, because a disk that cannot read a page ends the process
                                 then: is it this worker's, and is its route the one that the registry has?
                totals.mdb       structure; pins against identity.json; every closed slice
                registry.mdb     structure; pins; every route, and its number
    API node    spools/*/        structure; cluster; every batch against its check

Nothing is repaired. Lock files that LMDB makes beside what it opens are removed again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from api_node.spool import FILE_NAME as SPOOL_FILE
from api_node.spool import Spool
from api_node.spool_room import SPOOLS_FOLDER
from common.errors import ConfigRefused, DirectoryOwned, InputOutputFailed, TallysliceError
from common.lmdb_file import STORE_ERRORS, UNUSED_BYTES_MAX, Damaged, damage_of
from common.routing import Route, WorkerId
from common.slices import SliceId
from common.wire import SLICE_MAX, SLICE_MIN, Pins
from tallyslice.live_copy import manifest_in
from worker_node.identity import FILE_NAME as IDENTITY_FILE
from worker_node.registry import FILE_NAME as REGISTRY_FILE
from worker_node.registry import Registry
from worker_node.shelf import DAMAGED as DAMAGED_SUFFIX
from worker_node.shelf import LOST as LOST_SUFFIX
from worker_node.shelf import SLICES_FOLDER
from worker_node.slice_store import SliceStore
from worker_node.totals import FILE_NAME as TOTALS_FILE
from worker_node.totals import Totals
from worker_node.verification import verify_in_process
from worker_node.verify_file import DAMAGED, SOUND

PROCESSES_MAX = 4  # each reads a file as fast as a core can; more would only be in the way of other nodes
SPOOL_PIECE_BYTES = 8 << 20

_SLICE_FILE = re.compile(r"(-?[0-9]{1,19})\.mdb", re.ASCII)
# Whatever a file may bring forth that is not what was written.
_BROKEN = (*STORE_ERRORS, TallysliceError, msgspec.MsgspecError, ValueError, KeyError)

Advance = Callable[[int], None]


class _Identity(msgspec.Struct, frozen=True):
    """Of either kind: a worker has id and uuid, an API node has pins."""

    id: str | None = None
    uuid: str | None = None
    cluster: str | None = None
    pins: Pins | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something that is not as it should be, in a file."""

    file: str
    problem: str


@dataclass(slots=True, kw_only=True)
class Findings:
    """What was found in one data folder.

    Attributes:
        folder: of a node.
        kind: ``worker`` or ``api``.
        node: the worker's id; None of an API node, whose folder does not say.
        cluster: that it belongs to; None: to none yet.
        slices: what each slice file holds that is sound.
        closed: how many slices are closed.
        routes: how many the registry has settled; None: it is not here.
        spooled: events that wait for a worker.
        problems: what is wrong; empty if it is sound.
        notes: what is not wrong, and yet good to know.
    """

    folder: Path
    kind: str
    node: str | None = None
    cluster: str | None = None
    slices: list[dict[str, Any]] = field(default_factory=list)
    closed: int = 0
    routes: int | None = None
    spooled: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, path: Path, problem: object) -> None:
        """There is something wrong with a file."""
        self.problems.append(Problem(file=str(path.relative_to(self.folder)), problem=str(problem)))


def node_folders(folder: Path) -> list[Path]:
    """The data folders that a folder stands for: itself, or those of all nodes of ``tallyslice up``.

    Raises:
        ConfigRefused: it is neither.
    """
    if not folder.is_dir():
        raise ConfigRefused([f"{folder}: there is no such folder"])
    if _is_one(folder):
        return [folder]
    found = sorted(path for path in folder.iterdir() if path.is_dir() and _is_one(path))
    if not found:
        names = f"{IDENTITY_FILE}, {TOTALS_FILE}, {SLICES_FOLDER}/ nor {SPOOLS_FOLDER}/"
        raise ConfigRefused([f"{folder}: is not the data folder of a node: there is neither {names}"])
    return found


def _is_one(folder: Path) -> bool:
    return any((folder / name).exists() for name in (IDENTITY_FILE, TOTALS_FILE, SLICES_FOLDER, SPOOLS_FOLDER))


def size_of(folder: Path) -> int:
    """The bytes that ``verify`` will tell to have gone through."""
    return sum(path.stat().st_size for path in folder.rglob("*.mdb"))


async def verify(folder: Path, *, advance: Advance) -> Findings:
    """Verify the data folder of one node.

    Args:
        folder: it.
        advance: told of the bytes that are done.

    Raises:
        DirectoryOwned: a process has it.
        InputOutputFailed: it cannot be read.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(_owned(folder))
            identity, problem = _identity(folder)
            is_worker = identity.uuid is not None or (not (folder / SPOOLS_FOLDER).exists() and identity.pins is None)
            findings = Findings(folder=folder, kind="worker" if is_worker else "api", node=identity.id)
            findings.cluster = identity.cluster if identity.pins is None else identity.pins.cluster
            if problem is not None:
                findings.add(folder / IDENTITY_FILE, problem)
            if is_worker:
                await _Worker(findings, identity, advance).verify()
            else:
                _spools(findings, stack, advance)
        except PermissionError as error:
            raise InputOutputFailed(f"{error.filename or folder} cannot be read: {error.strerror}") from error
        return findings


@contextlib.contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Hold the lock that a running node holds."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise DirectoryOwned(
            f"{folder} is owned by a running process: stop the node first, or verify a copy"
        ) from error
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _no_trace(path: Path) -> Iterator[None]:
    """Leave no lock file behind where there was none: it would be ours, and not the node's."""
    lock = path.with_name(path.name + "-lock")
    was_there = lock.exists()
    try:
        yield
    finally:
        if not was_there:
            lock.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size


def _identity(folder: Path) -> tuple[_Identity, str | None]:
    path = folder / IDENTITY_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Identity), None
    except FileNotFoundError:
        backup = manifest_in(folder)
        if backup is not None and not backup.whole:
            return _Identity(id=backup.worker, uuid=backup.uuid, cluster=backup.cluster), None
        return _Identity(), "is missing: nothing says whose folder this is"
    except (msgspec.DecodeError, UnicodeError) as error:
        return _Identity(), f"cannot be read: {error}"


class _Worker:
    """The folder of a worker, file by file."""

    def __init__(self, findings: Findings, identity: _Identity, advance: Advance) -> None:
        self._found = findings
        self._folder = findings.folder
        self._identity = identity
        self._advance = advance
        self._closed: frozenset[SliceId] = frozenset()
        self._claims = 0
        self._hosts_registry = False
        self._routes: Mapping[SliceId, Route] = {}

    async def verify(self) -> None:
        """All of it: what tells of the slices first."""
        totals, registry = self._folder / TOTALS_FILE, self._folder / REGISTRY_FILE
        # A backup of some slices has neither an identity nor totals.
        joined = self._identity.cluster is not None and (self._folder / IDENTITY_FILE).exists()
        if not self._checked(totals, self._totals) and joined:
            self._found.add(
                totals, "is missing, or empty: which slices are closed, and with which counts, is not known"
            )
        if not self._checked(registry, self._registry) and self._hosts_registry:
            self._found.add(registry, "is missing, or empty: it is this worker that hosts the registry")
        slices = self._folder / SLICES_FOLDER
        names = sorted(slices.iterdir()) if slices.is_dir() else []
        for path in names:
            if path.name.endswith(DAMAGED_SUFFIX) and not path.with_suffix("").exists():
                self._found.add(path, "was found damaged, and set aside")
            elif path.name.endswith(LOST_SUFFIX):
                self._found.notes.append(f"{path.name} was given up")
        limit = asyncio.Semaphore(min(PROCESSES_MAX, os.cpu_count() or 1))
        await asyncio.gather(*(self._slice(path, limit) for path in names if _SLICE_FILE.fullmatch(path.name)))
        self._found.slices.sort(key=lambda one: int(one["slice"]))
        self._found.problems.sort(key=lambda one: one.file)

    def _checked(self, path: Path, check: Callable[[], None]) -> bool:
        """Check a file that may be missing, its structure, then what is in it; whether there is one."""
        if not path.exists() or path.stat().st_size <= UNUSED_BYTES_MAX:
            return False
        with _no_trace(path):
            problems = damage_of(path)
            for problem in problems:
                self._found.add(path, problem)
            if not problems:
                try:
                    check()
                except _BROKEN as error:
                    self._found.add(path, error)
        self._advance(path.stat().st_size)
        return True

    def _totals(self) -> None:
        totals, path = Totals(folder=self._folder), self._folder / TOTALS_FILE
        totals.open()
        try:
            self._closed = totals.closed_slices()
            self._found.closed = len(self._closed)
            for slice_id in self._closed:
                totals.closed(slice_id)
            pins, self._claims = totals.pins, totals.claims
        finally:
            totals.close()
        self._pins(path, pins)
        self._hosts_registry = pins is not None and pins.registry == self._identity.id
        known = None if pins is None else pins.workers.get(WorkerId(self._identity.id or ""))
        if known not in (None, self._identity.uuid):
            self._found.notes.append(f"the cluster knows this worker by the data directory {known}: this is another")

    def _pins(self, path: Path, pins: Pins | None) -> None:
        cluster = self._identity.cluster
        if cluster is not None and (pins is None or pins.cluster != cluster):
            self._found.add(path, f"is of cluster {pins and pins.cluster}, and {IDENTITY_FILE} of {cluster}")

    def _registry(self) -> None:
        registry, path = Registry(folder=self._folder), self._folder / REGISTRY_FILE
        registry.open()
        try:
            routes: dict[SliceId, Route] = {}
            numbers: set[int] = set()
            after = None
            while True:
                page = registry.routes(after)
                routes.update((one.slice, one.route) for one in page.routes)
                numbers.update(one.number for one in page.routes)
                if not page.more or not page.routes:
                    break
                after = page.routes[-1].slice
            claims, pins = registry.claims, registry.pins
        finally:
            registry.close()
        self._pins(path, pins)
        self._routes, self._found.routes = routes, len(routes)
        if claims < self._claims:
            self._found.add(
                path, f"is older than {TOTALS_FILE}: it has {claims} claims, of {self._claims} that were made"
            )
        if len(numbers) != len(routes) or max(numbers, default=0) > claims:
            self._found.add(path, f"{len(routes)} routes have {len(numbers)} numbers, up to {max(numbers, default=0)}")

    async def _slice(self, path: Path, limit: asyncio.Semaphore) -> None:
        async with limit:
            size = _size(path)
            if size > UNUSED_BYTES_MAX:  # else it never saw a commit, and holds nothing
                with _no_trace(path):
                    code, said = await verify_in_process(path)
                    if code == SOUND:
                        self._sound(path)
                    elif code == DAMAGED:
                        for problem in said.splitlines():
                            self._found.add(path, problem)
                    else:
                        self._found.add(path, f"cannot be verified (code {code}): can the disk read it?")
            else:
                self._found.notes.append(
                    f"{path.name} holds nothing: it was made, and never written to, or was emptied"
                )
            self._advance(size)

    def _sound(self, path: Path) -> None:
        """A file that is sound in itself: does it belong here?"""
        slice_id = SliceId(int(path.stem))
        if not SLICE_MIN <= slice_id <= SLICE_MAX:
            self._found.add(path, "is not named like a slice")
            return
        if slice_id in self._closed:
            self._found.notes.append(f"slice {slice_id} is closed: its left-over file goes at the next start")
            return
        try:
            store = SliceStore.open(path, slice_id)
        except Damaged as error:
            self._found.add(path, error)
            return
        if store is None:
            return
        try:
            label, summary = store.label, store.held.summary
        finally:
            store.close()
        if label.position >= len(label.route) or label.route[label.position] != (self._identity.id or ""):
            self._found.add(path, f"is another worker's: position {label.position} of {', '.join(label.route)}")
        settled = self._routes.get(slice_id)
        if settled is not None and settled != label.route:
            self._found.add(path, f"has the route {', '.join(label.route)}; the registry has {', '.join(settled)}")
        self._found.slices.append(
            {
                "slice": slice_id,
                "users": summary.users,
                "events": dict(summary.counts),
                "complete": summary.complete,
            }
        )


def _spools(findings: Findings, stack: ExitStack, advance: Advance) -> None:
    """The spools of an API node; each is locked by the process that uses it."""
    folder = findings.folder / SPOOLS_FOLDER
    for one in sorted(folder.iterdir()) if folder.is_dir() else []:
        path = one / SPOOL_FILE
        if not one.is_dir() or not path.exists() or path.stat().st_size <= UNUSED_BYTES_MAX:
            continue
        stack.enter_context(_owned(one))
        with _no_trace(path):
            problems: list[object] = [*damage_of(path)]
            if not problems:
                try:
                    problems += _spool(findings, one)
                except (ConfigRefused, *_BROKEN) as error:
                    problems.append(error)
        for problem in problems:
            findings.add(path, problem)
        advance(path.stat().st_size)


def _spool(findings: Findings, folder: Path) -> Iterator[str]:
    spool = Spool(folder=folder, cluster=findings.cluster or "")
    spool.open()
    try:
        findings.spooled += spool.events.total()
        for stream in spool.streams():
            after = None
            while batches := spool.batches(stream, after=after, bytes_max=SPOOL_PIECE_BYTES):
                for batch in batches:
                    if batch.raw is None:
                        yield f"batch {batch.key.seq} of slice {batch.key.slice}, {batch.events} events, is damaged"
                after = batches[-1].key
    finally:
        spool.close()
