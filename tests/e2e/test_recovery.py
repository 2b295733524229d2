"""The registry, or a worker's disk, is lost for good: the commands, with real processes, as the runbooks have them."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from pathlib import Path

import pytest

from tests.support.cluster import FIRST, HOUR, Answer, Cluster, Node
from tests.support.events import tally, user
from tests.support.patience import eventually

pytestmark = pytest.mark.e2e

TTL = 0.3
KNOWN, NEW = FIRST, FIRST + 7 * HOUR
EX_USAGE, EX_IOERR, EX_CONFIG = 64, 70, 78


async def tallyslice(cluster: Cluster, *words: str, code: int = 0) -> str:
    """Run ``tallyslice registry`` with the cluster's file; all that it prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tallyslice", "registry", *words, str(cluster.file),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    printed = (await process.communicate())[0].decode()
    assert process.returncode == code, printed
    return printed


async def click(cluster: Cluster, at: float, name: str, *, api: str = "0") -> Answer:
    return await cluster.post(f"timestamp={at}&user={name}&click", api=api)


async def taken(cluster: Cluster, at: float, name: str, *, api: str = "0") -> None:
    answer = await click(cluster, at, name, api=api)
    assert answer.status == 202, answer


async def claim(cluster: Cluster, at: float) -> Answer:
    """Claim the slice of a time, as an API node does."""
    state = await cluster.state()
    slice_id = int((at - FIRST) // HOUR)
    body = (
        f'{{"cluster": "{state["pins"]["cluster"]}", "claims": {state["claims"]}, "routes": {{"{slice_id}": ["1"]}}}}'
    )
    url = f"{cluster.worker['0'].url}/registry/claims"
    return await cluster.ask("POST", url, body=body, headers={"Content-Type": "application/json"})


async def test_the_registry_is_lost_and_rebuilt(tmp_path: Path) -> None:
    """Claims are refused, also after everybody restarted; known slices go on; it is rebuilt; claims go on.

    ::

        slices 0, 1 settled      registry.mdb gone      409 registry-behind      rebuild      slice 7 settled
    """
    async with Cluster(tmp_path, apis=2, workers=3, routing={0: ["1", "2"]}, cache_ttl_seconds=TTL) as cluster:
        for number in range(20):
            await taken(cluster, KNOWN, user(number))
            await taken(cluster, FIRST + HOUR, user(number), api="1")
        host = cluster.worker["0"]
        await host.stop()
        kept = tmp_path / "found-again.mdb"
        shutil.copy(host.data / "registry.mdb", kept)
        for path in host.data.glob("registry.mdb*"):
            path.unlink()
        await cluster.start(host)

        refused = await claim(cluster, NEW)
        assert (refused.status, refused.problem) == (409, "registry-behind")
        for api in cluster.api:
            assert (await click(cluster, NEW, user(1), api=api)).problem == "not-taken"
            await taken(cluster, KNOWN, user(1), api=api)

        tried = await tallyslice(cluster, "rebuild", "--dry-run")
        assert "this was a dry run" in tried
        assert "slices would be settled" in tried
        assert "are settled" not in tried
        assert (await claim(cluster, NEW)).status == 409
        printed = await tallyslice(cluster, "rebuild")
        assert "The registry is rebuilt." in printed
        assert "Has not heard" not in printed

        for api in cluster.api:
            await eventually(lambda api=api: taken(cluster, NEW, user(1), api=api))  # type: ignore[misc]
            assert await cluster.summary(KNOWN, api=api) == tally(20, 22, 0)
            assert await cluster.summary(FIRST + HOUR, api=api) == tally(20, 20, 0)
        await eventually(lambda: counted(cluster, NEW, tally(1, 2, 0)))

        # The old one, found again, is not believed; not even by nodes that know nothing.
        await host.stop()
        shutil.copy(kept, host.data / "registry.mdb")
        await cluster.start(host)
        newcomer = cluster.api["1"]
        newcomer.kill()
        shutil.rmtree(newcomer.data)
        newcomer.launch()
        await eventually(lambda: listens(cluster, newcomer), seconds=20)
        for api in cluster.api:
            await eventually(lambda api=api: refuses(cluster, NEW + HOUR, api=api), seconds=20)  # type: ignore[misc]
        await tallyslice(cluster, "rebuild")
        await eventually(lambda: taken(cluster, NEW + HOUR, user(1)))
        await eventually(lambda: counted(cluster, NEW, tally(1, 2, 0)))


async def listens(cluster: Cluster, node: Node) -> None:
    assert (await cluster.readiness(node))[0] != 0


async def counted(cluster: Cluster, at: float, text: str) -> None:
    assert await cluster.summary(at) == text


async def refuses(cluster: Cluster, at: float, *, api: str) -> None:
    answer = await click(cluster, at, user(1), api=api)
    assert (answer.status, answer.problem) == (503, "not-taken"), answer


async def test_a_workers_disk_is_lost_and_replaced(tmp_path: Path) -> None:
    """503 that says why; then counts go on, old slices say that they are incomplete, new ones are whole."""
    async with Cluster(tmp_path, apis=2, workers=2, cache_ttl_seconds=TTL) as cluster:
        for number in range(30):
            await taken(cluster, KNOWN, user(number), api=str(number % 2))
        lost = cluster.worker["1"]
        lost.kill()
        shutil.rmtree(lost.data)
        lost.launch()

        async def says_why() -> None:
            answer = await cluster.get(f"?timestamp={KNOWN}")
            assert (answer.status, answer.problem) == (503, "no-answer")
            assert "is its volume mounted?" in answer.text

        await eventually(says_why)
        printed = await tallyslice(cluster, "replace-worker", "1")
        assert "incomplete for good: 0" in printed

        for api in cluster.api:
            await eventually(lambda api=api: incomplete(cluster, api=api))  # type: ignore[misc]
            assert (await cluster.json(KNOWN, api=api))["unique_users"] < 30
            assert (await cluster.get(f"?timestamp={KNOWN}", api=api)).headers["X-Complete"] == "false"
        for number in range(30):
            await taken(cluster, KNOWN, user(number))
            await taken(cluster, NEW, user(number))
        await asyncio.sleep(TTL)
        assert (await cluster.json(KNOWN))["unique_users"] == 30
        assert await cluster.summary(NEW) == tally(30, 30, 0)
        await asyncio.gather(*map(cluster.restart, cluster.nodes))
        for api in cluster.api:
            await eventually(lambda api=api: incomplete(cluster, api=api))  # type: ignore[misc]
            assert (await cluster.json(NEW, api=api))["complete"]
        again = await tallyslice(cluster, "replace-worker", "1")
        assert again == "Nothing to do: worker 1 runs on the data directory that is pinned.\n"


async def incomplete(cluster: Cluster, *, api: str) -> None:
    answer = await cluster.get(f"?timestamp={KNOWN}&format=json", api=api)
    assert answer.status == 200, answer
    assert answer.json["complete"] is False


async def test_the_registrys_worker_loses_its_disk(tmp_path: Path) -> None:
    """Both commands, one after the other. What began before and nobody knows of is 503 for good."""
    async with Cluster(tmp_path, workers=2, routing={0: ["0", "1"]}, cache_ttl_seconds=TTL) as cluster:
        for number in range(30):
            await taken(cluster, KNOWN, user(number))
        host = cluster.worker["0"]
        host.kill()
        shutil.rmtree(host.data)
        host.launch()
        await cluster.ready(host)

        assert "say --without worker-0" in await tallyslice(cluster, "rebuild", code=EX_CONFIG)
        assert "may be worker-0 or api-0" in await tallyslice(cluster, "rebuild", "--without", "0", code=EX_USAGE)
        assert "answer 503" in await tallyslice(cluster, "rebuild", "--without", "worker-0")
        await tallyslice(cluster, "replace-worker", "0")

        await eventually(lambda: incomplete(cluster, api="0"))
        await refuses(cluster, NEW, api="0")
        later = time.time() + HOUR
        await eventually(lambda: taken(cluster, later, user(1)))
        assert await cluster.summary(later) == tally(1, 1, 0)


async def test_a_node_that_does_not_answer_is_named(tmp_path: Path) -> None:
    async with Cluster(tmp_path, workers=2, cache_ttl_seconds=TTL) as cluster:
        await cluster.worker["1"].stop()

        printed = await tallyslice(cluster, "rebuild", code=EX_IOERR)

        assert "worker-1 does not tell what it knows" in printed
        assert "no worker 7" in await tallyslice(cluster, "replace-worker", "7", code=EX_USAGE)
