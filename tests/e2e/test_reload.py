"""The cluster file changes under a running cluster."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.config import version_of
from tests.support.cluster import FIRST, Cluster, Node, routing_entries
from tests.support.events import Model, Post, tally, user
from tests.support.load import Connection, Stream, pour
from tests.support.patience import eventually
from tests.support.proxy import Proxy

pytestmark = pytest.mark.e2e

TTL = 0.3
TEN = 10  # seconds of a slice


def at(slice_id: int, offset: float = 0) -> float:
    """A time in the slice, where slices have ten seconds."""
    return FIRST + slice_id * TEN + offset


def posts_for(*slices: int, users: int = 200) -> Iterator[Post]:
    """Events without end, over the slices in turn."""
    for number in itertools.count():
        slice_id = slices[number % len(slices)]
        kind = "click" if number % 3 else "impression"
        yield Post(at=at(slice_id, number % TEN), user=user(number * 7 % users), type=kind)


async def accepted(cluster: Cluster, name: str = "cluster.json") -> None:
    """Wait until every API node runs on the file as it is now."""
    version = version_of((cluster.folder / name).read_bytes())

    async def check() -> None:
        for node in cluster.api.values():
            state = await cluster.state(api=node.id)
            assert state["refusal"] is None, state
            assert state["version"] == version, state

    await eventually(check)


async def route_of(cluster: Cluster, slice_id: int, *, api: str = "0") -> list[str]:
    """The workers that /perworker shows for a slice, in order."""
    shown = (await cluster.get(f"/perworker?timestamp={at(slice_id)}&format=json", api=api)).json
    return [part["worker"] for part in shown["workers"]]


async def assert_counted(cluster: Cluster, model: Model) -> None:
    """Every API node answers for every slice what was acknowledged, as soon as its cache has expired."""

    async def check() -> None:
        for api in cluster.api:
            for slice_id in model.slices:
                assert await cluster.summary(at(slice_id), api=api) == model.text(slice_id), (api, slice_id)

    await eventually(check, seconds=5)


async def test_a_rewrite_under_load_changes_the_routes_to_come(tmp_path: Path) -> None:
    """From 0: ["0"] to 0: ["0"], 1: ["0","1","2"], 3: ["0"], while events come in for slices of 2017.

    Every post is acknowledged, every event is counted, and /perworker has 5, 15, 15, 5 lines for the slices 0 to 3.
    """
    model = Model(first=FIRST, length=TEN)
    async with Cluster(
        tmp_path, apis=2, workers=3, routing={0: ["0"]}, length_of_time_slice=TEN, cache_ttl_seconds=TTL
    ) as cluster:
        async with Stream(posts_for(0), cluster.ports) as before:
            await before.grow(200)
            cluster.write(cluster.changed(routing=routing_entries({0: ["0"], 1: ["0", "1", "2"], 3: ["0"]})))
            await accepted(cluster)
            async with Stream(posts_for(0, 1, 2, 3), cluster.ports) as after:
                await after.grow(800)
                await before.grow(200)
        model.add(before.sent)
        model.add(after.sent)

        await assert_counted(cluster, model)
        lines = [len((await cluster.text(f"/perworker?timestamp={at(n)}")).splitlines()) for n in range(4)]
        assert lines == [5, 15, 15, 5]


async def test_rewrites_lose_and_misroute_nothing(tmp_path: Path) -> None:
    """The routing changes ten times while new slices begin all the time: every post is acknowledged and counted once.

    Which routing a slice got depends on the moment; that every node and worker agrees on it does not.
    """
    routings = [["0"], ["1", "2"], ["2", "1", "0"], ["0", "1"], ["2"]]
    model = Model(first=FIRST, length=TEN)

    def new_slices() -> Iterator[Post]:
        for number in itertools.count():
            yield Post(at=at(number // 60, number % TEN), user=user(number % 25), type="click")

    async with Cluster(
        tmp_path, apis=2, workers=3, routing={0: ["0"]}, length_of_time_slice=TEN, cache_ttl_seconds=TTL
    ) as cluster:
        async with Stream(new_slices(), cluster.ports) as stream:
            for routing in routings * 2:
                cluster.write(cluster.changed(routing=routing_entries({0: routing})))
                await stream.grow(100)
            await accepted(cluster)
            await stream.grow(200)
        model.add(stream.sent)

        await assert_counted(cluster, model)
        routes = {tuple(await route_of(cluster, slice_id)) for slice_id in model.slices}
        assert len(routes) > 1
        assert routes <= set(map(tuple, routings))


async def test_a_settled_route_outlives_a_rewrite(tmp_path: Path) -> None:
    """A rewrite that contradicts a settled route: counting goes on, the route stays, /cluster shows it."""
    model = Model(first=FIRST, length=TEN)
    async with Cluster(
        tmp_path, apis=2, workers=3, routing={0: ["0", "1"]}, length_of_time_slice=TEN, cache_ttl_seconds=TTL
    ) as cluster:
        async with Stream(posts_for(0), cluster.ports) as stream:
            await stream.grow(200)
            cluster.write(cluster.changed(routing=routing_entries({0: ["2"]})))
            await accepted(cluster)
            await stream.grow(200)
        model.add(stream.sent)
        new = [Post(at=at(1), user=user(n)) for n in range(50)]
        statuses = await pour(new, cluster.ports)
        model.add(new)

        assert statuses == {202: 50}
        await assert_counted(cluster, model)
        for api in cluster.api:
            state = await cluster.state(api=api)
            assert {one["slice"]: one["route"] for one in state["differing"]}[0] == ["0", "1"], state
            assert 1 not in {one["slice"] for one in state["differing"]}
            assert await route_of(cluster, 0, api=api) == ["0", "1"]
            assert await route_of(cluster, 1, api=api) == ["2"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(["0", "1"], ["1", "2"], id="overlapping"),
        pytest.param(["0"], ["1", "2"], id="disjoint"),
        pytest.param(["0", "1", "2"], ["2", "1", "0"], id="another-order"),
    ],
)
async def test_nodes_with_differing_files_agree(tmp_path: Path, first: list[str], second: list[str]) -> None:
    """Two API nodes whose files differ, hammered from the first event of a slice on.

    No user is counted twice, and nothing is missing from either node's answers.
    """
    model = Model(first=FIRST, length=TEN)
    slices = range(5)
    async with Cluster(
        tmp_path, apis=2, workers=3, length_of_time_slice=TEN, cache_ttl_seconds=TTL, start=False
    ) as cluster:
        cluster.api["0"].file = cluster.write(cluster.changed(routing=routing_entries({0: first})), name="first.json")
        cluster.api["1"].file = cluster.write(cluster.changed(routing=routing_entries({0: second})), name="second.json")
        await cluster.start(*cluster.nodes)
        for slice_id in slices:
            posts = [Post(at=at(slice_id), user=user(n % 100), type="click") for n in range(400)]
            statuses = await pour(posts, cluster.ports, connections=40)
            model.add(posts)
            assert statuses == {202: 400}

        await assert_counted(cluster, model)
        for slice_id in slices:
            routes = [await route_of(cluster, slice_id, api=api) for api in cluster.api]
            assert routes[0] == routes[1]
            assert routes[0] in (first, second)


REFUSED: dict[str, dict[str, Any]] = {
    "length-of-time-slice": {"length_of_time_slice": 20},
    "first-slice": {"first_slice": "2017-05-20T00:00:05"},
    "registry": {"registry": "1"},
}


@pytest.mark.parametrize("key", [*REFUSED, "worker-nodes"])
async def test_a_change_that_would_make_numbers_wrong_is_refused(tmp_path: Path, key: str) -> None:
    """A changed slice length, start or registry, or the removal of a worker that holds settled slices.

    The running config stays, counting goes on; /cluster, the log and a metric say why. The next good file is taken.
    """
    model = Model(first=FIRST, length=TEN)
    async with Cluster(tmp_path, workers=2, length_of_time_slice=TEN, cache_ttl_seconds=TTL) as cluster:
        node = cluster.api["0"]
        before = (await cluster.state())["version"]
        async with Stream(posts_for(0), cluster.ports) as stream:
            await stream.grow(50)
            cluster.write(without_worker_one(cluster) if key == "worker-nodes" else cluster.changed(**REFUSED[key]))
            await eventually(lambda: refused(cluster, key))
            await stream.grow(50)
            assert (await cluster.state())["version"] == before
            assert await cluster.metric(node, "tallyslice_config_refusals_total") >= 1
            assert await cluster.metric(node, "tallyslice_config_refused") == 1
            assert "cluster_file_refused" in node.log_text()

            cluster.write(cluster.changed(cache_ttl_seconds=TTL / 2))
            await accepted(cluster)
            await stream.grow(50)
            assert await cluster.metric(node, "tallyslice_config_refused") == 0
        model.add(stream.sent)

        await assert_counted(cluster, model)


def without_worker_one(cluster: Cluster) -> dict[str, Any]:
    workers = {name: url for name, url in cluster.config["worker-nodes"].items() if name != "1"}
    return cluster.changed(worker_nodes=workers, routing=routing_entries({0: ["0"]}))


async def refused(cluster: Cluster, word: str) -> None:
    refusal = (await cluster.state())["refusal"]
    assert refusal is not None
    assert any(word in reason for reason in refusal["reasons"]), refusal


async def test_a_worker_without_settled_slices_can_go(tmp_path: Path) -> None:
    """A worker that no settled route names may be removed, and the cluster counts on without it."""
    async with Cluster(
        tmp_path, workers=2, routing={0: ["0"]}, length_of_time_slice=TEN, cache_ttl_seconds=TTL
    ) as cluster:
        await cluster.post(f"timestamp={at(0)}&user={user(1)}&click")
        cluster.write(without_worker_one(cluster))
        await accepted(cluster)
        await cluster.worker["1"].stop()

        assert (await cluster.post(f"timestamp={at(0)}&user={user(2)}&click")).status == 202
        assert await cluster.summary(at(0)) == tally(2, 2, 0)
        assert (await cluster.text(f"/allslices?timestamp={at(1)}")) == f"slice,0\n{tally(2, 2, 0)}"


def broken_files(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Ways to break the file that every node reads; yields what was done, and a word of the reason."""
    good = json.dumps(cluster.config, indent=1).encode()
    cluster.write_in_place(good[: len(good) // 2])
    yield "half-written", "not JSON5: line"
    cluster.write_in_place(b"")
    yield "empty", "not JSON5: line 1"
    cluster.write_in_place(b"\xff\xfe" + good)
    yield "not UTF-8", "UTF-8"
    cluster.write_in_place(b"[1, 2, 3]")
    yield "not an object", "object"
    cluster.write_in_place(good.replace(b'"routing"', b'"rooting"'))
    yield "a misspelt key", "rooting"
    cluster.file.unlink()
    yield "gone", "No such file"
    cluster.file.mkdir()
    yield "unreadable", "Is a directory"
    cluster.file.rmdir()


async def test_a_broken_file_leaves_the_running_config(tmp_path: Path) -> None:
    """Half-written, empty, misspelt, gone, unreadable: the running config stays, /cluster says why, counting goes on.

    Every break is followed by the next one or by a good file, which is picked up.
    """
    model = Model(first=FIRST, length=TEN)
    async with Cluster(tmp_path, workers=2, length_of_time_slice=TEN, cache_ttl_seconds=TTL) as cluster:
        running = (await cluster.state())["version"]
        async with Stream(posts_for(0), cluster.ports) as stream:
            for number, (_, word) in enumerate(broken_files(cluster)):
                await eventually(lambda word=word: refused(cluster, word))  # type: ignore[misc]
                await stream.grow(20)
                assert (await cluster.state())["version"] == running
                assert await cluster.metric(cluster.api["0"], "tallyslice_config_refusals_total") > number
            cluster.write_in_place(json.dumps(cluster.changed(reload_seconds=17)).encode())
            await accepted(cluster)
            await stream.grow(20)
        model.add(stream.sent)

        await assert_counted(cluster, model)
        assert (await cluster.state())["version"] != running


async def test_a_file_whose_folder_tells_nothing_is_read_regularly(tmp_path: Path) -> None:
    """A link to a file elsewhere: no event in its folder tells of a change, so reload-seconds does."""
    async with Cluster(tmp_path, cache_ttl_seconds=TTL, reload_seconds=1, start=False) as cluster:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "cluster.json").write_text(json.dumps(cluster.config))
        cluster.file.unlink()
        cluster.file.symlink_to(elsewhere / "cluster.json")
        await cluster.start(*cluster.nodes)

        (elsewhere / "cluster.json").write_text(json.dumps(cluster.changed(max_slices=77)))
        await accepted(cluster)


async def test_settings_take_effect_at_once(tmp_path: Path) -> None:
    """Accepted types, the window and the label of an older system change while the node runs, there and back."""
    async with Cluster(tmp_path, length_of_time_slice=TEN, cache_ttl_seconds=TTL) as cluster:
        purchase = f"timestamp={at(0)}&user={user(1)}&event=purchase"
        before = await cluster.post(purchase)
        cluster.write(cluster.changed(event_types="any", compat="rt"))
        await accepted(cluster)
        taken = await cluster.post(purchase)
        shown = await cluster.summary(at(0))
        cluster.write(cluster.changed(max_past_seconds=60))
        await accepted(cluster)
        after = [await cluster.post(purchase), await cluster.post(f"timestamp={at(0)}&user={user(1)}&click")]

        assert (before.status, before.problem, before.json["field"]) == (400, "malformed", "event")
        assert (taken.status, shown) == (204, "unqiue_users,1\nclicks,0\nimpressions,0\npurchase,1\n")
        assert [(answer.status, answer.problem) for answer in after] == [(400, "malformed"), (422, "outside-window")]
        assert await cluster.summary(at(0)) == tally(1, 0, 0) + "purchase,1\n"


async def test_a_worker_moves_under_load(tmp_path: Path) -> None:
    """A worker gets another URL, there and back, while events are in flight to it: all are taken and counted once."""
    model = Model(first=FIRST, length=TEN)
    async with (
        Cluster(tmp_path, workers=2, length_of_time_slice=TEN, cache_ttl_seconds=TTL) as cluster,
        Proxy(cluster.worker["0"]) as proxy,
    ):
        here = cluster.config["worker-nodes"]
        async with Stream(posts_for(0, 1), cluster.ports) as stream:
            for nodes in ({**here, "0": proxy.url}, here, {**here, "0": proxy.url}):
                await stream.grow(100)
                cluster.write(cluster.changed(worker_nodes=nodes))
                await accepted(cluster)
            await stream.grow(100)
        model.add(stream.sent)

        assert proxy.exchanges
        await assert_counted(cluster, model)


async def test_a_worker_joins_a_running_cluster(tmp_path: Path) -> None:
    """A worker that the file adds takes part from the first slice that is routed to it."""
    async with Cluster(
        tmp_path, workers=2, routing={0: ["0"]}, length_of_time_slice=TEN, cache_ttl_seconds=TTL, start=False
    ) as cluster:
        newcomer: Node = cluster.worker["1"]
        alone = {"0": cluster.worker["0"].url}
        both = cluster.config
        cluster.write(cluster.changed(worker_nodes=alone))
        await cluster.start(cluster.worker["0"], cluster.api["0"])
        await cluster.post(f"timestamp={at(0)}&user={user(1)}&click")
        cluster.write({**both, "routing": routing_entries({0: ["0"], 1: ["1", "0"]})})
        await cluster.start(newcomer)
        await accepted(cluster)
        async with Connection(cluster.api["0"].port) as connection:
            answers = [await connection.post(Post(at=at(1), user=user(n))) for n in range(40)]

        assert answers == [(202, "")] * 40
        assert await cluster.summary(at(1)) == tally(40, 40, 0)
        assert await cluster.summary(at(0)) == tally(1, 1, 0)
        assert await route_of(cluster, 1) == ["1", "0"]
