"""Looking into slice files without the product's code: they must add up by themselves."""

from __future__ import annotations

from pathlib import Path

import lmdb
from lmdb.verify import verify


def problems_of(path: Path) -> list[str]:
    """What is wrong with a slice file that nobody has open; empty if nothing is."""
    problems = [f"{path.name}: {text}" for text in verify(str(path), subdir=False)]
    with (
        lmdb.open(str(path), subdir=False, max_dbs=8, readonly=True, map_size=1 << 30, lib_version=0) as env,
        env.begin() as txn,
    ):
        users = _members(env, txn, b"users", b"u")
        ids = _members(env, txn, b"ids", b"i")
        users += pending(env, txn, b"u")
        ids += pending(env, txn, b"i")
        counted = txn.get(b"*users", b"", db=env.open_db(b"counts", txn, create=False))
    if int.from_bytes(counted, "big") != len(users):
        problems.append(f"{path.name}: {len(users)} users are there, {int.from_bytes(counted, 'big')} are counted")
    for name, members in (("users", users), ("ids", ids)):
        if len(set(members)) != len(members) or any(len(member) != 16 for member in members):
            problems.append(f"{path.name}: {name} has members twice, or of another length")
    return problems


def pending(env: lmdb.Environment, txn: lmdb.Transaction[bytes], prefix: bytes) -> list[bytes]:
    """The keys of a set that are not in it yet, but in runs."""
    try:
        runs = env.open_db(b"runs", txn, create=False)
    except lmdb.NotFoundError:
        return []
    of_it = [run for name, run in txn.cursor(runs) if name.startswith(prefix)]
    return [run[at : at + 16] for run in of_it for at in range(0, len(run), 16)]


def _members(env: lmdb.Environment, txn: lmdb.Transaction[bytes], database: bytes, key: bytes) -> list[bytes]:
    cursor = txn.cursor(env.open_db(database, txn, create=False))
    return list(cursor.iternext_dup(keys=False, values=True)) if cursor.set_key(key) else []
