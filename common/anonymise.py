"""Secret -> slice key -> user key: a name goes in, 16 bytes come out.

::

    secret (32 bytes, a file that only API nodes read)
      +-- secret id   names the secret; pinned, so that a wrong secret is an error on the first call
      +-- slice key   32 bytes, one per slice; never leaves the API node
            +-- key id     8 bytes, names the slice key; kept in the slice file
            +-- user key   16 bytes per user name: all that a worker ever sees of a user
            +-- id key     16 bytes per (user, type, id): how a worker knows a repeated event

All are BLAKE2b (RFC 7693) with their own personalisation. Those of which there are few are keyed as the RFC has it.
User keys and id keys are made by the million: of those the slice key is the beginning of what is hashed, which is as
good a key there and saves a block, half of the work (docs/decisions/0034-the-slice-key-is-a-prefix.md).

Because each slice has its own key, the keys of one user in two slices have nothing in common, and no one without the
secret can tell that they are the same person.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from cachetools import LRUCache

if TYPE_CHECKING:
    from common.slices import SliceId

SECRET_BYTES = 32
SLICE_KEY_BYTES = 32
USER_KEY_BYTES = 16
ID_KEY_BYTES = 16
KEY_ID_BYTES = 8

_SLICE_PERSON = b"tslice/slice"
_USER_PERSON = b"tslice/user"
_ID_PERSON = b"tslice/id"
_KEY_ID_PERSON = b"tslice/keyid/2"  # the number goes up with the way in which keys are made: they must never mix
_SECRET_ID_PERSON = b"tslice/secret"

# One entry is three small objects; events are spread over few slices at a time, a backfill over some hundred.
SLICE_KEYS_MAX = 1024


LENGTHS = tuple(length.to_bytes(4, "big") for length in range(257))
"""What stands before the parts of an id key, ready made: names and ids have 256 bytes at most."""


class SliceKeys:
    """What turns the names of one slice into keys. Shows nothing of itself in ``repr``.

    Attributes:
        key_id: names the slice key.
        begin_user: begins a user key. Whoever makes thousands of them adds the name by ``update`` and takes the
            ``digest``; ``user_key`` does the same for one.
        begin_id: begins an id key, likewise; what is added are user, type and id, each ``with_length``.
    """

    __slots__ = ("begin_id", "begin_user", "key_id")

    def __init__(self, secret: bytes, slice_id: SliceId) -> None:
        slice_key = blake2b(
            slice_id.to_bytes(8, "big", signed=True), key=secret, digest_size=SLICE_KEY_BYTES, person=_SLICE_PERSON
        ).digest()
        self.key_id = blake2b(key=slice_key, digest_size=KEY_ID_BYTES, person=_KEY_ID_PERSON).digest()
        # A copy costs less than to begin anew. In one block of 128 bytes there is room for the slice key and 96 more.
        self.begin_user = blake2b(slice_key, digest_size=USER_KEY_BYTES, person=_USER_PERSON).copy
        self.begin_id = blake2b(slice_key, digest_size=ID_KEY_BYTES, person=_ID_PERSON).copy

    def user_key(self, user: bytes) -> bytes:
        """16 bytes for a user name in UTF-8, different in every slice."""
        digest = self.begin_user()
        digest.update(user)
        return digest.digest()

    def id_key(self, user: bytes, event_type: str, event_id: bytes) -> bytes:
        """16 bytes for a client's event id, scoped to user and type; each part stands behind its length."""
        digest = self.begin_id()
        digest.update(with_length(user) + with_length(event_type.encode()) + with_length(event_id))
        return digest.digest()


def with_length(part: bytes) -> bytes:
    """A part of an id key, behind its length: so no two lists of parts read the same."""
    return LENGTHS[len(part)] + part


class Anonymiser:
    """The keeper of the secret: hands out the keys of a slice, and remembers the recent ones."""

    def __init__(self, *, secret: bytes) -> None:
        """Take the secret.

        Args:
            secret: 32 bytes.

        Raises:
            ValueError: it has another length.
        """
        if len(secret) != SECRET_BYTES:
            message = f"a secret has {SECRET_BYTES} bytes, not {len(secret)}"
            raise ValueError(message)
        self._secret = secret
        self._slices: LRUCache[SliceId, SliceKeys] = LRUCache(maxsize=SLICE_KEYS_MAX)
        self.secret_id = blake2b(key=secret, digest_size=8, person=_SECRET_ID_PERSON).hexdigest()

    def __repr__(self) -> str:
        """Name the secret without showing it."""
        return f"Anonymiser(secret_id={self.secret_id!r})"

    def slice_keys(self, slice_id: SliceId) -> SliceKeys:
        """The keys of a slice."""
        keys = self._slices.get(slice_id)
        if keys is None:
            keys = self._slices[slice_id] = SliceKeys(self._secret, slice_id)
        return keys
