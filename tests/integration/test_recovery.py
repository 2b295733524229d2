"""The registry, or a worker's disk, is lost, or comes back old: nothing is settled twice, and no loss passes unsaid.

Real parts, real ports, real LMDB; the commands' own code, called as the commands call it.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from api_node.app import Deadlines
from common.config import load_config, load_token
from common.errors import ConfigRefused, InputOutputFailed
from common.routing import WorkerId
from common.slices import SECOND, Micros
from common.wire import RoutesQuestion, encode
from tallyslice.merge import NUMBERS_STEP
from tallyslice.recovery import Rebuilt, Recovery, Replaced
from tests.support.cluster import FIRST, HOUR, Answer
from tests.support.events import CANARY, tally
from tests.support.nodes import Clock, Nodes, until
from tests.support.patience import eventually

KNOWN, NEW = FIRST, FIRST + 7 * HOUR
NOBODY: frozenset[str] = frozenset()
IMPATIENT = Deadlines(delivery_seconds=5, question_seconds=2, route_seconds=0.4, watch_seconds=0.1, away_seconds=0.2)


def recovery(nodes: Nodes) -> Recovery:
    config = load_config(nodes.file)
    return Recovery(session=nodes.session, config=config, token=load_token(config), tell=lambda _: None)


async def rebuild(nodes: Nodes, *without: str, dry_run: bool = False, now: float | None = None) -> Rebuilt:
    at = nodes.now() if now is None else Micros(int(now * SECOND))
    return await recovery(nodes).rebuild(without=frozenset(without), now=at, dry_run=dry_run)


async def replace(nodes: Nodes, worker: str) -> Replaced:
    return await recovery(nodes).replace_worker(WorkerId(worker))


async def registry(nodes: Nodes, worker: str = "0") -> Any:
    return (await nodes.ask("GET", f"{nodes.worker[worker].url}/registry")).json


async def lose_registry(nodes: Nodes) -> None:
    """The file alone; the rest of its worker's folder stays."""
    await nodes.worker["0"].stop()
    for path in nodes.worker["0"].data.glob("registry.mdb*"):
        path.unlink()
    await nodes.start_worker("0")


async def lose_folder(nodes: Nodes, worker: str) -> None:
    await nodes.worker[worker].stop()
    shutil.rmtree(nodes.worker[worker].data)
    await nodes.start_worker(worker)


async def taken(nodes: Nodes, at: float, *, api: str = "0", name: str = f"{CANARY}-1") -> None:
    answer = await nodes.click(name, at=at, api=api)
    assert answer.status == 202, answer


async def refuses_new(nodes: Nodes, at: float = NEW, *, api: str = "0") -> None:
    """Nothing is taken for a slice that is not known, and no zeros are told of it."""
    taken_, asked = await nodes.click(at=at, api=api), await nodes.get(f"?timestamp={at}", api=api)
    assert is_not_taken(taken_), taken_
    assert (asked.status, asked.problem) == (503, "no-answer"), asked


def is_not_taken(answer: Answer) -> bool:
    return (answer.status, answer.problem) == (503, "not-taken")


async def healthy(nodes: Nodes) -> None:
    assert (await nodes.state())["problems"] == []


# --- the registry's file


async def test_a_lost_registry_is_rebuilt_while_everybody_runs(tmp_path: Path) -> None:
    """Known slices keep their routes, though the file now proposes others; new ones are claimed; numbers are far on."""
    async with Nodes(tmp_path, workers=3, routing={0: ["1", "2"]}) as nodes:
        for hour in range(3):
            await taken(nodes, FIRST + hour * HOUR)
        before = await registry(nodes)
        await lose_registry(nodes)
        await refuses_new(nodes)
        nodes.write(routing=[{"slice": 0, "nodes": ["0"]}])
        await until(lambda: "cluster_file_accepted" in nodes.written.getvalue())

        rebuilt = await rebuild(nodes)

        after = await registry(nodes)
        assert after["pins"] == before["pins"]
        assert {one["slice"]: one["route"] for one in after["recent"]} == {
            one["slice"]: one["route"] for one in before["recent"]
        }
        assert after["claims"] >= before["claims"] + NUMBERS_STEP
        assert (rebuilt.deaf, rebuilt.merged.unclear) == ((), ())
        await eventually(lambda: taken(nodes, NEW))
        assert await nodes.summary(at=NEW) == tally(1, 1, 0)
        assert await nodes.summary(at=FIRST + HOUR) == tally(1, 1, 0)
        assert (await nodes.get("/allslices")).headers["X-Complete"] == "true"
        newest = (await registry(nodes))["recent"][-1]
        assert (newest["slice"], newest["route"], newest["number"]) == (7, ["0"], after["claims"] + 1)
        await healthy(nodes)


