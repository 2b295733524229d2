"""A cluster of real node processes on this machine, for one test or for a module of them.

::

    <folder>/cluster.json     what the nodes read; more files for clusters whose nodes disagree
    <folder>/secret.key       made by the first API node
    <folder>/worker-0/ ...    data directories
    <folder>/worker-0.log ... standard output and error, across restarts

Leaving it stops every node that still runs, wants exit code 0 from each within 10 s, and searches everything they left
on disk for the name of a user.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

import aiohttp
from yarl import URL

from tests.support.events import CANARY
from tests.support.patience import POLL_SECONDS, eventually
from tests.support.ports import PORTS

FIRST_SLICE = "2017-05-20T00:00:00"
FIRST = 1_495_238_400
"""FIRST_SLICE in Unix seconds."""
HOUR = 3600

READY_SECONDS = 20.0
EXIT_SECONDS = 10.0  # what the design promises
LOG_TAIL_CHARACTERS = 4000

# The kernel ends the nodes when the test run dies without a chance to.
LEASH = [found, "--pdeathsig", "KILL"] if (found := shutil.which("setpriv")) else []


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Answer:
    """An HTTP answer, read whole."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        """Short enough for a failure to be read."""
        return f"<{self.status} {self.body[:500]!r}>"

    @property
    def text(self) -> str:
        """The body, as text."""
        return self.body.decode()

    @property
    def json(self) -> Any:
        """The body, as JSON."""
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """The last part of the problem type; fails where the answer is no whole problem, or names a user."""
        assert self.headers.get("Content-Type", "").startswith("application/problem+json"), self
        assert CANARY not in self.text + str(self.headers), self
        shown = self.json
        assert shown["status"] == self.status, self
        assert shown["title"], self
        assert shown["detail"], self
        return str(shown["type"]).removeprefix("urn:tallyslice:problem:")


@dataclass(eq=False, kw_only=True)
class Node:
    """One node: where it listens, what it reads, where it keeps its data, and its process while there is one.

    ``inside`` is what its command line begins with where it runs on another host (``tests/torture/namespaces.py``);
    ``options`` are those that it ends with.
    """

    kind: Literal["api", "worker"]
    id: str
    port: int
    file: Path
    data: Path
    log: Path
    host: str = "127.0.0.1"
    inside: Sequence[str] = ()
    options: Sequence[str] = ()
    secure: bool = False  # its URL is https
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Such as ``worker-0``."""
        return f"{self.kind}-{self.id}"

    @property
    def base(self) -> str:
        """The URL without path."""
        return f"http{'s' if self.secure else ''}://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL as the cluster file has it."""
        return f"{self.base}/{'analytics' if self.kind == 'api' else 'worker'}"

    @property
    def runs(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.poll() is None

    def launch(self) -> None:
        """Start the process, without waiting until it is ready."""
        assert not self.runs
        command = [sys.executable, "-m", f"{self.kind}_node", self.id, str(self.file), "--data", str(self.data)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*LEASH, *self.inside, *command, *self.options],
                cwd=self.file.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def exited(self, *, seconds: float = EXIT_SECONDS) -> int:
        """Wait for the process to end by itself; its exit code."""
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while (code := self.process.poll()) is None:
            assert time.monotonic() < deadline, f"{self.name} still runs after {seconds:g} s\n{self.log_tail()}"
            await asyncio.sleep(POLL_SECONDS)
        return code

    def ask_to_stop(self) -> None:
        """SIGTERM."""
        assert self.process is not None
        self.process.terminate()

    async def stop(self) -> None:
        """SIGTERM; the node must end by itself, in time, with exit code 0."""
        self.ask_to_stop()
        code = await self.exited()
        assert code == 0, f"{self.name} ended with {code}\n{self.log_tail()}"

    def kill(self) -> None:
        """SIGKILL, and wait: the port is free afterwards."""
        if self.process is not None:
            # A stopped process (SIGSTOP) is killed like any other.
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        """SIGSTOP: the node keeps its connections and says nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def log_text(self) -> str:
        """All that the node wrote, across restarts."""
        return self.log.read_text() if self.log.exists() else ""

    def log_tail(self) -> str:
        """The end of it."""
        return f"--- {self.log.name}\n{self.log_text()[-LOG_TAIL_CHARACTERS:]}"


class Cluster:
    """An async context manager: the nodes run inside it.

    Args:
        folder: empty, of this cluster alone.
        apis: how many API nodes; their ids are "0", "1", ...
        workers: likewise.
        routing: slice -> nodes; every slice goes to all workers if not given.
        start: whether entering starts all nodes and waits until they are ready.
        client_tls: what the test connects with; given, all nodes have https URLs.
        settings: further keys of the cluster file, with ``_`` for ``-``.
    """

    running: ClassVar[list[Cluster]] = []

    def __init__(
        self,
        folder: Path,
        *,
        apis: int = 1,
        workers: int = 1,
        routing: Mapping[int, Sequence[str]] | None = None,
        start: bool = True,
        client_tls: ssl.SSLContext | None = None,
        **settings: object,
    ) -> None:
        self.folder = folder
        self.file = folder / "cluster.json"
        self._tls = client_tls
        self.api = {str(n): self._node("api", str(n)) for n in range(apis)}
        self.worker = {str(n): self._node("worker", str(n)) for n in range(workers)}
        self._start = start
        self._session: aiohttp.ClientSession | None = None
        self.config: dict[str, Any] = {
            "api-nodes": {node.id: node.url for node in self.api.values()},
            "worker-nodes": {node.id: node.url for node in self.worker.values()},
            "length-of-time-slice": HOUR,
            "first-slice": FIRST_SLICE,
            "routing": routing_entries(routing or {0: list(self.worker)}),
            **{name.replace("_", "-"): value for name, value in settings.items()},
        }
        self.write()

    def _node(self, kind: Literal["api", "worker"], name: str) -> Node:
        full = f"{kind}-{name}"
        return Node(
            kind=kind,
            id=name,
            port=PORTS.take(),
            file=self.file,
            data=self.folder / full,
            log=self.folder / f"{full}.log",
            secure=self._tls is not None,
        )

    @property
    def nodes(self) -> list[Node]:
        """All nodes, workers first."""
        return [*self.worker.values(), *self.api.values()]

    @property
    def ports(self) -> list[int]:
        """Where the API nodes listen."""
        return [node.port for node in self.api.values()]

    async def __aenter__(self) -> Self:
        self.running.append(self)
        # A connection per request: none that a restarted node has closed is ever used again.
        connector = aiohttp.TCPConnector(force_close=True, ssl=self._tls or True)
        self._session = aiohttp.ClientSession(connector=connector)
        try:
            if self._start:
                await self.start(*self.nodes)
        except BaseException as error:
            error.add_note(self.log_tails())
            await self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self._stop_all()
                self.assert_no_name_on_disk()
        except AssertionError as failure:
            failure.add_note(self.log_tails())
            raise
        finally:
            if error is not None:
                error.add_note(self.log_tails())
            await self._leave()

    async def _stop_all(self) -> None:
        running = [node for node in self.nodes if node.runs]
        for node in running:
            node.ask_to_stop()
        codes = {node.name: await node.exited() for node in running}
        assert not any(codes.values()), codes

    async def _leave(self) -> None:
        self.running.remove(self)
        for node in self.nodes:
            node.kill()
            PORTS.give_back(node.port)
        assert self._session is not None
        await self._session.close()

    # The cluster file

    def write(self, config: Mapping[str, Any] | None = None, *, name: str = "cluster.json") -> Path:
        """Replace a cluster file as an editor does, whole: write beside it, then rename."""
        path = self.folder / name
        beside = self.folder / f".{name}.new"
        beside.write_text(json.dumps(config or self.config, indent=1))
        beside.rename(path)
        return path

    def write_in_place(self, content: bytes, *, name: str = "cluster.json") -> Path:
        """Overwrite a cluster file with any bytes, without a rename."""
        path = self.folder / name
        path.write_bytes(content)
        return path

    def changed(self, **settings: object) -> dict[str, Any]:
        """The cluster file's content with some keys replaced; ``_`` stands for ``-``."""
        return {**self.config, **{name.replace("_", "-"): value for name, value in settings.items()}}

    # Processes

    async def start(self, *nodes: Node, seconds: float = READY_SECONDS) -> None:
        """Start nodes, all at once, and wait until each is ready."""
        for node in nodes:
            node.launch()
        await self.ready(*nodes, seconds=seconds)

    async def ready(self, *nodes: Node, seconds: float = READY_SECONDS) -> None:
        """Wait until ``/readyz`` of each says so."""

        async def check() -> None:
            for node in nodes:
                status, text = await self.readiness(node)
                if not node.runs:
                    assert node.process is not None
                    raise RuntimeError(f"{node.name} ended with {node.process.returncode}\n{node.log_tail()}")
                assert status == 200, f"{node.name} is not ready: {text}\n{node.log_tail()}"

        await eventually(check, seconds=seconds)

    async def readiness(self, node: Node) -> tuple[int, str]:
        """Status and text of ``/readyz``; status 0 where nobody listens."""
        try:
            answer = await self.ask("GET", f"{node.base}/readyz")
        except (aiohttp.ClientError, OSError) as error:
            return 0, repr(error)
        return answer.status, answer.text

    async def mend(self) -> None:
        """Start whatever a failed test left stopped, so that the tests after it can tell something."""
        await self.start(*(node for node in self.nodes if not node.runs))

    async def restart(self, node: Node) -> None:
        """SIGTERM, exit code 0, start again, ready."""
        await node.stop()
        await self.start(node)

    # Requests

    async def ask(
        self,
        method: str,
        url: str,
        *,
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float = 30,
    ) -> Answer:
        """Any request; the URL goes out as it is written."""
        assert self._session is not None
        async with self._session.request(
            method, URL(url, encoded=True), data=body, headers=headers, timeout=aiohttp.ClientTimeout(total=seconds)
        ) as response:
            return Answer(status=response.status, body=await response.read(), headers=response.headers)

    async def post(self, query: str, *, api: str = "0", **ask: Any) -> Answer:
        """``POST /analytics?query``."""
        return await self.ask("POST", f"{self.api[api].url}?{query}", **ask)

    async def get(self, path: str = "", *, api: str = "0", **ask: Any) -> Answer:
        """``GET /analytics{path}``."""
        return await self.ask("GET", f"{self.api[api].url}{path}", **ask)

    async def text(self, path: str, *, api: str = "0") -> str:
        """Likewise; the text of an answer that must be 200."""
        answer = await self.get(path, api=api)
        assert answer.status == 200, answer
        return answer.text

    async def summary(self, at: float, *, api: str = "0") -> str:
        """The text of the summary of the slice at the Unix time."""
        return await self.text(f"?timestamp={at}", api=api)

    async def json(self, at: float, *, api: str = "0") -> dict[str, Any]:
        """The same as JSON."""
        found: dict[str, Any] = json.loads(await self.text(f"?timestamp={at}&format=json", api=api))
        return found

    async def state(self, *, api: str = "0") -> dict[str, Any]:
        """``GET /cluster``."""
        answer = await self.ask("GET", f"{self.api[api].base}/cluster")
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.json
        return found

    async def metric(self, node: Node, name: str) -> float:
        """The value of a metric without labels, or the sum over its labels."""
        answer = await self.ask("GET", f"{node.base}/metrics")
        assert answer.status == 200, answer
        lines = [line for line in answer.text.splitlines() if line.split("{")[0].split(" ")[0] == name]
        assert lines, f"no metric {name} in\n{answer.text}"
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    # Privacy

    def assert_no_name_on_disk(self) -> None:
        """No user name in any file that the nodes wrote, whatever it is."""
        found = [str(path) for path in _files(self.folder) if CANARY.encode() in path.read_bytes()]
        assert not found, f"user names in {found}"

    def log_tails(self) -> str:
        """The ends of all logs."""
        return "\n".join(node.log_tail() for node in self.nodes)


def routing_entries(routing: Mapping[int, Sequence[str]]) -> list[dict[str, Any]]:
    """Routing entries of slice -> nodes, as the cluster file writes it."""
    return [{"slice": at, "nodes": list(nodes)} for at, nodes in routing.items()]


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                yield path


@contextlib.contextmanager
def paused(node: Node) -> Iterator[None]:
    """The node stands still inside."""
    node.pause()
    try:
        yield
    finally:
        node.resume()
