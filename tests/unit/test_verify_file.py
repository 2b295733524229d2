"""Verifying a slice file: its structure, and whether what is in it adds up."""

from __future__ import annotations

import random
import subprocess
import sys

import lmdb
import pytest

from common.slices import SliceId
from tests.support.batches import KEY_ID, ROUTE, item
from worker_node.slice_store import SliceStore
from worker_node.verify_file import DAMAGED, SOUND, problems_of

USERS = 20_000


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "-7.mdb"
    store = SliceStore.create(path, SliceId(-7), route=ROUTE, position=0, key_id=KEY_ID)
    for seq in (1, 2):
        users = range(seq * USERS // 2, (seq + 1) * USERS // 2)
        store.apply([item(*((f"{user}", "click", f"{user}") for user in users), seq=seq)])
    store.close()
    return path


def overwrite(path, *, pages, seed):
    with path.open("r+b") as file:
        for page in pages:
            file.seek(page * 4096)
            file.write(random.Random(seed).randbytes(4096))


def run(path):
    done = subprocess.run(
        [sys.executable, "-m", "worker_node.verify_file", str(path)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


def test_a_file_as_it_was_written_is_sound(path):
    assert problems_of(path) == []
    assert run(path) == (SOUND, "")


def test_a_file_that_never_saw_a_commit_is_sound(tmp_path):
    path = tmp_path / "1.mdb"
    SliceStore.create(path, SliceId(1), route=ROUTE, position=0, key_id=KEY_ID).close()

    assert problems_of(path) == []


@pytest.mark.parametrize("seed", range(5))
def test_garbage_anywhere_in_use_is_found(path, seed):
    pages = random.Random(seed).sample(range(2, path.stat().st_size // 4096), 40)
    overwrite(path, pages=pages, seed=seed)

    code, said = run(path)

    assert code == DAMAGED
    assert 1 <= len(said.splitlines()) <= 5


def test_a_file_that_was_cut_short_is_damaged(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)

    assert problems_of(path)


def test_a_file_of_something_else_is_damaged(tmp_path):
    path = tmp_path / "3.mdb"
    path.write_bytes(b"x" * 20_000)

    assert problems_of(path)


def test_users_that_are_there_and_not_counted_are_damage(path):
    """Each page is well; the sum would be wrong all the same."""
    with lmdb.open(str(path), subdir=False, max_dbs=8, map_size=1 << 30, lib_version=0) as env:
        database = env.open_db(b"users", dupsort=True, dupfixed=True, create=False)
        with env.begin(write=True) as txn:
            txn.put(b"u", b"\xff" * 16, db=database)

    assert problems_of(path) == ["20001 users are there, 20000 are counted"]


def test_what_cannot_be_looked_at_is_neither(tmp_path):
    assert run(tmp_path / "9.mdb")[0] not in (SOUND, DAMAGED)
