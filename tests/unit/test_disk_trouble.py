"""What the writer does when the disk has no room, or gives back other bytes than were written."""

from __future__ import annotations

import asyncio
import io
import random
from contextlib import asynccontextmanager
from functools import partial

import pytest

from common.errors import InputOutputFailed, SliceClosed, Unavailable
from common.lmdb_file import LmdbFile
from common.logs import new_log
from common.routing import Route, WorkerId
from common.slices import SliceId
from common.wire import Claim, Outcome, Pins
from tests.support.batches import OTHER_STREAM, item, key
from tests.support.patience import eventually
from tests.support.slice_files import problems_of
from tests.support.worker_parts import load_of, no_failure, writing
from worker_node.key_set import Merging
from worker_node.registry import Door, Registry
from worker_node.shelf import Shelf
from worker_node.slice_store import DATABASES, SliceStore
from worker_node.space import Space
from worker_node.totals import Totals
from worker_node.verification import Verification
from worker_node.write_list import WriteList

ONE, TWO, THREE = map(SliceId, (1, 2, 3))
ZERO = WorkerId("0")


async def outcomes(parts, *items, claims=0):
    return [one.outcome for one in await parts.writer.receive(items, load=load_of(items), claims=claims)]


async def look(parts, *slices):
    found, damaged = await parts.writer.look(slices)
    return {at: held.summary.users for at, held in found.items()}, damaged


def users(count, *, at=1, seq=1, stream=OTHER_STREAM):
    return item(*((f"{at}-{seq}-{user}", "click") for user in range(count)), at=at, seq=seq, stream=stream)


def names(tmp_path):
    return sorted(path.name for path in (tmp_path / "slices").iterdir() if not path.name.endswith("-lock"))


def spoil(path, *, cut=False, seed=1):
    """Other bytes in every page but the first two; or none at all in the second half."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        if cut:
            file.truncate(size // 2)
        else:
            file.seek(8192)
            file.write(random.Random(seed).randbytes(size - 8192))


# Little room


class Disk:
    def __init__(self, tmp_path):
        self.free = 1000
        self.space = Space(
            folder=tmp_path, log=new_log("w", stream=io.StringIO()), needed_bytes=800, free_bytes=lambda _: self.free
        )


async def test_with_little_room_batches_are_refused_questions_answered_and_it_resumes_by_itself(tmp_path):
    disk = Disk(tmp_path)
    async with writing(tmp_path, space=disk.space) as parts:
        first = item(("u", "click"), at=1)
        assert await outcomes(parts, first, claims=3) == [Outcome.APPLIED]
        disk.free = 700
        before = [(path.name, path.stat().st_mtime_ns) for path in sorted(tmp_path.rglob("*.mdb"))]

        items = [item(("v", "click"), at=1, seq=2), item(("v", "click"), at=2), first]
        (one, two, again) = await parts.writer.receive(items, load=load_of(items), claims=9)

        assert [one.outcome, two.outcome, again.outcome] == [Outcome.NO_SPACE] * 3
        assert one.detail == "the disk has 700 free bytes, and 800 are needed"
        assert [(path.name, path.stat().st_mtime_ns) for path in sorted(tmp_path.rglob("*.mdb"))] == before
        assert await look(parts, ONE, TWO) == ({1: 1}, [])
        with pytest.raises(Unavailable):
            await parts.writer.count(ONE, key("w"), "click")
        assert (parts.writer.groups, parts.totals.claims) == (1, 3)

        disk.free = 800
        again = await outcomes(parts, item(("v", "click"), at=1, seq=2), item(("v", "click"), at=2), first, claims=9)

        assert again == [Outcome.APPLIED, Outcome.APPLIED, Outcome.DUPLICATE]
        assert (await look(parts, ONE, TWO), parts.totals.claims) == (({1: 2, 2: 1}, []), 9)


async def test_slices_are_closed_with_little_room_and_not_with_none(tmp_path):
    disk = Disk(tmp_path)
    async with writing(tmp_path, space=disk.space) as parts:
        await outcomes(parts, item(("u", "click"), at=1))
        disk.free = 10
        await parts.writer.close_slices([ONE])
        assert parts.holdings.is_open(ONE)

        disk.free = 100
        await parts.writer.close_slices([ONE])

        assert not parts.holdings.is_open(ONE)
        with pytest.raises(Unavailable):
            await parts.writer.count(ONE, key("w"), "click")
        disk.free = 1000
        with pytest.raises(SliceClosed):
            await parts.writer.count(ONE, key("w"), "click")


# A full map


async def test_a_full_map_grows_and_the_group_is_replayed(tmp_path):
    """The slice's file as well as totals.mdb begin with the least that LMDB can do with."""
    make_shelf = partial(Shelf, map_bytes=64 << 10)
    make_totals = partial(Totals, map_bytes=32 << 10)
    async with writing(tmp_path, make_shelf=make_shelf, make_totals=make_totals) as parts:
        found = [await outcomes(parts, *(users(2000, at=at, seq=seq) for at in range(20))) for seq in (1, 2, 3)]
        await parts.writer.close_slices(list(map(SliceId, range(19))))

        assert {one for group in found for one in group} == {Outcome.APPLIED}
        assert (await look(parts, *map(SliceId, range(20))))[0] == dict.fromkeys(range(20), 6000)
        assert await outcomes(parts, users(2000, at=3, seq=3), users(2000, at=19, seq=3)) == [Outcome.DUPLICATE] * 2
        assert await outcomes(parts, *(users(1, at=at) for at in range(100, 600))) == [Outcome.APPLIED] * 500
    assert problems_of(tmp_path / "slices" / "19.mdb") == []
    for path, least in ((tmp_path / "slices" / "19.mdb", 64 << 10), (tmp_path / "totals.mdb", 32 << 10)):
        assert path.stat().st_size > least


