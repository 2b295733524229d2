"""The writer: one commit for all that waits, receipts only after it, and nothing at all after a failure."""

from __future__ import annotations

import asyncio
import threading

import lmdb
import pytest

from common.errors import Contradicts, InputOutputFailed, SliceClosed, Unavailable
from common.routing import WorkerId
from common.slices import SliceId
from common.wire import Outcome, Pins, SettledRoute
from tests.support.batches import OTHER_STREAM, ROUTE, a_batch, item, key, numbered
from tests.support.slice_files import problems_of
from tests.support.worker_parts import load_of, writing
from worker_node.key_set import Merging
from worker_node.room import Load, Room
from worker_node.shelf import Shelf
from worker_node.slice_store import SliceStore

PINS = Pins(cluster="c", first=5, length_seconds=60, secret_id="s", registry=WorkerId("0"), workers={})


async def receive(parts, *items, claims=0):
    return await parts.writer.receive(items, load=load_of(items), claims=claims)


def summary_of(parts, at):
    held = parts.holdings.latest(SliceId(at))
    assert held is not None
    return held.summary


async def outcomes(parts, *items):
    return [receipt.outcome for receipt in await receive(parts, *items)]


SECONDS_MAX = 10.0  # so that a test that fails while it holds the thread can end


class Held:
    """Holds the writer's thread still, so that jobs queue up behind it."""

    def __init__(self, writer):
        self._entered, self._go = threading.Event(), threading.Event()
        self._task = asyncio.create_task(writer.run(self._stand))

    def _stand(self):
        self._entered.set()
        self._go.wait(SECONDS_MAX)

    async def entered(self):
        await asyncio.to_thread(self._entered.wait, SECONDS_MAX)

    async def release(self):
        self._go.set()
        await self._task


async def hold(writer):
    held = Held(writer)
    await held.entered()
    return held


async def queued(*coroutines):
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_a_receipt_tells_what_is_on_disk(tmp_path):
    async with writing(tmp_path) as parts:
        (receipt,) = await receive(parts, item(("ann", "click", "i"), ("ann", "click", "i"), at=3))

    assert (receipt.slice, receipt.seq, receipt.outcome, receipt.repeats) == (3, 1, Outcome.APPLIED, (1,))
    assert receipt.held.summary.counts == {"click": 1}
    async with writing(tmp_path) as parts:
        found, _ = await parts.writer.look([SliceId(3)])
    assert found == {3: receipt.held}
    assert problems_of(tmp_path / "slices" / "3.mdb") == []


async def test_all_that_waits_is_one_group_and_one_transaction_a_slice(tmp_path):
    async with writing(tmp_path) as parts:
        held = await hold(parts.writer)
        tasks = await queued(
            *(receive(parts, item((f"u{n}", "click"), stream=bytes([n]) * 16)) for n in range(20)),
            receive(parts, item(("x", "click"), at=1)),
        )

        await held.release()
        receipts = [receipt for receipts in await asyncio.gather(*tasks) for receipt in receipts]

    assert {receipt.outcome for receipt in receipts} == {Outcome.APPLIED}
    assert parts.writer.groups == 1
    found = {(receipt.slice, receipt.held.txn, receipt.held.summary.users) for receipt in receipts}
    assert found == {(0, 1, 20), (1, 1, 1)}


async def test_pending_keys_are_merged_after_the_receipt(tmp_path):
    """So many that no more are left than may be; in a transaction of its own."""
    async with writing(tmp_path, merging=Merging(pending_max=4, run_keys_min=1)) as parts:
        for seq, words in enumerate(("ab", "cd", "ef"), start=1):
            (receipt,) = await receive(parts, item(*((word, "click", word) for word in words), seq=seq))
            assert receipt.held.summary.users == 2 * seq
        await parts.writer.count(SliceId(0), key("g"), "click")
        store = parts.shelf.get(SliceId(0))
        assert store is not None
        pending, txn = store.pending, store.held.txn

    assert pending <= 4
    assert txn > 4
    assert problems_of(tmp_path / "slices" / "0.mdb") == []


