"""A worker that is away: its events are kept on the API node's disk, acknowledged, and delivered when it is back."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import lmdb
import pytest

from api_node.app import Deadlines
from api_node.spool import FILE_NAME
from api_node.spool_room import SPOOLS_FOLDER
from common.errors import ConfigRefused
from tests.support.cluster import FIRST, HOUR, Answer
from tests.support.events import CANARY
from tests.support.nodes import Nodes, until
from tests.support.patience import eventually

IMPATIENT = Deadlines(delivery_seconds=5, question_seconds=2, route_seconds=0.4, watch_seconds=0.1, away_seconds=0.2)


def spools(nodes: Nodes, api: str = "0") -> list[Path]:
    folder = nodes.api[api].data / SPOOLS_FOLDER
    return list(folder.iterdir()) if folder.is_dir() else []


async def away(nodes: Nodes, *, events: Sequence[str] = ()) -> list[Answer]:
    """Settle the first slice, stop the worker, and post events until they are spooled."""
    assert (await nodes.click(f"{CANARY}-first")).status == 202
    await nodes.worker["0"].stop()
    return list(await asyncio.gather(*(nodes.click(f"{CANARY}-{name}") for name in events)))


async def drained(nodes: Nodes) -> None:
    async def nothing_waits() -> None:
        assert (await nodes.state())["spool"]["events"] == 0

    await eventually(nothing_waits)


async def test_events_for_a_worker_that_is_away_are_kept_and_delivered(tmp_path: Path) -> None:
    """Success says ``spool``; answers say how much is still to come; when the worker is back, all is counted once."""
    async with Nodes(tmp_path, workers=1, deadlines=IMPATIENT) as nodes:
        first = await away(nodes, events=["a", "b", "a"])
        at_once = await nodes.click(f"{CANARY}-c")
        meanwhile = await nodes.json(more="&partial=true")
        text = await nodes.get(f"?timestamp={FIRST}&partial=true")
        state = (await nodes.state())["spool"]
        metric = await nodes.metric("tallyslice_spool_events")

        await nodes.start_worker("0")
        await drained(nodes)

        assert {answer.status for answer in (*first, at_once)} == {202}
        assert {answer.headers["X-Durability"] for answer in (*first, at_once)} == {"spool"}
        assert (meanwhile["spooled"], meanwhile["complete"]) == (4, False)
        assert "spooled,4\n" in text.text
        assert (state["events"], state["refusal"], metric) == (4, None, 4.0)
        counted = await nodes.json()
        assert (counted["unique_users"], counted["clicks"], counted["complete"]) == (4, 5, True)
        assert "spooled" not in counted


async def test_a_partial_answer_does_not_wait_for_a_worker_that_is_known_to_be_away(tmp_path: Path) -> None:
    """Who asks for what is there gets it well before the deadline of a question."""
    unhurried = Deadlines(delivery_seconds=5, question_seconds=60, watch_seconds=0.1, away_seconds=0.2)
    async with Nodes(tmp_path, workers=1, deadlines=unhurried) as nodes:
        await away(nodes, events=["a"])

        async with asyncio.timeout(20):
            counted = await nodes.json(more="&partial=true")
            slices = await nodes.get("/allslices?partial=true")

        assert (counted["clicks"], counted["complete"], counted["spooled"]) == (0, False, 1)
        assert slices.headers["X-Complete"] == "false"
        await nodes.start_worker("0")
        await drained(nodes)


async def test_live_events_do_not_wait_for_the_spool(tmp_path: Path) -> None:
    """When the worker is back they go on in another stream at once."""
    async with Nodes(tmp_path, workers=1, deadlines=IMPATIENT) as nodes:
        await away(nodes, events=["a"])
        await nodes.start_worker("0")

        async def live() -> None:
            assert (await nodes.click(f"{CANARY}-b")).headers["X-Durability"] == "worker"

        await eventually(live)
        await drained(nodes)

        assert (await nodes.json())["unique_users"] == 3


async def test_a_restarted_node_delivers_what_the_old_one_kept(tmp_path: Path) -> None:
    """The spool is adopted, drained under its old names, and removed."""
    async with Nodes(tmp_path, workers=1, deadlines=IMPATIENT) as nodes:
        await away(nodes, events=["a", "b"])
        await nodes.restart_api()
        kept = spools(nodes)
        await nodes.start_worker("0")
        await until(lambda: not spools(nodes))

        assert len(kept) == 1
        counted = await nodes.json()
        assert (counted["unique_users"], counted["clicks"], counted["complete"]) == (3, 3, True)


async def test_a_node_that_restarts_again_and_again_leaves_one_spool(tmp_path: Path) -> None:
    """What is there is used again, so that neither folders nor open files pile up; old streams only drain."""
    async with Nodes(tmp_path, workers=1, deadlines=IMPATIENT) as nodes:
        await away(nodes, events=["a"])
        for name in ("b", "c"):
            await nodes.restart_api()
            await eventually(lambda: kept_on_disk(nodes, name))  # noqa: B023 - called before the next turn
        left = spools(nodes)
        await nodes.start_worker("0")
        await drained(nodes)

        assert len(left) == 1
        assert (await nodes.json())["unique_users"] == 4


async def kept_on_disk(nodes: Nodes, name: str) -> None:
    answer = await nodes.click(f"{CANARY}-{name}")
    assert answer.headers.get("X-Durability") == "spool", answer


async def test_what_is_under_way_when_the_node_stops_is_kept(tmp_path: Path) -> None:
    """A node that stops while a worker hangs puts what it has into the spool, and answers."""
    patient = Deadlines(delivery_seconds=20, watch_seconds=30, away_seconds=30)
    async with Nodes(tmp_path, workers=1, deadlines=patient) as nodes:
        await away(nodes)
        post = asyncio.create_task(nodes.click(f"{CANARY}-late"))

        async def queued() -> None:
            assert (await nodes.link("0"))["queue_events"] == 1

        await eventually(queued)
        await nodes.api["0"].stop()
        answer = await post

        assert (answer.status, answer.headers.get("X-Durability")) == (202, "spool")
        assert len(spools(nodes)) == 1


async def test_a_full_spool_refuses_at_the_door(tmp_path: Path) -> None:
    """Bounds concern what comes in; what was acknowledged is delivered all the same."""
    async with Nodes(tmp_path, workers=1, deadlines=IMPATIENT, spool_max_bytes=1) as nodes:
        await away(nodes, events=["a"])
        refused = await nodes.click(f"{CANARY}-b")
        await nodes.start_worker("0")
        await drained(nodes)

        assert refused.status == 503
        assert refused.json["type"] == "urn:tallyslice:problem:not-taken"
        assert "spool-max-bytes" in refused.json["detail"]
        assert (await nodes.json())["clicks"] == 2


async def test_a_spool_of_no_bytes_is_no_spool(tmp_path: Path) -> None:
    """Nobody is told ``spool``: what was under way is delivered when the worker is back, new events are refused."""
    quick = Deadlines(delivery_seconds=0.6, question_seconds=2, watch_seconds=0.1, away_seconds=0.2)
    async with Nodes(tmp_path, workers=1, deadlines=quick, spool_max_bytes=0) as nodes:
        unknown = (await away(nodes, events=["a"]))[0]
        refused = await nodes.click(f"{CANARY}-b")
        await nodes.start_worker("0")

        async def counted() -> None:
            assert (await nodes.json())["clicks"] == 2

        await eventually(counted)
        assert unknown.json["type"] == "urn:tallyslice:problem:outcome-unknown"
        assert refused.json["type"] == "urn:tallyslice:problem:not-taken"
        assert not spools(nodes)


async def test_an_old_spool_refuses_at_the_door(tmp_path: Path) -> None:
    """Events that nobody has seen for that long point to something that a person should look at."""
    async with Nodes(tmp_path, workers=1, deadlines=IMPATIENT, spool_max_age_seconds=60) as nodes:
        await away(nodes, events=["a"])
        nodes.now.seconds += 61
        refused = await nodes.click(f"{CANARY}-b")

        assert "spool-max-age-seconds" in refused.json["detail"]
        await nodes.start_worker("0")
        await drained(nodes)


async def test_a_disk_that_refuses_acknowledges_nothing(tmp_path: Path) -> None:
    """Nothing is on disk, so nobody is told that it is; when there is room again, the events are kept after all."""
    async with Nodes(tmp_path, workers=1, deadlines=Deadlines(delivery_seconds=1, away_seconds=0.2)) as nodes:
        await nodes.click(f"{CANARY}-first")
        await nodes.worker["0"].stop()
        in_the_way = nodes.api["0"].data / SPOOLS_FOLDER
        in_the_way.write_text("no folder can be made here")
        unknown = await nodes.click(f"{CANARY}-a")
        in_the_way.unlink()
        await nodes.start_worker("0")

        async def counted() -> None:
            assert (await nodes.json())["clicks"] == 2

        await eventually(counted)
        assert (unknown.status, unknown.json["type"]) == (503, "urn:tallyslice:problem:outcome-unknown")
        assert "spool_failed" in nodes.written.getvalue()


async def test_spooled_events_of_a_slice_that_closed_meanwhile_are_late(tmp_path: Path) -> None:
    """Counted once, marked as late: the slice's users are gone, so nobody can tell whether they are new."""
    async with Nodes(tmp_path, workers=1, deadlines=IMPATIENT, close_after_seconds=60, close_grace_seconds=60) as nodes:
        await away(nodes, events=["a", "b"])
        await nodes.api["0"].stop()
        await nodes.start_worker("0")
        nodes.now.seconds = FIRST + 2 * HOUR
        closing = nodes.worker["0"].closing
        assert closing is not None
        await closing.close_due()

        await nodes.start_api("0")
        await until(lambda: not spools(nodes))

        counted = await nodes.json()
        assert (counted["unique_users"], counted["clicks"], counted["late"]) == (1, 3, 2)
        assert counted["complete"] is False


