"""The first proposal wins for good, claims are numbered, and a lost registry never passes for the real one."""

from __future__ import annotations

import lmdb
import msgspec
import pytest

from common.errors import Contradicts, Malformed, RegistryBehind, WrongCluster, WrongWorker
from common.routing import WorkerId
from common.slices import SliceId
from common.wire import ROUTES_PAGE_MAX, Claim, KnownRoutes, Pins, PinWorker, Rebuild, ReplaceWorker, SettledRoute
from tests.support.worker_parts import no_failure
from worker_node.registry import RECENT_MAX, WORKER_ID_CHARACTERS_MAX, WORKERS_MAX, Door, Registry, RegistryThread

PINS = Pins(
    cluster="c", first=5, length_seconds=60, secret_id="s", registry=WorkerId("0"), workers={WorkerId("0"): "u"}
)
WIDE = Door(slices_max=1000)


@pytest.fixture
def registry(tmp_path):
    registry = Registry(folder=tmp_path)
    registry.open()
    yield registry
    registry.close()


@pytest.fixture
def pinned(registry):
    registry.pin(PINS)
    return registry


def claim(routes, *, claims=0, cluster="c"):
    return Claim(cluster=cluster, claims=claims, routes=routes)


def settle(registry, routes, *, known=0, door=WIDE, **changes):
    settled = registry.claim(claim(routes, **changes), known=known, door=door)
    return {one.slice: (one.route, one.number) for one in settled.routes}


def test_the_first_pins_win(registry):
    other = Pins(cluster="d", first=6, length_seconds=1, secret_id="t", registry=WorkerId("0"), workers={})

    assert registry.pin(PINS).pins == PINS
    assert registry.pin(other).pins == PINS


def test_the_first_claim_wins_for_good(pinned):
    assert settle(pinned, {7: ("0", "1")}) == {7: (("0", "1"), 1)}

    assert settle(pinned, {7: ("1",)}) == {7: (("0", "1"), 1)}


def test_claims_are_numbered_without_gaps(pinned):
    settle(pinned, {7: ("0",), -8: ("1",)})

    assert settle(pinned, {7: ("1",), 9: ("1",)}) == {7: (("0",), 1), 9: (("1",), 3)}
    assert pinned.claims == 3


def test_an_empty_route_only_asks(pinned):
    settle(pinned, {7: ("0",)})

    assert settle(pinned, {7: (), 8: ()}) == {7: (("0",), 1)}
    assert pinned.claims == 1


def test_everything_is_there_after_reopening(pinned, tmp_path):
    settle(pinned, {7: ("0", "1"), -8: ("2",)})
    before = pinned.state()
    pinned.close()

    again = Registry(folder=tmp_path)
    again.open()

    assert again.state() == before
    assert settle(again, {-8: ("5",), 3: ("1",)}) == {-8: (("2",), 2), 3: (("1",), 3)}
    again.close()


def test_the_state_names_the_workers_and_the_last_routes(pinned):
    settle(pinned, {number: ("0", "1") if number % 2 else ("2",) for number in range(RECENT_MAX + 5)})

    state = pinned.state()

    assert state.named == ("0", "1", "2")
    assert len(state.recent) == RECENT_MAX
    assert state.recent[-1] == SettledRoute(
        slice=SliceId(RECENT_MAX + 4), route=(WorkerId("2"),), number=RECENT_MAX + 5
    )


@pytest.mark.parametrize(("caller", "own"), [(1, 0), (0, 1), (5, 3)])
def test_a_registry_that_is_behind_claims_nothing(pinned, caller, own):
    """Whether the caller knows more, or this worker itself."""
    with pytest.raises(RegistryBehind):
        settle(pinned, {7: ("0",)}, claims=caller, known=own)

    assert pinned.claims == 0


def test_a_caller_of_another_cluster_gets_nothing(pinned):
    with pytest.raises(WrongCluster):
        settle(pinned, {7: ("0",)}, cluster="d")


def test_without_pins_nothing_is_settled(registry):
    with pytest.raises(Contradicts):
        settle(registry, {7: ("0",)})