async def test_batches_of_one_request_are_applied_in_their_order(tmp_path):
    async with writing(tmp_path) as parts:
        found = await outcomes(parts, *(item(("u", "click"), seq=seq) for seq in (1, 2, 3, 5, 4)))

    assert found == [Outcome.APPLIED] * 3 + [Outcome.GAP, Outcome.APPLIED]


async def test_a_batch_that_is_out_of_order_makes_no_file(tmp_path):
    async with writing(tmp_path) as parts:
        (receipt,) = await receive(parts, item(("u", "click"), seq=2))

        assert (receipt.outcome, receipt.expected, receipt.held) == (Outcome.GAP, 1, None)
        assert not parts.shelf.slices
        both = await outcomes(parts, item(("u", "click"), seq=2), item(("u", "click")))
        assert both == [Outcome.GAP, Outcome.APPLIED]


async def test_the_first_batch_of_a_slice_labels_it(tmp_path):
    async with writing(tmp_path) as parts:
        found = await outcomes(
            parts,
            numbered(a_batch(("u", "click"), route=("0", "1"))),
            numbered(a_batch(("u", "click"), route=("0",)), stream=OTHER_STREAM),
        )

    assert found == [Outcome.APPLIED, Outcome.WRONG_ROUTE]


async def test_the_claim_number_is_on_disk_with_the_receipt(tmp_path):
    async with writing(tmp_path) as parts:
        await receive(parts, item(("u", "click")), claims=12)
        await receive(parts, item(("u", "click"), seq=2), claims=5)
        await parts.writer.note_claims(3)

        assert parts.totals.claims == 12
    async with writing(tmp_path) as parts:
        assert parts.totals.claims == 12


async def test_no_batches_at_all_are_a_request_too(tmp_path):
    async with writing(tmp_path) as parts:
        assert await receive(parts, claims=4) == []
        assert parts.totals.claims == 4


async def test_what_was_committed_is_read_without_the_thread(tmp_path):
    async with writing(tmp_path) as parts:
        await receive(parts, item(("u", "click")))
        held = await hold(parts.writer)

        found, damaged = await parts.writer.look([SliceId(0), SliceId(1)])

        assert (found[SliceId(0)].summary.users, list(found), damaged) == (1, [0], [])
        await held.release()


async def test_many_slices_are_looked_up_in_pieces(tmp_path):
    async with writing(tmp_path) as parts:
        await receive(parts, *(item(("u", "click"), at=at) for at in range(150)))
    async with writing(tmp_path) as parts:
        found, _ = await parts.writer.look(list(map(SliceId, range(200))))

        assert sorted(found) == list(range(150))
        assert parts.shelf.open_files == 0
        assert parts.holdings.latest(SliceId(149)) == found[SliceId(149)]


async def test_a_slice_whose_first_commit_was_cut_short_is_forgotten_when_it_is_looked_at(tmp_path):
    folder = tmp_path / "slices"
    folder.mkdir()
    SliceStore.create(folder / "7.mdb", SliceId(7), route=(WorkerId("0"),), position=0, key_id=b"k" * 8).close()
    with (folder / "7.mdb").open("ab") as file:
        file.write(bytes(64 * 1024))
    async with writing(tmp_path) as parts:
        assert SliceId(7) in parts.holdings

        assert await parts.writer.look([SliceId(7)]) == ({}, [])

        assert SliceId(7) not in parts.holdings
        assert await outcomes(parts, item(("u", "click"), at=7)) == [Outcome.APPLIED]


async def test_a_damaged_slice_is_refused_and_told_and_the_others_go_on(tmp_path):
    async with writing(tmp_path) as parts:
        await receive(parts, item(("u", "click"), at=1), item(("u", "click"), at=2))
    (tmp_path / "slices" / "1.mdb").write_bytes(b"x" * 20_000)

    async with writing(tmp_path) as parts:
        found, damaged = await parts.writer.look([SliceId(1), SliceId(2)])
        assert (list(found), damaged) == ([2], [1])

        again = await outcomes(parts, item(("v", "click"), at=1, seq=2), item(("v", "click"), at=2, seq=2))
        assert again == [Outcome.QUARANTINED, Outcome.APPLIED]
        with pytest.raises(Unavailable):
            await parts.writer.count(SliceId(1), key("w"), "click")
        await parts.writer.close_slices([SliceId(1)])
        assert [path.name for path in (tmp_path / "slices").glob("1.*")] == ["1.mdb.damaged"]