async def test_a_damaged_record_costs_only_itself(tmp_path: Path) -> None:
    """An empty batch takes its number, so that those behind it are applied; the slice says that it is not complete."""
    async with Nodes(tmp_path, workers=1, deadlines=IMPATIENT) as nodes:
        await away(nodes, events=["a"])
        await nodes.click(f"{CANARY}-b")
        await nodes.api["0"].stop()
        (spool,) = spools(nodes)
        with closing(lmdb.open(str(spool / FILE_NAME), subdir=False, max_dbs=3, lib_version=0)) as env:
            batches = env.open_db(b"batches")
            with env.begin(write=True, db=batches) as txn:
                name, stored = next(iter(txn.cursor()))
                txn.put(name, stored[:-1])
        await nodes.start_api("0")
        await nodes.start_worker("0")
        await until(lambda: not spools(nodes))

        counted = await nodes.json()
        assert (counted["unique_users"], counted["complete"]) == (2, False)
        assert "spool_record_damaged" in nodes.written.getvalue()


async def test_a_worker_that_lost_the_slice_meanwhile_gets_the_spooled_events_in_a_new_stream(tmp_path: Path) -> None:
    """What the gap proves unapplied goes on under new names, and the slice says that it is not complete."""
    async with Nodes(tmp_path, workers=1, deadlines=IMPATIENT) as nodes:
        await away(nodes, events=["a", "b"])
        shutil.rmtree(nodes.worker["0"].data / "slices")
        await nodes.start_worker("0")
        await drained(nodes)

        counted = await nodes.json()
        assert (counted["unique_users"], counted["clicks"], counted["complete"]) == (2, 2, False)
        assert "stream_regressed" in nodes.written.getvalue()


