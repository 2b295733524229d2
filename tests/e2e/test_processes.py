"""An API node of several processes: they come and go under load, and the node neither fails a request nor miscounts.

::

    client --+                      +-- process 0 --+
    client --+-- port of the node --+               +-- worker
    client --+                      +-- process 1 --+
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from common.wire import MEDIA_TYPE, KnownRoutes, RoutesQuestion, decode, encode
from tests.support.cluster import FIRST, HOUR, Cluster, Node
from tests.support.events import Model, Post, user
from tests.support.live import LiveStream
from tests.support.load import Connection, Stream, pour
from tests.support.patience import eventually
from tests.torture.crowd import Crowd, events
from tests.torture.ledger import TYPES

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform != "linux", reason="the processes are found in /proc"),
]

PROCESSES = 2
TTL = 0.2


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    folder = tmp_path_factory.mktemp("processes")
    async with Cluster(folder, workers=2, start=False, cache_ttl_seconds=TTL, event_types=list(TYPES)) as cluster:
        cluster.api["0"].options = ("--processes", str(PROCESSES))
        await cluster.mend()
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(shared_cluster: Cluster) -> Cluster:
    await shared_cluster.mend()
    await all_serve(shared_cluster)
    return shared_cluster


def children(node: Node) -> dict[int, int]:
    """Number of a process of the node -> its process id; of two with one number the later one."""
    assert node.process is not None
    pids = Path(f"/proc/{node.process.pid}/task/{node.process.pid}/children").read_text().split()
    found: dict[int, int] = {}
    for pid in map(int, pids):
        # Nothing of one that waits to be reaped, or that has not got as far as its own program.
        if told := re.search(rb'"process":(\d+)', Path(f"/proc/{pid}/cmdline").read_bytes()):
            found[int(told[1])] = pid
    return found


def runs(pid: int) -> bool:
    """Whether an API node's process has the number; on a busy machine another, or a thread, may have it soon again."""
    try:
        return b"api_node" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


async def ask_at_door(cluster: Cluster, process: int, path: str) -> tuple[int, str]:
    """What a process answers for itself alone."""
    async with session_at_door(cluster, process) as session, session.get(f"http://node{path}") as response:
        return response.status, await response.text()


def session_at_door(cluster: Cluster, process: int) -> aiohttp.ClientSession:
    door = cluster.api["0"].data / "processes" / f"{process}.sock"
    return aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(path=str(door)), timeout=aiohttp.ClientTimeout(total=10)
    )


async def all_serve(cluster: Cluster, *, but: frozenset[int] = frozenset()) -> dict[int, int]:
    """Wait until there is a process of each number, other than those, and each is ready; their process ids."""

    async def check() -> dict[int, int]:
        pids = children(cluster.api["0"])
        assert set(pids) == set(range(PROCESSES))
        assert not but & set(pids.values())
        for process in pids:
            try:
                assert await ask_at_door(cluster, process, "/readyz") == (200, "ok\n")
            except aiohttp.ClientError as error:
                raise AssertionError from error
        return pids

    return await eventually(check, seconds=20)


async def connections_to_all(cluster: Cluster) -> dict[int, Connection]:
    """A kept-alive connection to each process: the kernel picks one for each connection."""
    found: dict[int, Connection] = {}
    while len(found) < PROCESSES:
        connection = Connection(cluster.api["0"].port)
        status, text = await connection.request("GET", "/cluster")
        assert status == 200
        if found.setdefault(json.loads(text)["process"], connection) is not connection:
            connection.close()
    return found


def posts_with_ids(hour: int) -> Iterator[Post]:
    """Events without end, each with an id."""
    for number in itertools.count():
        yield Post(at=hour + number % HOUR, user=user(number % 300), id=user(f"id-{number}"))


async def assert_counted(cluster: Cluster, hour: int, posts: list[Post]) -> None:
    """Exactly these are, in one slice."""
    model = Model(first=FIRST, length=HOUR)
    model.add(posts)

    async def check() -> None:
        assert await cluster.summary(hour) == model.text(model.slices[0])

    await eventually(check)