def test_the_registrys_map_grows_too(tmp_path):
    registry = Registry(folder=tmp_path, map_bytes=32 << 10)
    registry.open()
    registry.pin(Pins(cluster="c", first=5, length_seconds=60, secret_id="s", registry=ZERO, workers={}))
    for first in range(0, 3000, 1000):
        routes: dict[SliceId, Route] = {SliceId(at): (ZERO,) for at in range(first, first + 1000)}
        registry.claim(Claim(cluster="c", claims=first, routes=routes), known=0, door=Door(slices_max=10_000))
    registry.close()

    again = Registry(folder=tmp_path)
    again.open()
    assert (again.claims, len(again.routes(None).routes)) == (3000, 3000)
    assert (tmp_path / "registry.mdb").stat().st_size > 32 << 10
    again.close()


# Damage


async def fill(tmp_path):
    async with writing(tmp_path) as parts:
        assert await outcomes(parts, users(9000, at=1), users(9, at=2)) == [Outcome.APPLIED] * 2


async def quarantined(parts, tmp_path):
    """Slice 1 is held, neither zero nor a sum; it takes nothing and has no new file; slice 2 goes on."""
    before = sorted((path.name, path.stat().st_size) for path in (tmp_path / "slices").glob("1.mdb*"))
    assert [name for name, _ in before] == ["1.mdb.damaged"]
    for _ in range(2):
        assert await look(parts, ONE, TWO) == ({2: 9}, [1])
        assert await outcomes(parts, users(9, at=1, seq=2), users(9, at=1, stream=b"s" * 16)) == [
            Outcome.QUARANTINED,
            Outcome.QUARANTINED,
        ]
    assert await outcomes(parts, users(9, at=2)) == [Outcome.DUPLICATE]
    with pytest.raises(Unavailable):
        await parts.writer.count(ONE, key("w"), "click")
    assert parts.holdings.between(None, None) == [1, 2]
    assert (parts.holdings.open_count, parts.holdings.quarantined_count) == (1, 1)
    assert sorted((path.name, path.stat().st_size) for path in (tmp_path / "slices").glob("1.mdb*")) == before


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("finder", ["look", "batch", "count", "close"])
async def test_a_file_found_damaged_is_set_aside_for_good(tmp_path, cut, finder):
    await fill(tmp_path)
    spoil(tmp_path / "slices" / "1.mdb", cut=cut)
    async with writing(tmp_path) as parts:
        if finder == "look":
            assert await look(parts, ONE) == ({}, [1])
        elif finder == "batch":
            assert await outcomes(parts, users(9, at=1, seq=2)) == [Outcome.QUARANTINED]
        elif finder == "count":
            with pytest.raises(Unavailable):
                await parts.writer.count(ONE, key("w"), "click")
        else:
            await parts.writer.close_slices([ONE])

        await quarantined(parts, tmp_path)
    async with writing(tmp_path) as parts:
        await quarantined(parts, tmp_path)


