"""Waiting for something to become true, with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.03


async def eventually(check: Callable[[], Awaitable[T]], *, seconds: float = 10) -> T:
    """Call ``check`` until none of its assertions fails, and hand back what it returns.

    Raises:
        AssertionError: the last one, when the time is up.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(POLL_SECONDS)
