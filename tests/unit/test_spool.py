"""The spool: what is in it survives, in order, unchanged, until its worker has answered for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from api_node.spool import FILE_NAME, Spool, SpoolKey
from common.errors import ConfigRefused, InputOutputFailed
from common.routing import WorkerId
from common.slices import Micros, SliceId
from common.wire import CHECK_BYTES, Batch, check_of, encode

CLUSTER = "c1"
WORKER = WorkerId("0")
STREAM, OTHER = b"s" * 16, b"t" * 16
NOW = Micros(1_000_000)
PLENTY = 1 << 20


def batch(slice_id: int, seq: int, *, events: int = 1) -> bytes:
    return encode(
        Batch(
            slice=SliceId(slice_id),
            seq=seq,
            route=(WORKER,),
            key_id=bytes(8),
            names=("click",),
            kinds=bytes(events),
            users=bytes(16 * events),
        )
    )


def key(slice_id: int, seq: int, stream: bytes = STREAM) -> SpoolKey:
    return SpoolKey(stream, SliceId(slice_id), seq)


@pytest.fixture(name="reopen")
def reopen_fixture(tmp_path: Path) -> Iterator[Callable[[], Spool]]:
    """Opens the one spool of the test, closing it first where it is open."""
    opened: list[Spool] = []

    def reopen() -> Spool:
        for spool in opened:
            spool.close()
        spool = Spool(folder=tmp_path, cluster=CLUSTER)
        spool.open()
        opened.append(spool)
        return spool

    yield reopen
    for spool in opened:
        spool.close()


def test_what_was_put_in_is_there_after_a_restart(reopen: Callable[[], Spool]) -> None:
    """The same bytes, by slice and number, with their counts and their age."""
    raws = [batch(-2, 1), batch(5, 1, events=3), batch(5, 2)]
    reopen().append(WORKER, [(STREAM, raw) for raw in reversed(raws)], at=NOW)

    spool = reopen()

    found = spool.batches(STREAM, bytes_max=PLENTY)
    assert [one.raw for one in found] == raws
    assert [one.key for one in found] == [key(-2, 1), key(5, 1), key(5, 2)]
    assert dict(spool.events) == {-2: 1, 5: 4}
    assert spool.size_bytes == sum(map(len, raws))
    assert spool.oldest == NOW
    assert spool.streams() == {STREAM: WORKER}


def test_batches_come_in_pieces(reopen: Callable[[], Spool]) -> None:
    """At least one, then as many as fit; the next piece begins behind the last one."""
    spool = reopen()
    spool.append(WORKER, [(STREAM, batch(1, seq)) for seq in (1, 2, 3)], at=NOW)
    spool.append(WORKER, [(OTHER, batch(1, 1))], at=NOW)

    first = spool.batches(STREAM, bytes_max=1)
    rest = spool.batches(STREAM, after=first[-1].key, bytes_max=PLENTY)

    assert [one.key.seq for one in first] == [1]
    assert [one.key.seq for one in rest] == [2, 3]
    assert spool.batches(STREAM, after=rest[-1].key, bytes_max=PLENTY) == []


def test_an_answered_batch_is_let_go_of(reopen: Callable[[], Spool]) -> None:
    """A stream without batches is none; numbers and age follow."""
    spool = reopen()
    spool.append(WORKER, [(STREAM, batch(1, 1)), (STREAM, batch(1, 2))], at=NOW)

    spool.answered([key(1, 1)])
    one_left = dict(spool.events), spool.is_empty
    spool.answered([key(1, 2)])

    assert one_left == ({1: 1}, False)
    assert spool.is_empty
    assert spool.batches(STREAM, bytes_max=PLENTY) == []
    assert (spool.streams(), spool.size_bytes, dict(spool.events), spool.oldest) == ({}, 0, {}, None)
    assert reopen().is_empty


def test_a_batch_is_let_go_of_once(reopen: Callable[[], Spool]) -> None:
    """Two answers for one batch do not make the spool look empty, so that it would be removed."""
    spool = reopen()
    spool.append(WORKER, [(STREAM, batch(1, 1)), (STREAM, batch(1, 2))], at=NOW)

    spool.answered([key(1, 1)])
    spool.answered([key(1, 1)])

    assert not spool.is_empty
    assert dict(spool.events) == {1: 1}


def test_a_renamed_batch_has_its_new_name_on_disk(reopen: Callable[[], Spool]) -> None:
    """The old name is gone in the same transaction; the age stays."""
    spool = reopen()
    spool.append(WORKER, [(STREAM, batch(1, 7)), (STREAM, batch(1, 8))], at=NOW)

    spool.rename([(key(1, 7), OTHER, batch(1, 1)), (key(1, 8), OTHER, batch(1, 2))])

    again = reopen()
    assert again.streams() == {OTHER: WORKER}
    assert [one.key for one in again.batches(OTHER, bytes_max=PLENTY)] == [key(1, 1, OTHER), key(1, 2, OTHER)]
    assert again.batches(STREAM, bytes_max=PLENTY) == []
    assert again.oldest == NOW
    assert dict(again.events) == {1: 2}


def test_a_batch_that_is_gone_does_not_come_back_under_another_name(reopen: Callable[[], Spool]) -> None:
    """Its worker has answered for it: it would be counted again."""
    spool = reopen()
    spool.append(WORKER, [(STREAM, batch(1, 7)), (STREAM, batch(1, 8))], at=NOW)
    spool.answered([key(1, 7)])

    spool.rename([(key(1, 7), OTHER, batch(1, 1)), (key(1, 8), OTHER, batch(1, 2))])
    spool.rename([(key(1, 8), OTHER, batch(1, 3))])

    for one in (spool, reopen()):
        assert one.streams() == {OTHER: WORKER}
        assert dict(one.events) == {1: 1}
        assert dict(one.events_by_worker()) == {WORKER: 1}
        assert one.size_bytes == len(batch(1, 2))
    assert [one.key for one in reopen().batches(OTHER, bytes_max=PLENTY)] == [key(1, 2, OTHER)]


def no_batch(stored: bytes) -> bytes:
    """Whole by its check, and yet no batch: as another version might have written it."""
    raw = b"no batch"
    return check_of(raw) + stored[CHECK_BYTES : -len(batch(1, 1))] + raw


@pytest.mark.parametrize("damage", [lambda stored: stored[:-1], lambda _: b"", lambda _: b"x" * 40, no_batch])
def test_a_damaged_record_is_known_by_its_name(
    reopen: Callable[[], Spool], tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    """Its number is still there, so that an empty batch can take its place."""
    spool = reopen()
    spool.append(WORKER, [(STREAM, batch(1, 1)), (STREAM, batch(1, 2))], at=NOW)
    spool.close()
    with lmdb.open(str(tmp_path / FILE_NAME), subdir=False, max_dbs=3, lib_version=0) as env:
        batches = env.open_db(b"batches")
        with env.begin(write=True, db=batches) as txn:
            name = key(1, 1).to_bytes()
            txn.put(name, damage(txn.get(name) or b""))

    again = reopen()

    found = again.batches(STREAM, bytes_max=PLENTY)
    assert [(one.key.seq, one.raw is None) for one in found] == [(1, True), (2, False)]
    again.answered([one.key for one in found])
    assert again.is_empty


def test_a_record_under_another_name_is_damaged(reopen: Callable[[], Spool], tmp_path: Path) -> None:
    """A whole batch in the wrong place must not be sent under that number."""
    spool = reopen()
    spool.append(WORKER, [(STREAM, batch(1, 1))], at=NOW)
    spool.close()
    with lmdb.open(str(tmp_path / FILE_NAME), subdir=False, max_dbs=3, lib_version=0) as env:
        batches = env.open_db(b"batches")
        with env.begin(write=True, db=batches) as txn:
            txn.put(key(1, 2).to_bytes(), txn.get(key(1, 1).to_bytes()) or b"")

    assert [one.raw is None for one in reopen().batches(STREAM, bytes_max=PLENTY)] == [False, True]


def test_a_spool_of_another_cluster_is_refused(reopen: Callable[[], Spool], tmp_path: Path) -> None:
    """Its batches would be counted where they do not belong."""
    reopen().close()
    other = Spool(folder=tmp_path, cluster="c2")

    with pytest.raises(ConfigRefused, match="of cluster c1, not of c2"):
        other.open()
    other.close()


def test_a_spool_that_is_no_database_cannot_be_opened(tmp_path: Path) -> None:
    """The node says so instead of forgetting what was acknowledged."""
    (tmp_path / FILE_NAME).write_bytes(b"no database" * 1000)

    with pytest.raises(InputOutputFailed, match="cannot be opened"):
        Spool(folder=tmp_path, cluster=CLUSTER).open()


def test_keys_sort_as_slices_and_numbers_do() -> None:
    """Negative slices come first."""
    keys = [key(slice_id, seq) for slice_id in (-(2**63), -1, 0, 2**63 - 1) for seq in (1, 2, 300)]

    assert [SpoolKey.from_bytes(stored) for stored in sorted(one.to_bytes() for one in keys)] == keys


def test_the_routes_of_all_slices_are_known(reopen: Callable[[], Spool], tmp_path: Path) -> None:
    """Also while it holds many batches of a slice, in several streams; a damaged one stands for none of them."""
    spool = reopen()
    assert spool.routes() == {}
    for stream in (STREAM, OTHER):
        spool.append(WORKER, [(stream, batch(7, seq)) for seq in (1, 2, 3)], at=NOW)
    spool.append(WORKER, [(STREAM, batch(-8, 5)), (OTHER, batch(9, 1)), (OTHER, batch(9, 2))], at=NOW)
    spool.close()
    with lmdb.open(str(tmp_path / FILE_NAME), subdir=False, max_dbs=3, lib_version=0) as env:
        batches = env.open_db(b"batches")
        with env.begin(write=True, db=batches) as txn:
            for name in (key(7, 1), key(9, 1, OTHER), key(9, 2, OTHER)):
                txn.put(name.to_bytes(), b"x" * 40)

    assert reopen().routes() == {-8: (WORKER,), 7: (WORKER,), 9: None}
