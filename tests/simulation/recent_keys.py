"""A store that remembers the latest event ids, so that most repeats are known without asking the file.

The product has no such cache yet. This one stands where it would: it may only know what is committed, and
``planted/keys_kept_before_commit.py`` is what becomes of it if it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from common.anonymise import ID_KEY_BYTES, USER_KEY_BYTES
from common.wire import NO_ID, Batch
from worker_node.receiver import Decision, NumberedBatch, split
from worker_node.slice_store import SliceStore, _Application


class RecentKeys(SliceStore):
    """The product's store behind a cache of ids, which lives as long as the file is open."""

    _recent: frozenset[bytes] = frozenset()

    def apply(self, items: Sequence[NumberedBatch]) -> list[Decision]:
        """As SliceStore; events whose id is known to be in the file are not asked about."""
        decisions, summary = self._file.write(lambda txn: _Application(self, self._file, txn).run(self.unknown(items)))
        self._committed(summary)
        self.remember(items, decisions)
        return decisions

    def unknown(self, items: Sequence[NumberedBatch]) -> list[NumberedBatch]:
        """The batches without the events whose id is known; the number and check are those of the whole batch."""
        return [replace(item, batch=_without(item.batch, self._recent)) for item in items]

    def remember(self, items: Sequence[NumberedBatch], decisions: Sequence[Decision]) -> None:
        """The ids of batches that are in the file now."""
        applied = [item for item, decision in zip(items, decisions, strict=True) if decision.outcome == "applied"]
        self._recent = self._recent.union(*(split(item.batch.ids, ID_KEY_BYTES) for item in applied)) - {NO_ID}


def _without(batch: Batch, known: frozenset[bytes]) -> Batch:
    keys = split(batch.ids, ID_KEY_BYTES)
    kept = [at for at, key in enumerate(keys) if key not in known]
    if len(kept) == len(keys):
        return batch
    users = split(batch.users, USER_KEY_BYTES)
    return msgspec.structs.replace(
        batch,
        kinds=bytes(batch.kinds[at] for at in kept),
        users=b"".join(users[at] for at in kept),
        ids=b"".join(keys[at] for at in kept),
    )
