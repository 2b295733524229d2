"""``tallyslice up`` and ``tallyslice load`` as real processes, with real nodes: what testrun.sh promises."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from tests.support.cluster import Cluster
from tests.support.patience import eventually
from tests.support.ports import PORTS

pytestmark = pytest.mark.e2e

NAMES = re.compile(rb"user-[0-9a-f]{8}-[0-9]")
EXIT_SECONDS = 40.0  # to stop two groups of nodes on a busy machine


@dataclass(eq=False)
class Run:
    """A cluster file on ports of our own, and the command that runs it.

    Attributes:
        folder: empty; holds the cluster file, the data folder and what the command prints.
        apis: ports of the API nodes.
        workers: ports of the workers.
    """

    folder: Path
    apis: list[int]
    workers: list[int]
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def data(self) -> Path:
        return self.folder / "run"

    @property
    def printed(self) -> str:
        return (self.folder / "printed").read_text()

    def write(self) -> Path:
        """The cluster file: slices of two seconds over a route that grows."""
        names = [str(n) for n in range(len(self.workers))]
        config = {
            "api-nodes": {str(n): f"http://127.0.0.1:{port}/analytics" for n, port in enumerate(self.apis)},
            "worker-nodes": {str(n): f"http://127.0.0.1:{port}/worker" for n, port in enumerate(self.workers)},
            "length-of-time-slice": 2,
            "first-slice": "system",
            "routing": [{"slice": n, "nodes": names[: n + 1]} for n in range(len(names))],
        }
        file = self.folder / "cluster.json"
        file.write_text(json.dumps(config))
        return file

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Run ``tallyslice up`` with the cluster file and the data folder."""
        command = [sys.executable, "-m", "tallyslice", "up", str(self.write()), "--data", str(self.data), *arguments]
        with (self.folder / "printed").open("wb") as printed:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT
            )
        return self.process

    async def printing(self, text: str) -> None:
        """Wait until it has said so."""

        async def check() -> None:
            assert self.process is not None
            assert text in self.printed
            assert self.process.poll() is None

        await eventually(check, seconds=60)

    async def exit_code(self) -> int:
        """Wait for its end."""

        async def check() -> int:
            assert self.process is not None
            code = self.process.poll()
            assert code is not None, f"it still runs\n{self.printed}"
            return code

        return await eventually(check, seconds=EXIT_SECONDS)

    def node_pid(self, name: str) -> int:
        """The process of the node of this name (Linux)."""
        wanted = str(self.data / name).encode()
        (found,) = (
            int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if wanted in _read(path).split(b"\0")
        )
        return found

    def listening(self) -> list[int]:
        """The ports where a node still listens."""
        return [port for port in (*self.apis, *self.workers) if _answers(port)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it ended meanwhile


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Makes a run of some nodes; whatever happens, nothing of it is left running."""
    runs: list[Run] = []

    def make(*, apis: int = 1, workers: int = 1) -> Run:
        run = Run(tmp_path, [PORTS.take() for _ in range(apis)], [PORTS.take() for _ in range(workers)])
        runs.append(run)
        return run

    yield make
    for run in runs:
        if run.process is not None:
            run.process.kill()  # the kernel kills its nodes
            run.process.wait()
        for port in (*run.apis, *run.workers):
            PORTS.give_back(port)


async def test_a_fed_cluster_is_exact_and_stops(make_run: Callable[..., Run]) -> None:
    """Two API nodes and three workers over a growing route: the check holds, plain text tells, no name is on disk."""
    run = make_run(apis=2, workers=3)
    run.start("--feed", "--seconds", "4", "--rate", "100", "--exit")

    assert await run.exit_code() == 0, run.printed
    assert re.search(
        r"^400 events acknowledged, 400 counted, [0-9,]+ users over [0-9]+ slices: exact$", run.printed, re.MULTILINE
    )
    assert "\x1b" not in run.printed
    assert "everything of theirs is in run\n" in run.printed
    assert run.listening() == []
    assert not [path for path in run.data.rglob("*") if path.is_file() and NAMES.search(path.read_bytes())]


async def test_events_of_somebody_else_fail_the_check(make_run: Callable[..., Run]) -> None:
    """The check can fail: one event that the feed did not send, in a slice that it fed, is one too many."""
    run = make_run()
    run.start("--feed", "--seconds", "3", "--rate", "100", "--exit")
    await run.printing("feeding")
    event = {"timestamp": int(time.time()), "user": "nobody", "event": "click"}
    async with aiohttp.ClientSession() as session:
        await (await session.post(f"http://127.0.0.1:{run.apis[0]}/analytics", json=event)).read()

    assert await run.exit_code() == 1, run.printed
    assert "300 events acknowledged, 301 counted" in run.printed
    assert "NOT exact" in run.printed
    assert run.listening() == []


async def test_a_port_in_use_is_told_at_once(make_run: Callable[..., Run]) -> None:
    """Port, node and exit code 69; nothing is started, and no data folder made."""
    run = make_run(workers=2)
    with socket.create_server(("127.0.0.1", run.workers[1])):
        run.start()
        code = await run.exit_code()

    assert code == 69
    assert f"port {run.workers[1]} is in use: worker-1 cannot listen" in run.printed
    assert not run.data.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_stops_the_idle_cluster(make_run: Callable[..., Run], number: signal.Signals) -> None:
    """It says what to try, then waits; Ctrl-C or SIGTERM ends every node, API nodes first, with exit code 0."""
    run = make_run()
    process = run.start()
    await run.printing("Ctrl-C stops every node")
    listening = run.listening()
    process.send_signal(number)

    assert listening == [*run.apis, *run.workers]
    assert f"curl 'http://127.0.0.1:{run.apis[0]}/analytics/perworker'" in run.printed
    assert await run.exit_code() == 0, run.printed
    assert run.listening() == []


async def test_ctrl_c_during_the_feeding_still_checks(make_run: Callable[..., Run]) -> None:
    """What was acknowledged until then is checked; then the cluster stops, also without --exit."""
    run = make_run()
    process = run.start("--feed", "--seconds", "1000")
    await run.printing("feeding")
    process.send_signal(signal.SIGINT)

    assert await run.exit_code() == 0, run.printed
    assert ": exact" in run.printed
    assert run.listening() == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, and only Linux kills children with their parent")
async def test_a_node_that_dies_is_told_and_no_node_outlives_the_parent(make_run: Callable[..., Run]) -> None:
    """A killed worker is reported, not replaced; when the parent is killed, so is every node."""
    run = make_run(workers=2)
    process = run.start()
    await run.printing("Ctrl-C stops every node")
    os.kill(run.node_pid("worker-1"), signal.SIGKILL)
    await run.printing("worker-1 was ended by SIGKILL and is not started again")
    left = run.listening()
    process.kill()
    process.wait()

    async def check() -> None:
        assert run.listening() == []

    assert left == [*run.apis, run.workers[0]]
    await eventually(check)


async def test_an_earlier_run_goes_on(make_run: Callable[..., Run]) -> None:
    """The data folder alone is enough; what it counts is still there, and feeding again is exact."""
    run = make_run()
    run.start("--feed", "--seconds", "1", "--exit")
    first = await run.exit_code(), run.printed
    command = [sys.executable, "-m", "tallyslice", "up", "--data", str(run.data), "--feed", "--seconds", "1", "--exit"]
    again = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)

    assert first[0] == again.returncode == 0, (first, again)
    assert "200 events acknowledged, 200 counted" in again.stdout


async def test_a_terminal_gets_a_live_table(make_run: Callable[..., Run]) -> None:
    """On a terminal the table is drawn in place, with a bar."""
    run = make_run()
    ours, theirs = pty.openpty()
    command = ["up", str(run.write()), "--data", str(run.data), "--feed", "--seconds", "3", "--exit"]
    run.process = subprocess.Popen(
        [sys.executable, "-m", "tallyslice", *command],
        cwd=run.folder,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
    )
    os.close(theirs)
    shown = await asyncio.to_thread(_all_of, ours)

    assert run.process.wait() == 0, shown
    assert "Impressions" in shown
    assert "checking, 3 of 3 s" in shown
    assert "\x1b[?25l" in shown  # the cursor is hidden
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # and comes back
    assert ": exact" in shown


def _all_of(terminal: int) -> str:
    """Everything that is written to the terminal until its last writer leaves."""
    chunks: list[bytes] = []
    with open(terminal, "rb", buffering=0) as file:
        while True:
            try:
                chunk = file.read(65_536)
            except OSError:  # EIO: nobody holds the other end
                chunk = b""
            if not chunk:
                return b"".join(chunks).decode()
            chunks.append(chunk)


async def test_load_checks_a_running_cluster(tmp_path: Path) -> None:
    """Its check is of the slices that it fed: what was there before, and what others feed elsewhere, is no fault."""
    async with Cluster(tmp_path, apis=2, length_of_time_slice=2, first_slice="system") as cluster:
        await cluster.post("timestamp=1495238400&user=before&click")
        command = [sys.executable, "-m", "tallyslice", "load", *(node.url for node in cluster.api.values())]
        process = await asyncio.create_subprocess_exec(
            *command, "--seconds", "3", "--rate", "100", stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        await cluster.post("timestamp=1495238500&user=meanwhile&click")
        printed, _ = await asyncio.wait_for(process.communicate(), EXIT_SECONDS)

    assert process.returncode == 0, printed
    assert b"300 events acknowledged, 300 counted" in printed


async def test_load_in_bulk_tells_as_json(tmp_path: Path) -> None:
    """One object and nothing else: what was counted, how fast and how soon."""
    async with Cluster(tmp_path, length_of_time_slice=60, first_slice="system") as cluster:
        command = [sys.executable, "-m", "tallyslice", "load", *(node.url for node in cluster.api.values())]
        command += ["--closed", "--bulk", "100", "--reads", "20", "--new", "50", "--seconds", "1", "--json"]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        printed, _ = await asyncio.wait_for(process.communicate(), EXIT_SECONDS)

    assert process.returncode == 0, printed
    told = json.loads(printed)
    assert told["exact"] is True
    assert told["requests"].keys() == {"POST /events", "GET /analytics"}
    assert told["events"]["acknowledged"] == 100 * told["requests"]["POST /events"]["answered"] > 0
