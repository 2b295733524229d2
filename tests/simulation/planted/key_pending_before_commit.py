"""A key counts as pending before its run is committed, and still does when the transaction is done again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from common.lmdb_file import Txn
from tests.simulation.parts import SHIPPED
from worker_node.key_set import Committed, KeySet
from worker_node.slice_store import IDS_KEY, USERS_KEY, SliceStore


class TooSoon(KeySet):
    """Takes an id for known that is not in the file, and its event for a repeat."""

    def add(self, txn: Txn, keys: Sequence[bytes]) -> Committed:
        """As KeySet; what is in memory is changed at once."""
        super().add(txn, keys)()
        return lambda: None


class KnowsTooSoon(SliceStore):
    """With such sets."""

    def __init__(self, **made: Any) -> None:
        """As SliceStore."""
        super().__init__(**made)
        file, merging = made["file"], made["merging"]
        self.users = TooSoon(file=file, tree="users", key=USERS_KEY, merging=merging)
        self.ids = TooSoon(file=file, tree="ids", key=IDS_KEY, merging=merging)


PARTS = replace(SHIPPED, store=KnowsTooSoon)
