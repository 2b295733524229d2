"""The systemd units: systemd finds nothing wrong with them, and what they start runs, tells, and ends as they expect.

No systemd runs the units here: what is run is their command line, with a socket where systemd's would be.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.last_call import LAST_CALL_SECONDS
from common.listener import FINISH_SECONDS
from common.web import CLOSE_SECONDS, DRAIN_SECONDS
from tests.support.cluster import LEASH, Cluster, Node
from tests.support.needs import program
from tests.support.pages import ROOT

pytestmark = pytest.mark.e2e

FOLDER = ROOT / "deploy/systemd"
UNITS = sorted(FOLDER.glob("*.service"))
PYTHON = "/opt/tallyslice/bin/python"
START_SECONDS = 30.0

units = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)


def settings(unit: Path) -> dict[str, str]:
    """What a unit sets, the last one of each name."""
    return dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE))


def test_there_is_one_for_each_kind_of_node() -> None:
    assert [unit.name for unit in UNITS] == ["tallyslice-api@.service", "tallyslice-worker@.service"]


@units
def test_systemd_finds_nothing_wrong(unit: Path, tmp_path: Path) -> None:
    """``systemd-analyze verify``, of an instance, with a Python that is there."""
    instance = tmp_path / unit.name.replace("@", "@0")
    instance.write_text(unit.read_text().replace(PYTHON, sys.executable))
    run = subprocess.run(
        [program("systemd-analyze", package="systemd"), "verify", "--man=no", "--recursive-errors=no", str(instance)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip

    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


@units
def test_little_is_exposed(unit: Path) -> None:
    """``systemd-analyze security``: at most 1.5 of 10, where 0 is nothing."""
    run = subprocess.run(
        [program("systemd-analyze", package="systemd"), "security", "--offline=true", "--threshold=15", str(unit)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip

    assert run.returncode == 0, run.stdout


def test_the_users_are_those_of_the_units(tmp_path: Path) -> None:
    """``systemd-sysusers`` reads the file; each unit has a user of its own, which it makes."""
    run = subprocess.run(
        [program("systemd-sysusers", package="systemd"), "--dry-run", f"--root={tmp_path}",
         str(FOLDER / "tallyslice.sysusers")],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    made = set(re.findall(r"Creating user '([\w-]+)'", run.stdout + run.stderr))

    assert run.returncode == 0, run.stderr
    assert made == {settings(unit)["User"] for unit in UNITS}
    assert len(made) == 2


@units
def test_a_node_has_the_time_that_it_needs_to_leave(unit: Path) -> None:
    needed = DRAIN_SECONDS + LAST_CALL_SECONDS + FINISH_SECONDS + CLOSE_SECONDS

    assert needed < 10 < int(settings(unit)["TimeoutStopSec"])


class Systemd:
    """The part of it that the units rely on: starts their command, and listens to what it tells."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)  # noqa: FBT003 - the library's
        self._socket.bind("")  # a name without a file, drawn by the kernel
        self._processes: list[subprocess.Popen[bytes]] = []

    def command(self, unit: Path, node: Node) -> list[str]:
        """``ExecStart``, with this machine's paths."""
        line = settings(unit)["ExecStart"].replace("%i", node.id).replace(PYTHON, sys.executable)
        line = line.replace("/etc/tallyslice/cluster.json", str(node.file))
        return shlex.split(line.replace("/var/lib/tallyslice/", f"{self._cluster.folder}/"))

    def start(self, unit: Path, node: Node, *more: str) -> subprocess.Popen[bytes]:
        """Start it; ``more`` is at the end of its command line."""
        name = f"@{self._socket.getsockname()[1:].decode()}"
        with node.log.open("ab") as log:
            process = subprocess.Popen(
                [*LEASH, *self.command(unit, node), *more], env={"NOTIFY_SOCKET": name, "PATH": "/usr/bin:/bin"},
                cwd=self._cluster.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._processes.append(process)
        return process

    async def told(self) -> str:
        """The next thing that somebody tells."""
        async with asyncio.timeout(START_SECONDS):
            return (await asyncio.get_running_loop().sock_recv(self._socket, 4096)).decode()

    def close(self) -> None:
        """Nothing is left."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        self._socket.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path, start=False)


@pytest.fixture
def systemd(cluster: Cluster) -> Iterator[Systemd]:
    one = Systemd(cluster)
    yield one
    one.close()


async def test_what_the_units_start_tells_when_it_listens_and_when_it_leaves(
    cluster: Cluster, systemd: Systemd
) -> None:
    """Both kinds, and an API node of several processes, which tells once; then SIGTERM, and exit code 0."""
    api, worker = UNITS
    async with cluster:
        for unit, node, more in (
            (worker, cluster.worker["0"], ()),
            (api, cluster.api["0"], ()),
            (api, cluster.api["0"], ("--processes", "2")),
        ):
            process = systemd.start(unit, node, *more)
            assert await systemd.told() == "READY=1"
            status, text = await cluster.readiness(node)
            assert status in {200, 503}, text  # it listens; whether it is ready is another matter
            if unit is worker:
                continue
            process.terminate()
            assert await systemd.told() == "STOPPING=1"
            assert await asyncio.to_thread(process.wait, 10) == 0


@units
async def test_what_cannot_get_better_is_not_started_again(unit: Path, cluster: Cluster, systemd: Systemd) -> None:
    """A wrong cluster file and a wrong command line end with codes that the unit does not restart after."""
    cluster.write_in_place(b"{")
    node = cluster.api["0"] if "api" in unit.name else cluster.worker["0"]
    async with cluster:
        codes = [await asyncio.to_thread(systemd.start(unit, node, *more).wait, 20) for more in ((), ("--none",))]

    assert codes == [78, 64]
    assert settings(unit)["RestartPreventExitStatus"].split() == [str(code) for code in sorted(codes)]