async def test_everybody_hears_of_a_rebuilt_registry_at_once(tmp_path: Path) -> None:
    """So that the lost one, found again, is refused by whoever is asked; also by an API node that knew nobody."""
    async with Nodes(tmp_path, workers=2, routing={0: ["1"]}) as nodes:
        await taken(nodes, KNOWN)
        await nodes.worker["0"].stop()
        lost = nodes.keep("0", of="registry.mdb")
        await nodes.start_worker("0")
        await lose_registry(nodes)
        claims = (await rebuild(nodes)).merged.claims
        await nodes.worker["0"].stop()
        nodes.put_back("0", lost, of="registry.mdb")
        await nodes.start_worker("0")

        assert (await nodes.state())["claims"] == claims
        identities = [(await nodes.ask("GET", f"{worker.url}/identity")).json for worker in nodes.worker.values()]
        assert [one["claims"] for one in identities] == [claims, claims]
        await refuses_new(nodes)
        await nodes.api["0"].stop()
        shutil.rmtree(nodes.api["0"].data)
        await nodes.start_api("0", ready=False)
        await eventually(lambda: refuses_new(nodes))
        # And is merged, when it is rebuilt once more.
        await rebuild(nodes)
        await eventually(lambda: taken(nodes, NEW))


async def test_a_registry_from_a_backup_is_rebuilt(tmp_path: Path) -> None:
    """What it still has keeps its number; what it has forgotten is known by the workers."""
    async with Nodes(tmp_path, workers=2, routing={0: ["1"]}) as nodes:
        await taken(nodes, KNOWN)
        await nodes.worker["0"].stop()
        older = nodes.keep("0", of="registry.mdb")
        await nodes.start_worker("0")
        await eventually(lambda: taken(nodes, FIRST + HOUR))
        await nodes.worker["0"].stop()
        nodes.put_back("0", older, of="registry.mdb")
        await nodes.start_worker("0")
        await nodes.restart_api()
        await eventually(lambda: refuses_new(nodes))

        await rebuild(nodes)

        numbers = {one["slice"]: one["number"] for one in (await registry(nodes))["recent"]}
        assert numbers[0] == 1
        assert numbers[1] > NUMBERS_STEP
        await eventually(lambda: taken(nodes, NEW))
        await eventually(lambda: healthy(nodes))
        assert await nodes.summary(at=FIRST + HOUR) == tally(1, 1, 0)


async def test_a_healthy_registry_may_be_rebuilt(tmp_path: Path) -> None:
    """Under load: nothing that is settled meanwhile gets lost, and no route changes."""
    async with Nodes(tmp_path, workers=2) as nodes:
        going = True

        async def load() -> list[float]:
            times: list[float] = []
            hour = 0
            while going or len(times) <= 3:  # a busy machine may rebuild three times before the third event
                if (await nodes.click(at=FIRST + hour * HOUR)).status == 202:
                    times.append(FIRST + hour * HOUR)
                hour += 1
            return times

        loading = asyncio.create_task(load())
        for _ in range(3):
            await rebuild(nodes)
        going = False
        times = await loading

        assert len(times) > 3
        state = await registry(nodes)
        assert len({one["number"] for one in state["recent"]}) == len(state["recent"])
        for at in times:
            assert await nodes.summary(at=at) == tally(1, 1, 0)


