"""Keys that are known to be in a file need not be looked for in it; what is forgotten is only asked for again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker_node.recent_keys import RecentKeys

ONE, TWO = "one store", "another"


def keys(*words):
    return {word.encode().ljust(16, b".") for word in words}


def test_what_was_learnt_is_known_of_that_store_alone():
    recent = RecentKeys(keys_max=10)

    recent.learn(ONE, keys("a", "b"))

    assert recent.unknown(ONE, keys("a", "b", "c")) == keys("c")
    assert recent.unknown(TWO, keys("a")) == keys("a")


def test_to_ask_is_not_to_know():
    """Whoever asks may yet fail to commit."""
    recent = RecentKeys(keys_max=10)

    assert recent.unknown(ONE, keys("a")) == keys("a")
    assert recent.unknown(ONE, keys("a")) == keys("a")


def test_the_older_half_is_forgotten_first():
    recent = RecentKeys(keys_max=4)

    for word in "abcde":
        recent.learn(ONE, keys(word))

    assert recent.unknown(ONE, keys(*"abcde")) == keys("a", "b")


def test_a_key_that_is_seen_again_stays():
    """Others that came with it go."""
    recent = RecentKeys(keys_max=4)
    recent.learn(ONE, keys("a", "b"))
    recent.learn(ONE, keys("c"))

    recent.unknown(ONE, keys("a"))
    recent.learn(ONE, keys("d"))

    assert recent.unknown(ONE, keys(*"abcd")) == keys("b")


def test_a_store_is_forgotten_alone():
    recent = RecentKeys(keys_max=4)
    for store in (ONE, TWO, ONE, TWO):
        recent.learn(store, keys(f"{len(recent)}"))

    recent.forget(ONE)

    assert recent.unknown(ONE, keys(*"0123")) == keys(*"0123")
    assert recent.unknown(TWO, keys(*"0123")) == keys("0", "2")


def test_what_a_forgotten_store_took_up_is_free_again():
    recent = RecentKeys(keys_max=4)
    recent.learn(ONE, keys("a", "b"))
    recent.forget(ONE)

    recent.learn(TWO, keys("c", "d"))
    recent.learn(TWO, keys("e"))

    assert recent.unknown(TWO, keys("c", "d", "e")) == set()


def test_more_than_a_half_holds_is_not_remembered():
    """It would take the place of everything else at once."""
    recent = RecentKeys(keys_max=4)
    recent.learn(ONE, keys("a"))

    recent.learn(ONE, keys("b", "c", "d"))

    assert recent.unknown(ONE, keys(*"abcd")) == keys("b", "c", "d")


def test_a_bound_of_none_remembers_nothing():
    recent = RecentKeys(keys_max=0)

    recent.learn(ONE, keys("a"))

    assert recent.unknown(ONE, keys("a")) == keys("a")
    assert len(recent) == 0


def crowd(*numbers):
    """More users than anybody remembers."""
    return keys(*map(str, numbers))


def committed(recent, store, some):
    unknown = recent.unknown(store, some)
    recent.learn(store, unknown)
    return unknown


def test_nothing_is_remembered_while_it_is_not_worth_it():
    """No user comes again before a half is full: whoever comes in the meantime is not even looked up."""
    recent = RecentKeys(keys_max=8)
    for at in range(5):
        committed(recent, ONE, crowd(at))

    assert len(recent) == 0
    some = crowd("a", "b")
    assert recent.unknown(ONE, some) is some
    recent.learn(ONE, some)
    assert len(recent) == 0


def test_after_a_while_it_is_tried_again():
    """Eight times as many keys as a half has."""
    recent = RecentKeys(keys_max=8)
    for at in range(5):
        committed(recent, ONE, crowd(at))
    for at in range(8):
        committed(recent, ONE, crowd(*range(4 * at, 4 * at + 4)))

    assert committed(recent, ONE, crowd("a", "b")) == crowd("a", "b")
    assert committed(recent, ONE, crowd("a", "b")) == set()


def test_a_few_that_come_again_are_worth_it():
    """One in eight."""
    recent = RecentKeys(keys_max=16)
    for at in range(8):
        committed(recent, ONE, crowd(at))
    committed(recent, ONE, crowd(0, 1))

    committed(recent, ONE, crowd("a"))

    assert len(recent) == 9


Step = tuple[str, str, set[bytes]]

_sets = st.sets(st.sampled_from("abcdefgh"), max_size=4).map(lambda words: keys(*words))
_steps: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(st.just("ask"), st.sampled_from((ONE, TWO)), _sets)
    | st.tuples(st.just("commit"), st.sampled_from((ONE, TWO)), _sets)
    | st.tuples(st.just("forget"), st.sampled_from((ONE, TWO)), st.just(keys())),
    max_size=40,
)


@given(st.integers(0, 12), _steps)
def test_what_is_known_is_committed_and_bounded(keys_max, steps):
    """Whatever happens: never a key that was not learnt since the store was forgotten, never more than the bound."""
    recent = RecentKeys(keys_max=keys_max)
    committed: dict[str, set[bytes]] = {ONE: set(), TWO: set()}

    for what, store, some in steps:
        if what == "forget":
            recent.forget(store)
            committed[store] = set()
            continue
        unknown = recent.unknown(store, some)
        assert some - committed[store] <= unknown <= some
        if what == "commit":
            recent.learn(store, unknown)
            committed[store] |= some
        assert len(recent) <= keys_max


def test_all_of_a_new_file_is_known():
    recent = RecentKeys(keys_max=10)
    recent.begin(ONE)

    recent.unknown(ONE, keys("a", "b"))
    recent.learn(ONE, keys("a", "b"))

    assert recent.knows_all(ONE)
    assert not recent.knows_all(TWO)


def test_not_all_is_known_once_a_key_was_forgotten():
    """It goes with the older half, unless it was seen again."""
    recent = RecentKeys(keys_max=4)
    for store, word in ((ONE, "a"), (TWO, "b")):
        recent.begin(store)
        recent.learn(store, keys(word))
    recent.learn(TWO, keys("c"))
    assert recent.unknown(TWO, keys("b")) == set()

    recent.learn(TWO, keys("d", "e"))

    assert not recent.knows_all(ONE)
    assert recent.unknown(ONE, keys("a")) == keys("a")
    assert recent.knows_all(TWO)


def test_not_all_is_known_once_a_key_was_not_learnt():
    recent = RecentKeys(keys_max=4)
    recent.begin(ONE)

    recent.learn(ONE, keys("a", "b", "c"))

    assert not recent.knows_all(ONE)


def test_not_all_is_known_of_what_was_forgotten():
    recent = RecentKeys(keys_max=4)
    recent.begin(ONE)

    recent.forget(ONE)

    assert not recent.knows_all(ONE)


def test_when_it_is_given_up_nothing_is_known_of_any_file():
    """Also not that all of it is known."""
    recent = RecentKeys(keys_max=8)
    recent.begin(ONE)
    recent.learn(ONE, keys("a"))

    for word in "bcde":
        recent.unknown(TWO, keys(word))
        recent.learn(TWO, keys(word))

    assert recent.unknown(ONE, keys("a")) == keys("a")
    assert not recent.knows_all(ONE)


@given(
    st.lists(
        st.tuples(st.sampled_from((ONE, TWO)), st.frozensets(st.sampled_from("abcdefghijkl"), max_size=5)), max_size=40
    ),
    st.sampled_from((0, 2, 6, 12, 40)),
)
def test_where_all_is_known_what_is_unknown_is_new(groups, keys_max):
    """Whatever is asked for and learnt, in files that were empty in the beginning."""
    recent = RecentKeys(keys_max=keys_max)
    files: dict[str, set[bytes]] = {ONE: set(), TWO: set()}
    for store in files:
        recent.begin(store)
    for store, words in groups:
        unknown = recent.unknown(store, keys(*words))

        assert not recent.knows_all(store) or unknown == keys(*words) - files[store]
        recent.learn(store, unknown)
        files[store] |= keys(*words)
