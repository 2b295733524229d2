"""``tallyslice verify DATA``: what is sound is told so, what is not is named, and what runs is left alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import lmdb

from api_node.app import Deadlines
from common.lmdb_file import UNUSED_BYTES_MAX
from tests.support.cluster import FIRST, HOUR
from tests.support.command import Said, tallyslice
from tests.support.events import CANARY
from tests.support.nodes import Nodes

USERS = 300
IMPATIENT = Deadlines(delivery_seconds=20, question_seconds=2, away_seconds=0.2)


async def filled(nodes: Nodes) -> None:
    """Slice 0 at both workers, slice 1 at worker 0 alone."""
    for n in range(USERS):
        assert (await nodes.click(f"{CANARY}-{n}")).status == 202
    assert (await nodes.click(at=FIRST + HOUR)).status == 202


async def copied(nodes: Nodes, tmp_path: Path) -> Path:
    """A copy of the folders of all nodes, made after they stopped."""
    for node in (*nodes.api.values(), *nodes.worker.values()):
        if node.life is not None:
            await node.stop()
    copy = tmp_path / "copy"
    shutil.copytree(nodes.folder, copy, ignore=shutil.ignore_patterns("*-lock", "*.sock"))
    return copy


def problems(said: Said) -> list[tuple[str, str]]:
    return [(one["file"], one["problem"]) for folder in said.json["folders"] for one in folder["problems"]]


def names(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


async def test_what_is_sound_is_told_so(tmp_path: Path) -> None:
    """All nodes of a cluster, or one; the figures are those of the cluster. Nothing is left behind."""
    async with Nodes(tmp_path / "nodes", workers=2, routing={0: ["0", "1"], 1: ["0"]}) as nodes:
        await filled(nodes)
        running = await tallyslice("verify", nodes.worker["0"].data)
        copy = await copied(nodes, tmp_path)
    before = names(copy)
    whole = await tallyslice("verify", copy, "--json")
    one = await tallyslice("verify", copy / "worker-0")

    assert running.code == 75
    assert "stop the node first" in running.err
    assert (whole.code, whole.json["sound"], problems(whole)) == (0, True, [])
    workers = [folder for folder in whole.json["folders"] if folder["kind"] == "worker"]
    assert [folder["node"] for folder in workers] == ["0", "1"]
    assert sum(held["users"] for folder in workers for held in folder["slices"] if held["slice"] == 0) == USERS
    assert workers[0]["routes"] == 2
    assert one.code == 0
    assert one.out.endswith("  sound\n")
    assert names(copy) == before


async def test_what_is_not_sound_is_named(tmp_path: Path) -> None:
    """A file cut short, one that counts wrongly, another worker's, one set aside, a broken file of totals, no id."""
    async with Nodes(tmp_path / "nodes", workers=2, routing={0: ["0", "1"], 1: ["0"]}) as nodes:
        await filled(nodes)
        copy = await copied(nodes, tmp_path)
    first, second = copy / "worker-0", copy / "worker-1"
    one, zero = first / "slices/1.mdb", first / "slices/0.mdb"
    with lmdb.open(str(one), subdir=False, max_dbs=8, lib_version=0) as env, env.begin(write=True) as txn:
        txn.put(b"*users", (7).to_bytes(8, "big"), db=env.open_db(b"counts", txn, create=False))
    shutil.copy(zero, second / "slices/5.mdb")
    shutil.copy(zero, first / "slices/1000000.mdb.damaged")
    content = bytearray(zero.read_bytes())
    zero.write_bytes(content[: len(content) // 2])
    (first / "totals.mdb").write_bytes(b"nonsense" * UNUSED_BYTES_MAX)
    (second / "identity.json").write_text("{")
    said = await tallyslice("verify", copy, "--json")
    text = await tallyslice("verify", copy)

    assert (said.code, text.code) == (1, 1)
    found = problems(said)
    assert {file for file, _ in found} == {
        "identity.json", "slices/0.mdb", "slices/1.mdb", "slices/1000000.mdb.damaged", "slices/5.mdb", "totals.mdb",
    }  # fmt: skip
    assert "7 are counted" in dict(found)["slices/1.mdb"]
    assert "another worker's" in dict(found)["slices/5.mdb"]
    assert "  ! slices/1.mdb: " in text.out


async def test_what_is_missing_is_no_sound_folder(tmp_path: Path) -> None:
    """Without its totals nobody knows what was closed, without the registry no route; and an older one has not all."""
    async with Nodes(tmp_path / "nodes", workers=2, routing={0: ["0", "1"], 1: ["0"]}) as nodes:
        assert (await nodes.click()).status == 202
        early = await copied(nodes, tmp_path)
        for name in nodes.worker:
            await nodes.start_worker(name)
        await nodes.start_api("0")
        assert (await nodes.click(at=FIRST + HOUR)).status == 202
        early = early.rename(tmp_path / "early")
        copy = await copied(nodes, tmp_path)
    first, second = copy / "worker-0", copy / "worker-1"
    shutil.copy(early / "worker-0/registry.mdb", first)
    older = await tallyslice("verify", first, "--json")
    (first / "registry.mdb").unlink()
    (first / "slices/1.mdb").write_bytes(b"")
    (second / "totals.mdb").write_bytes(b"")
    said = await tallyslice("verify", copy, "--json")

    assert (older.code, said.code) == (1, 1)
    assert [problem for _, problem in problems(older)] == [
        "is older than totals.mdb: it has 1 claims, of 2 that were made"
    ]
    assert [file for file, _ in problems(said)] == ["registry.mdb", "totals.mdb"]
    assert said.json["folders"][1]["notes"] == [
        "1.mdb holds nothing: it was made, and never written to, or was emptied"
    ]


async def test_a_spool_is_verified_batch_by_batch(tmp_path: Path) -> None:
    """Its events are counted; one whose record is damaged is named by its slice and number."""
    async with Nodes(tmp_path / "nodes", workers=1, deadlines=IMPATIENT) as nodes:
        assert (await nodes.click()).status == 202
        await nodes.worker["0"].stop()
        assert (await nodes.click()).headers["X-Durability"] == "spool"
        copy = await copied(nodes, tmp_path)
    sound = await tallyslice("verify", copy / "api-0", "--json")
    spool = next((copy / "api-0/spools").rglob("spool.mdb"))
    with lmdb.open(str(spool), subdir=False, max_dbs=8, lib_version=0) as env, env.begin(write=True) as txn:
        database = env.open_db(b"batches", txn, create=False)
        key, record = next(iter(txn.cursor(database)))
        txn.put(bytes(key), bytes(record)[:-1] + b"\xff", db=database)
    damaged = await tallyslice("verify", copy / "api-0", "--json")

    assert (sound.code, sound.json["folders"][0]["spooled"]) == (0, 1)
    assert damaged.code == 1
    assert [problem for _, problem in problems(damaged)] == ["batch 2 of slice 0, 1 events, is damaged"]


async def test_what_is_no_data_folder_is_refused(tmp_path: Path) -> None:
    """With what was looked for."""
    nothing, other = await tallyslice("verify", tmp_path / "nothing"), await tallyslice("verify", tmp_path)

    assert (nothing.code, other.code) == (78, 78)
    assert "identity.json" in other.err
