"""Which cluster an API node is of: first contact, the registry away, and everything that is not the real one."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from api_node.app import Deadlines
from common.errors import ConfigRefused, InputOutputFailed
from common.slices import SECOND, Micros
from tests.support.cluster import FIRST, HOUR, Answer
from tests.support.events import tally
from tests.support.nodes import QUICK, Clock, Nodes, until
from tests.support.patience import eventually

KNOWN, NEW = FIRST, FIRST + 7 * HOUR


async def readiness(nodes: Nodes, *, api: str = "0") -> str:
    return (await nodes.ask("GET", f"{nodes.api[api].node.base}/readyz")).text


async def registry(nodes: Nodes, worker: str = "0") -> Any:
    return (await nodes.ask("GET", f"{nodes.worker[worker].url}/registry")).json


def kept(nodes: Nodes, api: str = "0") -> Any:
    """What the API node has on disk of its cluster."""
    return json.loads((nodes.api[api].data / "identity.json").read_bytes())


def lose_registry(nodes: Nodes, worker: str = "0") -> None:
    for path in nodes.worker[worker].data.glob("registry.mdb*"):
        path.unlink()


def is_not_taken(answer: Answer) -> bool:
    return (answer.status, answer.problem) == (503, "not-taken")


async def assert_no_number(nodes: Nodes) -> None:
    """No event is taken, and no question answered."""
    taken, asked = await nodes.click(at=KNOWN), await nodes.get(f"?timestamp={KNOWN}")

    assert is_not_taken(taken), taken
    assert (asked.status, asked.problem) == (503, "no-answer"), asked


async def detail(nodes: Nodes, worker: str, *, state: str) -> str:
    """What the API node says of a worker, once it is in that state."""

    async def check() -> str:
        link = await nodes.link(worker)
        assert link["state"] == state, link
        return str(link["detail"])

    return await eventually(check)


# --- first contact


async def test_first_contact_needs_every_worker_of_the_file(tmp_path: Path) -> None:
    """Until then the node is not ready, says whom it waits for, takes nothing, and settles nothing."""
    async with Nodes(tmp_path, start=False) as nodes:
        await nodes.start_worker("0")
        await nodes.start_api("0", ready=False)

        silent = f"worker 1 ({nodes.worker['1'].url}) cannot be reached"
        assert f"waits for every worker before the first contact: {silent}" in await readiness(nodes)
        assert "cannot reach the registry" not in await readiness(nodes)
        await assert_no_number(nodes)
        assert (await registry(nodes))["pins"] is None
        assert not (nodes.api["0"].data / "identity.json").exists()

        await nodes.start_worker("1")
        await eventually(lambda: healthy(nodes))
        assert (await nodes.click()).status == 202
        assert kept(nodes)["pins"] == (await registry(nodes))["pins"]


async def healthy(nodes: Nodes) -> None:
    assert await readiness(nodes) == "ok\n"
    assert (await nodes.state())["problems"] == []


class Ticking(Clock):
    """No two looks at it are the same second."""

    def __call__(self) -> Micros:
        self.seconds += 1
        return Micros(int(self.seconds * SECOND))


async def test_two_nodes_at_first_contact_agree(tmp_path: Path) -> None:
    """Both propose a cluster id and a "now"; one proposal wins, and both go by it."""
    async with Nodes(tmp_path, apis=2, first_slice="system", start=False, now=Ticking()) as nodes:
        await asyncio.gather(nodes.start_worker("0"), nodes.start_worker("1"))
        await asyncio.gather(nodes.start_api("0"), nodes.start_api("1"))

        pins = [(await nodes.state(api=api))["pins"] for api in nodes.api]
        assert pins[0] == pins[1]
        assert pins[0]["first"] % SECOND == 0
        assert {kept(nodes, api)["pins"]["cluster"] for api in nodes.api} == {pins[0]["cluster"]}

        async def workers_have_joined() -> None:
            identities = [(await nodes.ask("GET", f"{worker.url}/identity")).json for worker in nodes.worker.values()]
            assert [one["cluster"] for one in identities] == [pins[0]["cluster"]] * 2

        await eventually(workers_have_joined)


async def test_an_empty_registry_is_not_taken_for_a_new_one_by_a_new_node(tmp_path: Path) -> None:
    """A worker belongs to a cluster already: refused, and nothing is initialised."""
    async with Nodes(tmp_path) as nodes:
        cluster = (await nodes.state())["pins"]["cluster"]
        await nodes.api["0"].stop()
        await nodes.worker["0"].stop()
        shutil.rmtree(nodes.api["0"].data)
        lose_registry(nodes)
        await nodes.start_worker("0")
        await nodes.start_api("0", ready=False)

        assert f"the registry is empty, but worker 0 belongs to cluster {cluster}" in await readiness(nodes)
        await assert_no_number(nodes)
        assert (await registry(nodes))["pins"] is None


async def test_an_empty_registry_is_refused_even_while_another_worker_is_away(tmp_path: Path) -> None:
    """Who is away may come back empty-handed; who is there belongs to a cluster, and that is enough."""
    async with Nodes(tmp_path, registry="1") as nodes:
        cluster = (await nodes.state())["pins"]["cluster"]
        for node in (nodes.api["0"], nodes.worker["0"], nodes.worker["1"]):
            await node.stop()
        shutil.rmtree(nodes.api["0"].data)
        lose_registry(nodes, "1")
        await nodes.start_worker("1")
        await nodes.start_api("0", ready=False)

        assert f"the registry is empty, but worker 1 belongs to cluster {cluster}" in await readiness(nodes)
        await assert_no_number(nodes)
        assert (await nodes.state())["pins"] is None


async def test_an_empty_registry_is_not_taken_for_a_new_one_by_an_old_node(tmp_path: Path) -> None:
    """All workers are new, but this node belongs to a cluster: refused, and nothing is initialised."""
    async with Nodes(tmp_path) as nodes:
        cluster = (await nodes.state())["pins"]["cluster"]
        for node in (nodes.api["0"], *nodes.worker.values()):
            await node.stop()
        for worker in nodes.worker.values():
            shutil.rmtree(worker.data)
            await nodes.start_worker(worker.id)
        await nodes.start_api("0", ready=False)

        assert f"the registry is empty, but this node belongs to cluster {cluster}" in await readiness(nodes)
        await assert_no_number(nodes)
        assert (await registry(nodes))["pins"] is None


async def test_swapped_urls_at_first_contact_are_refused(tmp_path: Path) -> None:
    """Where the registry should be there is none, or worker 1 answers for worker 0: nothing is initialised."""
    async with Nodes(tmp_path, start=False) as nodes:
        await asyncio.gather(nodes.start_worker("0"), nodes.start_worker("1"))
        urls = nodes.config["worker-nodes"]
        swapped = nodes.write(name="swapped.json", worker_nodes={"0": urls["1"], "1": urls["0"]})
        await nodes.start_api("0", file=swapped, ready=False)

        assert "answers as worker 1: are the URLs swapped?" in await readiness(nodes)
        assert (await registry(nodes))["pins"] is None


# --- another cluster, another secret


async def test_the_registry_of_another_cluster_is_refused(tmp_path: Path) -> None:
    """A node that belongs to a cluster never joins another from the same folder."""
    async with Nodes(tmp_path / "one") as one, Nodes(tmp_path / "other") as other:
        await one.api["0"].stop()
        file = one.write(name="other.json", worker_nodes=other.config["worker-nodes"])

        with pytest.raises(ConfigRefused, match=r"the registry is of cluster .*, but this node belongs to cluster"):
            await one.start_api("0", file=file)


async def test_another_secret_is_refused(tmp_path: Path) -> None:
    """It would make other keys of the same users."""
    async with Nodes(tmp_path, apis=2, start=False) as nodes:
        await asyncio.gather(nodes.start_worker("0"), nodes.start_worker("1"))
        await nodes.start_api("0")
        file = nodes.write(name="other.json", secret_file="other.key")

        with pytest.raises(ConfigRefused, match=r"secret-file: this secret has id .* the cluster was begun with"):
            await nodes.start_api("1", file=file)


async def test_a_refusal_that_comes_late_ends_the_node_too(tmp_path: Path) -> None:
    """The workers come after the node: what they say of its secret still ends it."""
    async with Nodes(tmp_path, apis=2, start=False) as nodes:
        await asyncio.gather(*map(nodes.start_worker, nodes.worker))
        await nodes.start_api("0")
        for worker in nodes.worker.values():
            await worker.stop()
        await nodes.start_api("1", file=nodes.write(name="other.json", secret_file="other.key"), ready=False)
        await asyncio.gather(*map(nodes.start_worker, nodes.worker))

        await until(lambda: bool(nodes.api["1"].failures))
        assert "secret-file" in str(nodes.api["1"].failures[0])


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"length_of_time_slice": 60}, "length-of-time-slice"),
        ({"first_slice": "2018-01-01T00:00:00"}, "first-slice"),
        ({"registry": "1"}, "registry"),
    ],
)
@pytest.mark.parametrize("away", [False, True])
async def test_a_file_against_the_pins_is_refused(
    tmp_path: Path, change: dict[str, Any], refusal: str, *, away: bool
) -> None:
    """Also while the registry is away: the node keeps the pins."""
    async with Nodes(tmp_path) as nodes:
        await nodes.api["0"].stop()
        for worker in nodes.worker.values():
            if away:
                await worker.stop()

        with pytest.raises(ConfigRefused, match=refusal):
            await nodes.start_api("0", file=nodes.write(name="other.json", **change))


async def test_a_file_without_a_worker_that_holds_slices_is_refused(tmp_path: Path) -> None:
    async with Nodes(tmp_path, routing={0: ["1"]}) as nodes:
        await nodes.click()
        await nodes.api["0"].stop()
        file = nodes.write(
            name="other.json",
            worker_nodes={"0": nodes.worker["0"].url},
            routing=[{"slice": 0, "nodes": ["0"]}],
        )

        with pytest.raises(ConfigRefused, match='worker "1" holds settled slices'):
            await nodes.start_api("0", file=file)


# --- the registry away


async def test_a_node_that_has_joined_goes_on_without_the_registry(tmp_path: Path) -> None:
    """Pins and claims are on its disk: known slices go on after a restart, new ones are not taken, all of it heals."""
    async with Nodes(tmp_path, routing={0: ["1"]}) as nodes:
        await nodes.click()
        claims = (await nodes.state())["claims"]
        await until(lambda: kept(nodes)["claims"] == claims)
        await nodes.worker["0"].stop()
        await nodes.restart_api()

        assert await readiness(nodes) == "ok\n"
        assert (await nodes.state())["claims"] == claims > 0
        assert (await nodes.click()).status == 202
        assert await nodes.summary() == tally(1, 2, 0)
        refused = await nodes.click(at=NEW)
        assert is_not_taken(refused), refused
        assert refused.headers["Retry-After"] == "1"
        assert (await nodes.get(f"?timestamp={NEW}")).problem == "no-answer"
        problems = (await nodes.state())["problems"]
        assert "cannot reach the registry" in str(problems)
        assert any(nodes.worker["0"].url in text for text in problems)

        await nodes.start_worker("0")
        await eventually(lambda: taken(nodes, NEW))
        await eventually(lambda: healthy(nodes))


async def test_a_new_node_learns_the_pins_from_the_workers(tmp_path: Path) -> None:
    """Nothing is on its disk, the registry is away: the workers know, and what they know is kept."""
    async with Nodes(tmp_path, routing={0: ["1"]}) as nodes:
        await nodes.click()
        pins = (await nodes.state())["pins"]
        await nodes.api["0"].stop()
        await nodes.worker["0"].stop()
        shutil.rmtree(nodes.api["0"].data)
        await nodes.start_api("0", ready=False)

        assert (await nodes.state())["pins"] == pins
        assert await nodes.summary() == tally(1, 1, 0)
        await until((nodes.api["0"].data / "identity.json").exists)
        assert kept(nodes)["pins"]["cluster"] == pins["cluster"]


async def test_a_new_node_waits_while_nobody_knows(tmp_path: Path) -> None:
    """No registry, no worker, nothing on disk: not ready, nothing taken."""
    async with Nodes(tmp_path, start=False) as nodes:
        await nodes.start_api("0", ready=False)

        assert "cannot reach the registry" in await readiness(nodes)
        await assert_no_number(nodes)
        assert (await nodes.get("/allslices")).problem == "no-answer"


async def test_what_was_pinned_later_is_known_without_the_registry(tmp_path: Path) -> None:
    """Worker 2 came later: the node keeps that, and a new node finds it where any worker knows it.

    ::

        pinned at first contact: 0, 1       then: 2, which worker 1 was never told
    """
    async with Nodes(tmp_path, workers=3, routing={0: ["0", "1", "2"]}, start=False) as nodes:
        every = nodes.config["worker-nodes"]
        await asyncio.gather(*map(nodes.start_worker, nodes.worker))
        nodes.write(
            worker_nodes={name: every[name] for name in ("0", "1")}, routing=[{"slice": 0, "nodes": ["0", "1"]}]
        )
        await nodes.start_api("0")
        nodes.write(worker_nodes=every, routing=[{"slice": 0, "nodes": ["2"]}])

        await until(lambda: "2" in kept(nodes)["pins"]["workers"])
        # The current slice was claimed at start, for workers 0 and 1; this one goes to worker 2.
        assert (await nodes.click(at=NEW)).status == 202
        await nodes.worker["0"].stop()
        await nodes.restart_api()
        assert await nodes.summary(at=NEW) == tally(1, 1, 0)
        await nodes.api["0"].stop()
        shutil.rmtree(nodes.api["0"].data)
        await nodes.start_api("0", ready=False)
        assert await nodes.summary(at=NEW) == tally(1, 1, 0)


# --- the registry set back


async def test_an_older_registry_claims_nothing(tmp_path: Path) -> None:
    """Known slices go on; a new one is refused, by this node as long as it lives, after a restart, and by a new one."""
    async with Nodes(tmp_path) as nodes:
        await nodes.click()
        await nodes.worker["0"].stop()
        older = nodes.keep("0", of="registry.mdb")
        await nodes.start_worker("0")
        await eventually(lambda: taken(nodes, FIRST + HOUR))
        claims = (await nodes.state())["claims"]
        await until(lambda: kept(nodes)["claims"] == claims)
        await nodes.worker["0"].stop()
        nodes.put_back("0", older, of="registry.mdb")
        await nodes.start_worker("0")

        async def refuses_what_is_new() -> None:
            assert (await nodes.click(at=FIRST)).status == 202
            assert (await nodes.click(at=FIRST + HOUR)).status == 202
            refused, unknown = await nodes.click(at=NEW), await nodes.get(f"?timestamp={NEW}")
            assert is_not_taken(refused), refused
            assert "rebuild it" in refused.text
            assert (unknown.status, unknown.problem) == (503, "no-answer")

        await eventually(refuses_what_is_new)
        await nodes.restart_api()
        await eventually(refuses_what_is_new)
        assert f"the registry has {claims - 1} claims, but {claims} are known" in str((await nodes.state())["problems"])
        await nodes.api["0"].stop()
        shutil.rmtree(nodes.api["0"].data)
        await nodes.start_api("0")
        await eventually(refuses_what_is_new)


async def taken(nodes: Nodes, at: float) -> None:
    assert (await nodes.click(at=at)).status == 202


async def test_an_empty_registry_does_not_let_a_worker_go(tmp_path: Path) -> None:
    """A lost registry names no worker at all; that is no reason to remove one that holds slices."""
    async with Nodes(tmp_path, routing={0: ["1"]}) as nodes:
        await nodes.click()
        await nodes.worker["0"].stop()
        lose_registry(nodes)
        await nodes.start_worker("0")
        await nodes.restart_api()
        nodes.write(worker_nodes={"0": nodes.worker["0"].url}, routing=[{"slice": 0, "nodes": ["0"]}])

        async def refused() -> None:
            refusal = (await nodes.state())["refusal"]
            assert refusal is not None
            assert 'worker "1" cannot be removed' in str(refusal["reasons"])

        await eventually(refused)
        assert [worker["id"] for worker in (await nodes.state())["workers"]] == ["0", "1"]


# --- a worker that is another


async def test_swapped_urls_are_refused_until_put_right(tmp_path: Path) -> None:
    """Under a running node: every worker refuses, it is not ready, no number comes out; then all is well again."""
    async with Nodes(tmp_path) as nodes:
        await nodes.click()
        urls = nodes.config["worker-nodes"]
        nodes.write(worker_nodes={"0": urls["1"], "1": urls["0"]})

        text = await detail(nodes, "0", state="refused")
        assert "answers as worker 1, not 0: are URLs swapped?" in text
        await detail(nodes, "1", state="refused")
        assert await readiness(nodes) == f"every worker refuses this node: {text}\n"
        await assert_no_number(nodes)

        nodes.write(worker_nodes=urls)
        await eventually(lambda: healthy(nodes))
        await eventually(lambda: taken(nodes, KNOWN))
        assert await nodes.summary() == tally(1, 2, 0)


async def test_an_empty_folder_is_refused_until_put_right(tmp_path: Path) -> None:
    """The volume is not mounted: the worker runs, on a directory that the cluster does not know."""
    async with Nodes(tmp_path, routing={0: ["1"]}) as nodes:
        await nodes.click()
        await nodes.worker["1"].stop()
        await nodes.start_worker("1", data=tmp_path / "empty")

        assert "is its volume mounted?" in await detail(nodes, "1", state="refused")
        await assert_no_number(nodes)

        await nodes.worker["1"].stop()
        await nodes.start_worker("1")
        await eventually(lambda: taken(nodes, KNOWN))
        assert await nodes.summary() == tally(1, 2, 0)


async def test_an_empty_folder_is_refused_by_a_node_that_starts(tmp_path: Path) -> None:
    async with Nodes(tmp_path, routing={0: ["1"]}) as nodes:
        await nodes.click()
        await nodes.api["0"].stop()
        await nodes.worker["1"].stop()
        await nodes.start_worker("1", data=tmp_path / "empty")
        await nodes.start_api("0", ready=False)

        assert "is its volume mounted?" in await detail(nodes, "1", state="refused")
        await assert_no_number(nodes)


PATIENT = Deadlines(delivery_seconds=0.6, question_seconds=0.4, route_seconds=0.4)


@pytest.mark.parametrize("deadlines", [QUICK, PATIENT], ids=["found by watching", "found by sending"])
async def test_a_worker_of_another_cluster_is_refused_until_put_right(tmp_path: Path, deadlines: Deadlines) -> None:
    """And the claims that it counts are another registry's: taken for ours, they would stop every new slice."""
    async with (
        Nodes(tmp_path / "one", routing={0: ["1"]}, deadlines=deadlines) as one,
        Nodes(tmp_path / "other", routing={0: ["1"]}) as other,
    ):
        for at in range(5):
            await other.click(at=FIRST + at * HOUR)
        await one.click()
        claims = (await one.state())["claims"]
        await one.worker["1"].stop()
        for node in (*other.api.values(), *other.worker.values()):
            await node.stop()
        await one.start_worker("1", data=other.worker["1"].data)
        if deadlines is PATIENT:
            await one.click()

        assert "belongs to cluster" in await detail(one, "1", state="refused")
        await assert_no_number(one)
        assert (await one.state())["claims"] == claims

        await one.worker["1"].stop()
        await one.start_worker("1")
        await eventually(lambda: taken(one, NEW))
        assert (await one.state())["claims"] == claims + 1


