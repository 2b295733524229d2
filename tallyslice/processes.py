"""Nodes as child processes: started together, watched, and stopped in the reverse order; none is ever left behind.

Each node leads a session of its own, so Ctrl-C in the terminal reaches only us, and we decide the order of leaving.
In turn the kernel is told to kill each node when we die, of whatever (``PR_SET_PDEATHSIG``): nothing has to keep
running for it, there is no window between fork and registration, and it works after ``kill -9``. Only Linux has it;
elsewhere the nodes outlive a ``kill -9`` of their parent, and only that.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

STOP_SECONDS = 12.0  # a node promises to leave within 10 s of SIGTERM
TAIL_LINES, TAIL_BYTES = 10, 8_192  # of a log: what fits under a message
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node to be run.

    Attributes:
        name: ``worker-0``, ``api-1``, ...
        command: program and arguments.
        url: where it listens.
        log: the file that its output is appended to.
    """

    name: str
    command: Sequence[str]
    url: str
    log: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A node that is no more.

    Attributes:
        node: which one.
        code: its exit code; negative: the signal that ended it.
        asked: whether it was told to stop.
    """

    node: Node
    code: int
    asked: bool

    @property
    def well(self) -> bool:
        """Whether it was told to stop, and did; while it still starts, SIGTERM ends it without more ado."""
        return self.asked and self.code in (0, -signal.SIGTERM)

    def __str__(self) -> str:
        """What happened, in words."""
        if self.code >= 0:
            return f"{self.node.name} ended with exit code {self.code}"
        return f"{self.node.name} was ended by {signal.Signals(-self.code).name}"

    def tail(self) -> list[str]:
        """The last lines of its log."""
        with contextlib.suppress(OSError), self.node.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
        return []


@dataclass(frozen=True, slots=True)
class _Child:
    node: Node
    process: asyncio.subprocess.Process
    watch: asyncio.Task[None]


class Processes:
    """An async context manager that owns child processes.

    Args:
        on_end: told of each node that ends, in the order in which they do.
        stop_seconds: how long a node may take to leave before it is killed.

    Attributes:
        ended: every node that ended, until now.
    """

    def __init__(self, *, on_end: Callable[[Ended], None], stop_seconds: float = STOP_SECONDS) -> None:
        self._on_end = on_end
        self._stop_seconds = stop_seconds
        self._groups: list[list[_Child]] = []
        self._asked: set[str] = set()
        self.ended: list[Ended] = []

    async def __aenter__(self) -> Self:
        """Nothing runs yet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Stop every node, the group started last first."""
        try:
            for group in reversed(self._groups):
                await self._stop(group)
        finally:
            # Reached with living children only if stopping was itself cancelled or failed.
            self._kill(child for group in self._groups for child in group)

    async def start(self, nodes: Iterable[Node]) -> None:
        """Start a group of nodes, which are stopped together."""
        group: list[_Child] = []
        self._groups.append(group)
        for node in nodes:
            with node.log.open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    *node.command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_die_with_parent(),
                )
            watch = asyncio.create_task(self._watch(node, process), name=f"watch {node.name}")
            group.append(_Child(node, process, watch))

    def pid(self, name: str) -> int:
        """The process id of the node of this name."""
        return next(child.process.pid for group in self._groups for child in group if child.node.name == name)

    async def _watch(self, node: Node, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        ended = Ended(node=node, code=code, asked=node.name in self._asked)
        self.ended.append(ended)
        self._on_end(ended)

    async def _stop(self, group: list[_Child]) -> None:
        for child in group:
            self._asked.add(child.node.name)
            # It may have ended without that the loop knows yet.
            with contextlib.suppress(ProcessLookupError):
                child.process.terminate()
        if group:
            _, late = await asyncio.wait([child.watch for child in group], timeout=self._stop_seconds)
            self._kill(child for child in group if child.watch in late)
            await asyncio.gather(*(child.watch for child in group))

    def _kill(self, children: Iterable[_Child]) -> None:
        for child in children:
            if child.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.process.pid, signal.SIGKILL)  # it leads its group


def _die_with_parent() -> Callable[[], None] | None:
    """What a child does between fork and exec; None where the kernel does not offer it."""
    if sys.platform != "linux":
        return None
    parent = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True)  # before the fork: a child should do as little as possible there

    def ask_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel was asked
            os._exit(1)

    return ask_kernel
