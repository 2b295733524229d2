"""The streams to one worker: what they do while something else happens on the disk."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from api_node.delivery import Delivery
from api_node.node_metrics import ApiMetrics
from api_node.sender import Flight
from api_node.spool import SpoolKey
from api_node.spool_room import SpooledStream, SpoolRoom
from common.logs import new_log
from common.routing import WorkerId
from common.slices import Micros, SliceId
from common.tasks import Tasks
from common.wire import Batch, Outcome, Receipt, Reply, encode
from tests.support.batches import STREAM, a_batch
from tests.support.configs import cluster_config
from tests.support.patience import eventually

WORKER = WorkerId("0")


class InterruptedRoom(SpoolRoom):
    """A room in which others have their turn when batches have their new names, before anybody was told."""

    interrupt: Any = None

    async def rename(self, source: SpooledStream, renamed: Sequence[tuple[SpoolKey, bytes, bytes]]) -> None:
        await super().rename(source, renamed)
        self.interrupt()


async def test_a_renamed_stream_is_drained_once(tmp_path: Path) -> None:
    """Another stream may look for what is to be drained in the very moment in which batches get their new names."""
    # spooled 2 --> gap, 1 is expected --> renamed to 1 of another stream --(others look)--> applied
    log, sent = new_log("api-0", stream=io.StringIO()), Counter[bytes]()

    async def send(stream: bytes, flight: Flight[Any], *, spooled: bool, seconds: float) -> Reply:
        sent[stream] += 1
        await asyncio.sleep(0.05)  # so that whoever has it too sends it too
        outcome = Outcome.GAP if stream == STREAM else Outcome.APPLIED
        receipts = [Receipt(slice=it.slice, seq=it.seq, outcome=outcome, expected=1) for it in flight.batches]
        return Reply(worker="w", claims=0, receipts=tuple(receipts))

    async def empty_batch(slice_id: SliceId, seq: int) -> Batch:
        raise NotImplementedError

    room = InterruptedRoom(folder=tmp_path, config=cluster_config, now=lambda: Micros(0), log=log)
    async with room, Tasks(log=log) as tasks:
        delivery = Delivery(
            worker=WORKER,
            send=send,
            room=room,
            cluster=lambda: "c",
            empty_batch=empty_batch,
            forget=lambda _: None,
            tasks=tasks,
            metrics=ApiMetrics(),
            log=log,
        )
        room.interrupt = delivery.drain_spools
        await room.keep("c", WORKER, [(STREAM, encode(a_batch(("u", "click"), seq=2)))])
        delivery.drain_spools()

        async def drained() -> None:
            assert room.events == 0

        await eventually(drained)

        assert tasks.reason() is None
        assert sent[STREAM] == 1
        assert sorted(sent.values()) == [1, 1]