async def test_a_spool_of_another_cluster_stops_the_node(tmp_path: Path) -> None:
    """Its events would be counted where they do not belong."""
    async with Nodes(tmp_path / "one", workers=1, deadlines=IMPATIENT) as nodes:
        await away(nodes, events=["a"])
        await nodes.api["0"].stop()
        foreign = tmp_path / "foreign"
        shutil.copytree(nodes.api["0"].data / SPOOLS_FOLDER, foreign)
    async with Nodes(tmp_path / "two", workers=1, deadlines=IMPATIENT) as nodes:
        await nodes.api["0"].stop()
        shutil.copytree(foreign, nodes.api["0"].data / SPOOLS_FOLDER)
        await nodes.start_api("0", ready=False)
        await until(lambda: bool(nodes.api["0"].failures))

        with pytest.raises(ConfigRefused, match="is of cluster"):
            raise nodes.api["0"].failures[0]


async def test_a_spool_that_cannot_be_read_holds_up_no_other(tmp_path: Path) -> None:
    """It is left as it is and named in /cluster; what the others hold is delivered."""
    async with Nodes(tmp_path, workers=1, deadlines=IMPATIENT) as nodes:
        await away(nodes, events=["a"])
        await nodes.api["0"].stop()
        (spool,) = spools(nodes)
        broken = spool.with_name("0" * 16)
        shutil.copytree(spool, broken)
        stored = (broken / FILE_NAME).read_bytes()
        (broken / FILE_NAME).write_bytes(stored[:8192] + bytes(len(stored) - 8192))
        await nodes.start_api("0")
        await nodes.start_worker("0")

        async def delivered() -> None:
            assert (await nodes.json())["clicks"] == 2

        await eventually(delivered)
        problems = (await nodes.state())["problems"]
        assert any("0000000000000000 cannot be read" in problem for problem in problems), problems
        assert broken.is_dir()
