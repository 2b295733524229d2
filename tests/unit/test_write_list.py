"""The list of slice files being written: who is suspect after which kind of exit."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from common.slices import SliceId
from worker_node.failure_mark import FailureMark
from worker_node.totals import Totals
from worker_node.write_list import IDLE_SECONDS, WriteList, this_boot

MONDAY, TUESDAY = b"monday", b"tuesday"
ONE, TWO, THREE = map(SliceId, (1, 2, 3))


class Machine:
    """A machine with a worker's folder: it is booted, its workers come and go."""

    def __init__(self, folder):
        self.folder = folder
        self.boot = MONDAY
        self.seconds = 0.0
        self.totals = Totals(folder=folder)

    @contextmanager
    def worker(self, *, stops=True):
        """A worker that stops cleanly, or is killed."""
        self.totals.open()
        with FailureMark(folder=self.folder) as self.mark:
            found = WriteList(totals=self.totals, mark=self.mark, boot=lambda: self.boot, seconds=lambda: self.seconds)
            found.begin()
            yield found
            if stops:
                found.end()
        self.totals.close()

    def suspects(self):
        with self.worker(stops=False) as written:
            return set(written.suspects)

    def listed(self):
        self.totals.open()
        try:
            return set(self.totals.writing())
        finally:
            self.totals.close()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_after_a_clean_stop_nothing_is_suspect(machine):
    with machine.worker() as written:
        written.note([ONE, TWO])
    machine.boot = TUESDAY

    assert machine.listed() == set()
    assert machine.suspects() == set()


def test_after_a_kill_nothing_is_suspect_but_it_stays_on_the_list(machine):
    """What the killed process wrote is in the page cache; if the machine goes down later, that is another matter."""
    with machine.worker(stops=False) as written:
        written.note([ONE])

    assert machine.suspects() == set()
    assert machine.listed() == {ONE}
    machine.boot = TUESDAY
    assert machine.suspects() == {ONE}


@pytest.mark.parametrize("boots", [(MONDAY, TUESDAY), (b"", MONDAY), (MONDAY, b""), (b"", b"")])
def test_when_the_machine_went_down_or_may_have_what_was_written_is_suspect(machine, boots):
    machine.boot, then = boots
    with machine.worker(stops=False) as written:
        written.note([ONE, TWO])
    machine.boot = then

    assert machine.suspects() == {ONE, TWO}


def test_after_a_failed_commit_what_was_written_is_suspect(machine):
    with machine.worker(stops=False) as written:
        written.note([ONE, TWO])
        machine.mark.set()

    with machine.worker(stops=False) as written:
        assert written.suspects == {ONE, TWO}
        written.verified(ONE)
        assert machine.mark.is_set
        written.verified(TWO)
        assert not machine.mark.is_set
    assert machine.suspects() == set()


def test_a_failed_commit_with_nothing_on_the_list_is_over(machine):
    with machine.worker():
        machine.mark.set()

    with machine.worker() as written:
        assert (written.suspects, machine.mark.is_set) == (set(), False)


def test_what_is_suspect_stays_so_over_clean_stops_until_it_is_verified(machine):
    with machine.worker(stops=False) as written:
        written.note([ONE, TWO])
    machine.boot = TUESDAY
    with machine.worker() as written:
        written.verified(ONE)
        written.note([THREE])

    assert machine.listed() == {TWO}
    assert machine.suspects() == {TWO}


def test_a_verified_slice_is_noted_anew_before_it_is_written(machine):
    with machine.worker(stops=False) as written:
        written.note([ONE, TWO])
    machine.boot = TUESDAY
    with machine.worker(stops=False) as written:
        written.verified(ONE)
        written.verified(TWO)
        written.note([ONE])

    assert machine.listed() == {ONE}
    assert machine.suspects() == set()


def test_what_is_not_written_any_more_leaves_the_list_when_another_comes(machine):
    with machine.worker(stops=False) as written:
        written.note([ONE, TWO])
        machine.seconds += IDLE_SECONDS
        written.note([TWO])
        machine.seconds += 1

        written.note([THREE])

    assert machine.listed() == {TWO, THREE}


def test_a_slice_is_noted_once(machine):
    with machine.worker(stops=False) as written:
        written.note([ONE])
        before = machine.totals._file.txn  # noqa: SLF001 - how many commits there were
        written.note([ONE])

        assert machine.totals._file.txn == before  # noqa: SLF001 - likewise


def test_a_boot_is_the_same_while_it_lasts():
    assert this_boot() == this_boot()