@pytest.mark.parametrize("finder", ["batch", "count", "close"])
async def test_a_file_that_is_spoilt_while_it_is_open_is_set_aside_too(tmp_path, finder):
    """Its summary was in memory; from then on even that is not told any more."""
    async with writing(tmp_path) as parts:
        await outcomes(parts, users(9000, at=1), users(9, at=2))
        assert await look(parts, ONE, TWO) == ({1: 9000, 2: 9}, [])
        spoil(tmp_path / "slices" / "1.mdb")
        if finder == "batch":
            assert await outcomes(parts, users(9, at=1, seq=2)) == [Outcome.QUARANTINED]
        elif finder == "count":
            with pytest.raises(Unavailable):
                await parts.writer.count(ONE, key("w"), "click")
        else:
            await parts.writer.close_slices([ONE])

        await quarantined(parts, tmp_path)
    async with writing(tmp_path) as parts:
        await quarantined(parts, tmp_path)


async def test_a_damaged_slice_that_is_due_holds_up_no_other_and_is_not_tried_again(tmp_path):
    await fill(tmp_path)
    spoil(tmp_path / "slices" / "1.mdb")
    async with writing(tmp_path) as parts:
        assert parts.holdings.open_before(THREE) == [1, 2]

        await parts.writer.close_slices([ONE, TWO])

        assert parts.holdings.open_before(THREE) == []
        assert await look(parts, ONE, TWO) == ({2: 9}, [1])
    assert names(tmp_path) == ["1.mdb.damaged"]


async def test_a_copy_that_was_put_back_counts(tmp_path):
    await fill(tmp_path)
    file = tmp_path / "slices" / "1.mdb"
    copy = file.read_bytes()
    spoil(file)
    async with writing(tmp_path) as parts:
        await look(parts, ONE)
    file.write_bytes(copy)

    async with writing(tmp_path) as parts:
        assert await look(parts, ONE, TWO) == ({1: 9000, 2: 9}, [])
        assert await outcomes(parts, users(9, at=1, seq=2)) == [Outcome.APPLIED]
        assert parts.holdings.quarantined_count == 0


async def test_a_file_that_was_given_up_leaves_an_incomplete_slice(tmp_path):
    await fill(tmp_path)
    spoil(tmp_path / "slices" / "1.mdb")
    async with writing(tmp_path) as parts:
        await look(parts, ONE)
    lost = tmp_path / "slices" / "1.mdb.lost"
    (tmp_path / "slices" / "1.mdb.damaged").rename(lost)

    for _ in range(2):
        async with writing(tmp_path) as parts:
            found, damaged = await parts.writer.look([ONE])
            assert (found[ONE].summary.users, found[ONE].summary.complete, damaged) == (0, False, [])
            assert parts.holdings.between(None, None) == [1, 2]
        lost.unlink(missing_ok=True)  # it is remembered in totals.mdb
    async with writing(tmp_path) as parts:
        assert await outcomes(parts, users(9, at=1, seq=2), users(9, at=1, stream=b"n" * 16)) == [
            Outcome.GAP,
            Outcome.APPLIED,
        ]
        found, _ = await parts.writer.look([ONE])
        assert (found[ONE].summary.users, found[ONE].summary.complete) == (9, False)