async def assert_honest(cluster: Cluster, crowd: Crowd) -> None:
    """Each slice holds what was acknowledged, and beyond that at most what nobody was told the fate of."""

    async def check() -> None:
        problems: list[str] = []
        for at, sheet in crowd.ledger.sheets.items():
            shown = await cluster.json(FIRST + HOUR * at)
            problems += sheet.problems(f"slice {at}", shown["unique_users"], shown["events"])
        assert not problems

    assert not crowd.surprises
    await eventually(check)


# --- one node


async def test_the_processes_are_one_node(cluster: Cluster, hour: int) -> None:
    """Whatever process takes an event, all count it; /metrics is of all, whoever answers; /cluster says whose it is."""
    connections = await connections_to_all(cluster)
    for process, connection in connections.items():
        for number in range(process + 1):
            assert (await connection.post(Post(at=hour, user=user(f"{process}-{number}"))))[0] == 202
    scraped = {process: (await connection.request("GET", "/metrics"))[1] for process, connection in connections.items()}
    alone = {process: (await ask_at_door(cluster, process, "/metrics"))[1] for process in connections}
    for connection in connections.values():
        connection.close()

    async def check() -> None:
        assert (await cluster.json(hour))["unique_users"] == 3

    await eventually(check)
    for text in scraped.values():
        counted = re.findall(r'tallyslice_events_total\{outcome="counted",process="(\d)",reason=""\} (\d+)', text)
        assert [int(process) for process, _ in counted] == [0, 1]
        assert text.count("# TYPE tallyslice_events_total counter") == 1
        assert re.findall(r"^tallyslice_ready.*$", text, re.MULTILINE) == [
            'tallyslice_ready{process="0"} 1.0',
            'tallyslice_ready{process="1"} 1.0',
        ]
    for process, text in alone.items():
        assert set(re.findall(r'process="(\d)"', text)) == {str(process)}