async def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    async with Nodes(tmp_path) as nodes:
        await taken(nodes, KNOWN)
        await lose_registry(nodes)

        rebuilt = await rebuild(nodes, dry_run=True)

        assert 0 in {one.slice for one in rebuilt.merged.routes}
        assert (await registry(nodes))["pins"] is None
        await refuses_new(nodes)


async def test_an_api_node_that_started_on_a_lost_registry_is_heard_and_comes_in(tmp_path: Path) -> None:
    """It could not join: what it kept on disk, spools included, is known all the same. Then it joins."""
    async with Nodes(tmp_path, workers=2, routing={0: ["1"]}, deadlines=IMPATIENT) as nodes:
        await taken(nodes, KNOWN)
        await nodes.worker["1"].stop()
        spooled = await nodes.click(at=FIRST + HOUR)
        assert (spooled.status, spooled.headers.get("X-Durability")) == (202, "spool")
        await lose_registry(nodes)
        await nodes.restart_api()
        await refuses_new(nodes)

        rebuilt = await rebuild(nodes, "worker-1")

        told = {told.who: set(told.routes) for told in rebuilt.told}
        assert told["api-0"] == {1}
        assert 1 in {one["slice"] for one in (await registry(nodes))["recent"]}
        await nodes.start_worker("1")

        async def drained() -> None:
            assert await nodes.summary(at=FIRST + HOUR) == tally(1, 1, 0)
            assert await nodes.summary(at=KNOWN) == tally(1, 1, 0)

        await eventually(drained)


# --- somebody is missing


async def test_every_node_must_answer(tmp_path: Path) -> None:
    """The command says who does not, and changes nothing."""
    async with Nodes(tmp_path, apis=2, workers=3) as nodes:
        await lose_registry(nodes)
        await nodes.worker["2"].stop()
        await nodes.api["1"].stop()

        with pytest.raises(InputOutputFailed, match="worker-2 does not tell what it knows") as failed:
            await rebuild(nodes)

        assert "api-1 does not tell what it knows" in str(failed.value)
        assert (await registry(nodes))["pins"] is None


async def test_what_only_the_missing_may_know_is_not_known(tmp_path: Path) -> None:
    """Neither claimed nor told as zeros, for good; what began later is. When the missing one is back, so is the rest.

    ::

        slice 0: worker 1      slice 1: worker 2, API nodes restarted       rebuilt in slice 5, without worker 2
    """
    async with Nodes(tmp_path, workers=3, routing={0: ["1"], 1: ["2"], 2: ["1"]}) as nodes:
        await taken(nodes, KNOWN)
        await taken(nodes, FIRST + HOUR)
        await nodes.worker["2"].stop()
        await lose_registry(nodes)
        await nodes.restart_api()

        await rebuild(nodes, "worker-2", now=FIRST + 5.5 * HOUR)
        await eventually(lambda: healthy_but_for(nodes, "2"))

        assert await nodes.summary(at=KNOWN) == tally(1, 1, 0)
        for hour in (1, 2, 5):
            await refuses_new(nodes, FIRST + hour * HOUR)
        assert "rebuilt without everybody" in (await nodes.get(f"?timestamp={FIRST + HOUR}")).json["detail"]
        await taken(nodes, FIRST + 6 * HOUR)
        every = await nodes.get("/allslices?partial=true")
        assert every.headers["X-Complete"] == "false"

        await nodes.start_worker("2")

        async def known_again() -> None:
            assert await nodes.summary(at=FIRST + HOUR) == tally(1, 1, 0)

        await eventually(known_again)
        await refuses_new(nodes, FIRST + 2 * HOUR)
        await rebuild(nodes)
        assert {one["slice"] for one in (await registry(nodes))["recent"]} >= {0, 1, 6}
        await refuses_new(nodes, FIRST + 2 * HOUR)
        assert (await nodes.get("/allslices")).headers["X-Complete"] == "false"


