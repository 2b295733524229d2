"""A cluster whose nodes live in the test's own event loop: real parts, real ports, real LMDB, no processes.

It is the fast sister of ``tests.support.cluster``: a node starts and stops within some ten milliseconds, all nodes
share one clock that the test sets, and nobody drains for a second. What needs a process (exit codes, signals, crashes)
belongs to the tests with real processes.
"""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web
from yarl import URL

from api_node.app import ApiNode, Deadlines
from common.certificates import Certificates
from common.config import load_config
from common.errors import ExitError
from common.listener import Runner
from common.logs import Log, new_log
from common.routing import WorkerId
from common.slices import SECOND, Micros
from common.tracing import open_tracing
from tests.support import cluster
from tests.support.cluster import FIRST, FIRST_SLICE, HOUR, Answer, routing_entries
from tests.support.events import CANARY
from tests.support.patience import eventually
from tests.support.ports import PORTS
from tests.support.proxy import Exchange
from worker_node.app import Parts, Place, open_worker
from worker_node.closing import Closing

PARTS = Parts()

QUICK = Deadlines(delivery_seconds=0.6, question_seconds=0.4, route_seconds=0.4, watch_seconds=0.1)
"""Long enough for a busy machine to answer, short enough to wait for in a test."""

PATIENT = Deadlines(watch_seconds=0.2)
"""As in service, for tests of something else than deadlines, on a machine that is busy with a browser."""


@dataclass(eq=False)
class Clock:
    """The time of all nodes, in Unix seconds; it stands still unless a test moves it."""

    seconds: float = FIRST + HOUR / 2

    def __call__(self) -> Micros:
        return Micros(int(self.seconds * SECOND))


@dataclass(eq=False, kw_only=True)
class Running:
    """A node, and its life while it has one."""

    node: cluster.Node
    life: AsyncExitStack | None = None
    closing: Closing | None = None  # of a worker

    @property
    def id(self) -> str:
        """As in the cluster file."""
        return self.node.id

    @property
    def url(self) -> str:
        """As in the cluster file."""
        return self.node.url

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.node.data

    async def stop(self) -> None:
        """Finish what was taken, and end."""
        assert self.life is not None
        life, self.life = self.life, None
        await life.aclose()


@dataclass(eq=False, kw_only=True)
class Api(Running):
    """An API node."""

    parts: ApiNode | None = None
    failures: list[ExitError] = field(default_factory=list)


