"""Where peers run: processes of our own, on free ports of the loopback interface, in folders that are thrown away."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.client import HOST, ClientError, ask
from tallyslice.processes import Ended, Node, Processes

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS_MAX = 120.0  # of 64 workers on two cores; all others are there at once
_POLL_SECONDS = 0.01


class PeerFailed(Exception):
    """A server of the benchmark did not start, or counted wrong."""


@dataclass(slots=True, kw_only=True)
class Place:
    """Where one peer runs, for one round.

    Attributes:
        folder: empty at the start, on the disk that is measured.
        processes: owns what was started.
    """

    folder: Path
    processes: Processes

    async def start(self, name: str, command: Sequence[str], *, port: int = 0) -> int:
        """Start a server; its process id.

        Args:
            name: of the server and its log.
            command: program and arguments.
            port: where it will listen: waits for that. 0: not at all.

        Raises:
            PeerFailed: it ended, or does not listen.
        """
        node = Node(name=name, command=command, url="", log=self.folder / f"{name}.log")
        await self.processes.start([node])
        if port:
            await self.listens(node, port)
        return self.processes.pid(name)

    async def start_together(self, commands: Mapping[str, Sequence[str]]) -> list[int]:
        """Start servers that are also stopped together; their process ids.

        Args:
            commands: program and arguments of each, by name.
        """
        await self.processes.start(
            Node(name=name, command=command, url="", log=self.folder / f"{name}.log")
            for name, command in commands.items()
        )
        return [self.processes.pid(name) for name in commands]

    async def listens(self, node: Node, port: int) -> None:
        """Wait until somebody listens at the port."""

        async def connected() -> bool:
            try:
                _, writer = await asyncio.open_connection(HOST, port)
            except OSError:
                return False
            writer.close()
            return True

        await self.until(connected, what=f"{node.name} listens", log=node.log)

    async def until(self, true: Callable[[], object], *, what: str, log: Path | None = None) -> None:
        """Wait until an async question is answered with yes."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while not await true():  # type: ignore[misc] # any awaitable
            if self.processes.ended or time.monotonic() > deadline:
                ends = "\n".join([*map(str, self.processes.ended), *_log_tail(log)])
                raise PeerFailed(f"not in time, or never: {what}\n{ends}")
            await asyncio.sleep(_POLL_SECONDS)


@asynccontextmanager
async def place(name: str) -> AsyncIterator[Place]:
    """A place for one peer; nothing is left of it afterwards."""
    data = _places()
    # Readable by others: PostgreSQL refuses to run as root and gets a user of its own.
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=data, ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)  # noqa: PTH101, S103 - blocks for no time; only this folder
        async with Processes(on_end=_nothing) as processes:
            yield Place(folder=Path(folder), processes=processes)


def data_folder() -> Path:
    """The folder that all peers keep their files in: on the disk of this tree, unless BENCH_DATA names another."""
    folder = Path(os.environ.get("BENCH_DATA") or ROOT / "bench" / "data").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def claim_data_folder() -> IO[bytes]:
    """Let nobody else measure there until the file is closed, and remove what a run that was killed has left.

    Raises:
        PeerFailed: somebody does already. Two runs at once would measure each other.
    """
    file = (data_folder() / "lock").open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise PeerFailed("another run of the benchmark is under way") from None
    shutil.rmtree(_places(), ignore_errors=True)
    return file


def _places() -> Path:
    folder = data_folder() / "places"
    folder.mkdir(exist_ok=True)
    return folder


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def python(module: str, *arguments: object) -> list[str]:
    """The command line of a program of ours, on the interpreter that this one runs on."""
    return [sys.executable, "-m", module, *(str(argument) for argument in arguments)]


def as_user(user: str, command: Sequence[str]) -> list[str]:
    """A command as another user, if we are root and it must not be; it dies with us all the same."""
    if os.getuid() != 0:
        return list(command)
    setpriv = shutil.which("setpriv") or "setpriv"
    return [setpriv, f"--reuid={user}", f"--regid={user}", "--clear-groups", "--pdeathsig=KILL", *command]


def resident_mb(*pids: int) -> float:
    """The resident memory of processes, in 10^6 bytes."""
    return sum(_memory(pid)["VmRSS"] for pid in pids) / 1e6


def private_mb(*pids: int) -> float:
    """What of it is their own: without pages of files, which the kernel drops when it needs the room."""
    return sum(_memory(pid)["RssAnon"] for pid in pids) / 1e6


def _memory(pid: int) -> Mapping[str, int]:
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.endswith(" kB"))
    return {name.rstrip(":"): int(kib) << 10 for name, kib, *_ in lines}


async def answers(port: int, path: str) -> bool:
    """Whether a question is answered with success."""
    try:
        await ask(port, path)
    except (ClientError, OSError):
        return False
    return True


def _log_tail(log: Path | None) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-20:] if log is not None and log.exists() else []


def _nothing(ended: Ended) -> None:
    """Who waits for a server looks at ``Processes.ended``."""
