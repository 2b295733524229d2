"""One process of an API node that has several: what its parent tells it, where it listens, when it leaves.

::

    parent --+ listening socket(s) of this process, open in the parent too: what waits there survives this process
             + line                 READY ->   ready for the first time
                                    <- LEAVE   a new process has taken the place: accept nothing more, and leave
                                    <- ADOPT   the one whose place this has taken has left: see to its spool
                                    <- (end)   the parent is gone: leave as well
             + SIGTERM                         the node ends: /readyz 503, serve for a second more, leave

    <data>/processes/I.sock         the process's own door: what is asked there it answers for itself alone

Whoever leaves for another reason than SIGTERM closes its listening sockets at once, and waits until each connection has
had an answer that says it is the last one.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from common.errors import InputOutputFailed
from common.last_call import last_call
from common.listener import Runner
from common.tasks import Tasks
from common.web import BACKLOG, DRAIN_SECONDS, tell_loop_failures

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine

    from common.logs import Log
    from common.web import Health

READY, LEAVE, ADOPT = b"+", b"-", b"a"

# For clients that send nothing meanwhile, and so cannot be told. Nobody waits for this process.
LET_GO_SECONDS = 5.0
_LOOK_SECONDS = 0.05


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is told by its parent.

    Attributes:
        process: its number, from 0.
        processes: how many there are.
        listeners: descriptors of its listening sockets.
        line: descriptor of the line to its parent.
        folder: of all processes' own doors.
        replaces: another process serves in its place until this one is ready.
    """

    process: int
    processes: int
    listeners: tuple[int, ...]
    line: int
    folder: str
    replaces: bool = False

    def door(self, process: int) -> Path:
        """The socket at which a process answers for itself alone."""
        return Path(self.folder) / f"{process}.sock"


def came_by_own_door(request: web.Request) -> bool:
    """Whether a request is for this process alone, and not for the node."""
    name = None if request.transport is None else request.transport.get_extra_info("sockname")
    return not isinstance(name, tuple)  # of a socket that has a path, it is that


class _Line:
    """The line to the parent."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        stop: asyncio.Event,
        adopt: Callable[[], object],
    ) -> None:
        self.ended = False  # one way or another
        self.replaced = False
        self._reader = reader
        self._writer = writer
        self._stop = stop
        self._adopt = adopt

    async def hear(self) -> None:
        """Do what the parent says, until it has said everything; a task's body."""
        try:
            while (word := await self._word()) == ADOPT:
                self._adopt()
        finally:
            self._writer.close()
        self.ended, self.replaced = True, word == LEAVE
        self._stop.set()

    def say_ready(self) -> None:
        """Tell the parent."""
        if not self._writer.is_closing():
            self._writer.write(READY)

    async def _word(self) -> bytes:
        try:
            return await self._reader.read(1)
        except ConnectionError:
            return b""


async def serve_share(
    app: web.Application,
    *,
    share: Share,
    health: Health,
    log: Log,
    stop: asyncio.Event,
    adopt: Callable[[], Coroutine[Any, Any, None]],
    tls: Callable[[], ssl.SSLContext] | None = None,
) -> None:
    """Serve this process's share of the node until ``stop`` is set, or it is told to leave; then drain and leave.

    Args:
        app: the whole node, as far as it is in this process.
        share: which one this is.
        health: of this process.
        log: gets what happens.
        stop: ends it, as SIGTERM does.
        adopt: looks for spools that others have left.
        tls: what to begin a handshake with, if this node listens with TLS; its own door does not.

    Raises:
        InputOutputFailed: it cannot listen at its own door.
        ExitError: whatever the parts of the app raise when they enter.
    """
    tell_loop_failures(log)
    runner = Runner(app, tls=tls)
    listeners = [socket.socket(fileno=descriptor) for descriptor in share.listeners]
    await runner.setup()
    try:
        async with Tasks(log=log) as tasks:
            health.reasons.append(tasks.reason)
            reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=share.line))
            line = _Line(reader, writer, stop=stop, adopt=lambda: tasks.start("adopt-spools", adopt()))
            tasks.start("hear-parent", line.hear())
            await _listen_at_draft(runner, share)
            begin = _serve_when_wanted(runner, listeners, share=share, health=health, line=line, stop=stop, log=log)
            serve = tasks.start("serve", begin)
            await stop.wait()
            health.draining = not line.replaced  # if it is, the node as a whole stays ready
            await asyncio.wait([serve])  # not cancelled: a socket that is half open would go on accepting
            runner.leave()
            log.info("draining")
            if line.ended:
                stop.clear()
                await _let_go(runner, stop)
            else:
                await asyncio.sleep(DRAIN_SECONDS)
                await last_call(runner)
    finally:
        await runner.cleanup()
        _draft(share).unlink(missing_ok=True)
    log.info("stopped")


async def _listen_at_draft(runner: Runner, share: Share) -> None:
    """Listen where the own door will be; under its name only when this process takes the place of an earlier one."""
    draft = _draft(share)
    try:
        await web.UnixSite(runner, draft, backlog=BACKLOG).start()
    except OSError as error:
        raise InputOutputFailed(f"cannot listen at {draft}: errno {error.errno}") from error


def _draft(share: Share) -> Path:
    return share.door(share.process).with_suffix(f".{os.getpid()}")


async def _serve_when_wanted(
    runner: Runner,
    listeners: list[socket.socket],
    *,
    share: Share,
    health: Health,
    line: _Line,
    stop: asyncio.Event,
    log: Log,
) -> None:
    """Accept connections: at once, to say at least why not; but where another still serves, only when ready."""
    if share.replaces and not await _ready(health, stop):
        for listener in listeners:
            listener.close()
        return
    # In one step: an earlier process of this number may still be asked there.
    _draft(share).replace(share.door(share.process))
    for listener in listeners:
        await web.SockSite(runner, listener, backlog=BACKLOG).start()
        log.info("listening", host=listener.getsockname()[0], port=listener.getsockname()[1])
    if await _ready(health, stop):
        line.say_ready()


async def _ready(health: Health, stop: asyncio.Event) -> bool:
    """Wait until the process is ready; not, if it is to leave first."""
    while not stop.is_set():
        if not health.problems():
            return True
        await asyncio.sleep(_LOOK_SECONDS)  # its reasons are asked, and tell nobody
    return False


async def _let_go(runner: Runner, stop: asyncio.Event) -> None:
    """Accept nothing more, and wait until nobody is connected, or for ``LET_GO_SECONDS``, or for ``stop``."""
    for site in runner.sites:
        await site.stop()
    deadline = asyncio.get_running_loop().time() + LET_GO_SECONDS
    await asyncio.sleep(_LOOK_SECONDS)  # what was accepted a moment ago is a connection after this
    while runner.server is not None and runner.server.connections:
        if stop.is_set() or asyncio.get_running_loop().time() > deadline:
            return
        await asyncio.sleep(_LOOK_SECONDS)
