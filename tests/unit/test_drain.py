"""A stream on its way out of the spool: refused slices wait on disk, and hold up no others."""

from __future__ import annotations

import io
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from api_node.drain import LOAD_BYTES, ROUTE_RETRY_SECONDS, Drain
from api_node.sender import PARKED_MOST_SECONDS
from api_node.spool import SpooledBatch, SpoolKey
from api_node.spool_room import SpooledStream, SpoolRoom
from common.errors import NoAnswer
from common.logs import new_log
from common.routing import WorkerId
from common.slices import Micros, SliceId
from common.wire import Batch, Outcome, Receipt, encode
from tests.support.batches import KEY_ID, STREAM, a_batch
from tests.support.configs import cluster_config

WORKER = WorkerId("0")
EVENTS = 16_000  # a batch of some 270 KB

Answer = Callable[[SliceId, int], Outcome]


class DamagedRoom(SpoolRoom):
    """A room in which some records cannot be read."""

    damaged: frozenset[SpoolKey] = frozenset()

    async def batches(self, source: SpooledStream, *, after: SpoolKey | None, bytes_max: int) -> list[SpooledBatch]:
        found = await super().batches(source, after=after, bytes_max=bytes_max)
        return [replace(one, raw=None) if one.key in self.damaged else one for one in found]


class Worker:
    """Answers what the test says, and keeps the numbers of what it has applied."""

    def __init__(self, answer: Answer = lambda _slice, _seq: Outcome.APPLIED) -> None:
        self.answer = answer
        self.applied: dict[tuple[bytes, SliceId], list[int]] = {}
        self.refused: Counter[SliceId] = Counter()
        self.now = 0.0

    async def turn(self, drain: Drain) -> bool:
        """One envelope there and back; whether there was one."""
        taken = await drain.take(self.now)
        if taken is None:
            return False
        sender, flight = taken
        receipts = []
        for batch in flight.batches:
            outcome = self.answer(batch.slice, batch.seq)
            if outcome is Outcome.APPLIED:
                self.applied.setdefault((sender.stream, batch.slice), []).append(batch.seq)
            elif outcome is not Outcome.GAP:
                self.refused[batch.slice] += 1
            receipts.append(Receipt(slice=batch.slice, seq=batch.seq, outcome=outcome))
        await drain.answered(sender, flight, receipts, self.now)
        return True

    async def turns(self, drain: Drain, *, seconds: float) -> None:
        """As many as there are within a time."""
        end = self.now + seconds
        while self.now <= end and not drain.is_done:
            if not await self.turn(drain):
                self.now = max(drain.wake_at() or 0.0, self.now + 0.01)


def large(at: int, seq: int) -> bytes:
    """A batch of many events."""
    return encode(
        Batch(
            slice=SliceId(at),
            seq=seq,
            route=(WORKER,),
            key_id=KEY_ID,
            names=("click",),
            kinds=bytes(EVENTS),
            users=bytes(16 * EVENTS),
        )
    )


async def no_route(_slice: SliceId, _seq: int) -> Batch:
    """Nobody can tell the route."""
    text = "the registry is away"
    raise NoAnswer(text)


@asynccontextmanager
async def spooled(
    folder: Path,
    batches: Sequence[bytes],
    *,
    empty_batch: Callable[..., object] = no_route,
    damaged: Sequence[int] = (),
) -> AsyncIterator[tuple[Drain, SpoolRoom]]:
    """A drain of a stream with these batches."""
    log, config = new_log("api-0", stream=io.StringIO()), cluster_config()
    room = DamagedRoom(folder=folder, config=lambda: config, now=lambda: Micros(0), log=log)
    room.damaged = frozenset(SpoolKey(STREAM, SliceId(at), 1) for at in damaged)
    async with room:
        for raw in batches:
            await room.keep("c", WORKER, [(STREAM, raw)])
        (source,) = room.streams(WORKER)
        yield Drain(source=source, room=room, empty_batch=empty_batch, log=log), room  # type: ignore[arg-type]