async def test_all_routes_are_told_whoever_is_asked(cluster: Cluster, hour: int) -> None:
    """Those that only another process knows too: a registry is rebuilt from them. Each alone tells its own."""
    connections = await connections_to_all(cluster)
    begins = {process: hour + HOUR * process for process in connections}
    for process, connection in connections.items():
        assert (await connection.post(Post(at=begins[process], user=user(1))))[0] == 202
        connection.close()
    url, question = "http://node/cluster/routes", encode(RoutesQuestion())
    together = await cluster.ask(
        "POST", f"{cluster.api['0'].base}/cluster/routes", body=question, headers={"Content-Type": MEDIA_TYPE}
    )
    alone = {}
    for process in connections:
        async with (
            session_at_door(cluster, process) as session,
            session.post(url, data=question, headers={"Content-Type": MEDIA_TYPE}) as response,
        ):
            alone[process] = slices_of(await response.read())

    expected = {process: (at - FIRST) // HOUR for process, at in begins.items()}
    assert slices_of(together.body) >= set(expected.values())
    for process, own in expected.items():
        assert alone[process] & set(expected.values()) == {own}


def slices_of(page: bytes) -> set[int]:
    return {one.slice for one in decode(page, KnownRoutes).routes}


async def test_a_process_that_does_not_answer_is_seen(cluster: Cluster) -> None:
    """The metrics of the others are there all the same; of it only that it is not ready."""
    pids = await all_serve(cluster)
    connections = await connections_to_all(cluster)
    os.kill(pids[0], signal.SIGSTOP)
    try:
        _, text = await connections[1].request("GET", "/metrics")
    finally:
        os.kill(pids[0], signal.SIGCONT)
    for connection in connections.values():
        connection.close()

    assert re.findall(r'^.*process="0".*$', text, re.MULTILINE) == ['tallyslice_ready{process="0"} 0.0']
    assert 'tallyslice_ready{process="1"} 1.0' in text


async def test_the_dashboard_shows_the_processes_as_one_node(cluster: Cluster, hour: int) -> None:
    """Whichever of them a viewer reaches: what each counts is added up, and one that does not answer is named."""
    pids = await all_serve(cluster)
    doors = [cluster.api["0"].data / "processes" / f"{process}.sock" for process in (0, 0, 0, 1, 1)]
    async with AsyncExitStack() as looking:
        viewers = [await looking.enter_async_context(LiveStream("http://node", door=door)) for door in doors]
        connections = await connections_to_all(cluster)

        async def together() -> None:
            for connection in connections.values():
                assert (await connection.post(Post(at=hour, user=user("looked-at"))))[0] == 202
            for viewer in viewers:
                node = (await viewer.snapshot())["node"]
                assert (node["processes"], node["processes_silent"], node["viewers"]) == (PROCESSES, [], len(viewers))
                assert node["events_per_second"] not in (None, 0)

        await eventually(together, seconds=20)
        for connection in connections.values():
            connection.close()
        os.kill(pids[0], signal.SIGSTOP)
        try:

            async def silent() -> None:
                node = (await viewers[-1].snapshot())["node"]
                assert (node["processes_silent"], node["events_per_second"]) == ([0], None)

            await eventually(silent, seconds=20)
        finally:
            os.kill(pids[0], signal.SIGCONT)


async def test_a_node_is_not_started_twice(cluster: Cluster) -> None:
    """A second start finds the port in use, with several processes or with one, and does no harm to the first."""
    node = cluster.api["0"]
    again = [
        Node(
            kind="api", id="0", port=node.port, file=node.file, data=cluster.folder / f"again-{number}",
            log=cluster.folder / f"again-{number}.log", options=options,
        )
        for number, options in enumerate([(), node.options])
    ]  # fmt: skip
    for second in again:
        second.launch()

    for second in again:
        assert await second.exited(seconds=30) == 69
        assert "the port is in use" in second.log_text()
    assert (await ask_at_door(cluster, 0, "/readyz"))[0] == 200


# --- processes come and go


async def test_a_process_is_killed_under_load(cluster: Cluster) -> None:
    """Nothing that was acknowledged is lost, nothing counts twice, and another process takes the place at once."""
    rng = random.Random(1)
    before = await all_serve(cluster)
    async with Crowd(events(rng, window=lambda _: 1000), cluster.ports, rng=rng) as crowd:
        crowd.start(connections=16)
        for victim in before.values():
            goal = crowd.taken + 150

            async def more(goal: int = goal) -> None:
                assert crowd.taken >= goal

            await eventually(more, seconds=30)
            os.kill(victim, signal.SIGKILL)
        await all_serve(cluster, but=frozenset(before.values()))

    assert cluster.api["0"].log_text().count("event=process_ended") >= PROCESSES
    await assert_honest(cluster, crowd)


async def test_connections_wait_for_the_process_that_takes_the_place(cluster: Cluster) -> None:
    """A killed process takes its own connections along; who connects meanwhile is answered by the next one."""
    pids = await all_serve(cluster)
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    answers = await asyncio.gather(*(cluster.get(f"?timestamp={FIRST}") for _ in range(20)))

    assert {answer.status for answer in answers} == {200}


async def test_a_rolling_restart_fails_no_request(cluster: Cluster, hour: int) -> None:
    """SIGHUP replaces every process; no event and no question fails meanwhile, nor any look at the node's health."""
    node = cluster.api["0"]
    assert node.process is not None
    before = await all_serve(cluster)
    ends = node.log_text().count("event=replacement_ends")  # of other tests
    looks = Counter[int]()

    async def look() -> None:
        while True:
            looks[(await cluster.ask("GET", f"{node.base}/readyz")).status] += 1
            looks[(await cluster.get(f"?timestamp={hour}")).status] += 1
            await asyncio.sleep(0.01)

    async with Stream(posts_with_ids(hour), cluster.ports, connections=16) as stream:
        await stream.grow(50)
        looking = asyncio.create_task(look())
        node.process.send_signal(signal.SIGHUP)
        after = await all_serve(cluster, but=frozenset(before.values()))

        async def ended() -> None:
            assert node.log_text().count("event=replacement_ends") > ends

        await eventually(ended, seconds=20)
        await stream.grow(50)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)

    assert not any(map(runs, before.values()))
    assert children(node) == after
    assert set(looks) == {200}
    await assert_counted(cluster, hour, stream.sent)


