"""What is published can be installed and run where there is no checkout: sdist, wheel, and the cluster that they bring.

The cluster of the example file listens at ports 8000, 9000 and so on, so it runs in a network of its own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.support.cluster import LEASH
from tests.support.needs import missing, program
from tests.support.package import build, install, wheel_of
from tests.support.pages import ROOT
from tests.support.patience import eventually

pytestmark = pytest.mark.e2e

CURL = ROOT / "tests/support/curl.py"
API = "http://localhost:8000/analytics"
START_SECONDS = STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """Both forms of it."""

    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("package")
    return Package(sdist=build("sdist", folder), wheel=build("wheel", folder))


def packages() -> set[str]:
    """The import packages of the tree."""
    return {path.parent.name for path in ROOT.glob("*/__init__.py")}


def test_the_wheel_has_every_file_of_every_package(package: Package) -> None:
    """Also what is no Python: static files, the example cluster, the mark that there are types; and nothing else."""
    wanted = {
        path.relative_to(ROOT).as_posix()
        for name in packages()
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with ZipFile(package.wheel) as wheel:
        found = {name for name in wheel.namelist() if ".dist-info/" not in name}

        assert found == wanted
        assert wheel.read("tallyslice/cluster.json") == (ROOT / "etc/cluster.json").read_bytes()


def test_pip_makes_the_same_wheel_of_the_sdist(package: Package, tmp_path: Path) -> None:
    """File by file the same bytes: so what is said of one holds for the other."""
    with ZipFile(wheel_of(package.sdist, tmp_path)) as one, ZipFile(package.wheel) as other:
        assert {name: one.read(name) for name in one.namelist()} == {
            name: other.read(name) for name in other.namelist()
        }


def test_the_sdist_has_what_its_tests_need(package: Package) -> None:
    """And nothing that was made by running or by tools."""
    with tarfile.open(package.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}

    assert {"tests/conftest.py", "requirements/dev.lock", "scripts/setup", "test.sh", "etc/cluster.json"} <= names
    assert not [name for name in names if re.search(r"__pycache__|\.venv|^data/|secret\.key|\.mdb", name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alone:
    """A program in a network where nobody else is."""

    process: subprocess.Popen[bytes]
    printed: Path

    def curl(self, *arguments: str) -> str:
        """What a client in that network gets."""
        into = ["nsenter", "--net", f"--target={self.process.pid}"]
        if os.geteuid() != 0:
            into += ["--user", "--preserve-credentials"]
        run = subprocess.run(
            [*into, sys.executable, str(CURL), *arguments], check=True, capture_output=True, text=True, timeout=30
        )
        return run.stdout

    def nodes(self) -> list[Path]:
        """The processes that it started and that run."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [Path(f"/proc/{pid}") for pid in children.read_text().split()]


@pytest.fixture
def installed(package: Package, tmp_path: Path) -> Iterator[Alone]:
    """``tallyslice up`` of an installed wheel, in an empty folder, without a single argument."""
    if sys.platform != "linux":
        missing("needs a network namespace, which only Linux has")
    program("ip", package="iproute2")
    program("unshare", package="util-linux")
    unshare = ["unshare", "--net", *(() if os.geteuid() == 0 else ("--map-root-user",))]
    if subprocess.run([*unshare, "ip", "link", "set", "lo", "up"], check=False, capture_output=True).returncode:
        missing("needs a network namespace, which this machine does not let us have")
    programs = install(package.wheel, tmp_path / "venv")
    folder = tmp_path / "empty"
    folder.mkdir()
    printed = tmp_path / "printed"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
    with printed.open("wb") as output:
        process = subprocess.Popen(
            [*LEASH, *unshare, "sh", "-c", 'ip link set lo up && exec "$0" up', str(programs / "tallyslice")],
            cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    yield Alone(process=process, printed=printed)
    process.kill()  # the kernel kills its nodes
    process.wait()


async def test_an_installed_wheel_runs_a_cluster_anywhere(installed: Alone, tmp_path: Path) -> None:
    """In an empty folder, with the runtime lock's packages alone: it starts, counts an event, Ctrl-C ends it."""

    async def up() -> None:
        assert installed.process.poll() is None, installed.printed.read_text()
        assert "Ctrl-C stops every node" in installed.printed.read_text()

    await eventually(up, seconds=START_SECONDS)
    nodes = installed.nodes()
    posted = installed.curl("-X", "POST", f"{API}?timestamp=2017-05-20T12:00:00Z&user=ada&click", "-w", "%{http_code}")
    counted = installed.curl(f"{API.replace('8000', '8001')}?timestamp=2017-05-20T12:00:00Z")
    installed.process.send_signal(signal.SIGINT)

    async def ended() -> int:
        code = installed.process.poll()
        assert code is not None
        return code

    assert await eventually(ended, seconds=STOP_SECONDS) == 0, installed.printed.read_text()
    assert posted == "202"
    assert counted == "unique_users,1\nclicks,1\nimpressions,0\n"
    assert len(nodes) == 6
    assert not [node for node in nodes if node.exists()]
    # The nodes ran what was installed, and wrote nowhere but below the folder.
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["data"]
    assert str(ROOT) not in installed.printed.read_text()
