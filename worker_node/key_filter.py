"""Which keys are surely not in a set, so that nobody looks for them: three bytes of a key are its place in a table.

::

    table    one byte for each of 2^24 places: 1 where a key that was learnt has its place
    0        the key is new
    1        it may be known: 6 of 100 new keys of a set of a million, 21 of four million

Keys are hashes under a secret, so nobody can choose keys whose places are taken. All steps but the table's own are done
for many keys at once: 60 ns a key to ask, 100 to learn it, where a look into a set of a million takes 500 to 1,000.
"""

from __future__ import annotations

import mmap
import sys
import weakref
from array import array
from collections import deque
from collections.abc import Sequence
from itertools import compress, repeat

# Of all open files together, 16 MiB each; only files made since the start that have merged keys have one.
FILTERS_MAX = 4
# Beyond that, so many new keys have to be looked for all the same that the table is better given to another set.
FILTER_KEYS_MAX = 1 << 22
_PLACES = 1 << 24
_KEY_BYTES = 16
# The place is in bytes 8 to 11, of which one is made zero: the first bytes of user keys choose the worker.
_WORD, _WORDS = 8 // 4, _KEY_BYTES // 4
_ZERO = 11 if sys.byteorder == "little" else 8


class KeyFilter:
    """One table."""

    def __init__(self) -> None:
        # Zeros that take memory, and time, only where they are touched.
        self._table = mmap.mmap(-1, _PLACES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._keys = 0

    @property
    def is_full(self) -> bool:
        """Whether so much was learnt that it tells little."""
        return self._keys > FILTER_KEYS_MAX

    def possible(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of the keys that may have been learnt."""
        return set(compress(keys, map(self._table.__getitem__, _places(keys))))

    def learn(self, keys: Sequence[bytes]) -> None:
        """From now on these are possible."""
        self._keys += len(keys)
        deque(map(self._table.__setitem__, _places(keys), repeat(1)), maxlen=0)


class Filters:
    """Makes filters, at most so many at a time."""

    def __init__(self, *, filters_max: int = FILTERS_MAX) -> None:
        self._filters_max = filters_max
        self._used: weakref.WeakSet[KeyFilter] = weakref.WeakSet()

    def new(self) -> KeyFilter | None:
        """A filter that has learnt nothing; None if too many are in use."""
        if len(self._used) >= self._filters_max:
            return None
        made = KeyFilter()
        self._used.add(made)
        return made


def _places(keys: Sequence[bytes]) -> array[int]:
    column = bytearray().join(keys)
    column[_ZERO::_KEY_BYTES] = bytes(len(keys))
    return array("I", bytes(column))[_WORD::_WORDS]
