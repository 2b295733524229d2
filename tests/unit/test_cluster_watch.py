"""The cluster file is followed while a node runs, as in common/cluster_watch.py: a real folder, a real watch."""

import asyncio
import shutil
import time
from contextlib import asynccontextmanager
from typing import Any

import pytest

from common.cluster_watch import ClusterWatch
from common.config import load_config
from common.judge import Verdict
from common.slices import Micros
from tests.support.configs import cluster_bytes

GOOD, BETTER, BEST = (cluster_bytes(max_slices=number) for number in (1, 2, 3))
BROKEN = GOOD[:-1]
NOW = Micros(1_495_238_400_000_000)


class Told:
    """A log that can be waited for."""

    def __init__(self):
        self.queue: asyncio.Queue[Any] = asyncio.Queue()

    def info(self, event, **fields):
        self.queue.put_nowait((event, fields))

    debug = warning = error = info

    async def next(self, event):
        """The fields of the next line of this event; other events are passed over."""
        async with asyncio.timeout(20):
            while (line := await self.queue.get())[0] != event:
                pass
        return line[1]


class Node:
    """What a node brings to its watch: a judge that refuses what it is told to, and parts that follow."""

    def __init__(self, folder):
        self.path = folder / "cluster.json"
        self.told: Any = Told()
        self.refuses: Any = ()
        self.fails: Exception | None = None
        self.published: list[int] = []
        self.judged: asyncio.Queue[Any] = asyncio.Queue()

    async def judge(self, running, proposed):
        self.judged.put_nowait((running.max_slices, proposed.max_slices))
        if isinstance(self.refuses, Exception):
            raise self.refuses
        return Verdict(refusals=self.refuses)

    async def publish(self, config):
        if self.fails is not None:
            raise self.fails
        self.published.append(config.max_slices)

    def write(self, content):
        """As editors do it: a new file takes the old one's name."""
        new = self.path.with_suffix(".new")
        new.write_bytes(content)
        new.rename(self.path)

    @asynccontextmanager
    async def running(self, content=GOOD):
        """Watch a file of this content."""
        self.write(content)
        async with ClusterWatch(
            path=self.path,
            running=load_config(self.path),
            judge=self.judge,
            publish=self.publish,
            log=self.told,
            now=lambda: NOW,
        ) as watch:
            yield watch


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "etc"
    path.mkdir()
    return path


@pytest.fixture
def node(folder):
    return Node(folder)


@pytest.fixture
def often(node):
    """A node whose file asks to be read often, for what no watch notices."""
    node.good, node.better = (cluster_bytes(max_slices=number, reload_seconds=0.05) for number in (1, 2))
    return node


async def test_a_change_is_taken_when_the_file_is_replaced(node):
    """Judged first, then published, then running."""
    async with node.running() as watch:
        node.write(BETTER)
        await node.told.next("cluster_file_accepted")

        assert node.published == [2]
        assert watch.running.max_slices == 2
        assert (watch.reloads, watch.refusals, watch.refusal) == (1, 0, None)
        assert node.judged.get_nowait() == (1, 2)


async def test_a_change_is_taken_when_the_file_is_written_in_place(node):
    """As "echo > file" does it."""
    async with node.running() as watch:
        node.path.write_bytes(BETTER)
        await node.told.next("cluster_file_accepted")

        assert watch.running.max_slices == 2


async def test_a_change_is_taken_when_kubernetes_swaps_its_link(node, folder):
    """cluster.json -> ..data/cluster.json, ..data -> ..2: only ..data changes."""
    for name, content in (("..1", GOOD), ("..2", BETTER)):
        (folder / name).mkdir()
        (folder / name / "cluster.json").write_bytes(content)
    (folder / "..data").symlink_to("..1")
    node.path.symlink_to("..data/cluster.json")
    node.write = lambda _: None
    async with node.running() as watch:
        (folder / "..data_tmp").symlink_to("..2")
        (folder / "..data_tmp").rename(folder / "..data")
        await node.told.next("cluster_file_accepted")

        assert watch.running.max_slices == 2


async def test_a_change_while_the_node_starts_is_taken(node):
    """Between its first reading of the file and the watch."""
    node.write(GOOD)
    config = load_config(node.path)
    node.write(BETTER)
    async with ClusterWatch(
        path=node.path, running=config, judge=node.judge, publish=node.publish, log=node.told
    ) as watch:
        await node.told.next("cluster_file_accepted")

        assert watch.running.max_slices == 2


async def test_a_refusal_is_dated_by_the_clock_of_the_system_unless_another_is_given(node):
    """In microseconds since 1970."""
    node.write(GOOD)
    config = load_config(node.path)
    node.write(BROKEN)
    before = time.time_ns() // 1000
    async with ClusterWatch(
        path=node.path, running=config, judge=node.judge, publish=node.publish, log=node.told
    ) as watch:
        await node.told.next("cluster_file_refused")

        assert watch.refusal is not None
        assert before <= watch.refusal.at <= time.time_ns() // 1000


async def test_a_broken_file_leaves_the_running_config_and_the_next_good_one_is_taken(node):
    """The reason stands where it can be seen until then."""
    async with node.running() as watch:
        node.write(BROKEN)
        told = await node.told.next("cluster_file_refused")

        assert told["reasons"] == ("the file is not JSON5: line 1: Unclosed 'object'",)
        assert watch.refusal is not None
        assert (watch.refusal.reasons, watch.refusal.at) == (told["reasons"], NOW)
        assert (watch.running.max_slices, watch.refusals, node.published) == (1, 1, [])

        node.write(BETTER)
        await node.told.next("cluster_file_accepted")

        assert (watch.running.max_slices, watch.refusal) == (2, None)


