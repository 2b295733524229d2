"""The streams to one worker: what they do while something else happens on the disk."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from api_node.delivery import RECEIPT_SECONDS, Delivery, EmptyBatch, Waiter
from api_node.node_metrics import ApiMetrics
from api_node.sender import Flight, Spooled
from api_node.spool import SpooledBatch, SpoolKey
from api_node.spool_room import SpooledStream, SpoolRoom
from common.errors import NoAnswer
from common.logs import new_log
from common.routing import WorkerId
from common.slices import Micros, SliceId
from common.tasks import Tasks
from common.wire import Batch, Outcome, Receipt, Reply, encode
from tests.support.batches import KEY_ID, OTHER_STREAM, STREAM, a_batch, key
from tests.support.configs import cluster_config
from tests.support.patience import eventually

WORKER = WorkerId("0")


class InterruptedRoom(SpoolRoom):
    """A room in which others have their turn at the moments that matter.

    Attributes:
        before_keeping: while batches are on their way to the disk.
        after_renaming: when batches have their new names on disk, before anybody was told.
        damaged: a record that cannot be read.
    """

    before_keeping: Callable[[], object] = staticmethod(lambda: None)
    after_renaming: Callable[[], object] = staticmethod(lambda: None)
    damaged: SpoolKey | None = None

    async def batches(self, source: SpooledStream, *, after: SpoolKey | None, bytes_max: int) -> list[SpooledBatch]:
        found = await super().batches(source, after=after, bytes_max=bytes_max)
        return [replace(one, raw=None) if one.key == self.damaged else one for one in found]

    async def keep(self, cluster: str, worker: WorkerId, batches: Sequence[tuple[bytes, bytes]]) -> None:
        self.before_keeping()
        await super().keep(cluster, worker, batches)

    async def rename(self, source: SpooledStream, renamed: Sequence[tuple[SpoolKey, bytes, bytes]]) -> None:
        await super().rename(source, renamed)
        self.after_renaming()


class Wire:
    """A worker that has applied nothing but what it was sent, and takes a moment for it.

    Attributes:
        sent: how many envelopes of each stream it was sent.
        events: how many events it has applied.
    """

    def __init__(self, *, outcomes: Mapping[bytes, Outcome] | None = None) -> None:
        self.sent: Counter[bytes] = Counter()
        self.events = 0
        self._outcomes = outcomes or {}

    async def send(self, stream: bytes, flight: Flight[Any], *, spooled: bool, seconds: float) -> Reply:
        self.sent[stream] += 1
        await asyncio.sleep(0.05)  # so that whoever has it too sends it too
        outcome = self._outcomes.get(stream, Outcome.APPLIED)
        if outcome is Outcome.APPLIED:
            self.events += sum(batch.events for batch in flight.batches)
        receipts = [Receipt(slice=it.slice, seq=it.seq, outcome=outcome, expected=1) for it in flight.batches]
        return Reply(worker="w", claims=0, receipts=tuple(receipts))


async def no_empty_batch(slice_id: SliceId, seq: int) -> Batch:
    """No record is damaged."""
    raise NotImplementedError


@asynccontextmanager
async def a_delivery(
    folder: Path,
    wire: Wire,
    *,
    empty_batch: EmptyBatch = no_empty_batch,
    receipt_seconds: float = RECEIPT_SECONDS,
    **settings: object,
) -> AsyncIterator[tuple[Delivery, InterruptedRoom]]:
    """The streams to one worker, and their spool; none of their tasks has died when it is left."""
    log, config = new_log("api-0", stream=io.StringIO()), cluster_config(**settings)
    room = InterruptedRoom(folder=folder, config=lambda: config, now=lambda: Micros(0), log=log)
    async with room, Tasks(log=log) as tasks:
        yield (
            Delivery(
                worker=WORKER,
                send=wire.send,
                room=room,
                cluster=lambda: "c",
                empty_batch=empty_batch,
                forget=lambda _: None,
                tasks=tasks,
                metrics=ApiMetrics(),
                log=log,
                receipt_seconds=receipt_seconds,
            ),
            room,
        )
        assert tasks.reason() is None


async def drained(room: SpoolRoom) -> None:
    async def nothing_waits() -> None:
        assert room.events == 0

    await eventually(nothing_waits)


async def test_a_renamed_stream_is_drained_once(tmp_path: Path) -> None:
    """Another stream may look for what is to be drained in the very moment in which batches get their new names."""
    # spooled 2 --> gap, 1 is expected --> renamed to 1 of another stream --(others look)--> applied
    wire = Wire(outcomes={STREAM: Outcome.GAP})
    async with a_delivery(tmp_path, wire) as (delivery, room):
        room.after_renaming = delivery.drain_spools
        await room.keep("c", WORKER, [(STREAM, encode(a_batch(("u", "click"), seq=2)))])
        delivery.drain_spools()
        await drained(room)

    assert wire.sent[STREAM] == 1
    assert sorted(wire.sent.values()) == [1, 1]


async def test_what_a_full_spool_left_in_the_queue_does_not_hold_up_what_is_in_it(tmp_path: Path) -> None:
    """The rest of a slice follows into the spool when the worker is back, and both are delivered."""
    # away: put a --> spill begins --(put b)--> a is kept, the spool is full --> b waits --> back: b, then a and b go
    wire = Wire()
    async with a_delivery(tmp_path, wire, spool_max_bytes=1) as (delivery, room):

        def put() -> Waiter:
            return delivery.put(SliceId(0), (WORKER,), KEY_ID, "click", key("u"), None)[0]

        delivery.go_away()
        room.before_keeping = lambda: waiters.append(put()) if len(waiters) == 1 else None
        waiters = [put()]
        kept = await waiters[0]
        delivery.come_back()
        await drained(room)
        rest = await asyncio.wait_for(waiters[1], 5)

        assert isinstance(kept, Spooled)
        assert isinstance(rest, Spooled)
        assert delivery.is_idle
    assert wire.events == 2


async def test_a_drain_goes_on_when_a_damaged_record_had_to_wait_for_the_registry(tmp_path: Path) -> None:
    """Its empty batch needs the route of the slice; while nobody knows that, it is tried again."""
    wire, asked = Wire(), 0

    async def empty_batch(slice_id: SliceId, seq: int) -> Batch:
        nonlocal asked
        asked += 1
        if asked == 1:
            text = "the registry is away"
            raise NoAnswer(text)
        return a_batch(at=slice_id, seq=seq)

    async with a_delivery(tmp_path, wire, empty_batch=empty_batch) as (delivery, room):
        await room.keep("c", WORKER, [(STREAM, encode(a_batch(("u", "click"), seq=seq))) for seq in (1, 2)])
        room.damaged = SpoolKey(STREAM, SliceId(0), 1)
        delivery.drain_spools()
        await drained(room)

    assert asked == 2
    assert wire.sent[STREAM] == 1


async def test_a_spooled_batch_of_a_closed_slice_leaves_the_spool_uncounted(tmp_path: Path) -> None:
    """Its worker will never take it, however often it is sent; it holds up nothing behind it."""
    wire = Wire(outcomes={STREAM: Outcome.CLOSED})
    async with a_delivery(tmp_path, wire) as (delivery, room):
        await room.keep("c", WORKER, [(STREAM, encode(a_batch(("u", "click"))))])
        await room.keep("c", WORKER, [(OTHER_STREAM, encode(a_batch(("v", "click"), at=1)))])
        delivery.drain_spools()
        await drained(room)

    assert wire.sent == {STREAM: 1, OTHER_STREAM: 1}
    assert wire.events == 1


async def test_a_spooled_batch_that_is_refused_for_now_is_tried_again(tmp_path: Path) -> None:
    """It stays in the spool until its worker takes it."""
    outcomes = {STREAM: Outcome.NO_SPACE}
    wire = Wire(outcomes=outcomes)
    async with a_delivery(tmp_path, wire) as (delivery, room):

        async def refused() -> None:
            assert wire.sent[STREAM] > 1

        await room.keep("c", WORKER, [(STREAM, encode(a_batch(("u", "click"))))])
        delivery.drain_spools()
        await eventually(refused)
        waiting, counted = room.events, wire.events
        outcomes.clear()
        await drained(room)

    assert (waiting, counted) == (1, 0)
    assert wire.events == 1


async def test_nobody_joins_a_batch_shortly_before_its_deadline(tmp_path: Path) -> None:
    """Who came last would hardly have waited, and be told that nothing is known."""
    never = asyncio.Event()

    class Deaf(Wire):
        async def send(self, stream: bytes, flight: Flight[Any], *, spooled: bool, seconds: float) -> Reply:
            await never.wait()
            raise AssertionError

    async with a_delivery(tmp_path, Deaf(outcomes={}), receipt_seconds=0.3) as (delivery, _):

        def put() -> Waiter:
            return delivery.put(SliceId(0), (WORKER,), KEY_ID, "click", key("u"), None)[0]

        under_way = put()
        await asyncio.sleep(0)  # the delivery's turn: the first event is on its way
        early, also_early = put(), put()
        await eventually(lambda: over(early))
        late = put()

        assert also_early is early
        assert late is not early
        assert not early.cancel()
        assert [await waiter for waiter in (under_way, early, late)] == [None, None, None]


async def over(waiter: Waiter) -> None:
    assert waiter.is_over
