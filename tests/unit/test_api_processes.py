"""How the parent of an API node's processes listens, and what it is told on its command line."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest

from api_node.processes import Listeners, became_ready, listen
from common.errors import InputOutputFailed, PortInUse
from common.web import PROCESSES_MAX, read_arguments
from tests.support.ports import PORTS

T = TypeVar("T")

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux spreads connections over sockets")


@pytest.fixture
def port() -> Iterator[int]:
    taken = PORTS.take()
    yield taken
    PORTS.give_back(taken)


def url(port: int, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{port}/analytics"


def close(listeners: list[Listeners]) -> None:
    for one in {one for each in listeners for one in each}:
        one.close()


def accepted(listeners: Listeners) -> int:
    """How many connections wait at a process's sockets."""
    count = 0
    for listener in listeners:
        while True:
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                break
            count += 1
    return count


@linux
def test_connections_are_spread_over_the_processes(port: int) -> None:
    """Each has a socket of its own, and the kernel uses all of them."""
    listeners = listen(url(port), 4)
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    counts = [accepted(each) for each in listeners]
    for client in clients:
        client.close()
    close(listeners)

    assert sum(counts) == 200
    assert min(counts) > 20


def test_elsewhere_processes_share_one_socket(port: int) -> None:
    listeners = listen(url(port), 3, spread=False)
    with socket.create_connection(("127.0.0.1", port)):
        counts = [accepted(each) for each in listeners]
    close(listeners)

    assert len({one for each in listeners for one in each}) == 1
    assert counts == [1, 0, 0]


@linux
def test_a_port_that_somebody_has_is_refused(port: int) -> None:
    """Be it a node of several processes itself, a node of one, or somebody who would let others have it too."""
    listeners = listen(url(port), 2)
    with pytest.raises(PortInUse, match=f"cannot listen on 127.0.0.1:{port}: the port is in use"):
        listen(url(port), 2)
    close(listeners)
    for shares in (False, True):
        with closing(socket.socket()) as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
            other.bind(("127.0.0.1", port))
            other.listen()
            with pytest.raises(PortInUse):
                listen(url(port), 2)

    close(listen(url(port), 2))


@linux
def test_a_node_keeps_others_from_its_port(port: int) -> None:
    """A node of one process, which listens as anybody does, is refused there."""
    listeners = listen(url(port), 2)
    with closing(socket.socket()) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
    close(listeners)


def test_each_address_of_the_host_has_its_sockets(port: int) -> None:
    listeners = listen(url(port, "localhost"), 2)
    addresses = {info[4][0] for info in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)}
    names = [{one.getsockname()[0] for one in each} for each in listeners]
    close(listeners)

    assert names == [addresses, addresses]


def test_an_address_that_is_not_ours_is_another_failure(port: int) -> None:
    with pytest.raises(InputOutputFailed, match="errno"):
        listen(url(port, "192.0.2.1"), 2)


def after(event: asyncio.Event, result: T) -> asyncio.Task[T]:
    """A task that has this result once the event has happened."""

    async def wait() -> T:
        await event.wait()
        return result

    return asyncio.create_task(wait())


@pytest.mark.parametrize("word", [True, False])
async def test_a_process_is_ready_once_it_says_so(word: bool) -> None:  # noqa: FBT001 - what was said
    """Not when its line ends, and not when its time is over."""
    says, ends = asyncio.Event(), asyncio.Event()
    ready, exited = after(says, word), after(ends, 0)
    assert not await became_ready(ready, exited, seconds=0)

    says.set()

    assert await became_ready(ready, exited, seconds=30) is word
    ends.set()
    await exited


async def test_a_process_that_ends_while_its_line_is_open_was_not_ready() -> None:
    """Nobody listens to the line any more then; that is no reason for the node to end."""
    says, ends = asyncio.Event(), asyncio.Event()
    ready, exited = after(says, result=True), after(ends, 78)
    exited.add_done_callback(lambda _: ready.cancel())
    ends.set()

    assert not await became_ready(ready, exited, seconds=30)


def test_a_node_has_one_process_unless_it_is_told_otherwise() -> None:
    assert read_arguments("api", ["0"]).processes == 1
    assert read_arguments("api", ["0", "here.json", "--data", "there", "--processes", "4"]).processes == 4


@pytest.mark.parametrize("number", ["0", "-1", str(PROCESSES_MAX + 1), "two", "٣", ""])
def test_another_number_of_processes_is_a_usage_error(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        read_arguments("api", ["0", f"--processes={number}"])

    assert left.value.code == 64
    assert "must be a number from 1 to 64" in capsys.readouterr().err


def test_what_a_parent_tells_its_processes_is_not_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_arguments("api", ["--help"])
    shown = capsys.readouterr().out

    assert "--processes N" in shown
    assert "--share" not in shown


def test_a_worker_has_one_process(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_arguments("worker", ["0", "--processes", "2"])

    assert "unrecognized arguments" in capsys.readouterr().err
    assert read_arguments("worker", ["0"]).data == Path("data/worker-0")