async def test_a_file_that_the_judge_refuses_leaves_the_running_config(node):
    """With the judge's reasons."""
    node.refuses = ("one reason", "another")
    async with node.running() as watch:
        node.write(BETTER)
        await node.told.next("cluster_file_refused")

        assert watch.refusal.reasons == ("one reason", "another")
        assert (watch.running.max_slices, node.published) == (1, [])


async def test_a_refused_file_is_judged_again_and_told_once(often):
    """The reason may have gone away, such as a registry that could not be asked; nobody needs to hear it twice."""
    often.refuses = ("not now",)
    async with often.running(often.good) as watch:
        often.write(often.better)
        for _ in range(3):
            await often.judged.get()

        assert watch.refusals == 1

        often.refuses = ("for another reason",)
        assert (await often.told.next("cluster_file_refused"))["reasons"] == ("not now",)
        assert (await often.told.next("cluster_file_refused"))["reasons"] == ("for another reason",)
        assert watch.refusals == 2

        often.refuses = ()
        await often.told.next("cluster_file_accepted")

        assert (watch.running.max_slices, watch.refusal, watch.reloads) == (2, None, 1)


async def test_a_refusal_ends_when_the_file_goes_back_to_what_is_running(often):
    """And the same mistake is told anew after that."""
    async with often.running(often.good) as watch:
        often.write(BROKEN)
        await often.told.next("cluster_file_refused")
        often.write(often.good)
        await often.told.next("cluster_file_as_running")

        assert watch.refusal is None

        often.write(BROKEN)
        await often.told.next("cluster_file_refused")

        assert watch.refusals == 2


async def test_a_publish_that_fails_leaves_the_running_config_and_is_tried_again(often):
    """The watch outlives it."""
    often.fails = RuntimeError("canary")
    async with often.running(often.good) as watch:
        often.write(often.better)
        [reason] = (await often.told.next("cluster_file_refused"))["reasons"]

        assert reason.startswith("the change could not be made: RuntimeError at ")
        assert "canary" not in reason
        assert watch.running.max_slices == 1

        often.fails = None
        await often.told.next("cluster_file_accepted")

        assert (watch.running.max_slices, watch.reloads, watch.refusals) == (2, 1, 1)


async def test_a_judge_that_fails_is_a_refusal(often):
    """Whatever kept it from judging, the running config stays until it can."""
    often.refuses = OSError(5, "canary")
    async with often.running(often.good) as watch:
        often.write(often.better)
        [reason] = (await often.told.next("cluster_file_refused"))["reasons"]

        assert reason.startswith("the change could not be judged: OSError (errno 5) at ")

        often.refuses = ()
        await often.told.next("cluster_file_accepted")

        assert watch.running.max_slices == 2


async def test_a_defect_in_one_look_is_not_the_last_look(often):
    """Here a log that fails; the watch goes on."""
    async with often.running(often.good) as watch:
        often.told.warning = None
        often.write(BROKEN)
        await often.told.next("file_watch_failed")
        often.write(often.better)
        await often.told.next("cluster_file_accepted")

        assert watch.running.max_slices == 2


async def test_a_change_that_no_watch_notices_is_taken_at_the_next_regular_look(often, tmp_path):
    """Such as one behind a link to another folder."""
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_bytes(often.good)
    often.path.symlink_to(elsewhere)
    often.write = lambda _: None
    async with often.running() as watch:
        elsewhere.write_bytes(often.better)
        await often.told.next("cluster_file_accepted")

        assert watch.running.max_slices == 2


async def test_a_folder_that_vanishes_for_a_moment_is_watched_again(node, folder):
    """First nothing is there, then another folder of the same name: the running config stays, and changes are seen."""
    async with node.running() as watch:
        await node.told.next("cluster_file_as_running")
        shutil.rmtree(folder)
        told = await node.told.next("cluster_file_refused")

        assert told["reasons"] == (f"{node.path}: cannot be read: No such file or directory",)
        assert watch.running.max_slices == 1

        await node.told.next("folder_not_watched")
        folder.mkdir()
        node.write(BETTER)
        await node.told.next("cluster_file_accepted")
        node.write(BEST)
        await node.told.next("cluster_file_accepted")

        assert watch.running.max_slices == 3


async def test_a_folder_that_is_replaced_is_watched_instead(node, folder, tmp_path):
    """The kernel would go on watching the old one under its new name."""
    new = tmp_path / "new"
    new.mkdir()
    (new / "cluster.json").write_bytes(BETTER)
    async with node.running() as watch:
        await node.told.next("cluster_file_as_running")
        folder.rename(tmp_path / "old")
        new.rename(folder)
        await node.told.next("cluster_file_accepted")
        node.write(BEST)
        await node.told.next("cluster_file_accepted")

        assert watch.running.max_slices == 3


async def test_other_files_of_the_folder_change_nothing(node, folder):
    """They are a reason to look, and the bytes decide; so is another file of the same bytes."""
    async with node.running() as watch:
        await node.told.next("cluster_file_as_running")
        (folder / "other.txt").write_text("x")
        await node.told.next("cluster_file_as_running")
        node.write(GOOD)
        await node.told.next("cluster_file_as_running")
        node.write(BETTER)
        await node.told.next("cluster_file_accepted")

        assert (watch.reloads, watch.refusals, node.judged.qsize()) == (1, 0, 1)
