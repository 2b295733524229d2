"""Child processes: watched while they run, stopped in order, and never left behind. Stand-ins are real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tallyslice.processes import TAIL_LINES, Ended, Node, Processes
from tests.support.patience import eventually

# Says that it is ready, and what it does when it is told to stop.
POLITE = """
import signal, sys, time
def leave(*_):
    with open(sys.argv[1], "a") as file: file.write(sys.argv[2] + " ")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
while True: signal.pause()
"""
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True: signal.pause()
"""
PARENT = """
import asyncio, sys
from pathlib import Path
from tallyslice.processes import Node, Processes
async def main():
    async with Processes(on_end=print) as processes:
        node = Node(name="n", command=(sys.executable, "-c", sys.argv[1]), url="", log=Path(sys.argv[2]))
        await processes.start([node])
        print(processes.pid("n"), flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


class Stage:
    """Makes nodes of Python one-liners, and remembers how they ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.left = folder / "left"
        self.ended: list[Ended] = []

    def node(self, name: str, code: str) -> Node:
        command = (sys.executable, "-S", "-c", code, str(self.left), name)
        return Node(name=name, command=command, url="http://127.0.0.1:1/", log=self.folder / f"{name}.log")

    def processes(self, *, stop_seconds: float = 10) -> Processes:
        return Processes(on_end=self.ended.append, stop_seconds=stop_seconds)

    @staticmethod
    async def ready(*nodes: Node) -> None:
        async def check() -> None:
            assert all("ready" in node.log.read_text() for node in nodes)

        await eventually(check)

    async def all_ended(self, count: int) -> None:
        async def check() -> None:
            assert len(self.ended) == count

        await eventually(check)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def runs(pid: int) -> bool:
    """Whether the process is there; one that only waits to be reaped is not."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    return False


async def test_the_group_started_last_stops_first(stage: Stage) -> None:
    """Workers, then API nodes; so API nodes, then workers: each leaves by itself, with its own exit code."""
    workers, api_nodes = [stage.node("w0", POLITE), stage.node("w1", POLITE)], [stage.node("a0", POLITE)]

    async with stage.processes() as processes:
        await processes.start(workers)
        await processes.start(api_nodes)
        await stage.ready(*workers, *api_nodes)

    order = stage.left.read_text().split()
    assert order[0] == "a0"
    assert sorted(order[1:]) == ["w0", "w1"]
    assert all(one.asked and one.code == 0 for one in stage.ended)


async def test_a_node_that_does_not_leave_is_killed_in_time(stage: Stage) -> None:
    stubborn = stage.node("stubborn", STUBBORN)

    async with stage.processes(stop_seconds=0.2) as processes:
        await processes.start([stubborn])
        await stage.ready(stubborn)

    assert stage.ended == [Ended(node=stubborn, code=-signal.SIGKILL, asked=True)]
    assert str(stage.ended[0]) == "stubborn was ended by SIGKILL"


async def test_a_node_that_is_told_to_stop_while_it_starts_stopped_well(stage: Stage) -> None:
    """SIGTERM ends it before it can say what is to happen instead; that is no cause for alarm."""
    starting = stage.node("starting", "import signal\nprint('ready', flush=True)\nwhile True: signal.pause()")

    async with stage.processes() as processes:
        await processes.start([starting])
        await stage.ready(starting)

    (ended,) = stage.ended
    assert ended == Ended(node=starting, code=-signal.SIGTERM, asked=True)
    assert ended.well
    assert not Ended(node=starting, code=-signal.SIGTERM, asked=False).well
    assert not Ended(node=starting, code=-signal.SIGKILL, asked=True).well


async def test_a_node_that_ends_by_itself_is_reported_with_the_end_of_its_log(stage: Stage) -> None:
    """Its exit code, that nobody asked, and the last lines of both of its outputs."""
    code = "import sys\nfor n in range(99): print(n, flush=True)\nprint('why', file=sys.stderr); sys.exit(70)"

    async with stage.processes() as processes:
        await processes.start([stage.node("n", code)])
        await stage.all_ended(1)

        assert processes.ended == stage.ended

    (ended,) = stage.ended
    assert (ended.code, ended.asked, str(ended)) == (70, False, "n ended with exit code 70")
    assert len(ended.tail()) == TAIL_LINES
    assert ended.tail()[-2:] == ["98", "why"]


async def test_a_tail_of_no_log_is_empty(stage: Stage) -> None:
    node = stage.node("n", "")

    assert Ended(node=node, code=1, asked=False).tail() == []


async def test_an_error_inside_stops_every_node(stage: Stage) -> None:
    node = stage.node("n", POLITE)

    async def fail() -> None:
        async with stage.processes() as processes:
            await processes.start([node])
            await stage.ready(node)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert stage.left.read_text() == "n "


async def test_a_node_that_cannot_be_started_stops_those_that_were(stage: Stage) -> None:
    node = stage.node("n", POLITE)
    impossible = Node(name="x", command=("/no/such/program",), url="", log=stage.folder / "x.log")

    async def start_both() -> None:
        async with stage.processes() as processes:
            await processes.start([node])
            await stage.ready(node)
            await processes.start([impossible])

    with pytest.raises(FileNotFoundError):
        await start_both()

    assert [one.node.name for one in stage.ended] == ["n"]


async def test_a_cancelled_stop_still_leaves_nothing_running(stage: Stage) -> None:
    """The last resort: whoever is left is killed on the way out."""
    stubborn = stage.node("stubborn", STUBBORN)
    processes, stopping = stage.processes(), asyncio.Event()

    async def live() -> None:
        async with processes:
            await processes.start([stubborn])
            await stage.ready(stubborn)
            stopping.set()

    task = asyncio.create_task(live())
    await stopping.wait()
    pid = processes.pid("stubborn")
    task.cancel()  # while it waits for a node that will not leave
    with pytest.raises(asyncio.CancelledError):
        await task

    await stage.all_ended(1)
    assert not runs(pid)


async def test_a_node_leads_its_own_session(stage: Stage) -> None:
    """So Ctrl-C in the terminal reaches the parent alone."""
    node = stage.node("n", POLITE)

    async with stage.processes() as processes:
        await processes.start([node])
        await stage.ready(node)

        pid = processes.pid("n")
        assert os.getsid(pid) == os.getpgid(pid) == pid


@pytest.fixture
def parent(stage: Stage) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that runs a stubborn node."""
    command = [sys.executable, "-c", PARENT, STUBBORN, str(stage.folder / "n.log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills children with their parent")
async def test_nodes_die_with_a_parent_that_is_killed(stage: Stage, parent: subprocess.Popen[str]) -> None:
    """SIGKILL leaves the parent no chance to do anything; the kernel does it."""
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert runs(pid)
    parent.kill()
    parent.wait()

    async def check() -> None:
        assert not runs(pid)

    await eventually(check)
