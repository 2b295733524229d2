"""Names become keys, as in common/anonymise.py."""

from hashlib import blake2b

import pytest

from common.anonymise import SLICE_KEYS_MAX, Anonymiser, SliceKeys
from common.slices import SliceId

SECRET = bytes(range(32))


def test_a_user_key_is_made_as_the_design_says():
    """BLAKE2b of slice key and name; the former is BLAKE2b under the secret: whoever has that can check it."""
    slice_key = blake2b(
        (-3).to_bytes(8, "big", signed=True), key=SECRET, digest_size=32, person=b"tslice/slice"
    ).digest()
    user_key = blake2b(slice_key + b"ann", digest_size=16, person=b"tslice/user").digest()
    key_id = blake2b(key=slice_key, digest_size=8, person=b"tslice/keyid/2").digest()
    keys = SliceKeys(SECRET, SliceId(-3))

    assert keys.user_key(b"ann") == user_key
    assert keys.key_id == key_id


def test_an_id_key_is_scoped_to_user_and_type():
    """The same id of another user or type is another event; the parts cannot run into each other."""
    keys = SliceKeys(SECRET, SliceId(0))
    made = {
        keys.id_key(b"ann", "click", b"1"),
        keys.id_key(b"bob", "click", b"1"),
        keys.id_key(b"ann", "impression", b"1"),
        keys.id_key(b"ann", "click", b"2"),
        keys.id_key(b"annc", "lick", b"1"),
        keys.id_key(b"ann", "clic", b"k1"),
        keys.user_key(b"ann"),
    }

    assert len(made) == 7
    assert keys.id_key(b"ann", "click", b"1") in made


def test_a_secret_of_another_length_is_refused():
    """A truncated file must not become a weaker secret."""
    with pytest.raises(ValueError, match="a secret has 32 bytes, not 31"):
        Anonymiser(secret=SECRET[:31])


def test_the_keeper_of_the_secret_shows_only_its_id():
    """What lands in a log by accident names the secret and no more."""
    anonymiser = Anonymiser(secret=SECRET)

    assert repr(anonymiser) == f"Anonymiser(secret_id='{anonymiser.secret_id}')"
    assert SECRET.hex() not in repr(anonymiser)
    assert Anonymiser(secret=bytes(32)).secret_id != anonymiser.secret_id


def test_the_keys_of_recent_slices_are_remembered_and_bounded():
    """The same object while it is recent; the same keys always."""
    anonymiser = Anonymiser(secret=SECRET)
    first = anonymiser.slice_keys(SliceId(0))

    assert anonymiser.slice_keys(SliceId(0)) is first
    for slice_id in range(1, SLICE_KEYS_MAX + 1):
        anonymiser.slice_keys(SliceId(slice_id))
    assert anonymiser.slice_keys(SliceId(0)) is not first
    assert anonymiser.slice_keys(SliceId(0)).user_key(b"ann") == first.user_key(b"ann")
    assert anonymiser.slice_keys(SliceId(0)).key_id == first.key_id