# Closing


async def test_a_closed_slice_keeps_its_counts_and_loses_its_file(tmp_path):
    async with writing(tmp_path) as parts:
        (before,) = await receive(parts, item(("u", "click"), at=4))
        await parts.writer.close_slices([SliceId(4)])

        assert await parts.writer.look([SliceId(4)]) == ({4: before.held}, [])
        assert list((tmp_path / "slices").iterdir()) == []
        assert not parts.holdings.is_open(SliceId(4))
    async with writing(tmp_path) as parts:
        assert parts.holdings.between(None, None) == [4]
        assert await parts.writer.look([SliceId(4)]) == ({4: before.held}, [])


async def test_a_closed_slice_answers_as_before_what_it_knew_before(tmp_path):
    async with writing(tmp_path) as parts:
        old = item(("u", "click"), at=4)
        await receive(parts, old)
        await parts.writer.close_slices([SliceId(4)])

        found = await outcomes(parts, old, item(("v", "click"), at=4, seq=2))

    assert found == [Outcome.DUPLICATE, Outcome.CLOSED]


async def test_a_late_batch_of_a_closed_slice_is_counted_once(tmp_path):
    late = item(("v", "click"), at=4, seq=2, spooled=True)
    async with writing(tmp_path) as parts:
        await receive(parts, item(("u", "click"), at=4))
        await parts.writer.close_slices([SliceId(4)])

        first, second = await receive(parts, late, late)

        assert (first.outcome, second.outcome) == (Outcome.APPLIED, Outcome.DUPLICATE)
        summary = summary_of(parts, 4)
        assert (summary.users, summary.counts, summary.late, summary.complete) == (1, {"click": 2}, 1, False)
    assert list((tmp_path / "slices").iterdir()) == []


async def test_a_crash_between_the_closing_and_the_unlink_leaves_a_closed_slice(tmp_path):
    """The transaction in totals.mdb decides; the file that stayed is removed at the next start."""

    class KeepsFiles(Shelf):
        def remove(self, slice_id):
            pass

    async with writing(tmp_path, make_shelf=KeepsFiles) as parts:
        await receive(parts, item(("u", "click"), at=4))
        await parts.writer.close_slices([SliceId(4)])
    assert (tmp_path / "slices" / "4.mdb").exists()

    async with writing(tmp_path) as parts:
        assert await outcomes(parts, item(("v", "click"), at=4, seq=2)) == [Outcome.CLOSED]
    assert list((tmp_path / "slices").iterdir()) == []


# Closing before its time


async def test_a_slice_is_closed_for_good_though_nothing_came_here(tmp_path):
    """Or it would begin anew at this worker: what comes is refused, after a restart too."""
    async with writing(tmp_path) as parts:
        held, was_closed = await parts.writer.close_slice(SliceId(4), route=ROUTE, position=0)
        assert await outcomes(parts, item(("u", "click"), at=4)) == [Outcome.CLOSED]
        assert not parts.holdings.is_open(SliceId(4))
    async with writing(tmp_path) as parts:
        assert await outcomes(parts, item(("u", "click"), at=4)) == [Outcome.CLOSED]
        again = await parts.writer.close_slice(SliceId(4), route=ROUTE, position=0)
        late = item(("u", "click"), at=4, spooled=True)
        other_key = numbered(a_batch(("u", "click"), at=4, key_id=b"keyid-02"), stream=OTHER_STREAM, spooled=True)
        found = await outcomes(parts, late, late, other_key)
        summary = summary_of(parts, 4)

    assert (held.summary.users, was_closed, held.route) == (0, False, ROUTE)
    assert again == (held, True)
    # The first late one says which key it is; then that holds.
    assert found == [Outcome.APPLIED, Outcome.DUPLICATE, Outcome.WRONG_KEY]
    assert (summary.users, summary.counts, summary.late, summary.complete) == (0, {"click": 1}, 1, False)