async def healthy_but_for(nodes: Nodes, worker: str) -> None:
    assert not [text for text in (await nodes.state())["problems"] if nodes.worker[worker].url not in text]


async def test_that_something_is_not_known_outlives_the_next_registry(tmp_path: Path) -> None:
    """It is pinned, so whoever is left knows of it."""
    async with Nodes(tmp_path, workers=3, routing={0: ["1"]}) as nodes:
        await nodes.worker["2"].stop()
        await rebuild(nodes, "worker-2")
        await nodes.start_worker("2")
        await lose_registry(nodes)
        await rebuild(nodes)

        assert (await registry(nodes))["pins"]["unknown_before"] == nodes.now()
        await refuses_new(nodes, FIRST - HOUR)
        await taken(nodes, FIRST + HOUR)


async def test_a_worker_of_another_cluster_stops_it(tmp_path: Path) -> None:
    async with Nodes(tmp_path / "one") as one, Nodes(tmp_path / "other") as other:
        await lose_registry(one)
        await one.worker["1"].stop()
        for node in (*other.api.values(), *other.worker.values()):
            await node.stop()
        await one.start_worker("1", data=other.worker["1"].data)

        with pytest.raises(ConfigRefused, match="these nodes are of different clusters"):
            await rebuild(one)

        assert (await registry(one))["pins"] is None


async def test_an_empty_volume_stops_it(tmp_path: Path) -> None:
    """A worker on another directory than the pinned one knows nothing: to go on without it takes a word."""
    async with Nodes(tmp_path) as nodes:
        await lose_registry(nodes)
        await nodes.worker["1"].stop()
        await nodes.start_worker("1", data=tmp_path / "empty")

        with pytest.raises(ConfigRefused, match=r"worker-1 runs on data directory .*say --without worker-1"):
            await rebuild(nodes)


async def test_a_route_that_names_a_worker_the_file_does_not_list_stops_it(tmp_path: Path) -> None:
    async with Nodes(tmp_path, workers=3, routing={0: ["0", "2"]}) as nodes:
        await taken(nodes, KNOWN)
        await lose_registry(nodes)
        urls = {name: nodes.worker[name].url for name in ("0", "1")}
        file = nodes.write(name="two.json", worker_nodes=urls, routing=[{"slice": 0, "nodes": ["0"]}])
        short = Recovery(session=nodes.session, config=load_config(file), token=None, tell=lambda _: None)

        with pytest.raises(ConfigRefused, match='worker "2" holds settled slices'):
            await short.rebuild(without=NOBODY, now=nodes.now(), dry_run=False)


# --- a worker's disk


async def test_a_worker_goes_on_with_an_empty_disk(tmp_path: Path) -> None:
    """What was settled before is incomplete for good, never zeros that look whole; everything later is exact.

    ::

        slices 0, 1: counted at workers 0 and 1       worker 1's disk is lost, and replaced     7: new
    """
    async with Nodes(tmp_path, apis=2) as nodes:
        for api in nodes.api:
            for hour in (0, 1):
                for number in range(20):
                    await taken(nodes, FIRST + hour * HOUR, api=api, name=f"{CANARY}-{number}")
        whole = await nodes.json()
        await lose_folder(nodes, "1")
        for api in nodes.api:
            await eventually(lambda api=api: no_number(nodes, api=api))  # type: ignore[misc]

        replaced = await replace(nodes, "1")

        assert replaced.lost >= {0, 1}
        assert (replaced.restored, replaced.deaf) == (frozenset(), ())
        for api in nodes.api:
            await eventually(lambda api=api: incomplete(nodes, KNOWN, api=api))  # type: ignore[misc]
            left = await nodes.json(api=api)
            assert left["unique_users"] < whole["unique_users"]
            answer = await nodes.get(f"?timestamp={KNOWN}", api=api)
            assert answer.headers["X-Complete"] == "false"
            every = await nodes.get(f"/allslices?format=json&timestamp={NEW}", api=api)
            assert [one["complete"] for one in every.json["slices"] if one["slice"] in (0, 1)] == [False, False]
        per_worker = (await nodes.get(f"/perworker?timestamp={KNOWN}&format=json")).json["workers"]
        assert [one["complete"] for one in per_worker] == [True, False]
        assert per_worker[1]["unique_users"] == 0

        # New events of an old slice are counted, and it stays incomplete; new slices are whole.
        for at in (KNOWN, NEW):
            for number in range(20):
                await taken(nodes, at, name=f"{CANARY}-{number}")
        assert (await nodes.json())["unique_users"] == 20
        assert not (await nodes.json())["complete"]
        assert await nodes.summary(at=NEW) == tally(20, 20, 0)
        assert (await nodes.json(at=NEW))["complete"]

        await nodes.restart_worker("1")
        await nodes.restart_api()
        await eventually(lambda: incomplete(nodes, KNOWN))
        await eventually(lambda: incomplete(nodes, FIRST + HOUR))
        assert (await nodes.json(at=NEW))["complete"]