async def test_what_is_set_aside_is_told_once_a_start(tmp_path):
    await fill(tmp_path)
    spoil(tmp_path / "slices" / "1.mdb")
    written = io.StringIO()
    for _ in range(2):
        async with writing(tmp_path, log=new_log("worker-0", stream=written)) as parts:
            for _ in range(3):
                await look(parts, ONE)
                await parts.writer.close_slices([ONE])

    told = [line.partition("event=")[2] for line in written.getvalue().splitlines()]
    assert [line.partition(" problem=")[0] for line in told] == ["slice_quarantined slice=1"] * 2


async def test_damage_in_totals_ends_the_worker(tmp_path):
    """It is not the damage of one slice, and no answer to whoever asked."""
    failures: list[BaseException] = []
    async with writing(tmp_path) as parts:
        await outcomes(parts, *(users(1, at=at) for at in range(300)))
        await parts.writer.close_slices(list(map(SliceId, range(300))))
    async with writing(tmp_path, fail=failures.append) as parts:
        spoil(tmp_path / "totals.mdb")
        with pytest.raises(Unavailable):
            await parts.writer.look([ONE])

    assert [type(failure).__name__ for failure in failures] == ["Damaged"]


# After a bad exit


@asynccontextmanager
async def after_another_boot(tmp_path, *suspects, **more):
    """A writer at work where the machine went down while these slices were being written."""
    totals = Totals(folder=tmp_path)
    totals.open()
    totals.note_writing(suspects, ended=(), boot=b"another")
    totals.close()
    async with writing(tmp_path, **more) as parts:
        yield parts


async def test_until_it_is_verified_a_slice_takes_nothing_and_is_no_number(tmp_path):
    await fill(tmp_path)
    async with after_another_boot(tmp_path, ONE, THREE) as parts:
        assert parts.writer.suspects == {1}
        assert await look(parts, ONE, TWO) == ({2: 9}, [1])
        assert await outcomes(parts, users(9, at=1, seq=2), users(9, at=2, seq=2)) == [
            Outcome.VERIFYING,
            Outcome.APPLIED,
        ]
        with pytest.raises(Unavailable, match="being verified"):
            await parts.writer.count(ONE, key("w"), "click")
        await parts.writer.close_slices([ONE])
        assert parts.holdings.is_open(ONE)
    assert names(tmp_path) == ["1.mdb", "2.mdb"]

    async with writing(tmp_path) as parts:  # a clean stop does not make it sound
        assert parts.writer.suspects == {1}
        await parts.writer.verified(ONE, problem=None)

        assert await look(parts, ONE) == ({1: 9000}, [])
        assert await outcomes(parts, users(9, at=1, seq=2)) == [Outcome.APPLIED]
    async with writing(tmp_path) as parts:
        assert parts.writer.suspects == set()


async def test_suspects_are_verified_in_the_background_one_by_one(tmp_path):
    await fill(tmp_path)
    async with writing(tmp_path) as parts:
        await outcomes(parts, users(9000, at=3))
    spoil(tmp_path / "slices" / "1.mdb")
    spoil(tmp_path / "slices" / "3.mdb", cut=True)
    written = io.StringIO()
    log = new_log("worker-0", stream=written)
    async with after_another_boot(tmp_path, ONE, TWO, THREE, log=log) as parts:
        await asyncio.wait_for(Verification(writer=parts.writer, log=log).run(), 60)

        assert await look(parts, ONE, TWO, THREE) == ({2: 9}, [1, 3])
        assert parts.writer.suspects == set()
    assert names(tmp_path) == ["1.mdb.damaged", "2.mdb", "3.mdb.damaged"]
    told = [line.partition("event=")[2].partition(" problem")[0] for line in written.getvalue().splitlines()]
    assert told == [
        "verification_begins slices=3",
        "slice_quarantined slice=3",
        "slice_verified slice=2",
        "slice_quarantined slice=1",
    ]


