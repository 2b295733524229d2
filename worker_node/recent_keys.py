"""User keys that are known to be in their slice's file, so that an event of a user just seen needs no look into it.

::

    begin(store)           its file is made: nothing is in it
    unknown(store, keys)   those of the keys that the file must be asked about; the rest is in it
    knows_all(store)       every key of the file is in here, so who is unknown is new, and the file need not be asked
    learn(store, keys)     they are in the file: its transaction is committed
    forget(store)          the file is closed, or set aside, or a transaction on it has failed

    young   every key goes in here                       full: it becomes the old one, and an empty one begins
    old     keys not seen since; one that is seen again goes over to the young ones

    given up               a half has filled up, and hardly any key was known meanwhile: there are many times more users
                           than fit in here. For a while nothing is looked up, nor remembered; then it is tried again

A key that is in here and not in the file would never be counted: that is why it enters after the commit, and why all
that is known of a file goes when it is closed. A key that is not in here costs one look into the file, and nothing
else: so what does not fit may be forgotten at any time, and is, in two halves instead of one by one.

All of it belongs to the writer's thread. Ids have no such set: nearly every one is new, and must go to the file anyway.
"""

from __future__ import annotations

from collections.abc import Hashable

# Of all slices together. Such a key takes about 105 bytes, its place in a hash table included: 64 MiB when both halves
# are full, next to nothing before. Half of them just fit a table of 2^19 places, which doubles when it is 3/5 full.
RECENT_KEYS_MAX = 620_000
# To look a key up here and to remember it takes about an eighth of a look into a big file: to be worth it, so many must
# be known. While it is not, only one in so many keys pays for finding out whether that has changed.
_WORTH_IT = 8

_NONE: frozenset[bytes] = frozenset()


class RecentKeys:
    """The keys seen lately in all open files, at most ``keys_max``; by store, because a file may be opened again."""

    def __init__(self, *, keys_max: int = RECENT_KEYS_MAX) -> None:
        self._half_max = keys_max // 2
        self._young: dict[Hashable, set[bytes]] = {}
        self._old: dict[Hashable, set[bytes]] = {}
        self._young_keys = 0
        self._whole: set[Hashable] = set()
        self._asked = self._known = 0
        self._given_up = False
        self._given_up_for = 0  # so many keys

    def __len__(self) -> int:
        return sum(len(keys) for half in (self._young, self._old) for keys in half.values())

    def begin(self, store: Hashable) -> None:
        """A file is made, and is empty; from now on every key that it is given is learnt, or it is known no longer."""
        self._whole.add(store)

    def knows_all(self, store: Hashable) -> bool:
        """Whether what ``unknown`` gives is not in the file."""
        return store in self._whole

    def unknown(self, store: Hashable, keys: set[bytes]) -> set[bytes]:
        """Those of the keys of which it is not known that the file has them."""
        self._given_up = self._given_up_for > 0
        if self._given_up:
            self._given_up_for -= len(keys)
            return keys
        unknown = keys - self._young.get(store, _NONE)
        old = self._old.get(store)
        if old and unknown:
            again = unknown & old
            old -= again
            self.learn(store, again)
            unknown -= again
        self._asked += len(keys)
        self._known += len(keys) - len(unknown)
        return unknown

    def learn(self, store: Hashable, keys: set[bytes]) -> None:
        """Remember keys that were unknown and are in the file now. More than a half holds are not worth it."""
        if not keys:
            return
        too_many = self._given_up or len(keys) > self._half_max
        if too_many or (self._young_keys + len(keys) > self._half_max and not self._turn()):
            self._whole.discard(store)
            return
        self._young.setdefault(store, set()).update(keys)
        self._young_keys += len(keys)

    def _turn(self) -> bool:
        """A half is full. Is it worth to go on?"""
        self._whole -= {store for store, keys in self._old.items() if keys}
        self._old, self._young, self._young_keys = self._young, {}, 0
        if self._known * _WORTH_IT < self._asked:
            self._whole -= {store for store, keys in self._old.items() if keys}
            self._old, self._given_up = {}, True
            self._given_up_for = self._half_max * _WORTH_IT
        self._asked = self._known = 0
        return not self._given_up

    def forget(self, store: Hashable) -> None:
        """Know nothing of the store's file any more."""
        self._young_keys -= len(self._young.pop(store, _NONE))
        self._old.pop(store, None)
        self._whole.discard(store)
