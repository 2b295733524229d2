"""The parent of an API node of several processes: holds the sockets, starts, replaces and ends the processes.

::

    socket, one per process --+-- process 0      each a whole API node: streams, spool and caches of its own
    (SO_REUSEPORT)            +-- process 1
                              +-- ...
    a process ends            another one takes its place and its socket; connections that wait there wait on
    SIGHUP                    one after the other is replaced: the old one leaves once the new one is ready
    SIGTERM, SIGINT           all drain and leave; the worst exit code is the node's
    the parent is killed      the processes notice that their line to it has ended, and leave

The kernel spreads connections over the sockets. The parent has all of them open and accepts nothing itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from api_node.app import load_node_config
from api_node.share import ADOPT, LEAVE, LET_GO_SECONDS, Share
from common.certificates import Certificates
from common.config import listen_address, load_secret, load_token
from common.errors import ConfigRefused, DirectoryOwned, InputOutputFailed, PortInUse
from common.last_call import LAST_CALL_SECONDS
from common.listener import FINISH_SECONDS, raise_descriptors
from common.lmdb_file import make_folder
from common.logs import new_log
from common.supervisor import LEAVING, LISTENING, tell_supervisor
from common.web import BACKLOG, CLOSE_SECONDS, DRAIN_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from common.logs import Log
    from common.web import NodeArguments

Listeners = tuple[socket.socket, ...]

# What a person has to look at: another process would end in the same way.
FINAL_CODES = frozenset({PortInUse.exit_code, DirectoryOwned.exit_code, ConfigRefused.exit_code})
DEFECT_CODE = 1

PAUSE_FIRST_SECONDS, PAUSE_MOST_SECONDS = 0.1, 5.0  # before a process is started again that ended soon
STEADY_SECONDS = 5.0  # that it lived: then it is started again at once
READY_SECONDS = 30.0  # for a process that is to replace one that serves
REPLACED_SECONDS = LET_GO_SECONDS + FINISH_SECONDS + CLOSE_SECONDS + 1.0  # for the replaced one to leave
# For all to leave: a node promises 10 s.
END_SECONDS = DRAIN_SECONDS + LAST_CALL_SECONDS + FINISH_SECONDS + CLOSE_SECONDS + 0.2
# For the processes of a killed parent to let go of the port.
PORT_SECONDS, _PORT_LOOK_SECONDS = 2.0, 0.1

_PATH_BYTES = 90  # a socket's path may have 107, on macOS 103; the process adds its id
_FOLDER = "processes"


@dataclass(frozen=True, eq=False, slots=True)
class _Child:
    """A process."""

    number: int
    process: asyncio.subprocess.Process
    line: asyncio.StreamWriter
    ready: asyncio.Task[bool]
    exited: asyncio.Task[int]
    began: float

    def say(self, word: bytes) -> None:
        if not self.line.is_closing():
            self.line.write(word)

    def signal(self, number: int) -> None:
        # It may have ended without that the loop knows yet.
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)


class Processes:
    """The processes of a node. ``worst`` is the worst exit code, after ``run``."""

    def __init__(self, arguments: NodeArguments) -> None:
        self.worst = 0
        self._arguments = arguments
        self._log: Log = new_log(f"api-{arguments.node}", form=arguments.log_form)
        self._folder = ""
        self._listeners: list[Listeners] = []
        # Those that serve, by number; and all that there are, with those that come and go.
        self._serving: dict[int, _Child] = {}
        self._living: set[_Child] = set()
        self._starting: set[asyncio.Task[_Child]] = set()
        # Held while a process is replaced, so that nobody else takes the place of one that ends meanwhile.
        self._places = [asyncio.Lock() for _ in range(arguments.processes)]
        self._replace_all = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the processes running until ``stop`` is set, or one of them ends with a code that is final.

        Raises:
            ConfigRefused: the cluster file cannot be used, or the secret, the token, or the TLS files.
            PortInUse: somebody else listens there, this node included.
            InputOutputFailed: listening failed for another reason, the data folder cannot be used, or the system has no
                room for another process.
        """
        config = load_node_config(self._arguments)
        load_secret(config)
        load_token(config)
        name, url = f"api-{self._arguments.node}", config.api_nodes[self._arguments.node]
        Certificates(node=name, url=url, config=config, log=self._log, calls_workers=True)
        raise_descriptors()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._replace_all.set)
        async with AsyncExitStack() as stack:
            self._folder = stack.enter_context(_folder_of_doors(self._arguments.data, self._log))
            self._listeners = await _listen_soon(url, self._arguments.processes)
            stack.push_async_callback(self._end)
            stack.callback(self._close_listeners)
            for number in range(self._arguments.processes):
                self._serving[number] = await self._start(number)
            tell_supervisor(LISTENING)
            tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self._keep(number)) for number in self._serving]
            tasks.append(asyncio.create_task(self._replace_when_asked()))
            tasks.append(asyncio.create_task(stop.wait()))
            done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            for task in done:
                task.result()  # a defect, if it has one

    async def _keep(self, number: int) -> None:
        """Keep a process of this number running, until one ends with a code that is final."""
        pause = PAUSE_FIRST_SECONDS
        while True:
            child = self._serving[number]
            await asyncio.wait([child.exited])  # which goes on if this is cancelled
            async with self._places[number]:
                if self._serving[number] is not child:
                    continue  # it was replaced, and was to go
                code = child.exited.result()
                self._log.error("process_ended", process=number, code=code)
                if code in FINAL_CODES:
                    self.worst = code
                    return
                if time.monotonic() - child.began >= STEADY_SECONDS:
                    pause = PAUSE_FIRST_SECONDS
                else:
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, PAUSE_MOST_SECONDS)
                self._serving[number] = await self._start(number)

    async def _replace_when_asked(self) -> None:
        while True:
            await self._replace_all.wait()
            self._replace_all.clear()
            self._log.info("replacement_begins", processes=self._arguments.processes)
            for number in range(self._arguments.processes):
                if not await self._replace(number):
                    break
            else:
                self._log.info("replacement_ends")

    async def _replace(self, number: int) -> bool:
        """Let a new process take the place of one; whether it could."""
        async with self._places[number]:
            old = self._serving[number]
            new = await self._start(number, replaces=True)
            if not await became_ready(new.ready, new.exited, seconds=READY_SECONDS):
                # A broken file, most likely. Nobody is served better by one process less.
                await self._see_off(new)
                self._log.error("replacement_failed", process=number, code=new.exited.result())
                return False
            self._serving[number] = new
        await self._see_off(old)
        new.say(ADOPT)
        return True

    async def _see_off(self, child: _Child) -> None:
        """Let a process leave, which nobody needs any more."""
        child.say(LEAVE)
        await asyncio.wait([child.exited], timeout=REPLACED_SECONDS)
        await self._kill([child])

    async def _start(self, number: int, *, replaces: bool = False) -> _Child:
        # As a task: whoever waits for it may be cancelled, and then it still has to be ended with the others.
        start = asyncio.create_task(self._spawn(number, replaces=replaces))
        self._starting.add(start)
        start.add_done_callback(self._starting.discard)
        return await asyncio.shield(start)

    async def _spawn(self, number: int, *, replaces: bool) -> _Child:
        ours, theirs = socket.socketpair()
        listeners = tuple(listener.fileno() for listener in self._listeners[number])
        share = Share(
            process=number,
            processes=self._arguments.processes,
            listeners=listeners,
            line=theirs.fileno(),
            folder=self._folder,
            replaces=replaces,
        )
        command = [
            sys.executable, "-m", "api_node", self._arguments.node, str(self._arguments.cluster_file),
            "--data", str(self._arguments.data), "--log-format", self._arguments.log_form,
            "--share", msgspec.json.encode(share).decode(),
        ]  # fmt: skip
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=subprocess.DEVNULL,
                    pass_fds=(*listeners, theirs.fileno()),
                    start_new_session=True,  # Ctrl-C reaches the parent alone, which decides who leaves how
                )
        except OSError as error:
            ours.close()
            raise InputOutputFailed(f"a process cannot be started (errno {error.errno})") from error
        reader, writer = await asyncio.open_connection(sock=ours)
        child = _Child(
            number=number,
            process=process,
            line=writer,
            ready=asyncio.create_task(_said_something(reader), name=f"ready-{number}"),
            exited=asyncio.create_task(process.wait(), name=f"exited-{number}"),
            began=time.monotonic(),
        )
        self._living.add(child)
        child.exited.add_done_callback(lambda _: self._gone(child))
        return child

    def _gone(self, child: _Child) -> None:
        self._living.discard(child)
        child.ready.cancel()
        child.line.close()

    def _close_listeners(self) -> None:
        # From here on each socket lives as long as its process listens: nobody is left to wait there.
        for listener in {one for listeners in self._listeners for one in listeners}:
            listener.close()

    async def _end(self) -> None:
        """Let all processes drain and leave."""
        tell_supervisor(LEAVING)
        await asyncio.gather(*self._starting, return_exceptions=True)
        children = list(self._living)
        for child in children:
            child.signal(signal.SIGTERM)
        if children:
            await asyncio.wait([child.exited for child in children], timeout=END_SECONDS)
        await self._kill(children)
        for child in children:
            code = child.exited.result()
            if code < 0 and code != -signal.SIGTERM:  # that is one which had not got round to handling it
                code = DEFECT_CODE
            self.worst = max(self.worst, code)

    async def _kill(self, children: Iterable[_Child]) -> None:
        """The last resort."""
        for child in children:
            if not child.exited.done():
                self._log.error("process_killed", process=child.number)
                child.signal(signal.SIGKILL)
            await asyncio.wait([child.exited])


