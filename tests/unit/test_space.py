"""The room on the disk: told once for each turn, required where something is written."""

from __future__ import annotations

import io

import pytest

from common.errors import Unavailable
from common.logs import new_log
from worker_node.space import Space, free_bytes


class Disk:
    def __init__(self, tmp_path):
        self.free = 1000
        self.written = io.StringIO()
        self.space = Space(
            folder=tmp_path,
            log=new_log("worker-0", stream=self.written),
            needed_bytes=800,
            free_bytes=lambda folder: self.free if folder == tmp_path else 0,
        )

    def logged(self):
        return [line.partition("event=")[2] for line in self.written.getvalue().splitlines()]


@pytest.fixture
def disk(tmp_path):
    return Disk(tmp_path)


def test_with_enough_room_there_is_no_problem(disk):
    disk.free = 800

    assert disk.space.problem() is None
    disk.space.require()
    assert disk.logged() == []


def test_too_little_room_is_a_problem_that_names_both_numbers(disk):
    disk.free = 799

    assert disk.space.problem() == "the disk has 799 free bytes, and 800 are needed"
    with pytest.raises(Unavailable, match="799 free bytes"):
        disk.space.require()


def test_each_turn_is_logged_once(disk):
    for disk.free in (900, 700, 600, 900, 900, 500):
        disk.space.problem()

    assert disk.logged() == [
        "space_low free_bytes=700 needed_bytes=800",
        "space_enough free_bytes=900",
        "space_low free_bytes=500 needed_bytes=800",
    ]


def test_slices_are_closed_until_there_is_hardly_anything_left(disk):
    """It frees space, but begins with a commit."""
    found = []
    for disk.free in (900, 50, 49):
        found.append(disk.space.allows_closing())

    assert found == [True, True, False]


def test_by_default_the_file_system_is_asked(tmp_path):
    assert free_bytes(tmp_path) > 0
