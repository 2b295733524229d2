"""The newest summaries seen of a worker: an older one never replaces a newer one."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from api_node.summary_cache import SNAPSHOT_SUMMARIES_MAX, SNAPSHOTS_MAX, SummaryCache
from common.routing import WorkerId
from common.slices import SliceId
from common.summaries import Summary
from common.wire import Held

SEVEN, EIGHT, NINE = SliceId(7), SliceId(8), SliceId(9)
FILE, OTHER_FILE = b"f" * 16, b"g" * 16
TTL = 1.0


@dataclass
class Timer:
    """Stands still unless a test moves it."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def timer() -> Timer:
    return Timer()


@pytest.fixture
def cache(timer: Timer) -> SummaryCache:
    return SummaryCache(ttl_seconds=TTL, timer=timer)


def held(txn: int, *, at: SliceId = SEVEN, file: bytes = FILE) -> Held:
    """The state of a slice after so many transactions, of one click each."""
    summary = Summary(slice=at, users=1, counts={"click": txn})
    return Held(summary=summary, route=(WorkerId("0"),), file=file, txn=txn)


def zeros(at: SliceId = SEVEN) -> Held:
    return Held(summary=Summary(slice=at))


def test_what_was_told_is_known_for_its_time(cache: SummaryCache, timer: Timer) -> None:
    cache.note(held(1))

    assert cache.get(SEVEN) == held(1)
    assert cache.get(EIGHT) is None
    timer.seconds = TTL
    assert cache.get(SEVEN) is None


def test_an_older_state_of_the_file_does_not_replace_a_newer_one(cache: SummaryCache) -> None:
    """Receipts may arrive in another order than they were made in."""
    cache.note(held(8))
    cache.note(held(7))

    assert cache.get(SEVEN) == held(8)


def test_of_another_file_the_later_arrival_stands(cache: SummaryCache) -> None:
    """Between two files there is no order; no file at all is older than any."""
    cache.note(held(8))
    cache.note(held(1, file=OTHER_FILE))
    cache.note(zeros())

    assert cache.get(SEVEN) == held(1, file=OTHER_FILE)


def test_an_answer_older_than_a_receipt_that_overtook_it_does_not_count(cache: SummaryCache) -> None:
    """The question is sent before the receipt is made, and answered after it arrived."""
    # question sent ---------- answer made (txn 7) ......... answer arrives
    #                   receipt of txn 8 arrives
    watcher = cache.watch(SEVEN)
    cache.note(held(8))

    assert cache.answered(watcher, SEVEN, held(7)) == held(8)
    assert cache.get(SEVEN) == held(8)


def test_nor_does_it_count_when_the_receipts_time_passed_meanwhile(cache: SummaryCache, timer: Timer) -> None:
    """The answer took longer than the cache remembers; the question under way remembers for it."""
    watcher = cache.watch(SEVEN)
    cache.note(held(8))
    timer.seconds = TTL + 1

    assert cache.answered(watcher, SEVEN, held(7)) == held(8)
    assert cache.answered(cache.watch(SEVEN), SEVEN, held(9)) == held(9)


def test_nor_does_it_count_when_the_config_changed_meanwhile(cache: SummaryCache) -> None:
    watcher = cache.watch(SEVEN)
    cache.note(held(8))
    cache.follow(TTL)

    assert cache.get(SEVEN) is None
    assert cache.answered(watcher, SEVEN, held(7)) == held(8)


def test_zeros_do_not_count_against_a_receipt(cache: SummaryCache) -> None:
    """The worker held nothing when it was asked, and the first event's receipt overtook that answer."""
    watcher = cache.watch(SEVEN)
    cache.note(held(1))

    assert cache.answered(watcher, SEVEN, None) == held(1)
    assert cache.get(SEVEN) == held(1)


def test_zeros_are_remembered_until_there_is_more(cache: SummaryCache) -> None:
    assert cache.answered(cache.watch(SEVEN), SEVEN, None) == zeros()
    assert cache.get(SEVEN) == zeros()

    cache.note(held(1))

    assert cache.get(SEVEN) == held(1)


def test_what_the_cache_knows_beats_an_older_answer(cache: SummaryCache) -> None:
    """Noted just before the question, so that it did not see it go by."""
    cache.note(held(8))

    assert cache.answered(cache.watch(SEVEN), SEVEN, held(7)) == held(8)