async def test_a_slice_that_is_held_is_closed_as_when_its_time_comes(tmp_path):
    """What it knew before, it knows; asked again, it says so."""
    old = item(("u", "click"), at=4)
    async with writing(tmp_path) as parts:
        (before,) = await receive(parts, old)
        first = await parts.writer.close_slice(SliceId(4), route=ROUTE, position=0)
        second = await parts.writer.close_slice(SliceId(4), route=ROUTE, position=0)

        assert (first, second) == ((before.held, False), (before.held, True))
        assert await outcomes(parts, old, item(("v", "click"), at=4, seq=2)) == [Outcome.DUPLICATE, Outcome.CLOSED]
    assert list((tmp_path / "slices").iterdir()) == []


async def test_what_does_not_fit_is_not_closed(tmp_path):
    """Another route than that under which it is held; a file that is damaged; a lost slice stays incomplete."""
    async with writing(tmp_path) as parts:
        await receive(parts, item(("u", "click"), at=1), item(("u", "click"), at=2))
    (tmp_path / "slices" / "1.mdb").write_bytes(b"x" * 20_000)
    async with writing(tmp_path) as parts:
        await parts.writer.lose(lost(3), replaced=7)
        with pytest.raises(Unavailable):
            await parts.writer.close_slice(SliceId(1), route=ROUTE, position=0)
        with pytest.raises(Contradicts):
            await parts.writer.close_slice(SliceId(2), route=(*ROUTE, WorkerId("1")), position=0)
        held, _ = await parts.writer.close_slice(SliceId(3), route=ROUTE, position=0)

    assert not held.summary.complete
    assert (tmp_path / "slices" / "2.mdb").exists()


# Events without a number


async def test_one_event_is_counted_where_the_slice_is_held_and_the_key_belongs(tmp_path):
    low, high = bytes(16), b"\xff" * 16
    async with writing(tmp_path) as parts:
        batch = a_batch(route=("0", "1"), at=2)
        await receive(parts, numbered(batch))

        held = await parts.writer.count(SliceId(2), low, "click")

        assert (held.summary.users, held.summary.counts) == (1, {"click": 1})
        assert parts.holdings.latest(SliceId(2)) == held
        with pytest.raises(Contradicts):
            await parts.writer.count(SliceId(2), high, "click")
        with pytest.raises(Contradicts):
            await parts.writer.count(SliceId(3), low, "click")
        await parts.writer.close_slices([SliceId(2)])
        with pytest.raises(SliceClosed):
            await parts.writer.count(SliceId(2), low, "click")


# Bounds and ends


async def test_when_the_queue_is_full_the_request_is_told_and_nothing_is_applied(tmp_path):
    async with writing(tmp_path, room=Room(events_max=1, bytes_max=1000)) as parts:
        held = await hold(parts.writer)
        (first,) = await queued(receive(parts, item(("u", "click"))))

        with pytest.raises(Unavailable):
            await receive(parts, item(("v", "click"), stream=OTHER_STREAM))

        await held.release()
        assert [receipt.outcome for receipt in await first] == [Outcome.APPLIED]
        assert parts.writer.waiting.events == 0
        assert await outcomes(parts, item(("w", "click"), seq=2)) == [Outcome.APPLIED]
        assert summary_of(parts, 0).users == 2


async def test_the_keys_of_a_request_are_split_off_only_once_there_is_room(tmp_path):
    """Those in line hold no more than their bodies: as keys, these take several times as much."""
    split = []

    def items():
        split.append(item(("v", "click"), stream=OTHER_STREAM))
        yield from split

    async with writing(tmp_path, room=Room(events_max=1, bytes_max=1000)) as parts:
        held = await hold(parts.writer)
        first, second = await queued(
            receive(parts, item(("u", "click"))), parts.writer.receive(items(), load=Load(1, 100), claims=0)
        )
        assert not split

        await held.release()
        receipts = [receipt for receipts in await asyncio.gather(first, second) for receipt in receipts]

        assert [receipt.outcome for receipt in receipts] == [Outcome.APPLIED] * 2
        assert parts.writer.waiting == Load(0, 0)


