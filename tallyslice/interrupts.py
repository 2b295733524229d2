"""Ctrl-C, SIGTERM and a closed terminal: the first asks to finish, the second to hurry."""

from __future__ import annotations

import asyncio
import signal
from types import TracebackType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """A context manager, inside a running loop, that turns signals into events.

    Attributes:
        finish: set by the first signal.
        hurry: set by the second.
    """

    def __init__(self) -> None:
        self.finish = asyncio.Event()
        self.hurry = asyncio.Event()

    def __enter__(self) -> Self:
        """From now on no signal ends the process by itself."""
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self.note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """As before."""
        for number in _SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)

    def note(self) -> None:
        """A signal came."""
        if self.finish.is_set():
            self.hurry.set()
        self.finish.set()
