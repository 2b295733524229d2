"""A run stays in the file when its keys are in the tree."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from common.lmdb_file import Txn
from tests.simulation.parts import SHIPPED
from worker_node.key_set import KeySet
from worker_node.slice_store import IDS_KEY, USERS_KEY, SliceStore


class Forgetful(KeySet):
    """Whoever opens the file again takes them for pending, and finds them there twice."""

    def _delete(self, txn: Txn, numbers: Iterable[int]) -> None:
        """Not at all."""


class KeepsRuns(SliceStore):
    """With such sets."""

    def __init__(self, **made: Any) -> None:
        """As SliceStore."""
        super().__init__(**made)
        file, merging = made["file"], made["merging"]
        self.users = Forgetful(file=file, tree="users", key=USERS_KEY, merging=merging)
        self.ids = Forgetful(file=file, tree="ids", key=IDS_KEY, merging=merging)


PARTS = replace(SHIPPED, store=KeepsRuns)