async def no_number(nodes: Nodes, *, api: str = "0") -> None:
    answer = await nodes.get(f"?timestamp={KNOWN}", api=api)
    assert (answer.status, answer.problem) == (503, "no-answer"), answer
    assert any(why in answer.text for why in ("is its volume mounted?", "nobody vouches for")), answer


async def incomplete(nodes: Nodes, at: float, *, api: str = "0") -> None:
    answer = await nodes.get(f"?timestamp={at}&format=json", api=api)
    assert answer.status == 200, answer
    assert answer.json["complete"] is False


async def test_a_slice_restored_first_is_whole(tmp_path: Path) -> None:
    """Its file was put into the new directory before that was pinned."""
    async with Nodes(tmp_path, routing={0: ["1"]}) as nodes:
        await taken(nodes, KNOWN)
        await taken(nodes, FIRST + HOUR)
        await nodes.worker["1"].stop()
        saved = nodes.keep("1")
        shutil.rmtree(nodes.worker["1"].data)
        await nodes.start_worker("1")
        await nodes.worker["1"].stop()
        shutil.copy(saved / "0.mdb", nodes.worker["1"].data / "slices" / "0.mdb")
        await nodes.start_worker("1")

        replaced = await replace(nodes, "1")

        assert replaced.restored == {0}
        await eventually(lambda: incomplete(nodes, FIRST + HOUR))
        assert (await nodes.json())["complete"]
        assert await nodes.summary() == tally(1, 1, 0)


async def test_what_waits_in_a_spool_for_a_lost_disk_is_counted(tmp_path: Path) -> None:
    """It was acknowledged, and is here; the slice is incomplete all the same."""
    async with Nodes(tmp_path, routing={0: ["1"]}, deadlines=IMPATIENT) as nodes:
        await taken(nodes, KNOWN)
        await nodes.worker["1"].stop()
        answer = await nodes.click(f"{CANARY}-2")
        assert answer.headers["X-Durability"] == "spool"
        shutil.rmtree(nodes.worker["1"].data)
        await nodes.start_worker("1")
        await replace(nodes, "1")

        async def counted() -> None:
            shown = await nodes.json()
            assert (shown["unique_users"], shown["complete"], shown.get("spooled")) == (1, False, None)

        await eventually(counted)


async def test_a_lost_slice_that_is_closed_stays_incomplete(tmp_path: Path) -> None:
    """Where nothing was counted since there is no file to close, and that holds up no other slice's closing."""
    clock = Clock()
    async with Nodes(
        tmp_path, routing={0: ["1"]}, now=clock, close_after_seconds=80 * HOUR, close_grace_seconds=0
    ) as nodes:
        for hour in range(-70, 1):  # more than are closed in one look
            await taken(nodes, FIRST + hour * HOUR)
        await lose_folder(nodes, "1")
        await replace(nodes, "1")
        await eventually(lambda: taken(nodes, KNOWN))
        file = nodes.worker["1"].data / "slices" / "0.mdb"
        assert file.exists()

        clock.seconds += 200 * HOUR

        await until(lambda: not file.exists())
        for hour in (-70, 0):
            assert not (await nodes.json(at=FIRST + hour * HOUR))["complete"]
        await nodes.restart_worker("1")
        for hour in (-70, 0):
            await eventually(lambda hour=hour: incomplete(nodes, FIRST + hour * HOUR))  # type: ignore[misc]


