"""Background tasks that somebody owns: named, guarded, and gone when their owner is.

A task that ends with an exception is a defect of ours. It is logged at once, and remembered, so that the node says that
it is not ready instead of limping on in silence.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

    from common.logs import Log


class Tasks:
    """An async context manager that owns tasks, and cancels those left when it is left."""

    def __init__(self, *, log: Log) -> None:
        self._log = log
        self._running: set[asyncio.Task[Any]] = set()
        self.failed: list[str] = []

    async def __aenter__(self) -> Self:
        """Begin to own."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Cancel what is left and wait for it."""
        # A copy: tasks remove themselves when they end.
        left = list(self._running)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def start(self, name: str, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run the coroutine as a task of this name."""
        task = asyncio.create_task(coroutine, name=name)
        self._running.add(task)  # the loop keeps only weak references
        task.add_done_callback(self._ended)
        return task

    def reason(self) -> str | None:
        """For readiness: which tasks died."""
        return f"background tasks died: {', '.join(self.failed)}" if self.failed else None

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if task.get_name() not in self.failed:  # what fails again and again is told once
            self.failed.append(task.get_name())
        self._log.error("task_died", task=task.get_name(), error=error)
