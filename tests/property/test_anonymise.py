"""A user's keys in two slices have nothing in common."""

from hypothesis import assume, given
from hypothesis import strategies as st

from common.anonymise import SliceKeys

secrets = st.binary(min_size=32, max_size=32)
slices = st.integers(-(1 << 63), (1 << 63) - 1)
names = st.binary(min_size=1, max_size=256)
types = st.text("abc._-:", min_size=1, max_size=64)


@given(secrets, slices, slices, names)
def test_the_keys_of_a_user_in_two_slices_differ(secret, one, other, name):
    """And so do the ids of the slices' keys."""
    assume(one != other)

    assert SliceKeys(secret, one).user_key(name) != SliceKeys(secret, other).user_key(name)
    assert SliceKeys(secret, one).key_id != SliceKeys(secret, other).key_id


@given(secrets, secrets, slices, names)
def test_the_keys_of_a_user_under_two_secrets_differ(one, other, slice_id, name):
    """Two clusters cannot compare their users."""
    assume(one != other)

    assert SliceKeys(one, slice_id).user_key(name) != SliceKeys(other, slice_id).user_key(name)


@given(slices, names, names)
def test_two_users_have_two_keys_and_one_user_one(slice_id, one, other):
    """Within a slice a key stands for one name, byte for byte."""
    keys = SliceKeys(bytes(32), slice_id)

    assert (keys.user_key(one) == keys.user_key(other)) == (one == other)
    assert len(keys.user_key(one)) == 16


@given(slices, st.tuples(names, types, names), st.tuples(names, types, names))
def test_an_id_key_stands_for_one_user_type_and_id(slice_id, one, other):
    """However the three are cut, and in no other slice."""
    keys = SliceKeys(bytes(32), slice_id)

    assert (keys.id_key(*one) == keys.id_key(*other)) == (one == other)
    assert keys.id_key(*one) != SliceKeys(bytes(32), slice_id ^ 1).id_key(*one)
