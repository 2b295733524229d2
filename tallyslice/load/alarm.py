"""Wakes the event loop at an instant, to some ten microseconds.

The timers of event loops count in milliseconds, and a request that is sent half a millisecond after it was due looks
like a server that took half a millisecond longer. Linux has timers that are files: the loop sees one like a socket.
(From 3.13 on Python has them too.) Elsewhere the loop's own timers must do.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self

_CLOCK_MONOTONIC, _TFD_NONBLOCK, _TFD_CLOEXEC = 1, os.O_NONBLOCK, getattr(os, "O_CLOEXEC", 0)  # <sys/timerfd.h>
_EXPIRATIONS_BYTES = 8
_LEAST_SECONDS = 1e-6  # zero would switch the timer off
_COARSE_SECONDS = 0.001  # of a loop's timer; less would make it spin
_NANOSECONDS = 1_000_000_000


class _Spec(ctypes.Structure):
    """``struct itimerspec``: how often, and when first; each in seconds and nanoseconds."""

    _fields_ = (
        ("again_seconds", ctypes.c_long), ("again_nanoseconds", ctypes.c_long),
        ("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long),
    )  # fmt: skip


class Alarm:
    """A context manager, inside a running loop: one alarm, which can be set again and again.

    Args:
        ring: what to do when it goes off.
        exact: whether to use a timer of the kernel's.
    """

    def __init__(self, ring: Callable[[], None], *, exact: bool = sys.platform == "linux") -> None:
        self._ring = ring
        self._exact = exact
        self._file: int | None = None
        self._handle: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        """Make the timer."""
        if self._exact:
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._file = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC)
            if self._file < 0:
                raise OSError(ctypes.get_errno(), "timerfd_create")
            asyncio.get_running_loop().add_reader(self._file, self._rings)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """It never goes off again."""
        if self._handle is not None:
            self._handle.cancel()
        if self._file is not None:
            asyncio.get_running_loop().remove_reader(self._file)
            os.close(self._file)

    def set(self, seconds: float) -> None:
        """Let it go off that many seconds from now, instead of at any other time."""
        if self._file is None:
            if self._handle is not None:
                self._handle.cancel()
            loop = asyncio.get_running_loop()
            self._handle = loop.call_later(max(seconds, _COARSE_SECONDS), self._ring)
            return
        whole, rest = divmod(max(seconds, _LEAST_SECONDS), 1)
        spec = _Spec(0, 0, int(whole), int(rest * _NANOSECONDS))
        if self._libc.timerfd_settime(self._file, 0, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def _rings(self) -> None:
        assert self._file is not None  # noqa: S101 - it is its reader
        with contextlib.suppress(BlockingIOError):  # it was set again meanwhile
            os.read(self._file, _EXPIRATIONS_BYTES)
        self._ring()