def test_a_worker_that_comes_later_is_pinned_once(pinned):
    pin = PinWorker(cluster="c", id=WorkerId("1"), uuid="v")

    for _ in range(2):
        assert pinned.pin_worker(pin).pins.workers == {"0": "u", "1": "v"}
    with pytest.raises(WrongWorker):
        pinned.pin_worker(PinWorker(cluster="c", id=WorkerId("1"), uuid="w"))
    with pytest.raises(WrongCluster):
        pinned.pin_worker(PinWorker(cluster="d", id=WorkerId("1"), uuid="v"))


@pytest.mark.parametrize("routes", [{1 << 63: ("0",)}, {0: ("0", "0")}, {0: tuple(map(str, range(1025)))}])
def test_what_is_no_route_settles_nothing(pinned, routes):
    with pytest.raises(Malformed):
        settle(pinned, {1: ("0",), **routes})

    assert pinned.claims == 0


def test_over_the_bound_only_the_current_slice_and_the_next_are_settled(pinned):
    door = Door(slices_max=2, now=SliceId(10))
    settle(pinned, {1: ("0",), 2: ("0",)})

    settled = pinned.claim(claim({3: ("0",), 10: ("0",), 11: ("0",), 12: ("0",), 2: ("0",)}), known=0, door=door)

    assert sorted(one.slice for one in settled.routes) == [2, 10, 11]
    assert settled.over == (3, 12)


def test_slices_that_are_closed_by_their_time_leave_room(pinned):
    settle(pinned, {1: ("0",), 2: ("0",), 8: ("0",)})

    settled = pinned.claim(claim({9: ("0",), 7: ("0",)}), known=0, door=Door(slices_max=2, first_open=SliceId(5)))

    assert [one.slice for one in settled.routes] == [9]
    assert settled.over == (7,)


async def test_after_a_failed_commit_the_process_is_told_to_end(tmp_path):
    class Failing(Registry):
        def pin(self, pins):
            raise lmdb.DiskError("mdb_txn_commit")

    failures: list[BaseException] = []
    async with RegistryThread(registry=Failing(folder=tmp_path), fail=failures.append) as thread:
        with pytest.raises(lmdb.DiskError):
            await thread.ask(lambda registry: registry.pin(PINS))

    assert [type(failure) for failure in failures] == [lmdb.DiskError]


async def test_a_refusal_of_the_registry_is_an_answer(tmp_path):
    """It is no fault of the disk: the process goes on, and so does the registry."""
    async with RegistryThread(registry=Registry(folder=tmp_path), fail=no_failure) as thread:
        await thread.ask(lambda registry: registry.pin(PINS))
        with pytest.raises(WrongCluster):
            await thread.ask(lambda registry: settle(registry, {7: ("0",)}, cluster="d"))

        assert await thread.ask(lambda registry: settle(registry, {7: ("0",)})) == {7: (("0",), 1)}


async def test_a_registry_that_is_never_asked_makes_no_file(tmp_path):
    async with RegistryThread(registry=Registry(folder=tmp_path), fail=no_failure):
        pass

    assert list(tmp_path.iterdir()) == []


async def test_what_the_metrics_show_can_be_read_without_asking(tmp_path):
    """From when it is open: how much is settled, and whether it is being rebuilt."""
    async with RegistryThread(registry=Registry(folder=tmp_path), fail=no_failure) as thread:
        before = thread.is_open
        await thread.ask(lambda registry: registry.pin(PINS))
        await thread.ask(lambda registry: settle(registry, {7: ("0",), 8: ("0",)}))
        settled = thread.file.settled, thread.file.is_rebuilding
        await thread.ask(lambda registry: registry.rebuild(rebuild((9, "1", 90), more=True, known=2, own=2), known=2))

        assert (before, thread.is_open) == (False, True)
        assert settled == (2, False)
        assert thread.file.is_rebuilding


# --- rebuilding


def rebuild(*routes, own=0, claims=100, pins=PINS, more=False, known=0):
    settled = tuple(SettledRoute(slice=SliceId(at), route=(WorkerId(to),), number=number) for at, to, number in routes)
    return Rebuild(host="u", own=own, known=known, claims=claims, pins=pins, routes=settled, more=more)


def test_a_rebuilt_registry_goes_on_beyond_its_new_number(registry, tmp_path):
    state = registry.rebuild(rebuild((7, "1", 1), (-8, "2", 90)), known=0)

    assert (state.pins, state.claims, state.named) == (PINS, 100, ("1", "2"))
    registry.close()
    again = Registry(folder=tmp_path)
    again.open()
    assert again.state() == state
    assert settle(again, {7: ("0",), 9: ("0",)}, claims=100) == {7: (("1",), 1), 9: (("0",), 101)}
    again.close()