async def test_the_lost_disk_found_again_is_refused(tmp_path: Path) -> None:
    """The later directory counts, and the old one cannot be pinned again: others have counted on in the new one."""
    async with Nodes(tmp_path, routing={0: ["1"]}) as nodes:
        await taken(nodes, KNOWN)
        await nodes.worker["1"].stop()
        await nodes.start_worker("1", data=tmp_path / "new")
        await replace(nodes, "1")
        await eventually(lambda: taken(nodes, KNOWN))
        await nodes.worker["1"].stop()
        await nodes.start_worker("1")

        await eventually(lambda: no_number(nodes))
        with pytest.raises(ConfigRefused, match="is in use since it joined cluster"):
            await replace(nodes, "1")
        await nodes.worker["1"].stop()
        await nodes.start_worker("1", data=tmp_path / "new")
        await eventually(lambda: incomplete(nodes, KNOWN))


async def test_slice_files_of_a_lost_disk_found_again_are_good(tmp_path: Path) -> None:
    """Where nothing was counted in the new directory since: then the old file is all there is."""
    async with Nodes(tmp_path, routing={0: ["1"]}) as nodes:
        for hour in (0, 1):
            await taken(nodes, FIRST + hour * HOUR)
        await nodes.worker["1"].stop()
        await nodes.start_worker("1", data=tmp_path / "new")
        await replace(nodes, "1")
        await eventually(lambda: taken(nodes, KNOWN))
        await nodes.worker["1"].stop()
        old, new = nodes.worker["1"].data / "slices", tmp_path / "new" / "slices"
        missing = [path for path in old.glob("*.mdb") if not (new / path.name).exists()]
        assert [path.name for path in missing] == ["1.mdb"]
        shutil.copy(missing[0], new)
        await nodes.start_worker("1", data=tmp_path / "new")

        await eventually(lambda: incomplete(nodes, KNOWN))
        assert (await nodes.json(at=FIRST + HOUR))["complete"]
        assert await nodes.summary(at=FIRST + HOUR) == tally(1, 1, 0)


async def test_it_may_be_run_again(tmp_path: Path) -> None:
    """The second time there is nothing left to do; and a worker that was never pinned is not to be replaced."""
    async with Nodes(tmp_path, workers=3) as nodes:
        await taken(nodes, KNOWN)
        await lose_folder(nodes, "1")
        first = await replace(nodes, "1")

        again = await replace(nodes, "1")

        assert (first.was_well, again.was_well) == (False, True)
        assert again.pins == first.pins
        assert again.lost == frozenset()


async def test_a_replacement_is_known_without_the_registry(tmp_path: Path) -> None:
    """A new API node learns from the other workers which directory counts."""
    async with Nodes(tmp_path, workers=3, routing={0: ["1", "2"]}) as nodes:
        await taken(nodes, KNOWN)
        await lose_folder(nodes, "1")
        await replace(nodes, "1")
        await nodes.worker["0"].stop()
        await nodes.api["0"].stop()
        shutil.rmtree(nodes.api["0"].data)
        await nodes.start_api("0", ready=False)

        await eventually(lambda: incomplete(nodes, KNOWN))


async def test_a_directory_that_was_not_told_is_not_let_in(tmp_path: Path) -> None:
    """An older copy of the new directory, from before it heard what was lost, would tell zeros that look whole."""
    async with Nodes(tmp_path, routing={0: ["1"]}) as nodes:
        await taken(nodes, KNOWN)
        await lose_folder(nodes, "1")
        await nodes.worker["1"].stop()
        shutil.copytree(nodes.worker["1"].data, tmp_path / "copy")
        await nodes.start_worker("1")
        await replace(nodes, "1")
        await nodes.worker["1"].stop()
        await nodes.start_worker("1", data=tmp_path / "copy")

        async def says_so() -> None:
            answer = await nodes.get(f"?timestamp={KNOWN}")
            assert answer.status == 503
            assert "has not been told what was lost" in answer.text

        await eventually(says_so)