def test_a_question_sees_its_own_slice_only(cache: SummaryCache) -> None:
    watcher = cache.watch(SEVEN)
    cache.note(held(3, at=EIGHT))

    assert cache.answered(watcher, SEVEN, None) == zeros()


def test_a_dropped_question_collects_nothing_more(cache: SummaryCache) -> None:
    watcher = cache.watch(None)
    cache.drop(watcher)
    cache.drop(watcher)
    cache.note(held(1))

    assert watcher.seen == {}


def test_a_cache_of_no_time_remembers_nothing_and_still_prefers_the_newest(cache: SummaryCache) -> None:
    cache.follow(0)
    cache.note(held(1))

    assert cache.get(SEVEN) is None
    watcher = cache.watch(SEVEN)
    cache.note(held(8))
    assert cache.answered(watcher, SEVEN, held(7)) == held(8)
    assert cache.get(SEVEN) is None
    assert cache.answered_all(cache.watch(None), NINE, [held(3)]) == {SEVEN: held(3)}
    assert cache.get_all(NINE) is None


# --- all slices at once


def test_an_answer_about_all_slices_keeps_what_overtook_it(cache: SummaryCache, timer: Timer) -> None:
    """Newer states of its slices, and slices that it does not know yet; not those after the bound."""
    watcher = cache.watch(None)
    cache.note(held(8, at=SEVEN))
    cache.note(held(1, at=EIGHT))
    cache.note(held(1, at=NINE))
    timer.seconds = TTL + 1

    found = cache.answered_all(watcher, EIGHT, [held(7)])

    assert found == {SEVEN: held(8), EIGHT: held(1, at=EIGHT)}


def test_an_answer_about_all_slices_keeps_what_the_cache_knows(cache: SummaryCache) -> None:
    """Zeros of the cache are no slice that holds data."""
    cache.note(held(8))
    cache.note(held(1, at=NINE))
    cache.answered(cache.watch(EIGHT), EIGHT, None)

    assert cache.answered_all(cache.watch(None), EIGHT, [held(7)]) == {SEVEN: held(8)}


def test_the_answer_about_all_slices_stays_new(cache: SummaryCache, timer: Timer) -> None:
    """What is noted after it goes into it, and only what is newer; its time is its own."""
    cache.answered_all(cache.watch(None), EIGHT, [held(7)])
    timer.seconds = TTL / 2
    cache.note(held(8))
    cache.note(held(6))
    cache.note(held(2, at=EIGHT))
    cache.note(held(1, at=NINE))

    assert cache.get_all(EIGHT) == {SEVEN: held(8), EIGHT: held(2, at=EIGHT)}
    assert cache.get_all(NINE) is None
    timer.seconds = TTL
    assert cache.get_all(EIGHT) is None


def test_what_is_known_to_be_wrong_is_forgotten(cache: SummaryCache) -> None:
    """A worker that lost data has an older state of the same file than what is known here."""
    cache.answered_all(cache.watch(None), NINE, [held(8), held(2, at=EIGHT)])
    cache.note(held(8))
    cache.note(held(2, at=EIGHT))

    cache.forget(SEVEN)
    cache.forget(NINE)

    assert cache.get(SEVEN) is None
    assert cache.get_all(NINE) is None
    assert cache.get(EIGHT) == held(2, at=EIGHT)
    assert cache.answered(cache.watch(SEVEN), SEVEN, held(5)) == held(5)


def test_answers_about_all_slices_are_kept_up_to_a_bound(cache: SummaryCache) -> None:
    """So many of them; and none that has more summaries than all may have together."""
    for until in range(SNAPSHOTS_MAX + 1):
        cache.answered_all(cache.watch(None), SliceId(until), [])
    one = held(1)
    too_many = [one] + [held(1, at=SliceId(-at)) for at in range(1, SNAPSHOT_SUMMARIES_MAX + 1)]
    answer = cache.answered_all(cache.watch(None), NINE, too_many)

    assert [cache.get_all(SliceId(until)) is None for until in (0, 1, SNAPSHOTS_MAX)] == [True, False, False]
    assert len(answer) == SNAPSHOT_SUMMARIES_MAX + 1
    assert cache.get_all(NINE) != answer