def test_what_it_has_is_kept(pinned):
    settle(pinned, {7: ("1",), 8: ("1",)})

    pinned.rebuild(rebuild((7, "1", 1), (9, "2", 90), own=2), known=0)

    assert settle(pinned, {7: (), 8: (), 9: ()}) == {7: (("1",), 1), 8: (("1",), 2), 9: (("2",), 90)}


def test_until_the_last_page_nothing_is_settled(registry, tmp_path):
    """Also not after a crash in between; begun anew, it comes to an end."""
    registry.rebuild(rebuild((7, "1", 90), more=True), known=0)
    registry.rebuild(rebuild((8, "1", 91), more=True), known=0)
    with pytest.raises(RegistryBehind):
        settle(registry, {9: ("0",)})
    registry.close()
    again = Registry(folder=tmp_path)
    again.open()
    with pytest.raises(RegistryBehind):
        settle(again, {9: ("0",)})

    again.rebuild(rebuild((7, "1", 90), (9, "1", 190), own=again.claims, claims=200), known=0)

    assert settle(again, {7: (), 8: (), 9: (), 10: ("0",)}) == {
        7: (("1",), 90),
        8: (("1",), 91),
        9: (("1",), 190),
        10: (("0",), 201),
    }
    again.close()


def test_what_was_settled_since_everybody_was_asked_is_kept(pinned):
    """It is in this file; nobody has to tell it."""
    settle(pinned, {7: ("1",)})
    settle(pinned, {8: ("2",), 9: ("1",)})

    pinned.rebuild(rebuild((7, "1", 1), (-3, "1", 99), own=1, known=1), known=3)

    assert settle(pinned, {-3: (), 7: (), 8: (), 9: ("2",), 10: ("1",)}) == {
        -3: (("1",), 99),
        7: (("1",), 1),
        8: (("2",), 2),
        9: (("1",), 3),
        10: (("1",), 101),
    }


def test_an_older_file_than_everybody_was_asked_with_stops_it(pinned):
    """What was settled since is perhaps not in it."""
    settle(pinned, {7: ("1",)})

    with pytest.raises(Contradicts, match="has 1 claims, and had 2 when everybody was asked"):
        pinned.rebuild(rebuild((7, "1", 1), own=2), known=0)

    assert pinned.claims == 1


def test_a_claim_that_neither_this_file_nor_anybody_had_stops_it(pinned):
    """Settled after everybody was asked, and lost with the file that was put aside since: its host has heard of it.

    An old file, of which everybody who was asked knew, is what a rebuild is for.
    """
    settle(pinned, {7: ("1",)})

    with pytest.raises(Contradicts, match="3 claims are known by now"):
        pinned.rebuild(rebuild((7, "1", 1), own=1, known=2), known=3)
    pinned.rebuild(rebuild((7, "1", 1), own=1, known=3), known=3)

    assert pinned.claims == 100


def test_no_number_is_given_twice(pinned):
    """Two rebuilds at the same time: the later one may not number its routes like claims made in between."""
    settle(pinned, {7: ("1",)})
    pinned.rebuild(rebuild((8, "1", 100), own=1), known=0)
    settle(pinned, {9: ("1",)})

    with pytest.raises(Contradicts, match="number 101 is settled"):
        pinned.rebuild(rebuild((8, "1", 100), (10, "1", 101), own=1, claims=102), known=0)

    assert settle(pinned, {9: (), 10: ()}) == {9: (("1",), 101)}


def test_another_route_than_here_stops_it(pinned):
    settle(pinned, {7: ("1",)})

    with pytest.raises(Contradicts, match="slice 7 is settled under another route"):
        pinned.rebuild(rebuild((6, "1", 90), (7, "2", 91), own=1), known=0)

    assert settle(pinned, {6: (), 7: ()}) == {7: (("1",), 1)}


def test_the_new_number_must_be_beyond_the_old_one(pinned):
    settle(pinned, {7: ("1",)})

    with pytest.raises(RegistryBehind):
        pinned.rebuild(rebuild(own=1, claims=1), known=0)


