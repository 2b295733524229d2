"""``tallyslice backup`` of workers that take events, and what the cluster says to what is put back."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import FIRST, HOUR, Cluster, Node
from tests.support.command import Said, tallyslice
from tests.support.events import Model, Post, user
from tests.support.load import Stream, pour
from tests.support.patience import eventually

pytestmark = pytest.mark.e2e

SLICES = 3
TTL = 0.1
LATE = FIRST + 9 * HOUR


def posts() -> Iterator[Post]:
    """Without end: of three slices in turn, each user twice."""
    for n in itertools.count():
        yield Post(at=FIRST + n % SLICES * HOUR, user=user(n // 2), type=("click", "impression")[n % 2])


def some(number: int, *, at: float = FIRST) -> list[Post]:
    return [Post(at=at, user=user(n)) for n in range(number)]


def model(sent: list[Post]) -> Model:
    counted = Model(first=FIRST, length=HOUR)
    counted.add(sent)
    return counted


async def verified(target: Path) -> dict[int, tuple[int, int]]:
    """Slice -> users and events of a backup that is sound."""
    said = await tallyslice("verify", target, "--json")
    assert said.code == 0, said
    [folder] = said.json["folders"]
    return {one["slice"]: (one["users"], sum(one["events"].values())) for one in folder["slices"]}


async def backed_up(node: Node, target: Path, *options: object) -> Said:
    said = await tallyslice("backup", node.data, target, *options)
    assert said.code == 0, said
    return said


def put_back(backup: Path, node: Node) -> None:
    """The whole folder, as it was."""
    shutil.rmtree(node.data)
    shutil.copytree(backup, node.data)


async def taken(cluster: Cluster, at: float, name: int) -> None:
    answer = await cluster.post(f"timestamp={at}&user={user(name)}&click")
    assert answer.status == 202, answer


async def test_a_worker_is_backed_up_while_it_takes_events(tmp_path: Path) -> None:
    """Each file is a point in time: all that was acknowledged before, nothing that was not sent, members as counted."""
    async with Cluster(tmp_path, workers=2, cache_ttl_seconds=TTL) as cluster:
        stream = Stream(posts(), cluster.ports)
        backups: list[tuple[Path, Node, int]] = []
        async with stream:
            for turn in range(2):
                await stream.grow(400)
                for node in cluster.worker.values():
                    target = tmp_path / f"{node.name}-{turn}"
                    backups.append((target, node, len(stream.sent)))
                    await backed_up(node, target)
            await stream.grow(50)
        counted = model(stream.sent)
        for turn in range(2):
            halves = [await verified(tmp_path / f"worker-{worker}-{turn}") for worker in "01"]
            before = model(stream.sent[: backups[2 * turn][2]])
            for at in range(SLICES):
                users, events = (sum(half[at][part] for half in halves) for part in (0, 1))
                assert len(before.users[at]) <= users <= len(counted.users[at])
                assert before.counts[at].total() <= events <= counted.counts[at].total()
        for at in range(SLICES):
            assert await cluster.summary(FIRST + at * HOUR) == counted.text(at)

        for target, _, _ in backups:
            manifest = json.loads((target / "backup.json").read_bytes())
            assert manifest["whole"] is True
            assert [one["file"] for one in manifest["files"]][-2:] in (
                ["totals.mdb", "registry.mdb"], ["slices/2.mdb", "totals.mdb"],
            )  # fmt: skip
            assert {path.stat().st_mode & 0o777 for path in target.rglob("*.*")} == {0o600}


async def test_what_is_put_back_is_accepted_if_nothing_was_counted_since(tmp_path: Path) -> None:
    """The whole folder of the registry's worker, too: same answers, and new slices are settled."""
    async with Cluster(tmp_path, workers=2, cache_ttl_seconds=TTL) as cluster:
        await pour(some(60), cluster.ports)
        backup = tmp_path / "backup"
        await backed_up(cluster.worker["0"], backup)
        before = await cluster.json(FIRST)
        await cluster.worker["0"].stop()
        put_back(backup, cluster.worker["0"])
        await cluster.start(cluster.worker["0"])

        assert await eventually(lambda: cluster.json(FIRST)) == before
        assert before["complete"] is True
        await taken(cluster, FIRST, 1)
        await taken(cluster, LATE, 1)
        assert (await cluster.json(FIRST))["complete"] is True


async def test_an_old_copy_is_found_out(tmp_path: Path) -> None:
    """Its slice is too low, and says so; its registry settles nothing until it is rebuilt."""
    async with Cluster(tmp_path, cache_ttl_seconds=TTL) as cluster:
        await pour(some(20), cluster.ports)
        backup = tmp_path / "backup"
        await backed_up(cluster.worker["0"], backup)
        await pour(some(50), cluster.ports)
        await taken(cluster, FIRST + HOUR, 1)
        await cluster.worker["0"].stop()
        put_back(backup, cluster.worker["0"])
        await cluster.start(cluster.worker["0"])

        await taken(cluster, FIRST, 1)
        answer = await cluster.json(FIRST)
        assert (answer["unique_users"], answer["clicks"], answer["complete"]) == (20, 21, False)
        assert "stream_regressed" in cluster.api["0"].log_text()
        refused = await cluster.post(f"timestamp={LATE}&user={user(1)}&click")
        assert (refused.status, refused.problem) == (503, "not-taken")
        rebuilt = await tallyslice("registry", "rebuild", cluster.file)
        assert rebuilt.code == 0, rebuilt
        await eventually(lambda: taken(cluster, LATE, 1))


async def test_a_single_slice_is_put_back(tmp_path: Path) -> None:
    """In place of a damaged file; all other slices stay as they are."""
    async with Cluster(tmp_path, cache_ttl_seconds=TTL) as cluster:
        node = cluster.worker["0"]
        await pour(some(30), cluster.ports)
        backup = tmp_path / "backup"
        said = await backed_up(node, backup, "--slice", 0, "--json")
        await pour(some(40, at=FIRST + HOUR), cluster.ports)
        await node.stop()
        file = node.data / "slices/0.mdb"
        file.write_bytes(file.read_bytes()[:10000])
        await cluster.start(node)
        broken = await cluster.get(f"?timestamp={FIRST}")
        await node.stop()
        shutil.copy(backup / "slices/0.mdb", file)
        await cluster.start(node)

        assert [one["file"] for one in said.json["files"]] == ["slices/0.mdb"]
        assert (said.json["whole"], await verified(backup)) == (False, {0: (30, 30)})
        assert broken.status == 503
        whole = await eventually(lambda: cluster.json(FIRST))
        other = await cluster.json(FIRST + HOUR)
        assert (whole["unique_users"], whole["complete"]) == (30, True)
        assert (other["unique_users"], other["complete"]) == (40, True)
        await node.stop()
        put_back(backup, node)
        node.launch()
        assert await node.exited() == 78  # some slices never pass for all
        assert "no identity.json" in node.log_text()
        shutil.rmtree(node.data)
        shutil.move(backup, node.data)