async def test_a_worker_that_joined_elsewhere_meanwhile_is_refused(tmp_path: Path) -> None:
    """A worker with other constants under this cluster's id does not let the node in, and the node says so."""
    async with Nodes(tmp_path, routing={0: ["1"]}) as nodes:
        await nodes.api["0"].stop()
        path = nodes.api["0"].data / "identity.json"
        known = kept(nodes)
        for worker in nodes.worker.values():
            if worker.id == "0":
                await worker.stop()
        known["pins"]["first"] -= HOUR * SECOND
        path.write_text(json.dumps(known))
        await nodes.start_api("0", file=nodes.write(name="system.json", first_slice="system"), ready=False)

        assert "not the constants" in await detail(nodes, "1", state="refused")


# --- the data folder


async def test_what_another_process_of_the_node_kept_is_not_taken_back(tmp_path: Path) -> None:
    """Processes share the folder: the higher claim number stays, whoever writes last."""
    async with Nodes(tmp_path) as nodes:
        ahead, file = kept(nodes) | {"claims": 1000}, nodes.api["0"].data / "identity.json"
        indented = json.dumps(ahead, indent=1)
        file.write_text(indented)
        await taken(nodes, NEW)
        await until(lambda: file.read_text() != indented)

        assert kept(nodes) == ahead