async def became_ready(ready: asyncio.Task[bool], exited: asyncio.Task[int], *, seconds: float) -> bool:
    """Whether a process said that it is ready, before it ended and in time."""
    await asyncio.wait([ready, exited], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    # Cancelled, if its end was noticed before the end of its line.
    return ready.done() and not ready.cancelled() and ready.result()


async def _said_something(reader: asyncio.StreamReader) -> bool:
    try:
        return bool(await reader.read(1))
    except ConnectionError:
        return False


@contextlib.contextmanager
def _folder_of_doors(data: Path, log: Log) -> Iterator[str]:
    """The folder for the processes' own sockets; in the data folder, if their paths are not too long there."""
    folder = data / _FOLDER
    try:
        make_folder(data)
        if len(os.fsencode(folder)) > _PATH_BYTES:
            folder = Path(tempfile.mkdtemp(prefix="tallyslice-"))
            log.warning("doors_elsewhere", folder=str(folder))
        else:
            folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise InputOutputFailed(f"{folder} cannot be made (errno {error.errno})") from error
    try:
        _remove_doors(folder)  # of a node that was killed
        yield str(folder)
    finally:
        _remove_doors(folder)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _remove_doors(folder: Path) -> None:
    for door in folder.glob("*.*"):
        door.unlink(missing_ok=True)


async def _listen_soon(url: str, processes: int) -> list[Listeners]:
    """Listen; if the port is in use, it may be by the processes of a killed parent, which are about to leave."""
    deadline = time.monotonic() + PORT_SECONDS
    while True:
        try:
            return listen(url, processes)
        except PortInUse:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(_PORT_LOOK_SECONDS)


def listen(url: str, processes: int, *, spread: bool = sys.platform == "linux") -> list[Listeners]:
    """The listening sockets of each process: one for each address that the host of the URL has.

    Args:
        url: the node's.
        processes: how many there are.
        spread: a socket for each process, over which the kernel spreads connections. Other systems than Linux give all
            to one of the sockets, so there all processes have the same one.

    Raises:
        PortInUse: somebody listens there already, also where several may.
        InputOutputFailed: listening failed for another reason.
    """
    host, port = listen_address(url)
    at = f"cannot listen on {host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        with contextlib.ExitStack() as opened:
            by_address = [
                _listen(family, address, processes if spread else 1, opened)
                for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found)
            ]
            opened.pop_all()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"{at}: the port is in use") from error
        raise InputOutputFailed(f"{at}: errno {error.errno}") from error
    return [tuple(sockets[number % len(sockets)] for sockets in by_address) for number in range(processes)]


def _listen(
    family: socket.AddressFamily, address: tuple[object, ...], count: int, opened: contextlib.ExitStack
) -> Sequence[socket.socket]:
    sockets = []
    for number in range(count):
        listener = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
        listener.setblocking(False)  # noqa: FBT003 - the library's
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # The first one listens as somebody who shares the port with nobody. So this fails if anybody has it, be it the
        # same node that was started twice; only then others may join, which must be of the same user.
        if number:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        if count > 1 and not number:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sockets.append(listener)
    return sockets
