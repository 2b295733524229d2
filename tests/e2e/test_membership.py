"""Who belongs to a cluster: the registry away, the pins that hold for good, and everything that is not the real one."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import pytest

from tests.support.cluster import FIRST, HOUR, Answer, Cluster, Node
from tests.support.events import tally, user
from tests.support.patience import eventually

pytestmark = pytest.mark.e2e

TTL = 0.3
KNOWN, NEW = FIRST, FIRST + HOUR
EX_CONFIG = 78


async def click(cluster: Cluster, at: float, name: str, *, api: str = "0") -> Answer:
    return await cluster.post(f"timestamp={at}&user={name}&click", api=api)


async def assert_no_number(cluster: Cluster, *, api: str) -> None:
    """The node takes no event and answers no question about the known slice: a clear refusal, never a wrong number."""
    taken, asked = await asyncio.gather(
        click(cluster, KNOWN, user("wrong"), api=api), cluster.get(f"?timestamp={KNOWN}", api=api)
    )
    assert (taken.status, taken.problem) == (503, "not-taken"), taken
    assert (asked.status, asked.problem) == (503, "no-answer"), asked


async def refused(cluster: Cluster, *workers: str) -> None:
    """/cluster shows that exactly these workers are refused, and says why."""
    shown = [one for one in (await cluster.state())["workers"] if one["state"] != "ok"]
    assert {(one["id"], one["state"]) for one in shown} == {(name, "refused") for name in workers}
    assert all("worker" in one["detail"] for one in shown)


async def test_known_slices_go_on_without_the_registry(tmp_path: Path) -> None:
    """The registry's worker is away: known slices go on, also through restarted API nodes.

    A new slice is 503 not-taken, a question about an unknown one 503, never zeros. Once it is back, all heals by
    itself.
    """
    async with Cluster(tmp_path, apis=2, workers=3, routing={0: ["1", "2"]}, cache_ttl_seconds=TTL) as cluster:
        for number in range(10):
            assert (await click(cluster, KNOWN, user(number))).status == 202
        await cluster.worker["0"].stop()

        # The node that settled it, the one that has never heard of it, and both again as new processes.
        for api in ("0", "1"):
            assert (await click(cluster, KNOWN, user(api), api=api)).status == 202
        await cluster.restart(cluster.api["0"])
        cluster.api["1"].kill()
        await cluster.start(cluster.api["1"])
        for api in ("0", "1"):
            assert (await click(cluster, KNOWN, user(20 + int(api)), api=api)).status == 202
        # Together, since each refusal comes only when its deadline has passed.
        await asyncio.gather(*(assert_new_slice_refused(cluster, api=api) for api in cluster.api))

        await cluster.start(cluster.worker["0"])

        async def healed() -> None:
            for api in cluster.api:
                assert await cluster.summary(KNOWN, api=api) == tally(12, 14, 0)
                assert await cluster.summary(NEW + HOUR, api=api) == tally(0, 0, 0)
                assert (await click(cluster, NEW, user(api), api=api)).status == 202

        await eventually(healed)


async def assert_new_slice_refused(cluster: Cluster, *, api: str) -> None:
    """A slice that is not known to be settled takes no event, and is not answered with zeros."""
    refused, unknown = await asyncio.gather(
        click(cluster, NEW, user(1), api=api), cluster.get(f"?timestamp={NEW}", api=api)
    )
    assert (refused.status, refused.problem) == (503, "not-taken"), refused
    assert int(refused.headers["Retry-After"]) >= 1
    assert (unknown.status, unknown.problem) == (503, "no-answer"), unknown


async def test_a_new_api_node_joins_while_the_registry_is_away(tmp_path: Path) -> None:
    """An API node with an empty folder learns pins and routes from the other workers."""
    async with Cluster(
        tmp_path, apis=2, workers=3, routing={0: ["1", "2"]}, cache_ttl_seconds=TTL, start=False
    ) as cluster:
        await cluster.start(*cluster.worker.values(), cluster.api["0"])
        await click(cluster, KNOWN, user(1))
        await cluster.worker["0"].stop()
        cluster.api["1"].launch()

        async def counts() -> None:
            assert (await cluster.readiness(cluster.api["1"]))[0] != 0
            assert (await click(cluster, KNOWN, user(1), api="1")).status == 202

        await eventually(counts, seconds=20)
        shown = await cluster.json(KNOWN, api="1")
        assert shown["unique_users"] == 1


async def test_system_is_settled_once(tmp_path: Path) -> None:
    """first-slice "system" is one instant, the same at all API nodes, and outlives every restart."""
    begun = int(time.time())
    async with Cluster(tmp_path, apis=2, workers=2, first_slice="system", cache_ttl_seconds=TTL) as cluster:

        async def firsts() -> set[str]:
            return {(await cluster.state(api=api))["pins"]["first_slice"] for api in cluster.api}

        once = await firsts()
        ended = int(time.time())
        now = time.time()
        for api in cluster.api:
            assert (await click(cluster, now, user(1), api=api)).status == 202
        await asyncio.gather(*map(cluster.restart, cluster.nodes))
        after_restarts = await firsts()
        for node in cluster.nodes:
            node.kill()
        shutil.rmtree(cluster.api["1"].data)
        await cluster.start(*cluster.nodes)

        assert len(once) == 1
        assert after_restarts == once
        assert await firsts() == once
        shown = await cluster.json(now)
        assert (shown["slice"], shown["start"], shown["unique_users"]) == (0, next(iter(once)), 1)
        allowed = {time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)) for at in range(begun, ended + 1)}
        assert once <= allowed


async def test_another_secret_is_refused(tmp_path: Path) -> None:
    """An API node with another secret would make other user keys: it ends with exit code 78 and says why."""
    async with Cluster(tmp_path, apis=2, workers=2, cache_ttl_seconds=TTL, start=False) as cluster:
        await cluster.start(*cluster.worker.values(), cluster.api["0"])
        await click(cluster, KNOWN, user(1))
        stranger = cluster.api["1"]
        stranger.file = cluster.write(cluster.changed(secret_file="other.key"), name="other.json")
        stranger.launch()

        assert await stranger.exited(seconds=20) == EX_CONFIG
        assert "secret" in stranger.log_text()
        assert await cluster.summary(KNOWN) == tally(1, 1, 0)


async def test_a_contradicting_file_is_refused_at_start(tmp_path: Path) -> None:
    """An API node whose file has another slice length than the cluster ends with exit code 78 and says why."""
    async with Cluster(tmp_path, apis=2, workers=1, cache_ttl_seconds=TTL, start=False) as cluster:
        await cluster.start(*cluster.worker.values(), cluster.api["0"])
        stranger = cluster.api["1"]
        stranger.file = cluster.write(cluster.changed(length_of_time_slice=60), name="other.json")
        stranger.launch()

        assert await stranger.exited(seconds=20) == EX_CONFIG
        assert "length-of-time-slice" in stranger.log_text()


async def test_swapped_urls_are_refused(tmp_path: Path) -> None:
    """A file that swaps two workers' URLs: no event is taken and no number shown until it is mended."""
    async with Cluster(tmp_path, apis=1, workers=3, routing={0: ["1", "2"]}, cache_ttl_seconds=TTL) as cluster:
        for number in range(20):
            await click(cluster, KNOWN, user(number))
        nodes = cluster.config["worker-nodes"]
        cluster.write(cluster.changed(worker_nodes={**nodes, "1": nodes["2"], "2": nodes["1"]}))

        await eventually(lambda: refused(cluster, "1", "2"))
        await assert_no_number(cluster, api="0")
        cluster.write()
        await eventually(lambda: recovered(cluster, tally(20, 20, 0)))


