"""Disk trouble as a cluster sees it: a disk that fills up, a damaged file, a machine that went down.

The small disk is a tmpfs of its own, where this run may mount one (root, on Linux); elsewhere those tests are skipped.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from common.slices import SliceId
from tests.support.batches import item
from tests.support.cluster import FIRST, HOUR
from tests.support.needs import missing
from tests.support.nodes import Nodes
from tests.support.patience import eventually
from tests.support.worker_parts import load_of, writing
from worker_node.app import Parts
from worker_node.space import Space
from worker_node.totals import Totals

DISK_BYTES = 24 << 20
NEEDED_BYTES = 8 << 20
SPOILT = random.Random(1).randbytes(1 << 20)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() or not shutil.which("mount"):
        missing("only root can mount a small disk, on Linux")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        missing(f"this root may not mount: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, *, leave_bytes: int) -> Path:
    """A file that takes what is free, but for so many bytes."""
    found = os.statvfs(disk)
    ballast = disk / "ballast"
    with ballast.open("wb") as file, contextlib.suppress(OSError):
        for _ in range((found.f_bavail * found.f_frsize - leave_bytes) // 4096):
            file.write(bytes(4096))
    return ballast


async def metric(nodes: Nodes, name: str) -> float:
    answer = await nodes.ask("GET", f"{nodes.worker['0'].node.base}/metrics")
    return float(next(line for line in answer.text.splitlines() if line.startswith(name)).rpartition(" ")[2])


async def readiness(nodes: Nodes, worker: str = "0") -> tuple[int, str]:
    answer = await nodes.ask("GET", f"{nodes.worker[worker].node.base}/readyz")
    return answer.status, answer.text


async def test_a_worker_whose_disk_fills_up_takes_nothing_answers_and_resumes_by_itself(
    tmp_path: Path, disk: Path
) -> None:
    """A worker that is not ready is no worker that is away: nothing is acknowledged, and nothing spooled."""
    parts = Parts(space=partial(Space, needed_bytes=NEEDED_BYTES))
    async with Nodes(tmp_path / "nodes", workers=1, start=False) as nodes:
        await nodes.start_worker("0", data=disk / "worker-0", parts=parts)
        await nodes.start_api("0")
        assert (await nodes.click("ann", more="&id=1")).status == 202
        assert await readiness(nodes) == (200, "ok\n")

        ballast = fill(disk, leave_bytes=NEEDED_BYTES - (1 << 20))

        refused = await nodes.click("bob", more="&id=2")
        again = await nodes.click("bob", more="&id=2")
        assert ({refused.status, again.status}, again.problem) == ({503}, "not-taken")
        status, text = await readiness(nodes)
        assert (status, f"{NEEDED_BYTES} are needed" in text) == (503, True)
        assert 0 < await metric(nodes, "tallyslice_worker_free_bytes") < NEEDED_BYTES
        new_slice = await nodes.click("ann", at=FIRST + 5 * HOUR)
        assert (new_slice.status, new_slice.problem) == (503, "not-taken")
        assert await nodes.summary() == "unique_users,1\nclicks,1\nimpressions,0\n"

        ballast.unlink()

        async def taken() -> None:
            assert (await nodes.click("bob", more="&id=2")).status == 202
            assert (await nodes.click("ann", at=FIRST + 5 * HOUR, more="&id=3")).status == 202

        await eventually(taken)
        assert await nodes.summary() == "unique_users,2\nclicks,2\nimpressions,0\n"
        assert await readiness(nodes) == (200, "ok\n")
        assert [line for line in nodes.written.getvalue().splitlines() if "event=space_low" in line][1:] == []
        assert "event=space_enough" in nodes.written.getvalue()


async def test_a_registry_with_little_room_answers_about_slices_that_are_not_settled(tmp_path: Path) -> None:
    """To say that nothing is settled takes no room, so it is zeros, as ever."""
    free_bytes = NEEDED_BYTES
    parts = Parts(space=partial(Space, needed_bytes=NEEDED_BYTES, free_bytes=lambda _: free_bytes))
    async with Nodes(tmp_path, workers=1, start=False) as nodes:
        await nodes.start_worker("0", parts=parts)
        await nodes.start_api("0")
        free_bytes -= 1

        assert await nodes.summary(at=FIRST + 7 * HOUR) == "unique_users,0\nclicks,0\nimpressions,0\n"
        assert (await nodes.click("ann", at=FIRST + 7 * HOUR)).problem == "not-taken"


async def test_a_disk_without_a_byte_left_loses_nothing(disk: Path) -> None:
    """Nobody looked at the room: the commit fails, no receipt leaves, and a start on the full disk still answers."""
    failures: list[BaseException] = []
    (disk / "worker").mkdir()
    first = item(*((f"{user}", "click") for user in range(1000)))
    async with writing(disk / "worker", fail=failures.append) as parts:
        (receipt,) = await parts.writer.receive([first], load=load_of([first]), claims=0)
        ballast = fill(disk, leave_bytes=0)

        second = item(*((f"new-{user}", "click") for user in range(16_000)), seq=2)
        with pytest.raises(Exception, match="cannot write any more"):
            await parts.writer.receive([second], load=load_of([second]), claims=0)
    # As the end of the process would.
    parts.shelf.close()
    parts.totals.close()

    assert [type(failure).__name__ for failure in failures] == ["DiskError"]
    async with writing(disk / "worker") as parts:
        found, _ = await parts.writer.look([SliceId(0)])
        assert found == {0: receipt.held}
        ballast.unlink()
        receipts = await parts.writer.receive([first, second], load=load_of([first, second]), claims=0)
        outcomes = [one.outcome for one in receipts]
    assert outcomes == ["duplicate", "applied"]


async def test_a_damaged_slice_is_no_number_until_a_copy_is_back(tmp_path: Path) -> None:
    """Seen from outside, over restarts; the slice beside it is as it was."""
    async with Nodes(tmp_path, workers=1) as nodes:
        for at in (FIRST, FIRST + HOUR):
            assert (await nodes.click("ann", at=at)).status == 202
        kept = nodes.keep("0")
        await nodes.worker["0"].stop()
        file = nodes.worker["0"].data / "slices" / "0.mdb"
        file.write_bytes(SPOILT)

        for _ in range(2):
            await nodes.start_worker("0")
            answer = await nodes.get(f"?timestamp={FIRST}")
            assert (answer.status, answer.problem) == (503, "no-answer")
            assert await nodes.summary(at=FIRST + HOUR) == "unique_users,1\nclicks,1\nimpressions,0\n"
            assert (await nodes.click("bob")).status == 503
            assert (await nodes.ask("GET", f"{nodes.worker['0'].url}/slices")).json == {"slices": [0, 1]}
            assert await metric(nodes, 'tallyslice_worker_slices{state="quarantined"}') == 1
            assert await readiness(nodes) == (200, "ok\n")
            await nodes.worker["0"].stop()
            assert not file.exists()

        shutil.copy2(kept / "0.mdb", file)
        await nodes.start_worker("0")

        async def back() -> None:
            assert await nodes.summary() == "unique_users,1\nclicks,1\nimpressions,0\n"

        await eventually(back)
        assert await metric(nodes, 'tallyslice_worker_slices{state="quarantined"}') == 0
        assert nodes.written.getvalue().count("event=slice_quarantined") == 2


async def test_when_the_machine_went_down_what_was_written_is_verified_while_the_rest_serves(tmp_path: Path) -> None:
    """In a process of its own: one slice turns out to be sound, the other one does not."""
    async with Nodes(tmp_path, workers=1) as nodes:
        for at in range(3):
            assert (await nodes.click("ann", at=FIRST + at * HOUR)).status == 202
        await nodes.worker["0"].stop()
        data = nodes.worker["0"].data
        (data / "slices" / "2.mdb").write_bytes(SPOILT)
        totals = Totals(folder=data)
        totals.open()
        totals.note_writing([SliceId(1), SliceId(2)], ended=(), boot=b"another")
        totals.close()

        await nodes.start_worker("0")

        assert await nodes.summary(at=FIRST) == "unique_users,1\nclicks,1\nimpressions,0\n"

        async def verified() -> None:
            assert await metric(nodes, 'tallyslice_worker_slices{state="verifying"}') == 0

        await eventually(verified, seconds=30)
        assert await nodes.summary(at=FIRST + HOUR) == "unique_users,1\nclicks,1\nimpressions,0\n"
        assert (await nodes.get(f"?timestamp={FIRST + 2 * HOUR}")).status == 503
        told = [line.partition("event=")[2] for line in nodes.written.getvalue().splitlines()]
        assert "slice_verified slice=1" in told
        assert any(line.startswith("slice_quarantined slice=2") for line in told)