class Nodes:
    """An async context manager: the nodes run inside it. Leaving it searches data and logs for the name of a user.

    Args:
        folder: empty, of this cluster alone.
        apis: how many API nodes; their ids are "0", "1", ...
        workers: likewise.
        routing: slice -> nodes; every slice goes to all workers if not given.
        start: whether entering starts all nodes and waits until they are ready.
        deadlines: how long the API nodes wait.
        now: the clock of all nodes.
        client_tls: what the test connects with; given, all nodes have https URLs.
        settings: further keys of the cluster file, with ``_`` for ``-``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        apis: int = 1,
        workers: int = 2,
        routing: Mapping[int, Sequence[str]] | None = None,
        start: bool = True,
        deadlines: Deadlines = QUICK,
        now: Clock | None = None,
        client_tls: ssl.SSLContext | None = None,
        **settings: object,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.file = folder / "cluster.json"
        self.now = now or Clock()
        self._tls = client_tls
        self.api = {str(n): Api(node=self._node("api", str(n))) for n in range(apis)}
        self.worker = {str(n): Running(node=self._node("worker", str(n))) for n in range(workers)}
        self.written = io.StringIO()
        self._start = start
        self._deadlines = deadlines
        self._session: aiohttp.ClientSession | None = None
        self.config: dict[str, Any] = {
            "api-nodes": {api.id: api.url for api in self.api.values()},
            "worker-nodes": {worker.id: worker.url for worker in self.worker.values()},
            "length-of-time-slice": HOUR,
            "first-slice": FIRST_SLICE,
            "routing": routing_entries(routing or {0: list(self.worker)}),
            "cache-ttl-seconds": 0,  # what is asked is asked of the workers, unless a test is about the cache
            **{name.replace("_", "-"): value for name, value in settings.items()},
        }
        self.write()

    def _node(self, kind: Any, name: str) -> cluster.Node:
        full = f"{kind}-{name}"
        return cluster.Node(
            kind=kind,
            id=name,
            port=PORTS.take(),
            file=self.file,
            data=self.folder / full,
            log=self.folder / f"{full}.log",
            secure=self._tls is not None,
        )

    def log(self, name: str) -> Log:
        """A log whose lines end up in ``written``."""
        return new_log(name, stream=self.written)

    @property
    def session(self) -> aiohttp.ClientSession:
        """For requests of the test."""
        assert self._session is not None
        return self._session

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(force_close=True, ssl=self._tls or True)
        self._session = aiohttp.ClientSession(connector=connector)
        if self._start:
            try:
                await self.start()
            except BaseException:
                await self._leave()
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._leave()
        if error is not None:
            error.add_note(self.written.getvalue()[-4000:])
            return
        assert CANARY not in self.written.getvalue()
        named = [path for path in self.folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
        assert not named, f"user names in {named}"

    async def _leave(self) -> None:
        # API nodes first: they still have something to say to their workers.
        kinds: list[list[Running]] = [[*self.api.values()], [*self.worker.values()]]
        for nodes in kinds:
            await asyncio.gather(*(node.stop() for node in nodes if node.life is not None))
            for node in nodes:
                PORTS.give_back(node.node.port)
        await self.session.close()

    # The cluster file

    def write(self, *, name: str = "cluster.json", **settings: object) -> Path:
        """Write a cluster file; ``settings`` replace keys of it, and of ``config`` for good if it is everybody's."""
        changed = {**self.config, **{key.replace("_", "-"): value for key, value in settings.items()}}
        if name == "cluster.json":
            self.config = changed
        path = self.folder / name
        beside = path.with_name(f".{name}.new")
        beside.write_text(json.dumps(changed, indent=1))
        beside.rename(path)
        return path

    # Nodes

    async def start(self) -> None:
        """Start all nodes, workers first, and wait until the API nodes are ready."""
        for worker in self.worker:
            await self.start_worker(worker)
        for api in self.api:
            await self.start_api(api)

    async def start_worker(
        self, name: str, *, file: Path | None = None, data: Path | None = None, parts: Parts = PARTS
    ) -> None:
        """Start a worker; on the data folder of another, by another file, or with other parts, if a test wants that."""
        worker = self.worker[name]
        assert worker.life is None

        def fail(error: BaseException) -> None:
            raise error

        place = Place(worker=WorkerId(name), cluster_file=file or self.file, folder=data or worker.data)
        async with AsyncExitStack() as life:
            opened = await life.enter_async_context(
                open_worker(place, log=self.log(f"worker-{name}"), fail=fail, now=self.now, parts=parts)
            )
            await _listen(life, opened.app, worker.node.port, opened.certificates)
            worker.closing = opened.closing
            worker.life = life.pop_all()

    async def start_api(self, name: str, *, file: Path | None = None, ready: bool = True) -> None:
        """Start an API node, and wait until it is ready if that is wanted.

        Raises:
            ExitError: it cannot start.
        """
        api = self.api[name]
        assert api.life is None
        path = file or self.file
        api.failures.clear()
        config, log = load_config(path), self.log(f"api-{name}")
        certificates = Certificates(
            node=f"api-{name}", url=config.api_nodes[name], config=config, log=log, calls_workers=True
        )
        api.parts = ApiNode(
            config=config,
            certificates=certificates,
            tracing=open_tracing(config.tracing, node=f"api-{name}", log=log),
            cluster_file=path,
            data=api.data,
            fail=api.failures.append,
            log=log,
            now=self.now,
            deadlines=self._deadlines,
        )
        async with AsyncExitStack() as life:
            await _listen(life, api.parts.app, api.node.port, certificates)
            api.life = life.pop_all()
        if ready:
            await eventually(lambda: self._ready(api))

    async def _ready(self, api: Api) -> None:
        answer = await self.ask("GET", f"{api.node.base}/readyz")
        assert answer.status == 200, answer

    async def restart_worker(self, name: str) -> None:
        """Stop it and start it again."""
        await self.worker[name].stop()
        await self.start_worker(name)

    async def restart_api(self, name: str = "0", *, file: Path | None = None) -> None:
        """Stop it and start it again, without waiting until it is ready."""
        await self.api[name].stop()
        await self.start_api(name, file=file, ready=False)

    def keep(self, name: str, *, of: str = "slices") -> Path:
        """A copy of what a stopped worker has, to be put back later."""
        source = self.worker[name].data / of
        kept = self.folder / f"kept-{name}-{of}"
        shutil.rmtree(kept, ignore_errors=True)
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, kept)
        return kept

    def put_back(self, name: str, kept: Path, *, of: str = "slices") -> None:
        """Replace what a stopped worker has by an older copy."""
        target = self.worker[name].data / of
        if kept.is_dir():
            shutil.rmtree(target)
            shutil.copytree(kept, target)
        else:
            shutil.copy2(kept, target)

    # Requests

    async def ask(
        self, method: str, url: str, *, body: bytes | str | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Any request; the URL goes out as it is written."""
        async with self.session.request(
            method, URL(url, encoded=True), data=body, headers=headers, timeout=aiohttp.ClientTimeout(total=20)
        ) as response:
            return Answer(status=response.status, body=await response.read(), headers=response.headers)

    async def knock(self, method: str, url: str, *, headers: Mapping[str, str] | None = None) -> Answer:
        """The head of an answer, which need not have an end."""
        timeout = aiohttp.ClientTimeout(total=20)
        async with self.session.request(method, URL(url, encoded=True), headers=headers, timeout=timeout) as response:
            return Answer(status=response.status, body=b"", headers=response.headers)

    async def post(self, query: str = "", *, api: str = "0", **ask: Any) -> Answer:
        """``POST /analytics?query``."""
        return await self.ask("POST", f"{self.api[api].url}?{query}", **ask)

    async def click(self, name: str = f"{CANARY}-1", *, at: float = FIRST, api: str = "0", more: str = "") -> Answer:
        """Post one click."""
        return await self.post(f"timestamp={at}&user={name}&click{more}", api=api)

    async def get(self, path: str = "", *, api: str = "0", **ask: Any) -> Answer:
        """``GET /analytics{path}``."""
        return await self.ask("GET", f"{self.api[api].url}{path}", **ask)

    async def summary(self, *, at: float = FIRST, api: str = "0") -> str:
        """The text of a slice; it must be there."""
        answer = await self.get(f"?timestamp={at}", api=api)
        assert answer.status == 200, answer
        return answer.text

    async def json(self, *, at: float = FIRST, api: str = "0", more: str = "") -> Any:
        """The same as JSON."""
        answer = await self.get(f"?timestamp={at}&format=json{more}", api=api)
        assert answer.status == 200, answer
        return answer.json

    async def state(self, *, api: str = "0") -> dict[str, Any]:
        """``GET /cluster``."""
        answer = await self.ask("GET", f"{self.api[api].node.base}/cluster")
        assert answer.status == 200, answer
        found: dict[str, Any] = answer.json
        return found

    async def link(self, worker: str, *, api: str = "0") -> dict[str, Any]:
        """What an API node says of a worker."""
        found: dict[str, Any] = {one["id"]: one for one in (await self.state(api=api))["workers"]}[worker]
        return found

    async def metric(self, name: str, *, api: str = "0") -> float:
        """A metric of an API node, labels and all as they are written."""
        answer = await self.ask("GET", f"{self.api[api].node.base}/metrics")
        lines = [line for line in answer.text.splitlines() if line.rpartition(" ")[0] == name]
        return float(lines[0].rpartition(" ")[2]) if lines else 0.0


async def _listen(life: AsyncExitStack, app: web.Application, port: int, certificates: Certificates) -> None:
    runner = Runner(app, tls=certificates.listening)
    life.push_async_callback(runner.cleanup)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()


class Silent:
    """An async context manager: something that takes connections at a port, and never says a word."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._keep, "127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def _keep(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)


class Delayed:
    """A step of the proxy's plan: the envelope goes on when the test says so."""

    def __init__(self) -> None:
        self._go = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> bytes | None:
        """Wait, and pass it on."""
        await self._go.wait()
        return await exchange.deliver()

    def release(self) -> None:
        """Let it go on."""
        self._go.set()


async def until(check: Callable[[], bool], *, seconds: float = 10) -> None:
    """Wait until something is so."""

    async def so() -> None:
        assert check()

    await eventually(so, seconds=seconds)