async def test_a_restart_that_would_fail_leaves_the_node_as_it_is(cluster: Cluster) -> None:
    """The file was broken meanwhile: the processes that run are better than none."""
    node = cluster.api["0"]
    assert node.process is not None
    before = await all_serve(cluster)
    cluster.write_in_place(b"{")
    node.process.send_signal(signal.SIGHUP)

    async def given_up() -> None:
        assert re.search(r"event=replacement_failed .*code=78", node.log_text())

    try:
        await eventually(given_up, seconds=20)
    finally:
        cluster.write()

    assert await all_serve(cluster) == before


async def test_what_a_replaced_process_left_in_its_spool_is_delivered(cluster: Cluster, hour: int) -> None:
    """It leaves after the new one has looked for spools; that looks again."""
    node, worker = cluster.api["0"], cluster.worker["1"]
    before = await all_serve(cluster)
    posts = list(itertools.islice(posts_with_ids(hour), 60))
    assert await pour(posts[:20], cluster.ports) == {202: 20}
    worker.kill()
    assert await pour(posts[20:], cluster.ports, connections=40) == {202: 40}
    spooled = await cluster.metric(node, "tallyslice_spool_events")
    assert node.process is not None
    node.process.send_signal(signal.SIGHUP)
    await all_serve(cluster, but=frozenset(before.values()))
    await cluster.start(worker)

    assert spooled > 0
    await assert_counted(cluster, hour, posts)

    async def delivered() -> None:
        assert await cluster.metric(node, "tallyslice_spool_events") == 0

    await eventually(delivered)


# --- the node ends


async def test_a_node_that_ends_under_load_answers_honestly(cluster: Cluster) -> None:
    """SIGTERM: what was acknowledged counts, what was refused does not, and the node leaves in time with 0."""
    rng = random.Random(2)
    node = cluster.api["0"]
    async with Crowd(events(rng, window=lambda _: 2000), cluster.ports, rng=rng) as crowd:
        crowd.start(connections=16)

        async def some() -> None:
            assert crowd.taken > 200

        await eventually(some, seconds=30)
        pids = await all_serve(cluster)
        await node.stop()

        assert not any(map(runs, pids.values()))
        assert not (node.data / "processes").exists()
        await cluster.start(node)

    await assert_honest(cluster, crowd)


async def test_the_processes_of_a_killed_node_leave(cluster: Cluster, hour: int) -> None:
    """Nobody is left who would start them again, so they go; meanwhile the node can be started again."""
    node = cluster.api["0"]
    pids = await all_serve(cluster)
    await pour(itertools.islice(posts_with_ids(hour), 20), cluster.ports)
    node.kill()
    await cluster.start(node)

    async def gone() -> None:
        assert not any(map(runs, pids.values()))

    await eventually(gone, seconds=15)
    assert (await cluster.json(hour))["clicks"] == 20


async def test_a_process_that_a_person_must_look_at_ends_the_node(cluster: Cluster) -> None:
    """Each would end in the same way: its code is the node's."""
    node, secret = cluster.api["0"], cluster.folder / "secret.key"
    await node.stop()
    right = secret.read_text()
    secret.write_text("0" * 64)
    node.launch()
    code = await node.exited(seconds=20)
    secret.write_text(right)

    assert code == 78
    assert "this secret has id" in node.log_text()