async def test_refused_slices_take_no_memory(tmp_path: Path) -> None:
    """However many a worker refuses: each is tried, again and again, and what is in memory stays bounded."""
    slices = 60
    everything = [large(at, seq) for at in range(slices) for seq in (1, 2)]
    size = sum(map(len, everything))
    async with spooled(tmp_path, everything) as (drain, room):
        del everything
        worker = Worker(lambda _slice, _seq: Outcome.NO_SPACE)
        tracemalloc.start()
        await worker.turns(drain, seconds=20)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        tried = dict(worker.refused)
        worker.answer = lambda _slice, _seq: Outcome.APPLIED
        await worker.turns(drain, seconds=20)

        assert size > 3 * LOAD_BYTES
        assert peak < 3 * LOAD_BYTES
        assert len(tried) == slices
        assert min(tried.values()) > 20 / PARKED_MOST_SECONDS
        assert worker.applied == {(STREAM, SliceId(at)): [1, 2] for at in range(slices)}
        assert drain.is_done
        assert room.events == 0


async def test_of_a_refused_slice_one_batch_is_tried(tmp_path: Path) -> None:
    """Ever more rarely, as a live stream does."""
    async with spooled(tmp_path, [encode(a_batch(("u", "click"), seq=seq)) for seq in range(1, 9)]) as (drain, _):
        worker = Worker(lambda _slice, _seq: Outcome.QUARANTINED)
        assert await worker.turn(drain)
        all_at_once = worker.refused.total()
        await worker.turns(drain, seconds=60)

        assert all_at_once == 8
        assert 60 / PARKED_MOST_SECONDS <= worker.refused.total() - all_at_once < 2 * 60 / PARKED_MOST_SECONDS


async def test_what_is_refused_holds_up_nothing_else(tmp_path: Path) -> None:
    """Of a spool that is mostly refused, the rest is delivered."""
    everything = [large(at, 1) for at in range(60)]
    async with spooled(tmp_path, everything) as (drain, room):
        worker = Worker(lambda at, _seq: Outcome.APPLIED if at == 59 else Outcome.NO_SPACE)
        await worker.turns(drain, seconds=1)

        assert worker.applied == {(STREAM, SliceId(59)): [1]}
        assert room.events == 59 * EVENTS


async def test_what_goes_on_in_another_stream_takes_little_memory(tmp_path: Path) -> None:
    """A worker that lost everything gets it under new numbers; the rest of the spool waits on disk meanwhile."""
    everything = [large(at, seq) for at in range(60) for seq in (7, 8)]
    async with spooled(tmp_path, everything) as (drain, room):
        del everything
        worker = Worker(lambda _slice, seq: Outcome.GAP if seq >= 7 else Outcome.APPLIED)
        tracemalloc.start()
        await worker.turns(drain, seconds=20)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert peak < 4 * LOAD_BYTES
        assert [seqs for (stream, _), seqs in worker.applied.items() if stream != STREAM] == [[1, 2]] * 60
        assert room.events == 0


async def test_a_damaged_record_without_a_route_holds_up_only_its_slice(tmp_path: Path) -> None:
    """Perhaps nobody will ever tell: the other slices of the stream are delivered, and its own once it is known."""
    known: list[bool] = []

    async def empty_batch(slice_id: SliceId, seq: int) -> Batch:
        return a_batch(at=slice_id, seq=seq) if known else await no_route(slice_id, seq)

    batches = [encode(a_batch(("u", "click"), at=at, seq=seq)) for at in (1, 2, 3) for seq in (1, 2)]
    async with spooled(tmp_path, batches, empty_batch=empty_batch, damaged=[1, 3]) as (drain, _):
        worker = Worker()
        await worker.turns(drain, seconds=2 * ROUTE_RETRY_SECONDS)
        before = dict(worker.applied)
        is_done = drain.is_done
        known.append(True)
        await worker.turns(drain, seconds=2 * ROUTE_RETRY_SECONDS)

        assert before == {(STREAM, 2): [1, 2]}
        assert not is_done
        assert worker.applied == {(STREAM, at): [1, 2] for at in (1, 2, 3)}
        assert drain.is_done
