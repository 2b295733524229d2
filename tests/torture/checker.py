"""What the cluster answers and what lies on its disks, held against what was sent.

Keys are made from names here as an API node makes them, so the sets on disk are compared member by member: every user
of an acknowledged event is there, nobody else but users of events of unknown fate, each at the one worker that owns the
key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lmdb

from common.anonymise import SliceKeys
from common.config import load_config
from common.routing import owner_position, proposed_route
from common.slices import SliceId
from tests.support.cluster import FIRST, HOUR, Cluster
from tests.support.patience import eventually
from tests.support.slice_files import pending, problems_of
from tests.torture.ledger import KEYED, SOLO, Ledger, Sheet

QUIET_SECONDS = 40.0  # until nothing is queued, parked or spooled any more, and caches have expired

Answers = dict[int, dict[str, Any]]
"""Slice -> the answer about it."""


async def answers_of(cluster: Cluster, api: str, slices: Iterable[int]) -> Answers:
    """What an API node says of each slice."""
    return {at: await cluster.json(FIRST + HOUR * at, api=api) for at in slices}


async def settled_answers(cluster: Cluster, ledger: Ledger) -> tuple[Answers, list[str]]:
    """What all API nodes say, once they have had time to agree, and what is wrong with it."""
    problems: list[str] = []
    shown: Answers = {}

    async def check() -> None:
        problems.clear()
        told = {api: await answers_of(cluster, api, sorted(ledger.sheets)) for api in cluster.api}
        shown.update(told["0"])
        for api, answers in told.items():
            for at, answer in answers.items():
                name = f"slice {at} by api-{api}"
                if not answer["complete"] or answer.get("spooled"):
                    problems.append(f"{name}: not complete: {answer}")
                problems.extend(ledger.sheets[at].problems(name, answer["unique_users"], answer["events"]))
                if answer != shown[at]:
                    problems.append(f"slice {at}: api-0 says {shown[at]}, api-{api} says {answer}")
        assert not problems

    try:
        await eventually(check, seconds=QUIET_SECONDS)
    except AssertionError:
        return shown, problems
    return shown, []


@dataclass(slots=True)
class Stored:
    """What a slice file, or all files of a slice, hold."""

    users: set[bytes] = field(default_factory=set)
    ids: set[bytes] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)


def problems_on_disk(cluster: Cluster, ledger: Ledger, shown: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """What is wrong with the slice files of a cluster that has stopped."""
    problems: list[str] = []
    secret = bytes.fromhex((cluster.folder / "secret.key").read_text())
    routing = load_config(cluster.file).routing
    for at, sheet in sorted(ledger.sheets.items()):
        route = proposed_route(routing, SliceId(at))
        sums = Stored()
        for worker, node in cluster.worker.items():
            path = node.data / "slices" / f"{at}.mdb"
            if not path.exists():
                continue
            problems += [f"worker-{worker}: {text}" for text in problems_of(path)]
            stored = read_slice(path)
            if worker not in route:
                problems.append(f"slice {at}: worker-{worker} has a file, but the route is {route}")
                continue
            strays = [key for key in stored.users if route[owner_position(key, len(route))] != worker]
            if strays:
                problems.append(f"slice {at}: worker-{worker} holds {len(strays)} users of others")
            sums.users |= stored.users
            sums.ids |= stored.ids
            sums.counts += stored.counts
        keys = SliceKeys(secret, SliceId(at))
        problems += [f"slice {at} on disk: {text}" for text in problems_of_slice(sums, sheet, keys)]
        told = shown.get(at, {})
        if told and (told["unique_users"], told["events"]) != (len(sums.users), dict(sums.counts)):
            problems.append(f"slice {at}: answered {told}, but stored are {len(sums.users)} users and {sums.counts}")
    return problems


def problems_of_slice(stored: Stored, sheet: Sheet, keys: SliceKeys) -> list[str]:
    """What is wrong with all that is stored of a slice."""

    def keys_of(names: Iterable[str]) -> set[bytes]:
        return {keys.user_key(name.encode()) for name in names}

    problems = []
    if lost := keys_of(sheet.sure) - stored.users:
        problems.append(f"{len(lost)} users of acknowledged events are missing")
    if extra := stored.users - keys_of(sheet.possible):
        problems.append(f"{len(extra)} users are stored who were never sent")
    solo = len(stored.users & keys_of(sheet.users[SOLO] | sheet.doubtful[SOLO]))
    if solo != stored.counts[SOLO]:
        problems.append(f"{stored.counts[SOLO]} events of type {SOLO}, but {solo} of their users: each has its own")
    if not sheet.taken[KEYED] <= len(stored.ids) <= sheet.taken[KEYED] + sheet.unknown[KEYED]:
        problems.append(f"{len(stored.ids)} ids, but {sheet.taken[KEYED]} events with an id were acknowledged")
    if stored.counts[KEYED] != len(stored.ids):
        problems.append(f"{stored.counts[KEYED]} events with an id, but {len(stored.ids)} ids")
    return problems


def read_slice(path: Path) -> Stored:
    """The content of a slice file that nobody has open."""
    with (
        lmdb.open(str(path), subdir=False, max_dbs=8, readonly=True, map_size=1 << 30, lib_version=0) as env,
        env.begin() as txn,
    ):
        counts = dict(txn.cursor(env.open_db(b"counts", txn, create=False)))
        counts.pop(b"*users", None)
        return Stored(
            users={*_members(env, txn, b"users", b"u"), *pending(env, txn, b"u")},
            ids={*_members(env, txn, b"ids", b"i"), *pending(env, txn, b"i")},
            counts=Counter({name.decode(): int.from_bytes(count, "big") for name, count in counts.items()}),
        )


def _members(env: lmdb.Environment, txn: lmdb.Transaction[bytes], database: bytes, key: bytes) -> Iterator[bytes]:
    cursor = txn.cursor(env.open_db(database, txn, create=False))
    if cursor.set_key(key):
        yield from cursor.iternext_dup(keys=False, values=True)


def complaints(cluster: Cluster) -> list[str]:
    """What no log may say after faults that lose no disk."""
    words = ("Traceback", "stream_regressed", "stream_conflict", "data_directory_failed")
    return [
        f"{node.name}: {line[:300]}"
        for node in cluster.nodes
        for line in node.log_text().splitlines()
        if any(word in line for word in words)
    ]
