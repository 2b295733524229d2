"""Whatever arrives in whatever order, a worker's files equal a dict of sets, and add up by themselves."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import event, given, settings
from hypothesis import strategies as st

from common.slices import SliceId
from common.summaries import Summary
from common.wire import Batch, Outcome, check_of, encode
from tests.support.batches import a_batch, numbered
from tests.support.slice_files import problems_of
from tests.support.worker_parts import load_of, writing
from worker_node.key_set import Merging
from worker_node.recent_keys import RecentKeys

SLICES = range(-2, 3)  # more than the two files that may be open
NEXT, LAST, OLDER, LATER, ALTERED = "next", "last", "older", "later", "altered"


@dataclass
class ModelSlice:
    """A slice as a dict of sets."""

    users: set[bytes] = field(default_factory=set)
    ids: set[bytes] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    streams: dict[bytes, list[Batch]] = field(default_factory=dict)
    receipts: dict[bytes, tuple[int, ...]] = field(default_factory=dict)
    complete: bool = True
    closed: bool = False
    late: int = 0

    def receive(self, stream: bytes, batch: Batch, *, spooled: bool) -> tuple[Outcome, tuple[int, ...] | None]:
        """What must become of a batch."""
        known = self.streams.get(stream, [])
        if batch.seq > len(known) + 1:
            return Outcome.GAP, ()
        if batch.seq < len(known):
            return Outcome.DUPLICATE, None
        if batch.seq == len(known):
            same = known[-1] == batch
            return (Outcome.DUPLICATE, self.receipts[stream]) if same else (Outcome.CONFLICT, ())
        if self.closed and not spooled:
            return Outcome.CLOSED, ()
        repeats = self._count_late(batch) if self.closed else self._count(batch)
        self.streams.setdefault(stream, []).append(batch)
        self.receipts[stream] = repeats
        return Outcome.APPLIED, repeats

    def _count(self, batch: Batch) -> tuple[int, ...]:
        repeats = []
        for position, (user, name, event_id) in enumerate(events_of(batch)):
            if event_id is not None and event_id in self.ids:
                repeats.append(position)
                continue
            if event_id is not None:
                self.ids.add(event_id)
            self.users.add(user)
            self.counts[name] += 1
        self.complete = self.complete and not batch.regressed
        return tuple(repeats)

    def _count_late(self, batch: Batch) -> tuple[int, ...]:
        self.counts.update(name for _, name, event_id in events_of(batch) if event_id is None)
        self.late += len(batch.kinds)
        self.complete = False
        return ()

    def summary(self, at: int) -> Summary:
        """What must be shown."""
        return Summary(
            slice=SliceId(at), users=len(self.users), counts=dict(self.counts), complete=self.complete, late=self.late
        )


def events_of(batch):
    """Each event's user key, type, and id key where it has one."""
    for position, kind in enumerate(batch.kinds):
        event_id = batch.ids[position * 16 : position * 16 + 16]
        yield (
            batch.users[position * 16 : position * 16 + 16],
            batch.names[kind],
            event_id if event_id.strip(b"\0") else None,
        )


_events = st.lists(
    st.tuples(st.sampled_from("abcdefghij"), st.sampled_from(("click", "impression", "x")))
    | st.tuples(st.sampled_from("abcdef"), st.sampled_from(("click", "x")), st.sampled_from("12345")),
    max_size=6,
)
_batch = st.tuples(
    st.sampled_from((b"s" * 16, b"t" * 16)),
    st.sampled_from(SLICES),
    st.sampled_from((NEXT, NEXT, NEXT, LAST, OLDER, LATER, ALTERED)),
    _events,
    st.booleans(),  # spooled
    st.sampled_from((False,) * 9 + (True,)),  # regressed
)
_step = (
    st.lists(_batch, min_size=1, max_size=5).map(lambda batches: ("receive", batches))
    | st.sampled_from(SLICES).map(lambda at: ("close", at))
    | st.sampled_from((("reopen", None), ("look", None)))
)


_merging = st.builds(
    Merging, pending_max=st.sampled_from((0, 2, 5, 20)), part_keys=st.sampled_from((1, 2, 5)), run_keys_min=st.just(1)
)


class Run:
    """One sequence of steps against the real thing and the model."""

    def __init__(self, folder, keys_max, merging):
        self._folder = folder
        self._keys_max = keys_max
        self._merging = merging
        self._model: dict[int, ModelSlice] = {}

    async def steps(self, steps):
        for part in _split_at_reopen(steps):
            async with writing(
                self._folder, recent=RecentKeys(keys_max=self._keys_max), merging=self._merging
            ) as parts:
                for name, argument in part:
                    event(name)
                    await getattr(self, f"_{name}")(parts, argument)
                await self._look(parts, None)
            for path in (self._folder / "slices").glob("*.mdb"):
                assert problems_of(path) == []

    async def _receive(self, parts, batches):
        # A batch that is sent again is chosen by what the model holds when the request is made.
        items, expected = [], []
        for stream, at, which, events, spooled, regressed in batches:
            batch = self._batch(stream, at, which, events, regressed=regressed)
            items.append(numbered(batch, stream=stream, spooled=spooled))
            model = self._model.get(at) or ModelSlice()
            expected.append(model.receive(stream, batch, spooled=spooled))
            if expected[-1][0] is Outcome.APPLIED:
                self._model[at] = model
        receipts = await parts.writer.receive(items, load=load_of(items), claims=0)
        assert [(receipt.outcome, receipt.repeats) for receipt in receipts] == expected
        for receipt in receipts:
            event(receipt.outcome)
            if receipt.slice in self._model:
                assert receipt.held.summary == self._model[receipt.slice].summary(receipt.slice)

    def _batch(self, stream, at, which, events, *, regressed):
        known = self._model.get(at, ModelSlice()).streams.get(stream, [])
        if which == LAST and known:
            return known[-1]
        if which == OLDER and known:
            return known[0]
        seq = {LATER: len(known) + 3, ALTERED: max(len(known), 1)}.get(which, len(known) + 1)
        return a_batch(*events, seq=seq, at=at, regressed=regressed)

    async def _close(self, parts, at):
        await parts.writer.close_slices([SliceId(at)])
        if at in self._model:
            self._model[at].closed = True

    async def _look(self, parts, _):
        found, damaged = await parts.writer.look(list(map(SliceId, SLICES)))
        assert damaged == []
        assert {at: held.summary for at, held in found.items()} == {
            at: model.summary(at) for at, model in self._model.items()
        }
        assert parts.holdings.between(None, None) == sorted(self._model)
        assert parts.shelf.open_files <= 2


def _split_at_reopen(steps):
    part: list[tuple[str, object]] = []
    for step in steps:
        if step[0] == "reopen":
            yield part
            part = []
        else:
            part.append(step)
    yield part


@settings(max_examples=60, deadline=None)
@given(st.lists(_step, max_size=25), st.sampled_from((0, 4, 10, 1000)), _merging)
def test_the_store_equals_a_dict_of_sets(steps, keys_max, merging):
    """Through writer and shelf, with two open files over five slices; many keys are known or few, pending or few."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(Run(Path(folder), keys_max, merging).steps(steps))


@given(_events)
def test_equal_batches_have_equal_checks_and_others_do_not(events):
    """What the model compares by content, the worker compares by check."""
    batch = a_batch(*events)

    assert check_of(encode(batch)) == check_of(encode(a_batch(*events)))
    assert check_of(encode(batch)) != check_of(encode(a_batch(*events, ("z", "click"))))