async def test_a_verification_that_could_not_be_done_is_done_again(tmp_path):
    await fill(tmp_path)
    asked = []

    async def verify(path):
        asked.append(path.name)
        return (-9 if len(asked) < 3 else 0), ""

    written = io.StringIO()
    log = new_log("worker-0", stream=written)
    async with after_another_boot(tmp_path, ONE) as parts:
        await Verification(writer=parts.writer, log=log, verify=verify, again_seconds=0).run()

        assert await look(parts, ONE) == ({1: 9000}, [])
    assert asked == ["1.mdb"] * 3
    assert written.getvalue().count("verification_failed") == 2


async def test_a_verification_that_is_cancelled_leaves_no_process(tmp_path):
    """A node that stops does not wait for it."""
    await fill(tmp_path)
    async with after_another_boot(tmp_path, ONE) as parts:
        log = new_log("worker-0", stream=io.StringIO())
        task = asyncio.create_task(Verification(writer=parts.writer, log=log).run())
        await eventually(partial(a_process, tmp_path, runs=True))

        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

        await eventually(partial(a_process, tmp_path, runs=False))
        assert parts.writer.suspects == {1}


async def a_process(tmp_path, *, runs):
    pattern = f"worker_node.verify_file {tmp_path}"
    listed = await asyncio.create_subprocess_exec("pgrep", "-f", pattern, stdout=asyncio.subprocess.DEVNULL)
    assert (await listed.wait() == 0) is runs


async def test_a_list_that_cannot_be_read_ends_the_start(tmp_path):
    class Refuses(WriteList):
        def begin(self):
            raise OSError(28, "No space left on device")

    with pytest.raises(InputOutputFailed, match="No space left"):
        async with writing(tmp_path, write_list=lambda totals: Refuses(totals=totals)):
            pass


async def test_a_value_that_is_no_stream_record_is_damage(tmp_path):
    """LMDB finds nothing wrong with it."""
    await fill(tmp_path)
    path = tmp_path / "slices" / "1.mdb"
    file = LmdbFile(path=path, databases=DATABASES)
    file.open()
    file.write(lambda txn: txn.put(OTHER_STREAM, b"short", db=file.database("streams")))
    file.close()

    async with writing(tmp_path, fail=no_failure) as parts:
        assert await outcomes(parts, users(9, at=1, seq=2)) == [Outcome.QUARANTINED]
        await quarantined(parts, tmp_path)


async def test_a_key_that_was_counted_twice_is_found_when_it_is_merged(tmp_path):
    """The batch is on disk by then, and has its receipt; the next one hears of it."""
    async with writing(tmp_path) as parts:
        assert await outcomes(parts, users(3, at=1)) == [Outcome.APPLIED]
    file = LmdbFile(path=tmp_path / "slices" / "1.mdb", databases=DATABASES)
    file.open()
    (run,) = file.read(lambda txn: [run for _, run in txn.cursor(file.database("runs"))])
    file.write(lambda txn: txn.cursor(file.database("users")).put(b"u", run[:16]))
    file.close()
    assert len(problems_of(tmp_path / "slices" / "1.mdb")) == 2

    async with writing(tmp_path, merging=Merging(pending_max=0)) as parts:
        assert await outcomes(parts, users(9, at=1, seq=2)) == [Outcome.APPLIED]
        assert await outcomes(parts, users(9, at=1, seq=3)) == [Outcome.QUARANTINED]
        assert await outcomes(parts, users(9, at=2)) == [Outcome.APPLIED]
        await quarantined(parts, tmp_path)


def test_a_store_counts_its_users(tmp_path):
    store = SliceStore.create(tmp_path / "1.mdb", ONE, route=(ZERO,), position=0, key_id=b"k" * 8)
    store.apply([users(100)])

    assert store.problems() == []
    store.close()
