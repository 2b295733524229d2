"""Hot reload: watch the cluster file, load it, judge it, publish it or refuse it. The running config always stands.

::

    notice (watchfiles on the folder) --+
                                        +--> due --> read -> same bytes as running? -> load -> judge -> publish
    at least every reload-seconds ------+                                              |        |         |
                                                                                       +--------+---------+--> refusal

The folder is watched and not the file, since editors and Kubernetes replace files (Kubernetes by swapping a link beside
it). What is noticed only says that it is time to look: the bytes decide whether anything changed. A link to a file
in another folder is therefore followed too, only as late as the next regular look.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from watchfiles import awatch

from common.config import ClusterConfig, parse_config, read_file, version_of
from common.errors import ConfigRefused
from common.judge import Verdict
from common.logs import Log, describe
from common.slices import Micros

RETRY_SECONDS = 0.5  # until a folder that vanished is looked for again
QUIET_MILLISECONDS = 50  # a burst of writes is over after that: an editor's save is one look, not five


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why the file as it is now is not used.

    Attributes:
        reasons: all of them.
        at: when it was first refused for them.
    """

    reasons: tuple[str, ...]
    at: Micros


def _system_now() -> Micros:
    return Micros(time.time_ns() // 1000)


class ClusterWatch:
    """An async context manager that keeps the running config, and replaces it when the file changes for the better.

    Args:
        path: the cluster file.
        running: the config that it was started with, loaded from the same path.
        judge: asked with the running and the proposed config, before anything is done with the latter.
        publish: hands an accepted config to the node's parts. If it raises, the running config stays, and the file is
            tried again at the next look.
        log: where refusals and changes are told.
        now: the clock.
    """

    def __init__(
        self,
        *,
        path: Path,
        running: ClusterConfig,
        judge: Callable[[ClusterConfig, ClusterConfig], Awaitable[Verdict]],
        publish: Callable[[ClusterConfig], Awaitable[None]],
        log: Log,
        now: Callable[[], Micros] = _system_now,
    ) -> None:
        self.running = running
        self.refusal: Refusal | None = None
        self.refusals = 0
        self.reloads = 0
        self._path = path.absolute()
        self._judge = judge
        self._publish = publish
        self._log = log
        self._now = now
        self._due = asyncio.Event()
        self._stop = asyncio.Event()
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        # The version of the refused bytes (None: unreadable) and the reasons: the same refusal is told once.
        self._told: tuple[str | None, tuple[str, ...]] | None = None

    async def __aenter__(self) -> Self:
        """Begin to watch; the file is looked at once more, since it may have changed while the node started."""
        self._tasks = (
            asyncio.create_task(self._notice(), name="cluster-watch-notice"),
            asyncio.create_task(self._look_when_due(), name="cluster-watch-look"),
        )
        # Both tasks run up to their first await: from here on the kernel watches.
        await asyncio.sleep(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Stop watching; a publish that is under way is cancelled."""
        notice, look = self._tasks
        # Not cancelled: watchfiles would leave its thread waiting. It sees the event within moments.
        self._stop.set()
        look.cancel()
        await asyncio.gather(notice, look, return_exceptions=True)

    async def _notice(self) -> None:
        """Set ``due`` whenever something happens in the folder."""
        while not self._stop.is_set():
            # What changed before the watch stands is seen by this look: its task wakes at our next await, and by
            # then awatch has registered with the kernel.
            self._due.set()
            try:
                await self._notice_until_the_folder_is_another()
            except (OSError, RuntimeError) as error:  # no such folder, or no inotify watch left
                self._log.warning("cluster_folder_not_watched", error=error)
                await _wait(self._stop, RETRY_SECONDS)

    async def _notice_until_the_folder_is_another(self) -> None:
        folder = self._path.parent
        watched = _identity(folder)
        changing = awatch(
            folder,
            watch_filter=None,  # the default one leaves out names that Kubernetes and editors use
            step=QUIET_MILLISECONDS,
            stop_event=self._stop,
            yield_on_timeout=True,
            force_polling=False,
            recursive=False,
        )
        async with aclosing(changing):  # gives the kernel's watch back at once
            async for changes in changing:
                if changes:
                    self._due.set()
                # The kernel's watch follows the folder that it was made for, not its name.
                if _identity(folder) != watched or any(Path(name) == folder for _, name in changes):
                    break

    async def _look_when_due(self) -> None:
        while True:
            await _wait(self._due, self.running.reload_seconds)
            self._due.clear()
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001 - a defect of ours in one look must not be the last look
                self._log.error("cluster_watch_failed", error=error)

    async def _look(self) -> None:
        """Read the file, and do what its bytes ask for."""
        version: str | None = None
        try:
            content = await asyncio.to_thread(read_file, self._path)
            version = version_of(content)
            if version == self.running.version:
                tell = self._log.debug if self.refusal is None else self._log.info
                tell("cluster_file_as_running", version=version)
                self.refusal = self._told = None
                return
            proposed = parse_config(content, folder=self._path.parent)
        except ConfigRefused as error:
            self._refuse(version, tuple(error.problems))
            return
        try:
            verdict = await self._judge(self.running, proposed)
        except Exception as error:  # noqa: BLE001 - whatever kept the judge from judging: the running config stays
            self._refuse(version, (f"the change could not be judged: {describe(error)}",))
            return
        if not verdict.accepted:
            self._refuse(version, verdict.refusals)
            return
        try:
            await self._publish(proposed)
        except Exception as error:  # noqa: BLE001 - the watch outlives a part that cannot follow
            self._refuse(version, (f"the change could not be made: {describe(error)}",))
            return
        self.running = proposed
        self.refusal = self._told = None
        self.reloads += 1
        self._log.info("cluster_file_accepted", version=version, changes=verdict.changes)

    def _refuse(self, version: str | None, reasons: tuple[str, ...]) -> None:
        if self._told == (version, reasons):
            return
        self._told = version, reasons
        self.refusal = Refusal(reasons=reasons, at=self._now())
        self.refusals += 1
        self._log.warning("cluster_file_refused", version=version, reasons=reasons)


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another of the same name; None if there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but not for longer."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