async def test_a_request_whose_keys_cannot_be_split_off_gives_its_room_back(tmp_path):
    """Once, so that the bound stays what it is; and the next one is served."""

    def items():
        yield item(("u", "click"))
        raise MemoryError

    async with writing(tmp_path, room=Room(events_max=1, bytes_max=1000)) as parts:
        with pytest.raises(MemoryError):
            await parts.writer.receive(items(), load=Load(1, 100), claims=0)

        assert await outcomes(parts, item(("u", "click"))) == [Outcome.APPLIED]
        assert parts.writer.waiting == Load(0, 0)


async def test_a_request_that_goes_away_is_applied_all_the_same_and_gives_its_room_back(tmp_path):
    async with writing(tmp_path) as parts:
        held = await hold(parts.writer)
        (task,) = await queued(receive(parts, item(("u", "click"))))

        task.cancel()
        await held.release()
        await parts.writer.run(lambda: None)

        assert parts.writer.waiting.events == 0
        assert await outcomes(parts, item(("u", "click"))) == [Outcome.DUPLICATE]


async def test_leaving_commits_what_was_taken(tmp_path):
    async with writing(tmp_path) as parts:
        held = await hold(parts.writer)
        tasks = await queued(*(receive(parts, item(("u", "click"), at=at)) for at in range(5)))
        await held.release()

    receipts = [receipt for receipts in await asyncio.gather(*tasks) for receipt in receipts]
    assert [receipt.outcome for receipt in receipts] == [Outcome.APPLIED] * 5


async def test_a_writer_that_was_left_takes_nothing(tmp_path):
    async with writing(tmp_path) as parts:
        pass

    with pytest.raises(Unavailable):
        await receive(parts, item(("u", "click")))


class FailingStore(SliceStore):
    """Its disk is gone when it commits."""

    def apply(self, items):
        raise lmdb.DiskError("mdb_txn_commit")


class FailingShelf(Shelf):
    """Slice 13 is on a bad sector."""

    def create(self, slice_id, **label):
        store = super().create(slice_id, **label)
        if slice_id == 13:
            store.__class__ = FailingStore
        return store


async def test_after_a_failed_commit_no_receipt_leaves(tmp_path):
    """Not even for what was committed in the same group: the process is about to end."""
    failures: list[BaseException] = []
    async with writing(tmp_path, make_shelf=FailingShelf, fail=failures.append) as parts:
        held = await hold(parts.writer)
        tasks = await queued(*(receive(parts, item(("u", "click"), at=at)) for at in (12, 13, 14)))
        await held.release()

        results = await asyncio.gather(*tasks, return_exceptions=True)

        assert [type(result) for result in results] == [Unavailable] * 3
        assert [type(failure) for failure in failures] == [lmdb.DiskError]
        with pytest.raises(Unavailable):
            await receive(parts, item(("u", "click"), at=15))


async def test_a_file_that_is_no_totals_ends_the_start(tmp_path):
    (tmp_path / "totals.mdb").write_bytes(b"x" * 20_000)

    with pytest.raises(InputOutputFailed):
        async with writing(tmp_path):
            pass


async def test_a_folder_that_cannot_be_made_ends_the_start(tmp_path):
    (tmp_path / "slices").write_bytes(b"a file")

    with pytest.raises(InputOutputFailed):
        async with writing(tmp_path):
            pass


async def test_a_group_is_bounded(tmp_path):
    """Questions wait for a group that is being committed, so a long queue is more than one."""
    users = [(f"user-{number}", "click") for number in range(16_000)]
    async with writing(tmp_path) as parts:
        held = await hold(parts.writer)
        tasks = await queued(*(receive(parts, item(*users, stream=bytes([n]) * 16)) for n in range(20)))
        await held.release()
        await asyncio.gather(*tasks)

        assert parts.writer.groups == 2
        assert summary_of(parts, 0).counts == {"click": 320_000}