async def test_urls_swapped_from_the_beginning_are_refused(tmp_path: Path) -> None:
    """The very first API node of a cluster meets workers under each other's URLs: it says so and waits."""
    async with Cluster(tmp_path, apis=1, workers=2, start=False) as cluster:
        nodes = cluster.config["worker-nodes"]
        swapped = cluster.changed(worker_nodes={"0": nodes["1"], "1": nodes["0"]})
        cluster.api["0"].file = cluster.write(swapped, name="swapped.json")
        await cluster.start(*cluster.worker.values())
        cluster.api["0"].launch()

        async def says_so() -> None:
            status, text = await cluster.readiness(cluster.api["0"])
            assert status == 503
            assert "swapped" in text

        await eventually(says_so)
        await assert_no_number(cluster, api="0")
        cluster.write(name="swapped.json")
        await cluster.ready(cluster.api["0"])
        assert (await click(cluster, KNOWN, user(1))).status == 202


async def recovered(cluster: Cluster, text: str) -> None:
    """The known slice answers with this text."""
    answer = await cluster.get(f"?timestamp={KNOWN}")
    assert (answer.status, answer.text) == (200, text)


async def test_an_empty_data_directory_is_refused(tmp_path: Path) -> None:
    """A worker comes back on an empty directory, its volume not mounted: refused, until the real one is back."""
    async with Cluster(tmp_path, apis=1, workers=2, routing={0: ["1"]}, cache_ttl_seconds=TTL) as cluster:
        worker = cluster.worker["1"]
        await click(cluster, KNOWN, user(1))
        await worker.stop()
        await launch_on(worker, tmp_path / "empty")

        await eventually(lambda: refused(cluster, "1"))
        await assert_no_number(cluster, api="0")
        await worker.stop()
        await launch_on(worker, tmp_path / "worker-1")
        await eventually(lambda: recovered(cluster, tally(1, 1, 0)))


async def launch_on(worker: Node, folder: Path) -> None:
    """Start a worker on another data directory; it need not become ready."""
    worker.data = folder
    worker.launch()


