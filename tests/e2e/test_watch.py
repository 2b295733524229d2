"""``tallyslice watch`` beside a running cluster: its numbers move, and it lives through a restart of the API node."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import termios
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tests.support.cluster import Cluster
from tests.support.command import PROGRAM, tallyslice
from tests.support.events import CANARY, user
from tests.support.patience import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

DAY = 86_400


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    folder = tmp_path_factory.mktemp("watch")
    async with Cluster(folder, workers=2, cache_ttl_seconds=0, length_of_time_slice=DAY) as cluster:
        yield cluster


class Screen:
    """A terminal of 80 columns and 24 lines, and what was ever written to it."""

    def __init__(self) -> None:
        self._master, self.end = pty.openpty()
        fcntl.ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        os.set_blocking(self._master, False)
        self.text = ""

    async def shows(self, found: Callable[[str], bool]) -> None:
        """Wait until the last frame is as it should be."""

        async def look() -> None:
            with contextlib.suppress(BlockingIOError, OSError):
                while content := os.read(self._master, 1 << 16):
                    self.text += content.decode(errors="replace")
            frame = self.text.rpartition("Tallyslice")[2]
            assert found(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", frame)), frame

        await eventually(look, seconds=30)

    def close(self) -> None:
        os.close(self._master)


async def test_the_numbers_move_and_outlive_a_restart(cluster: Cluster) -> None:
    """Events come: they are shown. The API node goes: that is said. It is back: the numbers go on. Ctrl-C: 130."""
    screen = Screen()
    process = await asyncio.create_subprocess_exec(
        PROGRAM, "watch", "--cluster", cluster.file, "--interval", "0.2",
        stdin=screen.end, stdout=screen.end, stderr=asyncio.subprocess.PIPE, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(screen.end)
    try:
        for n in range(7):
            assert (await cluster.post(f"timestamp={time.time()}&user={user(n)}&click")).status == 202
        await screen.shows(lambda frame: re.search(r"\b7 +7 +0\b", frame) is not None)
        api = cluster.api["0"]
        await api.stop()
        await screen.shows(lambda frame: "STALE" in frame)
        await cluster.start(api)
        assert (await cluster.post(f"timestamp={time.time()}&user={user(8)}&click")).status == 202
        await screen.shows(lambda frame: "STALE" not in frame and re.search(r"\b8 +8 +0\b", frame) is not None)
    finally:
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        screen.close()

    assert process.returncode == 130
    assert b"Traceback" not in err
    assert CANARY not in screen.text


async def test_one_look_where_there_is_no_terminal(cluster: Cluster) -> None:
    """A line of plain text."""
    said = await tallyslice("watch", "--cluster", cluster.file, "--once", "--interval", "0.1")

    assert said.code == 0
    assert re.fullmatch(r"\S+Z slice \d+: \d+ users, \d+ clicks, 0 impressions, \d+ events a second\n", said.out)