async def test_pins_are_kept(tmp_path):
    async with writing(tmp_path) as parts:
        await parts.writer.set_pins(PINS)
    async with writing(tmp_path) as parts:
        assert parts.totals.pins == PINS


# --- in the place of a lost directory


def lost(*slices):
    return [SettledRoute(slice=SliceId(at), route=(WorkerId("0"),), number=1) for at in slices]


async def test_what_was_lost_is_told_as_incomplete(tmp_path):
    """At once, and after a restart; what nobody held is still nothing."""
    async with writing(tmp_path) as parts:
        await parts.writer.lose(lost(1, 2), replaced=7)
        found, _ = await parts.writer.look([SliceId(1), SliceId(3)])
    async with writing(tmp_path) as parts:
        again, _ = await parts.writer.look([SliceId(1), SliceId(3)])

        assert parts.holdings.between(None, None) == [1, 2]

    assert found == again
    assert {at: (held.summary.complete, held.summary.users) for at, held in found.items()} == {1: (False, 0)}


async def test_what_comes_later_is_counted_and_incomplete(tmp_path):
    """For good: that is in the new file. A repeat is known by the check that its sender knows."""
    first = item(("ann", "click"), at=1)
    async with writing(tmp_path) as parts:
        await parts.writer.lose(lost(1), replaced=7)
        await receive(parts, first)
        held = parts.holdings.latest(SliceId(1))
        assert held is not None
        assert (held.summary.users, held.summary.complete) == (1, False)
        receipts = await receive(parts, first, item(("bob", "click"), at=1, seq=2), item(("ann", "click"), at=2))
    async with writing(tmp_path) as parts:
        found, _ = await parts.writer.look([SliceId(1), SliceId(2)])

    assert [receipt.outcome for receipt in receipts] == [Outcome.DUPLICATE, Outcome.APPLIED, Outcome.APPLIED]
    assert [(held.summary.users, held.summary.complete) for held in found.values()] == [(2, False), (1, True)]


async def test_what_was_restored_is_whole(tmp_path):
    """Its file was there before the directory was told what is lost."""
    async with writing(tmp_path) as parts:
        await receive(parts, item(("ann", "click"), at=1))
    async with writing(tmp_path) as parts:
        await parts.writer.lose(lost(1), replaced=7)
        found, _ = await parts.writer.look([SliceId(1)])

        assert found[SliceId(1)].summary.complete


async def test_a_lost_slice_without_file_needs_no_closing(tmp_path):
    """It is not looked at again and again; one with a file is closed, and incomplete."""
    async with writing(tmp_path) as parts:
        await parts.writer.lose(lost(1, 2), replaced=7)
        await receive(parts, item(("ann", "click"), at=2))
        assert parts.holdings.open_before(SliceId(9)) == [1, 2]

        await parts.writer.close_slices([SliceId(1), SliceId(2)])

        assert parts.holdings.open_before(SliceId(9)) == []
        assert not list((tmp_path / "slices").glob("*.mdb"))
    async with writing(tmp_path) as parts:
        found, _ = await parts.writer.look([SliceId(1), SliceId(2)])

    assert [(held.summary.users, held.summary.complete) for held in found.values()] == [(0, False), (1, False)]


async def test_a_lost_slice_that_gets_a_file_after_its_closing_is_closed_again(tmp_path):
    """What was still in a spool came late; its file may not stay for good."""
    async with writing(tmp_path) as parts:
        await parts.writer.lose(lost(7), replaced=3)
        await parts.writer.close_slices([SliceId(7)])
        assert parts.holdings.open_before(SliceId(8)) == []
        await receive(parts, item(("u", "click"), at=7))

        due = parts.holdings.open_before(SliceId(8))
        await parts.writer.close_slices(due)

        assert due == [7]
        assert not (tmp_path / "slices" / "7.mdb").exists()
        with pytest.raises(SliceClosed):
            await parts.writer.count(SliceId(7), key("u"), "click")
        summary = summary_of(parts, 7)
        assert (summary.counts, summary.complete) == ({"click": 1}, False)
