"""The spools of this process: one of its own to put batches into, and those found at start, which only drain.

::

    <data>/spools/1f2e.../    locked by this process: its own, made when first needed, or one of the next kind
                  77a0.../    found unlocked at start: adopted, drained, then removed
                  c3d4.../    locked by another process of this node: left alone

The files belong to one named thread. Whatever changes them is on disk when the call returns. Only one process of the
node at a time makes, finds or removes spools: it holds a lock on the folder of them all.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from api_node.spool import FILE_NAME, Spool, SpooledBatch, SpoolKey
from common.errors import ConfigRefused, InputOutputFailed, NotTaken
from common.lmdb_file import STORE_ERRORS, Damaged, alone_in, make_folder, sync_folder, unlink
from common.routing import WorkerId
from common.slices import SECOND, Micros

if TYPE_CHECKING:
    from types import TracebackType

    from common.config import ClusterConfig
    from common.logs import Log
    from common.routing import Route
    from common.slices import SliceId

T = TypeVar("T")

SPOOLS_FOLDER = "spools"
TROUBLE_SECONDS = 1.0  # after the disk refused, until somebody may try again


@dataclass(slots=True, eq=False)
class _Locked:
    """A spool that this process owns."""

    spool: Spool
    folder: Path
    descriptor: int


@dataclass(frozen=True, slots=True)
class SpooledStream:
    """A stream in one of the spools, to be drained."""

    spool: Spool
    stream: bytes
    worker: WorkerId


class SpoolRoom:
    """An async context manager: the spools and their thread."""

    def __init__(
        self, *, folder: Path, config: Callable[[], ClusterConfig], now: Callable[[], Micros], log: Log
    ) -> None:
        self.unreadable: list[str] = []  # adopted spools that are damaged
        self._trouble: str | None = None
        self._trouble_until = 0.0
        self._folder = folder / SPOOLS_FOLDER
        self._config = config
        self._now = now
        self._log = log
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool")
        self._own: _Locked | None = None
        self._adopted: list[_Locked] = []

    async def __aenter__(self) -> Self:
        """Nothing is opened yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Close the spools; those that are empty are removed."""
        for locked in self._all():
            await self._run(_leave, locked)
        self._own, self._adopted = None, []
        self._thread.shutdown()

    async def adopt(self, cluster: str) -> None:
        """Take over the spools that other processes left in the folder.

        Raises:
            ConfigRefused: one is of another cluster.
            InputOutputFailed: one cannot be opened.
        """
        told = len(self.unreadable)
        found = await self._run(self._find, cluster)
        self._adopted += found
        for text in self.unreadable[told:]:
            self._log.error("spool_unreadable", reason=text)
        for locked in found:
            self._log.info("spool_adopted", size_bytes=locked.spool.size_bytes, streams=len(locked.spool.streams()))

    async def keep(self, cluster: str, worker: WorkerId, batches: Sequence[tuple[bytes, bytes]]) -> None:
        """Put closed batches (stream, bytes) into this process's spool; on disk when this returns.

        Raises:
            NotTaken: the disk refuses; nothing was kept.
        """
        if self._own is None and self._adopted:
            # One that is here already, so that a node that restarts again and again does not leave one each time.
            self._own = self._adopted.pop()
        try:
            await self._run(self._keep, cluster, worker, batches)
        except (InputOutputFailed, *STORE_ERRORS) as error:
            text = f"the spool cannot be written ({type(error).__name__})"
            if self._trouble is None:
                self._log.error("spool_failed", error=error)
            self._trouble, self._trouble_until = text, time.monotonic() + TROUBLE_SECONDS
            raise NotTaken(text) from error
        if self._trouble is not None:
            self._log.info("spool_works_again")
        self._trouble = None

    async def batches(self, source: SpooledStream, *, after: SpoolKey | None, bytes_max: int) -> list[SpooledBatch]:
        """The next batches of a stream, by slice and number; see Spool.batches."""
        return await self._run(lambda: source.spool.batches(source.stream, after=after, bytes_max=bytes_max))

    async def answered(self, source: SpooledStream, keys: Iterable[SpoolKey]) -> None:
        """Let go of batches that the worker has answered for."""
        await self._run(source.spool.answered, list(keys))

    async def rename(self, source: SpooledStream, renamed: Sequence[tuple[SpoolKey, bytes, bytes]]) -> None:
        """Give batches another stream and number; see Spool.rename."""
        await self._run(source.spool.rename, renamed)

    async def remove_drained(self) -> None:
        """Remove adopted spools that are empty; nothing is ever put into them again."""
        empty = [one for one in self._adopted if one.spool.is_empty]
        for locked in empty:
            # All of them before anybody else has a turn, who would find them too.
            self._adopted.remove(locked)
        for locked in empty:
            await self._run(_leave, locked)

    async def routes(self) -> dict[SliceId, Route | None]:
        """The route of every slice that has batches here; None where none of them can be read."""
        found: dict[SliceId, Route | None] = {}
        for locked in self._all():
            for slice_id, route in (await self._run(locked.spool.routes)).items():
                found[slice_id] = route or found.get(slice_id)
        return found

    def streams(self, worker: WorkerId) -> list[SpooledStream]:
        """The streams that lead to a worker."""
        return [
            SpooledStream(locked.spool, stream, leads_to)
            for locked in self._all()
            for stream, leads_to in locked.spool.streams().items()
            if leads_to == worker
        ]

    def refusal(self) -> str | None:
        """Why nothing more is taken in; None if it is. What is there is delivered all the same."""
        if self._trouble is not None and time.monotonic() < self._trouble_until:
            return self._trouble
        config = self._config()
        if self.size_bytes >= config.spool_max_bytes:
            return f"the spool holds {self.size_bytes} bytes, spool-max-bytes is {config.spool_max_bytes}"
        age = self.age_seconds
        if age > config.spool_max_age_seconds:
            return f"the spool is {age:.0f} s old, spool-max-age-seconds is {config.spool_max_age_seconds:g}"
        return None

    def events_by_slice(self) -> dict[SliceId, int]:
        """How many events of each slice wait here; only slices of which some do."""
        total: Counter[SliceId] = Counter()
        for locked in self._all():
            # A copy, made in one step: the thread may be changing it.
            total.update(locked.spool.events.copy())
        return total

    def events_by_worker(self) -> Counter[WorkerId]:
        """How many events wait here for each worker."""
        total = Counter[WorkerId]()
        for locked in self._all():
            total.update(locked.spool.events_by_worker())
        return total

    @property
    def events(self) -> int:
        """How many events wait here."""
        return sum(sum(locked.spool.events.values()) for locked in self._all())

    @property
    def size_bytes(self) -> int:
        """How many bytes of batches wait here."""
        return sum(locked.spool.size_bytes for locked in self._all())

    @property
    def age_seconds(self) -> float:
        """How long the oldest stream has waited; 0 if nothing waits."""
        ages = [locked.spool.oldest for locked in self._all()]
        oldest = min((age for age in ages if age is not None), default=None)
        return 0.0 if oldest is None else max(0.0, (self._now() - oldest) / SECOND)

    def _all(self) -> list[_Locked]:
        return [*self._adopted, *([] if self._own is None else [self._own])]

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    # From here on: the thread.

    def _keep(self, cluster: str, worker: WorkerId, batches: Sequence[tuple[bytes, bytes]]) -> None:
        if self._own is None:
            self._own = self._make(cluster)
        self._own.spool.append(worker, batches, at=self._now())

    def _make(self, cluster: str) -> _Locked:
        make_folder(self._folder)
        with alone_in(self._folder):
            return self._make_alone(self._folder / secrets.token_hex(8), cluster)

    def _make_alone(self, folder: Path, cluster: str) -> _Locked:
        make_folder(folder, mode=0o700)
        locked = _lock(folder, cluster)
        if locked is None:  # pragma: no cover - nobody else knows the name yet
            message = f"the new spool {folder.name} is locked already"
            raise InputOutputFailed(message)
        try:
            locked.spool.open()
            sync_folder(folder)
        except BaseException:
            # On a full disk this is tried every second: nothing may be left of it.
            locked.spool.close()
            _remove(locked)
            raise
        return locked

    def _find(self, cluster: str) -> list[_Locked]:
        if not self._folder.is_dir():
            return []
        with alone_in(self._folder):
            return self._find_alone(cluster)

    def _find_alone(self, cluster: str) -> list[_Locked]:
        found: list[_Locked] = []
        for folder in sorted(self._folder.iterdir()):
            locked = _lock(folder, cluster) if folder.is_dir() else None
            if locked is None:
                continue
            if not (folder / FILE_NAME).exists():
                # Its process ended between making the folder and the file.
                _remove(locked)
                continue
            try:
                locked.spool.open()
            except (ConfigRefused, InputOutputFailed, Damaged) as error:
                locked.spool.close()
                os.close(locked.descriptor)
                if not isinstance(error, Damaged) and not isinstance(error.__cause__, Damaged):
                    raise
                # Left as it is, for a person to look at; the others must not wait for that.
                text = f"the spool {folder.name} cannot be read, and is not delivered: {error}"
                if text not in self.unreadable:
                    self.unreadable.append(text)
                continue
            found.append(locked)
        return found


def _lock(folder: Path, cluster: str) -> _Locked | None:
    """Lock a spool's folder; None if another process has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return _Locked(Spool(folder=folder, cluster=cluster), folder, descriptor)


def _leave(locked: _Locked) -> None:
    """Close a spool, and remove it if nothing waits in it."""
    is_empty = locked.spool.is_empty
    locked.spool.close()
    if not is_empty:
        os.close(locked.descriptor)
        return
    with alone_in(locked.folder.parent):
        _remove(locked)


def _remove(locked: _Locked) -> None:
    # Removed while it and the folder of all are locked: nobody can begin to use it, nor look at it, in between.
    unlink(locked.folder / FILE_NAME)
    locked.folder.rmdir()
    os.close(locked.descriptor)