async def test_a_kept_file_that_somebody_else_wrote_is_left_alone(tmp_path: Path) -> None:
    """It is of another cluster: that is said, and it stays as it is."""
    async with Nodes(tmp_path) as nodes:
        # What it knows is on its disk by now: else it might write that just behind us.
        claims = (await nodes.state())["claims"]
        await until(lambda: kept(nodes)["claims"] == claims)
        strange = kept(nodes)
        strange["pins"]["cluster"] = "f" * 32
        replacement = tmp_path / "strange.json"
        replacement.write_text(json.dumps(strange))
        replacement.rename(nodes.api["0"].data / "identity.json")
        await taken(nodes, NEW)
        await until(lambda: "identity_not_kept" in nodes.written.getvalue())

        assert "was written by somebody else: cluster is" in nodes.written.getvalue()
        assert kept(nodes) == strange


async def test_a_kept_file_that_cannot_be_read_ends_the_node(tmp_path: Path) -> None:
    """Without it the node might join another cluster, so it is not passed over."""
    async with Nodes(tmp_path) as nodes:
        await nodes.api["0"].stop()
        (nodes.api["0"].data / "identity.json").write_text("{")

        with pytest.raises(InputOutputFailed, match=r"identity\.json cannot be read \(DecodeError\)"):
            await nodes.start_api("0")


async def test_a_data_folder_that_cannot_be_made_ends_the_node(tmp_path: Path) -> None:
    async with Nodes(tmp_path, start=False) as nodes:
        nodes.api["0"].data.write_text("in the way")

        with pytest.raises(InputOutputFailed, match=r"cannot be made \(errno 17\)"):
            await nodes.start_api("0")


async def test_a_kept_file_that_cannot_be_written_ends_the_node(tmp_path: Path) -> None:
    """Something stands in the way of the draft: what must be kept is not, so the node does not begin."""
    async with Nodes(tmp_path, start=False) as nodes:
        await asyncio.gather(*map(nodes.start_worker, nodes.worker))
        (nodes.api["0"].data / f"identity.{os.getpid()}.tmp").mkdir(parents=True)

        with pytest.raises(InputOutputFailed, match=r"identity\.json cannot be written \(errno 21\)"):
            await nodes.start_api("0")