# --- the registry's worker, disk and all


async def test_the_registrys_worker_loses_its_disk(tmp_path: Path) -> None:
    """Rebuilt without what it held, at its own empty directory; then that is pinned. The old one never comes back."""
    async with Nodes(tmp_path, workers=3, routing={0: ["0", "1"]}) as nodes:
        for number in range(20):
            await taken(nodes, KNOWN, name=f"{CANARY}-{number}")
        await nodes.worker["0"].stop()
        shutil.copytree(nodes.worker["0"].data, tmp_path / "found-again")
        shutil.rmtree(nodes.worker["0"].data)
        await nodes.start_worker("0")
        await eventually(lambda: no_number(nodes))
        with pytest.raises(ConfigRefused, match="the registry is empty: rebuild it first"):
            await replace(nodes, "0")
        with pytest.raises(ConfigRefused, match="say --without worker-0"):
            await rebuild(nodes)

        await rebuild(nodes, "worker-0", now=FIRST + 5.5 * HOUR)
        await replace(nodes, "0")

        await eventually(lambda: incomplete(nodes, KNOWN))
        await eventually(lambda: taken(nodes, NEW))
        assert (await nodes.json(at=NEW))["complete"]
        await refuses_new(nodes, FIRST + 5 * HOUR)
        await nodes.restart_worker("0")
        await eventually(lambda: incomplete(nodes, KNOWN))

        await nodes.worker["0"].stop()
        await nodes.start_worker("0", data=tmp_path / "found-again")
        await eventually(lambda: no_number(nodes))
        await refuses_new(nodes, NEW + HOUR)
        await nodes.api["0"].stop()
        shutil.rmtree(nodes.api["0"].data)
        await nodes.start_api("0", ready=False)

        async def refused() -> None:
            assert (await nodes.get(f"?timestamp={KNOWN}")).status == 503
            await refuses_new(nodes, NEW + HOUR)

        await eventually(refused)


# --- a worker on an old copy


async def test_a_worker_on_an_old_copy_is_found_out_by_its_streams(tmp_path: Path) -> None:
    """A living API node knows how far it was: the next batch shows that something is gone."""
    async with Nodes(tmp_path, routing={0: ["1"]}) as nodes:
        await taken(nodes, KNOWN)
        await nodes.worker["1"].stop()
        shutil.copytree(nodes.worker["1"].data, tmp_path / "backup")
        await nodes.start_worker("1")
        await eventually(lambda: taken(nodes, KNOWN, name=f"{CANARY}-2"))
        await nodes.worker["1"].stop()
        await nodes.start_worker("1", data=tmp_path / "backup")
        await eventually(lambda: taken(nodes, KNOWN, name=f"{CANARY}-3"))

        shown = await nodes.json()

        assert (shown["unique_users"], shown["complete"]) == (2, False)
        assert "stream_regressed" in nodes.written.getvalue()


# --- who may


async def test_only_who_has_the_token_may(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    async with Nodes(tmp_path, internal_token_file="token") as nodes:
        await taken(nodes, KNOWN)
        paths = ("routes", "lost", "registry/routes", "registry/rebuild", "registry/replace")
        calls = [f"{nodes.api['0'].node.base}/cluster/routes", *(f"{nodes.worker['0'].url}/{path}" for path in paths)]
        message = encode(RoutesQuestion())
        headers = {"Content-Type": "application/vnd.tallyslice.v1+msgpack"}

        assert [(await nodes.ask("POST", url, body=message, headers=headers)).status for url in calls] == [401] * 6
        await lose_registry(nodes)
        await rebuild(nodes)
        await lose_folder(nodes, "1")
        await replace(nodes, "1")
        await eventually(lambda: incomplete(nodes, KNOWN))
