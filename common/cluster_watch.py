"""Hot reload: look at the cluster file, load it, judge it, publish it or refuse it. The running config always stands.

::

    it may have changed (file_watch.py) --> read -> same bytes as running? -> load -> judge -> publish
                                             |                                 |        |         |
                                             +---------------------------------+--------+---------+--> refusal
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from common.config import ClusterConfig, parse_config, read_file, version_of
from common.errors import ConfigRefused
from common.file_watch import FileWatch
from common.judge import Verdict
from common.logs import Log, describe
from common.slices import Micros


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
        self.last_refusal: Refusal | None = None  # also when the file has been mended since
        self.refusals = 0
        self.reloads = 0
        self._path = path.absolute()
        self._judge = judge
        self._publish = publish
        self._log = log
        self._now = now
        self._file_watch = FileWatch(
            path=self._path, look=self._look, every=lambda: self.running.reload_seconds, log=log
        )
        # The version of the refused bytes (None: unreadable) and the reasons: the same refusal is told once.
        self._told: tuple[str | None, tuple[str, ...]] | None = None

    async def __aenter__(self) -> Self:
        """Begin to watch; the file is looked at once more, since it may have changed while the node started."""
        await self._file_watch.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Stop watching; a publish that is under way is cancelled."""
        await self._file_watch.__aexit__(kind, error, at)

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
        self.refusal = self.last_refusal = Refusal(reasons=reasons, at=self._now())
        self.refusals += 1
        self._log.warning("cluster_file_refused", version=version, reasons=reasons)
