"""The shelf knows which slice files exist, keeps few of them open, and clears what a crash left."""

from __future__ import annotations

import resource

import pytest

from common.lmdb_file import Damaged
from common.slices import SliceId
from tests.support.batches import KEY_ID, ROUTE, item
from worker_node.key_set import Merging
from worker_node.recent_keys import RecentKeys
from worker_node.shelf import OPEN_FILES_MAX, Shelf, open_files_bound
from worker_node.slice_store import SliceStore


@pytest.fixture
def shelf(tmp_path):
    shelf = Shelf(folder=tmp_path / "slices", open_files_max=2)
    shelf.start(closed=())
    yield shelf
    shelf.close()


def filled(shelf, number):
    store = shelf.create(SliceId(number), route=ROUTE, position=0, key_id=KEY_ID)
    store.apply([item(("a", "click"), at=number)])
    return store


def names(tmp_path):
    return sorted(path.name for path in (tmp_path / "slices").iterdir())


def started_again(shelf, tmp_path, closed=()):
    shelf.close()
    again = Shelf(folder=tmp_path / "slices", open_files_max=2)
    again.start(closed=closed)
    return again


def test_a_slice_without_file_is_none(shelf):
    assert shelf.get(SliceId(1)) is None
    assert shelf.look(SliceId(1)) is None
    assert SliceId(1) not in shelf


def test_files_are_found_again_at_start(shelf, tmp_path):
    for number in (-2, 0, 5):
        filled(shelf, number)

    again = started_again(shelf, tmp_path)

    assert again.slices == {-2, 0, 5}
    assert again.get(SliceId(-2)).held.summary.users == 1
    again.close()


def test_the_file_used_least_recently_is_closed_first(shelf):
    first, second = filled(shelf, 1), filled(shelf, 2)
    assert shelf.get(SliceId(1)) is first

    filled(shelf, 3)

    assert shelf.open_files == 2
    assert shelf.get(SliceId(1)) is first
    assert shelf.get(SliceId(2)) is not second


def test_what_is_known_of_a_file_goes_when_it_is_closed_set_aside_or_removed(tmp_path):
    """Another file of that name may take its place."""
    recent = RecentKeys()
    shelf = Shelf(folder=tmp_path / "slices", open_files_max=2, recent=recent)
    shelf.start(closed=())
    for number in (1, 2, 3, 4):
        filled(shelf, number)
    assert len(recent) == 2

    shelf.quarantine(SliceId(4))
    assert len(recent) == 1
    shelf.remove(SliceId(3))
    assert len(recent) == 0

    filled(shelf, 5)
    shelf.close()
    assert len(recent) == 0


def test_a_look_leaves_the_open_files_as_they_are(shelf):
    for number in (1, 2, 3):
        filled(shelf, number)
    third = shelf.get(SliceId(3))

    held = shelf.look(SliceId(1))

    assert held.summary.users == 1
    assert shelf.open_files == 2
    assert shelf.get(SliceId(3)) is third


def test_the_file_with_the_most_pending_keys_merges_while_there_are_too_many(tmp_path):
    merging = Merging(pending_max=3, run_keys_min=1)
    shelf = Shelf(folder=tmp_path / "slices", open_files_max=2, merging=merging)
    shelf.start(closed=())
    few, many = filled(shelf, 1), filled(shelf, 2)
    many.apply([item(("b", "click"), at=2, seq=2)])
    assert shelf.crowded() is None

    few.apply([item(("c", "click", "id"), ("d", "click"), at=1, seq=2)])

    assert shelf.crowded() is few
    assert few is not None
    few.merge()
    assert few.pending == 1
    assert shelf.crowded() is None
    shelf.close()


def test_what_is_pending_in_a_file_takes_no_memory_once_it_is_closed(tmp_path):
    shelf = Shelf(folder=tmp_path / "slices", open_files_max=1, merging=Merging(pending_max=1, run_keys_min=1))
    shelf.start(closed=())
    for number in (1, 2, 3):
        filled(shelf, number)

    assert shelf.crowded() is None
    assert all(shelf.look(SliceId(number)) is not None for number in (1, 2, 3))
    assert shelf.crowded() is None
    shelf.close()


def test_a_removed_slice_leaves_no_file(shelf, tmp_path):
    filled(shelf, 1)

    shelf.remove(SliceId(1))

    assert names(tmp_path) == []
    assert SliceId(1) not in shelf


def test_a_file_that_never_saw_a_commit_is_removed_at_start(shelf, tmp_path):
    shelf.create(SliceId(1), route=ROUTE, position=0, key_id=KEY_ID)
    assert (tmp_path / "slices" / "1.mdb").stat().st_size == 8192

    again = started_again(shelf, tmp_path)

    assert not again.slices
    assert names(tmp_path) == []


def test_the_file_of_a_closed_slice_is_removed_at_start(shelf, tmp_path):
    filled(shelf, 1)
    filled(shelf, 2)

    again = started_again(shelf, tmp_path, closed={SliceId(1)})

    assert again.slices == {2}
    assert names(tmp_path) == ["2.mdb", "2.mdb-lock"]


def test_a_file_whose_first_commit_was_cut_short_holds_nothing(shelf, tmp_path):
    """Its pages were written, the meta page that makes them count was not."""
    # Not through the shelf: what a process leaves that is killed between the two writes of its first commit.
    path = tmp_path / "slices" / "7.mdb"
    SliceStore.create(path, SliceId(7), route=ROUTE, position=0, key_id=KEY_ID).close()
    with path.open("ab") as file:
        file.write(bytes(64 * 1024))
    again = started_again(shelf, tmp_path)
    assert again.slices == {7}

    assert again.get(SliceId(7)) is None

    assert not again.slices
    assert names(tmp_path) == []


def test_other_files_in_the_folder_are_left_alone(shelf, tmp_path):
    for name in ("notes.txt", "5.mdb.quarantined", "x.mdb"):
        (tmp_path / "slices" / name).write_bytes(b"")

    again = started_again(shelf, tmp_path)

    assert not again.slices
    assert names(tmp_path) == ["5.mdb.quarantined", "notes.txt", "x.mdb"]


def test_a_damaged_file_stays_damaged_and_is_not_empty(shelf, tmp_path):
    filled(shelf, 1)
    shelf.close()
    (tmp_path / "slices" / "1.mdb").write_bytes(b"x" * 20_000)

    again = started_again(shelf, tmp_path)

    for _ in range(2):
        with pytest.raises(Damaged):
            again.get(SliceId(1))
    assert again.damaged == {1}


def test_open_files_leave_two_thirds_of_the_descriptors_to_others():
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)

    assert 2 <= open_files_bound() <= min(OPEN_FILES_MAX, soft // 9)
