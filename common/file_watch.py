"""Notice that a file may have changed, and look.

::

    something happened in its folder (watchfiles) --+
                                                    +--> due --> look
    at least every so many seconds -----------------+

The folder is watched and not the file, since editors and Kubernetes replace files (Kubernetes by swapping a link beside
it). What is noticed only says that it is time to look: whoever looks decides by the bytes whether anything changed. A
link to a file in another folder is therefore followed too, only as late as the next regular look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Self

from watchfiles import awatch

from common.logs import Log

RETRY_SECONDS = 0.5  # until a folder that vanished is looked for again
QUIET_MILLISECONDS = 50  # a burst of writes is over after that: an editor's save is one look, not five


class FileWatch:
    """An async context manager: while inside, it looks whenever there may be something new to see.

    Args:
        path: the file; need not be there.
        look: reads it, and does what its bytes ask for; never called twice at a time.
        every: the longest time between two looks, in seconds; asked before each.
        log: where it is told that the kernel does not help, or that a look failed.
    """

    def __init__(
        self, *, path: Path, look: Callable[[], Awaitable[None]], every: Callable[[], float], log: Log
    ) -> None:
        self._path = path.absolute()
        self._look = look
        self._every = every
        self._log = log
        self._due = asyncio.Event()
        self._stop = asyncio.Event()
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    async def __aenter__(self) -> Self:
        """Begin to watch; the file is looked at once more, since it may have changed since it was read."""
        self._tasks = (
            asyncio.create_task(self._notice(), name="file-watch-notice"),
            asyncio.create_task(self._look_when_due(), name="file-watch-look"),
        )
        # Both tasks run up to their first await: from here on the kernel watches.
        await asyncio.sleep(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Stop watching; a look that is under way is cancelled."""
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
                self._log.warning("folder_not_watched", of=self._path.name, error=error)
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
            await _wait(self._due, self._every())
            self._due.clear()
            try:
                await self._look()
            except Exception as error:  # noqa: BLE001 - a defect of ours in one look must not be the last look
                self._log.error("file_watch_failed", of=self._path.name, error=error)


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
