"""The mark of a failed commit: written in place, found by the next worker, cleared when all was looked at."""

from __future__ import annotations

import pytest

from common.errors import InputOutputFailed
from worker_node.failure_mark import FILE_NAME, FailureMark


def test_a_new_folder_has_no_mark_but_room_for_it(tmp_path):
    with FailureMark(folder=tmp_path) as mark:
        assert not mark.is_set

    assert (tmp_path / FILE_NAME).stat().st_size == 4


def test_the_mark_is_found_again_until_it_is_cleared(tmp_path):
    found = []
    with FailureMark(folder=tmp_path) as mark:
        mark.set()
    for _ in range(2):
        with FailureMark(folder=tmp_path) as mark:
            found.append(mark.is_set)
    with FailureMark(folder=tmp_path) as mark:
        mark.clear()
    with FailureMark(folder=tmp_path) as mark:
        found.append(mark.is_set)

    assert found == [True, True, False]


def test_it_is_set_in_place(tmp_path):
    """A new file, or a longer one, would need the space that is not there."""
    with FailureMark(folder=tmp_path) as mark:
        before = (tmp_path / FILE_NAME).stat()
        mark.set()

    after = (tmp_path / FILE_NAME).stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)


def test_a_folder_that_cannot_have_it_ends_the_start(tmp_path):
    (tmp_path / FILE_NAME).mkdir()

    with pytest.raises(InputOutputFailed, match="Is a directory"), FailureMark(folder=tmp_path):
        pass


def test_what_the_disk_refuses_goes_unsaid(tmp_path):
    mark = FailureMark(folder=tmp_path)

    mark.set()

    assert mark.is_set
