"""``tallyslice backup`` of workers that take events, and what the cluster says to what is put back."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import FIRST, HOUR, Cluster, Node
from tests.support.command import tallyslice
from tests.support.events import Model, Post, user
from tests.support.load import Stream, pour

pytestmark = pytest.mark.e2e

SLICES = 3
TTL = 0.1


def posts() -> Iterator[Post]:
    """Without end: of three slices in turn, each user twice."""
    for n in itertools.count():
        yield Post(at=FIRST + n % SLICES * HOUR, user=user(n // 2), type=("click", "impression")[n % 2])


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


async def backed_up(node: Node, target: Path) -> None:
    said = await tallyslice("backup", node.data, target)
    assert said.code == 0, said


async def test_a_worker_is_backed_up_while_it_takes_events(tmp_path: Path) -> None:
    """Each file is a point in time: all that was acknowledged before, nothing that was not sent, members as counted.

    Put back, what was counted since is missing, and the slice says so.
    """
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

        old, node = backups[-1][0], cluster.worker["1"]
        await node.stop()
        shutil.rmtree(node.data)
        shutil.copytree(old, node.data)
        await cluster.start(node)
        await pour((Post(at=FIRST, user=user(n)) for n in range(20)), cluster.ports)
        answer = await cluster.json(FIRST)
        assert answer["complete"] is False
        assert answer["unique_users"] < len(counted.users[0])
        assert "stream_regressed" in cluster.api["0"].log_text()
