"""Real processes that speak nothing but TLS: a whole cluster of them, and the commands that work with it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.support.authority import Authority
from tests.support.cluster import FIRST, Cluster
from tests.support.events import CANARY
from tests.support.patience import eventually
from tests.support.ports import PORTS

pytestmark = pytest.mark.e2e

USERS = 40


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    found = Authority(tmp_path / "tls")
    found.issue()
    return found


def cluster_of(tmp_path: Path, authority: Authority) -> Cluster:
    (tmp_path / "cluster").mkdir()
    return Cluster(
        tmp_path / "cluster",
        workers=2,
        start=False,
        client_tls=authority.client((authority.folder / "node.crt", authority.folder / "node.key")),
        cache_ttl_seconds=0,
        tls=authority.settings(client_ca=str(authority.path)),
    )


async def tallyslice(*arguments: str, folder: Path) -> tuple[int, str, str]:
    """Run the command; exit code, output, and errors."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tallyslice", *arguments,
        cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    return process.returncode or 0, output.decode(), errors.decode()


async def test_a_cluster_counts_exactly_and_survives_the_restart_of_a_worker(
    tmp_path: Path, authority: Authority
) -> None:
    """Every event is counted once while a worker is restarted, by an API node of two processes.

    Workers ask for certificates, and the commands find their way.
    """
    cluster = cluster_of(tmp_path, authority)
    for node in cluster.api.values():
        node.options = ("--processes", "2")
    async with cluster:
        await cluster.start(*cluster.nodes)

        async def click(user: int) -> None:
            answer = await cluster.post(f"timestamp={FIRST}&user={CANARY}-{user}&click&id={user}")
            assert answer.status == 202, answer

        await asyncio.gather(*(click(user) for user in range(USERS // 2)))
        worker = cluster.worker["1"]
        restart = asyncio.create_task(cluster.restart(worker))
        await asyncio.gather(*(click(user) for user in range(USERS // 2, USERS)))
        await restart

        async def spool_is_empty() -> None:
            metrics = await cluster.ask("GET", f"{cluster.api['0'].base}/metrics")
            lines = [line for line in metrics.text.splitlines() if line.startswith("tallyslice_spool_events")]
            assert all(line.endswith(" 0.0") for line in lines), lines

        await eventually(spool_is_empty)
        counted = await cluster.json(FIRST)
        assert (counted["unique_users"], counted["clicks"]) == (USERS, USERS)

        code, output, errors = await tallyslice("status", "--cluster", str(cluster.file), "--json", folder=tmp_path)
        assert code == 0, output + errors
        states = json.loads(output)
        assert states
        code, output, errors = await tallyslice("registry", "rebuild", str(cluster.file), "--dry-run", folder=tmp_path)
        assert (code, "dry run" in output) == (0, True), output + errors
        base = cluster.api["0"].base
        code, output, errors = await tallyslice(
            "load", base, "--seconds", "0.5", "--rate", "100", "--ca", str(authority.path), "--json",
            "--cache-ttl", "0", folder=tmp_path,
        )  # fmt: skip
        assert code == 0, output + errors
        assert json.loads(output)["events"]["acknowledged"] == 50
        code, output, errors = await tallyslice("query", "--url", base, folder=tmp_path)
        assert code != 0
        assert "its certificate is not accepted" in output + errors


async def test_up_runs_a_cluster_that_speaks_tls(tmp_path: Path, authority: Authority) -> None:
    """The files go along into the data folder; it is fed and checked, and says how to ask it."""
    ports = [PORTS.take() for _ in range(2)]
    file = tmp_path / "cluster.json"
    tls = {"certificate": "tls/node.crt", "key": "tls/node.key", "ca": "tls/ca.crt", "client-ca": "tls/ca.crt"}
    content = {
        "api-nodes": {"0": f"https://localhost:{ports[0]}/analytics"},
        "worker-nodes": {"0": f"https://localhost:{ports[1]}/worker"},
        "length-of-time-slice": 60,
        "first-slice": "2017-05-20T00:00:00",
        "routing": [{"slice": 0, "nodes": ["0"]}],
        "tls": tls,
    }
    file.write_text(json.dumps(content))

    code, output, errors = await tallyslice(
        "up", str(file), "--data", str(tmp_path / "data"), "--feed", "--seconds", "0.5", "--rate", "50", "--exit",
        folder=tmp_path,
    )  # fmt: skip

    assert code == 0, output + errors
    assert (tmp_path / "data/tls/node.key").stat().st_mode & 0o777 == 0o600
    for port in ports:
        PORTS.give_back(port)


async def test_a_node_without_its_files_ends_with_78(tmp_path: Path, authority: Authority) -> None:
    """Also one of several processes, before it listens."""
    (authority.folder / "node.key").unlink()
    tls = authority.client()
    async with Cluster(tmp_path, start=False, client_tls=tls, tls=authority.settings()) as cluster:
        api, worker = cluster.api["0"], cluster.worker["0"]
        api.options = ("--processes", "2")
        for node in (api, worker):
            node.launch()

            assert await node.exited() == 78
            assert "tls.key" in node.log_text()