async def test_the_directory_of_another_worker_is_refused(tmp_path: Path) -> None:
    """A worker that is started on the data of another worker ends with exit code 78; both keep their data."""
    async with Cluster(tmp_path, apis=1, workers=2, routing={0: ["0", "1"]}, cache_ttl_seconds=TTL) as cluster:
        for number in range(20):
            await click(cluster, KNOWN, user(number))
        for worker in cluster.worker.values():
            await worker.stop()
        one = cluster.worker["1"]
        await launch_on(one, tmp_path / "worker-0")

        assert await one.exited() == EX_CONFIG
        assert "worker 0" in one.log_text()
        one.data = tmp_path / "worker-1"
        await cluster.start(*cluster.worker.values())
        await eventually(lambda: recovered(cluster, tally(20, 20, 0)))


async def test_a_directory_has_one_owner(tmp_path: Path) -> None:
    """A second process on a worker's data directory ends with exit code 75, and the first one goes on."""
    async with Cluster(tmp_path, apis=1, workers=2, routing={0: ["0"]}, cache_ttl_seconds=TTL) as cluster:
        second = cluster.worker["1"]
        await second.stop()
        elsewhere = {**cluster.config["worker-nodes"], "0": second.url}
        double = Node(
            kind="worker",
            id="0",
            port=second.port,
            file=cluster.write(
                cluster.changed(worker_nodes={**elsewhere, "1": cluster.worker["0"].url}), name="double.json"
            ),
            data=cluster.worker["0"].data,
            log=tmp_path / "double.log",
        )
        double.launch()

        assert await double.exited() == 75
        assert (await click(cluster, KNOWN, user(1))).status == 202


async def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    """A node whose port is taken ends with exit code 69 and names the port."""
    async with Cluster(tmp_path, apis=1, workers=1) as cluster:
        taken = cluster.api["0"]
        double = Node(
            kind="api",
            id="0",
            port=taken.port,
            file=cluster.file,
            data=tmp_path / "double",
            log=tmp_path / "double.log",
        )
        double.launch()

        assert await double.exited() == 69
        assert str(taken.port) in double.log_text()


async def test_the_directory_of_another_cluster_is_refused(tmp_path: Path) -> None:
    """A worker comes back on a directory that another cluster's worker of the same id made: refused, no number."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine, other):
        folder.mkdir()
    async with Cluster(other, apis=1, workers=2, routing={0: ["1"]}) as another:
        await click(another, KNOWN, user("of-the-other-cluster"))
    async with Cluster(mine, apis=1, workers=2, routing={0: ["1"]}, cache_ttl_seconds=TTL) as cluster:
        worker = cluster.worker["1"]
        await click(cluster, KNOWN, user(1))
        await click(cluster, KNOWN, user(2))
        await worker.stop()
        await launch_on(worker, other / "worker-1")

        await eventually(lambda: refused(cluster, "1"))
        await assert_no_number(cluster, api="0")
        await worker.stop()
        await launch_on(worker, mine / "worker-1")
        await eventually(lambda: recovered(cluster, tally(2, 2, 0)))


@pytest.mark.parametrize("registry", ["of-another-cluster", "empty"])
async def test_another_registry_is_refused(tmp_path: Path, registry: str) -> None:
    """The registry's worker comes back on a directory that is empty or of another cluster, and all API nodes restart.

    New slices are refused, and so is everything through nodes that cannot tell; never a wrong number. With the real
    directory back, all is as before.
    """
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine, other):
        folder.mkdir()
    async with Cluster(other, apis=1, workers=2, routing={0: ["1"]}) as another:
        await click(another, KNOWN, user(9))
    async with Cluster(mine, apis=2, workers=2, routing={0: ["1"]}, cache_ttl_seconds=TTL) as cluster:
        host = cluster.worker["0"]
        for api in cluster.api:
            await click(cluster, KNOWN, user(1), api=api)
        await host.stop()
        await launch_on(host, other / "worker-0" if registry == "of-another-cluster" else tmp_path / "nothing")
        # The nodes that run know better than this registry, or know that it is none.
        await eventually(lambda: refused(cluster, "0"))
        await assert_new_slice_refused(cluster, api="0")
        assert (await click(cluster, KNOWN, user(1))).status == 202
        newcomer = cluster.api["1"]
        newcomer.kill()
        shutil.rmtree(newcomer.data)
        await cluster.api["0"].stop()
        for node in cluster.api.values():
            node.launch()

        for node in cluster.api.values():
            await eventually(lambda node=node: refuses_new_slices(cluster, node), seconds=15)  # type: ignore[misc]
        for node in cluster.api.values():
            node.kill()
        await host.stop()
        await launch_on(host, mine / "worker-0")
        await cluster.start(*cluster.api.values())
        await eventually(lambda: recovered(cluster, tally(1, 3, 0)))
        assert (await click(cluster, NEW, user(1))).status == 202


async def refuses_new_slices(cluster: Cluster, node: Node) -> None:
    """The node has ended with 78, or it refuses a new slice, and shows of the known one its number or none."""
    if not node.runs:
        assert await node.exited() == EX_CONFIG
        return
    status, _ = await cluster.readiness(node)
    assert status != 0
    _, known = await asyncio.gather(
        assert_new_slice_refused(cluster, api=node.id), cluster.get(f"?timestamp={KNOWN}", api=node.id)
    )
    assert known.text == tally(1, 3, 0) or known.problem == "no-answer", known