@pytest.mark.parametrize(("change", "refusal"), [({"cluster": "d"}, WrongCluster), ({"secret_id": "t"}, Contradicts)])
def test_other_constants_stop_it(pinned, change, refusal):
    with pytest.raises(refusal):
        pinned.rebuild(rebuild(pins=msgspec.structs.replace(PINS, **change)), known=0)


def test_what_is_no_route_rebuilds_nothing(registry):
    with pytest.raises(Malformed):
        registry.rebuild(rebuild((1 << 63, "1", 1)), known=0)

    assert registry.pins is None


def test_what_nobody_knows_is_neither_settled_nor_claimed(registry):
    """Slices have 60 s, the first one begins at 5 microseconds; rebuilt at the very start of slice 3."""
    unknown_before = 5 + 3 * 60_000_000
    registry.rebuild(rebuild((1, "1", 1), pins=msgspec.structs.replace(PINS, unknown_before=unknown_before)), known=0)

    asked = {SliceId(at): (WorkerId("0"),) for at in (1, 2, 3)} | {SliceId(-9): ()}
    settled = registry.claim(claim(asked), known=0, door=WIDE)

    assert [one.slice for one in settled.routes] == [1, 3]
    assert settled.unknown == (2, -9)


def test_its_routes_are_told_in_pages(pinned, tmp_path):
    nothing = Registry(folder=tmp_path / "nothing")
    nothing._file.path.parent.mkdir()  # noqa: SLF001 - a folder of its own
    nothing.open()
    assert nothing.routes(None) == KnownRoutes(cluster=None, claims=0, pins=None)
    nothing.close()
    slices = range(-2, ROUTES_PAGE_MAX + 1)
    settle(pinned, dict.fromkeys(slices, ("1",)), door=Door(slices_max=10**6))

    first = pinned.routes(None)
    second = pinned.routes(first.routes[-1].slice)

    assert (first.cluster, first.claims, first.pins, first.more) == ("c", len(slices), PINS, True)
    assert [one.slice for one in first.routes + second.routes] == list(slices)
    assert not second.more
    assert pinned.routes(SliceId(ROUTES_PAGE_MAX)).routes == ()


# --- another data directory


def replacement(**changes):
    fields = {"cluster": "c", "id": "0", "lost": "u", "uuid": "v", "number": 1}
    return ReplaceWorker(**{**fields, **changes})


def test_a_replacement_takes_a_number(pinned, tmp_path):
    """So that of two directories the later one can be told."""
    settle(pinned, {7: ("1",)})

    pins = pinned.replace_worker(replacement(number=2), known=1).pins

    assert (pins.workers, pins.replaced) == ({"0": "v"}, {"0": 2})
    assert settle(pinned, {8: ("1",)}) == {8: (("1",), 3)}
    pinned.close()
    again = Registry(folder=tmp_path)
    again.open()
    assert (again.pins, again.claims) == (pins, 3)
    again.close()


@pytest.mark.parametrize(
    ("change", "known", "refusal"),
    [
        ({"cluster": "d"}, 0, WrongCluster),
        ({"lost": "w"}, 0, WrongWorker),
        ({"id": "1"}, 0, WrongWorker),
        ({"number": 2}, 0, Contradicts),
        ({}, 1, RegistryBehind),
    ],
)
def test_a_replacement_that_is_not_what_it_seems_is_refused(pinned, change, known, refusal):
    with pytest.raises(refusal):
        pinned.replace_worker(replacement(**change), known=known)

    assert pinned.pins == PINS


def test_workers_are_pinned_up_to_a_bound(registry):
    """So many of them, with ids as long as a cluster file may give them."""
    workers = {WorkerId(str(number)): "u" for number in range(WORKERS_MAX - 1)}
    registry.pin(msgspec.structs.replace(PINS, workers=workers))
    with pytest.raises(Contradicts, match="reasonable length"):
        registry.pin_worker(PinWorker(cluster="c", id=WorkerId("x" * (WORKER_ID_CHARACTERS_MAX + 1)), uuid="u"))
    registry.pin_worker(PinWorker(cluster="c", id=WorkerId("last"), uuid="u"))

    with pytest.raises(Contradicts, match="at most"):
        registry.pin_worker(PinWorker(cluster="c", id=WorkerId("one more"), uuid="u"))


def test_a_route_of_names_that_are_too_long_is_refused(pinned):
    with pytest.raises(Malformed):
        settle(pinned, {7: ("x" * (WORKER_ID_CHARACTERS_MAX + 1),)})
