"""Orders, answers and traffic: what is sent, what an answer means for each event, and what the model keeps. Pure."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.slices import SECOND, Micros, SliceClock, SliceId
from tallyslice.load.answers import ALL_TAKEN, Outcome, outcome_of
from tallyslice.load.connection import LOST, UNREACHED, Reply, Target
from tallyslice.load.order import Order
from tallyslice.load.pace import ClosedLoop, OpenLoop
from tallyslice.load.traffic import BULK, EVENT, READ, Shipment, Traffic

NOW = Micros(1_700_000_000 * SECOND)
CLOCK = SliceClock(first=Micros(NOW - 1_800 * SECOND), length_seconds=3_600)
URN = "urn:tallyslice:problem:"
NODES = ("http://127.0.0.1:8000", "http://127.0.0.1:8001")


def order(**settings: Any) -> Order:
    wanted: dict[str, Any] = {"nodes": NODES, "rate": 100.0, "seconds": 10.0}
    return Order(**wanted | settings)


def traffic(**settings: Any) -> Traffic:
    one = order(seed=1, **settings)
    targets = [Target.of(node) for node in NODES]
    return Traffic(order=one, targets=targets, crowd=one.crowd("t"), clock=CLOCK, now=lambda: NOW)


def problem(slug: str) -> bytes:
    return json.dumps({"type": URN + slug, "status": 503}).encode()


def answer(accepted: int, *errors: tuple[int, str]) -> bytes:
    """Of POST /events."""
    listed = [{"index": n, "type": URN + slug, "field": None, "detail": "", "retry": False} for n, slug in errors]
    return json.dumps({"accepted": accepted, "repeated": None, "rejected": len(errors), "errors": listed}).encode()


# Orders


def test_an_order_of_events_is_that_many_requests() -> None:
    """One by one, or in bulk with the last one smaller."""
    assert order().pace() == OpenLoop(rate=100, requests=1_000)
    assert order(bulk=30).pace() == OpenLoop(rate=100 / 30, requests=34)
    assert (order().events, order(bulk=30).events, order(rate=None).events) == (1_000, 1_000, None)
    assert order(rate=None).pace() == ClosedLoop(seconds=10)


def test_reads_come_on_top_of_the_events_and_are_spread_evenly() -> None:
    """The rate is that of the events, unless there are none."""
    some, only = order(reads=0.2), order(reads=1.0)

    assert some.pace() == OpenLoop(rate=125, requests=1_250)
    assert [n for n in range(15) if some.is_read(n)] == [4, 9, 14]
    assert sum(some.is_read(n) for n in range(1_250)) == 250
    assert only.pace() == OpenLoop(rate=100, requests=1_000)
    assert only.events == 0
    assert all(only.is_read(n) for n in range(10))
    assert not any(order().is_read(n) for n in range(10))


def test_there_is_a_connection_for_each_node() -> None:
    assert order(connections=1).lanes == 2
    assert order(connections=7).lanes == 7
    assert order().lanes > order(rate=None).lanes


# Answers


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (202, b"", ALL_TAKEN),
        (204, b"", ALL_TAKEN),
        (302, b"", Outcome(refused=[(0, "status 302")])),
        (400, b"", Outcome(refused=[(0, "status 400")])),
        (408, b"", Outcome(not_taken=[0])),
        (422, problem("slice-closed"), Outcome(refused=[(0, "status 422, slice-closed")])),
        (429, b"", Outcome(not_taken=[0])),
        (500, b"oops", Outcome(unknown=[0])),
        (503, problem("not-taken"), Outcome(not_taken=[0])),
        (503, problem("outcome-unknown"), Outcome(unknown=[0])),
        (503, b"", Outcome(unknown=[0])),  # of a proxy between us
        (503, b"[]", Outcome(unknown=[0])),
        (LOST, b"", Outcome(unknown=[0])),
        (UNREACHED, b"", Outcome(not_taken=[0])),
    ],
)
@pytest.mark.parametrize("bulk", [False, True])
def test_what_an_answer_means(status: int, body: bytes, outcome: Outcome, *, bulk: bool) -> None:
    """Only what says so was surely not taken. In bulk, a success must say of what."""
    found = outcome_of(Reply(status, body), 1, bulk=bulk)

    if bulk and outcome is ALL_TAKEN:
        outcome = Outcome(unknown=[0])
    assert [list(part) for part in (found.refused, found.not_taken, found.unknown)] == [
        list(part) for part in (outcome.refused, outcome.not_taken, outcome.unknown)
    ]


@pytest.mark.parametrize("status", [202, 400, 503])
def test_a_list_of_errors_tells_each_event_apart(status: int) -> None:
    """Whatever the status is; what is not listed was taken."""
    body = answer(2, (1, "malformed"), (2, "not-taken"), (4, "outcome-unknown"), (5, "slice-closed"))

    assert outcome_of(Reply(202, answer(6)), 6, bulk=True) is ALL_TAKEN
    assert outcome_of(Reply(status, body), 6, bulk=True) == Outcome(
        refused=[(1, "malformed"), (5, "slice-closed")], not_taken=[2], unknown=[4]
    )


@pytest.mark.parametrize(
    "body",
    [
        answer(5),
        answer(6, (1, "malformed")),
        answer(4, (1, "malformed"), (1, "not-taken")),
        answer(5, (6, "malformed")),
        answer(5, (-1, "malformed")),
    ],
)
def test_an_answer_that_contradicts_itself_is_not_believed(body: bytes) -> None:
    found = outcome_of(Reply(202, body), 6, bulk=True)

    assert list(found.unknown) == list(range(6))


# Traffic


def drawn(made: Traffic) -> Shipment:
    item = made.draw()
    assert item is not None
    return item


def counts(made: Traffic) -> dict[str, int]:
    return {
        "acknowledged": made.acknowledged,
        "refused": made.refused.total(),
        "undelivered": made.undelivered,
        "unknown": made.model.events_unknown,
        "waiting": made.waiting,
    }


def test_an_order_is_drawn_to_its_end() -> None:
    """Bulk requests of the wanted size, the last one smaller; each event is in one of them."""
    made = traffic(bulk=300)
    items = list(iter(made.draw, None))

    assert [len(item.parcel or ()) for item in items] == [300, 300, 300, 100]
    assert made.drawn == made.waiting == 1_000
    assert sum(item.body.count(b"\n") for item in items) == 1_000


def test_a_request_is_for_the_node_that_is_asked() -> None:
    """The same body to each; bulk, single events and reads have their own calls."""
    single, bulk, read = traffic(), traffic(bulk=2), traffic(reads=1.0)
    first = {made: drawn(made) for made in (single, bulk, read)}

    for server, port in enumerate((8_000, 8_001)):
        host = b" HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % port
        assert single.request(first[single], server).startswith(b"POST /analytics" + host)
        assert single.request(first[single], server).endswith(b"\r\n\r\n" + first[single].body)
        assert bulk.request(first[bulk], server).startswith(b"POST /events" + host)
        assert read.request(first[read], server) == b"GET /analytics" + host + b"\r\n"
    assert [list(made.latencies) for made in (single, bulk, read)] == [[EVENT], [BULK], [READ]]


def test_of_a_bulk_request_only_what_is_open_is_sent_again() -> None:
    """Lines that were taken or refused are done; the rest makes a smaller request, and then counts once.

    first:  0 taken  1 refused  2 not taken  3 unknown  4 taken
    again:                      0 taken      1 taken
    """
    made = traffic(bulk=5)
    item = drawn(made)
    again = made.settle(item, Reply(202, answer(2, (1, "malformed"), (2, "not-taken"), (3, "outcome-unknown"))), 0.001)
    assert again is not None
    between = counts(made)
    done = made.settle(again, Reply(202, answer(2)), 0.5)

    lines = item.body.splitlines()
    assert again.body.splitlines() == lines[2:4]
    assert between == {"acknowledged": 2, "refused": 1, "undelivered": 0, "unknown": 0, "waiting": 2}
    assert done is None
    assert counts(made) == {"acknowledged": 4, "refused": 1, "undelivered": 0, "unknown": 0, "waiting": 0}
    assert made.model.events == 4
    assert item.parcel is not None
    (slice_model,) = made.model.acknowledged.values()
    assert slice_model.users == {item.parcel.users[n] for n in (0, 2, 3, 4)}
    assert made.latencies[BULK].count == 1
    assert made.latencies[BULK].longest == pytest.approx(500, rel=0.001)


def test_without_ids_nothing_of_unknown_outcome_is_sent_again() -> None:
    """It could be counted twice; what was surely not taken is still safe to send."""
    made = traffic(bulk=4, ids=False)
    again = made.settle(drawn(made), Reply(202, answer(2, (0, "not-taken"), (1, "outcome-unknown"))), 0.001)
    lost = made.settle(drawn(made), Reply(LOST), 0.001)

    assert again is not None
    assert again.parcel is not None
    assert len(again.parcel) == 1
    assert not again.unsure
    assert lost is None
    assert made.model.events_unknown == 5


@pytest.mark.parametrize("under_way", [False, True])
def test_what_is_given_up_may_be_counted_if_any_try_was_unsure(*, under_way: bool) -> None:
    """Refused at the door each time, and nothing under way: surely not counted."""
    made = traffic(bulk=5)
    never, perhaps = drawn(made), drawn(made)
    never_again = made.settle(never, Reply(UNREACHED), 0.001)
    perhaps_again = made.settle(perhaps, Reply(LOST), 0.001)
    assert never_again is not None
    assert perhaps_again is not None
    made.leave(never_again, under_way=under_way)
    made.leave(perhaps_again, under_way=under_way)

    assert never_again.body == never.body
    expected = (0, 10) if under_way else (5, 5)
    assert (made.undelivered, made.model.events_unknown) == expected
    assert made.waiting == 0


def test_an_event_refused_after_a_lost_answer_may_be_counted() -> None:
    made = traffic(bulk=2)
    again = made.settle(drawn(made), Reply(LOST), 0.001)
    assert again is not None
    made.settle(again, Reply(202, answer(1, (0, "slice-closed"))), 0.001)

    assert counts(made) == {"acknowledged": 1, "refused": 0, "undelivered": 0, "unknown": 1, "waiting": 0}


def test_late_events_are_kept_in_their_own_slices() -> None:
    """The clock's boundary lies a minute before now; late events are up to two minutes late."""
    made = Traffic(
        order=order(bulk=500, seed=1),
        targets=[Target.of(NODES[0])],
        crowd=order(seed=1).crowd("t"),
        clock=SliceClock(first=Micros(NOW - 60 * SECOND), length_seconds=3_600),
        now=lambda: NOW,
    )
    item = drawn(made)
    made.settle(item, Reply(202, answer(500)), 0.001)

    assert item.parcel is not None
    before = sum(at * 1_000 < NOW - 60 * SECOND for at in item.parcel.at)
    assert 0 < before < 50
    assert made.model.acknowledged[SliceId(-1)].counts.total() == before
    assert made.model.acknowledged[SliceId(0)].counts.total() == 500 - before


def test_reads_are_measured_and_never_sent_again() -> None:
    """They are no events; one that fails is counted by its status."""
    made = traffic(reads=1.0)
    for status in (200, 200, 503, LOST):
        assert made.settle(drawn(made), Reply(status, b""), 0.002) is None
    made.leave(drawn(made), under_way=True)

    assert made.latencies[READ].count == 2
    assert made.failed_reads == {503: 1, LOST: 1}
    assert counts(made) == dict.fromkeys(counts(made), 0)
