"""An event loop without sockets, whose time is simulated: for the few parts that are coroutines.

``finish`` runs those that never wait without any loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _NoSockets:
    """What the loop takes for its selector: nothing ever arrives, and waiting only moves the clock."""

    def __init__(self) -> None:
        self.now = 0.0

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            message = "everything waits for something that will never come"
            raise RuntimeError(message)
        self.now += timeout
        return []


class SimLoop(asyncio.BaseEventLoop):
    """Runs what is ready, in order; sleeping takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _NoSockets()

    def time(self) -> float:
        """Seconds that somebody slept; it goes on by itself when all that is left to do is to wait."""
        return self._selector.now

    def wait(self, seconds: float) -> None:
        """Something took so long."""
        self._selector.now += seconds

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


class LoopTasks:
    """What the parts take for ``Tasks``: nothing fails here, so nothing needs a guard."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def start(self, _name: str, body: Coroutine[Any, Any, None]) -> None:
        """Begin a task."""
        self._loop.create_task(body)


def finish(body: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing."""
    try:
        body.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    message = "this coroutine was not supposed to wait"
    raise RuntimeError(message)


class Silence:
    """What the parts take for a log."""

    def bind(self, **_: object) -> Silence:
        """Itself."""
        return self

    def info(self, *_: object, **__: object) -> None:
        """Say nothing."""

    warning = error = debug = info
