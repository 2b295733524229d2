"""User keys are remembered while the transaction is under way, and stay remembered when it is done again."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from functools import partial

from tests.simulation.parts import RECENT_KEYS_MAX, SHIPPED
from worker_node.recent_keys import RecentKeys


class TooSoon(RecentKeys):
    """Takes a user for counted who is not in the file."""

    def unknown(self, store: Hashable, keys: set[bytes]) -> set[bytes]:
        """As RecentKeys; who asks is about to put them into the file."""
        unknown = super().unknown(store, keys)
        self.learn(store, unknown)
        return unknown


PARTS = replace(SHIPPED, recent=partial(TooSoon, keys_max=RECENT_KEYS_MAX))
